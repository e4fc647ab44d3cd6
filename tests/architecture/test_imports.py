"""Who may import whom: the layer table of the design, read off the source, and what importing the package loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import source_tree
from source_tree import imported, module_name, package_files

LAYERS = {
    **dict.fromkeys(("errors", "types", "registry", "settings", "deferred", "seeds", "resources"), 0),
    **dict.fromkeys(("metric_types", "metrics", "ownership", "run_records", "run_dir", "sweep_dir"), 0),
    **dict.fromkeys(("losses", "models", "replay", "augment"), 1),
    **dict.fromkeys(("tasks", "synthesis", "distillation", "data", "evaluation"), 2),
    "pipeline": 3,
    "testing": 6,
    "runtime": 4,
    **dict.fromkeys(("report", "papers", "bench", "api", "cli", "__main__"), 5),
}
"""Layer of each room (a folder or a file right under raydfkd/). The package's own __init__ names others only as text."""

KNOWN_CYCLES = {
    "raydfkd.synthesis.procedural.shaders": "catalog imports the families, which register their programs with it",
}
"""Package inside which modules import each other, and why."""
RUNTIME_USERS = {"runtime", "cli", "api"}
HEAVY = ("torch", "torchvision", "ray", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy", "PIL", "rich.live")


def room(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def refusal(importer: str, target: str) -> str | None:
    """Why module ``importer`` may not import ``target`` (both dotted), or None if it may."""
    if target.split(".")[0] == "ray":
        return None if room(importer) == "runtime" else "only runtime imports ray"
    if target.split(".")[0] != "raydfkd" or room(target) not in LAYERS:
        return None
    here, there = room(importer), room(target)
    if not here or here == there:
        return None
    if there == "testing":
        return "nothing outside the tests imports testing"
    if here == "report" and LAYERS[there] > 0:
        return "report knows the run directory's format and nothing else (layer 0)"
    if there == "runtime" and here not in RUNTIME_USERS:
        return "only cli and api import runtime"
    if LAYERS[here] == LAYERS[there] == 1:
        return "rooms of layer 1 do not import each other"
    if LAYERS[there] > LAYERS[here]:
        return f"layer {LAYERS[here]} does not import layer {LAYERS[there]}"
    return None


def test_every_room_is_in_the_layer_table() -> None:
    rooms = {room(module_name(path)) for path in package_files()} - {""}
    assert rooms <= set(LAYERS), f"give each new room a layer: {sorted(rooms - set(LAYERS))}"


def test_no_import_goes_against_the_layers() -> None:
    wrong = [
        f"{path.relative_to(source_tree.ROOT)}:{line} imports {target}: {why}"
        for path in package_files()
        for line, target in imported(path)
        if (why := refusal(module_name(path), target)) is not None
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("raydfkd.pipeline.run.local_runner", "ray", False),
        ("raydfkd.testing.fakes", "ray.train", False),
        ("raydfkd.runtime.ray_session", "ray.util", True),
        ("raydfkd.pipeline.run.execute", "raydfkd.runtime.ray_session", False),
        ("raydfkd.report.html", "raydfkd.runtime.ray_session", False),
        ("raydfkd.cli.scale", "raydfkd.runtime.ray_session", True),
        ("raydfkd.api", "raydfkd.runtime.ray_runner", True),
        ("raydfkd.losses.inversion", "raydfkd.models.teachers.bn_statistics", False),
        ("raydfkd.losses.inversion", "raydfkd.errors.ConfigError", True),
        ("raydfkd.report.html", "raydfkd.pipeline.experiment.config", False),
        ("raydfkd.report.html", "raydfkd.run_dir.RunDir", True),
        ("raydfkd.synthesis.fast", "raydfkd.pipeline.experiment.config", False),
        ("raydfkd.evaluation.accuracy", "raydfkd.data.ImageDataset", True),
        ("raydfkd.cli.verbs.run_verb", "raydfkd.testing.fake_run", False),
        ("raydfkd.errors", "raydfkd.registry", True),
    ],
)
def test_the_rule_itself(importer: str, target: str, allowed: bool) -> None:
    assert (refusal(importer, target) is None) is allowed


def import_graph(files: list[Path]) -> dict[str, set[str]]:
    """Module to the modules of ``files`` that it imports anywhere, also under TYPE_CHECKING."""
    modules = {module_name(path): path for path in files}

    def module_of(target: str) -> str | None:
        while target and target not in modules:
            target = target.rpartition(".")[0]
        return target or None

    return {
        name: {found for _, target in imported(path) if (found := module_of(target)) not in (None, name)}
        for name, path in modules.items()
    }


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which reaches every other of its group."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        found, left = set[str](), [start]
        while left:
            new = graph[left.pop()] - found
            found |= new
            left += new
        reached[start] = found
    groups = {tuple(sorted(other for other in found if start in reached[other])) for start, found in reached.items()}
    return [list(group) for group in sorted(groups) if group]


def test_no_two_modules_import_each_other() -> None:
    found = cycles(import_graph(package_files()))
    known = {name: group for group in found for name in KNOWN_CYCLES if all(one.startswith(f"{name}.") for one in group)}
    assert [group for group in found if group not in known.values()] == []
    assert set(known) == set(KNOWN_CYCLES), "no longer a cycle: take it off"


def test_a_cycle_is_found_whichever_way_its_modules_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_tree, "ROOT", tmp_path)
    files = {
        "a": "from __future__ import annotations\nif TYPE_CHECKING:\n    from raydfkd.b import B\n",
        "b": "def f():\n    from raydfkd import c\n",
        "c": "import raydfkd.a\n",
        "d": "from raydfkd.a import A\n",
    }
    (tmp_path / "raydfkd").mkdir()
    for name, text in files.items():
        (tmp_path / "raydfkd" / f"{name}.py").write_text(text)
    graph = import_graph(sorted((tmp_path / "raydfkd").iterdir()))
    assert cycles(graph) == [["raydfkd.a", "raydfkd.b", "raydfkd.c"]]


def test_imports_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_tree, "ROOT", tmp_path)
    path = tmp_path / "raydfkd" / "replay" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import ray.train as t\nfrom . import sum_tree\nfrom ..models.teachers import teacher\n"
        "def f():\n    from raydfkd.runtime import ray_session\n    import_module('raydfkd.cli.main')\n"
    )
    found = [target for _, target in sorted(imported(path))]
    assert found == [
        "ray.train",
        "raydfkd.replay.sum_tree",
        "raydfkd.models.teachers.teacher",
        "raydfkd.runtime.ray_session",
        "raydfkd.cli.main",
    ]


def test_every_module_but_the_runtime_imports_where_ray_cannot_be() -> None:
    modules = [name for name in map(module_name, package_files()) if room(name) != "runtime"]
    code = (
        "import sys, importlib, json\nsys.modules['ray'] = None\nfailed = {}\n"
        f"for name in {modules!r}:\n"
        "    try:\n        importlib.import_module(name)\n"
        "    except Exception as error:\n        failed[name] = repr(error)\n"
        "print(json.dumps(failed))"
    )
    assert json.loads(python(code).splitlines()[-1]) == {}


def heavy_modules(code: str) -> list[str]:
    """Those that running ``code`` in a fresh interpreter loads."""
    found = python(
        f"import sys, json, io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n    {code}\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    return list(json.loads(found.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import raydfkd",
        "import raydfkd.pipeline.experiment.config",
        "import raydfkd.cli.main as m; m.app(['--help'], standalone_mode=False)",
        "import raydfkd.cli.main as m; m.app(['run', '--help'], standalone_mode=False)",
        "import raydfkd.cli.main as m; m.app(['config', 'reference'], standalone_mode=False)",
    ],
)
def test_the_core_loads_nothing_heavy(code: str) -> None:
    """How long it takes is measured by experiments/benchmarks/startup.py."""
    assert heavy_modules(code) == []


def python(code: str, check: Callable[[int], bool] = lambda rc: rc == 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source_tree.ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check(done.returncode), done.stderr
    return done.stdout

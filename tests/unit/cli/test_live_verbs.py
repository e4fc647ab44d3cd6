"""scale, status and stop on runs that are not live: what they print, and the sentence of what they refuse. No Ray starts."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydfkd.cli.main import app
from raydfkd.run_dir import RunDir


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path / "run")
    made.update_manifest(state="finished")
    batch = {"kind": "synthesis", "time_s": 1.0, "step": 0, "generator_id": "a-0", "num_images": 8, "seconds": 1.0}
    made.metrics_path.write_text(json.dumps(batch) + "\n")
    return made


@pytest.mark.parametrize("verb", [("scale", "--generators", 2), ("status",), ("stop",)])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, verb: tuple[object, ...]) -> None:
    code, _, told = invoke(verb[0], tmp_path / "nothing", *verb[1:])
    assert code == 2
    assert told == (
        f"raydfkd: {tmp_path / 'nothing'} is not a run directory (it has no manifest.json): give the --out of a started run\n"
    )


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("finished", "read its report"),
        ("failed", "resume it with raydfkd run --resume"),
        ("stopped", "resume it with raydfkd run --resume"),
    ],
)
@pytest.mark.parametrize("verb", [("scale", "--generators", 2), ("stop",)])
def test_a_run_that_is_over_cannot_be_changed(run: RunDir, verb: tuple[object, ...], state: str, advice: str) -> None:
    run.update_manifest(state=state)
    code, _, told = invoke(verb[0], run.path, *verb[1:])
    assert (code, told) == (2, f"raydfkd: the run in {run.path} is {state} and not running: {advice}\n")


@pytest.mark.parametrize("verb", [("scale", "--generators", 2), ("stop",)])
def test_a_run_without_actors_cannot_be_reached(run: RunDir, verb: tuple[object, ...]) -> None:
    run.update_manifest(state="running", actors=None, ray=None)
    code, _, told = invoke(verb[0], run.path, *verb[1:])
    assert code == 2
    assert "has no actors to reach: it is starting or finishing, or has runtime.runner local" in told


def test_a_run_whose_ray_does_not_answer_is_refused_at_once_and_shown_all_the_same(run: RunDir) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    run.update_manifest(state="running", actors="raydfkd-1", ray={"address": address, "namespace": "raydfkd"})
    code, _, told = invoke("scale", run.path, "--generators", 2)
    assert code == 2
    assert told.startswith(
        f"raydfkd: no Ray cluster answers at '{address}' (Connection refused): check the run's manifest.json"
    )
    assert invoke("status", run.path)[0] == 0
    code, _, told = invoke("stop", run.path, "--address", f"ray://{address}")
    assert code == 2
    assert f"no Ray cluster answers at 'ray://{address}' (Connection refused): check --address" in told


def test_the_status_of_a_run_that_is_over_is_read_from_its_directory(run: RunDir) -> None:
    code, told, _ = invoke("status", run.path)
    assert code == 0
    lines = told.splitlines()
    assert lines[0].split() == ["state", "finished"]
    assert lines[-1].split() == ["a-0", "ended", "–", "8", "1", "0"]
    code, told, _ = invoke("status", run.path, "--json")
    assert json.loads(told)["images_synthesized"] == 8

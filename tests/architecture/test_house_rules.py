"""Sizes, names, no print, and nothing of one machine in what is committed."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, package_files, python_files, tracked_files, tree_of

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_ROOM_FILES = 15
MAX_PAGE_LINES = 80

LONG_FILES: dict[str, str] = {}
"""Path to the reason why it may be longer."""
LONG_FUNCTIONS: dict[str, str] = {}
"""``path:function`` to the reason why it may be longer."""

VAGUE_NAMES = {"utils", "util", "misc", "common", "helpers", "helper", "tools", "stuff"}

FOREIGN = re.compile(
    r"(?<![\w.])/(?:work/(?:main|shared)|home/\w+|root/|Users/\w+|tmp/venv)"  # paths of one machine
    r"|--?(?:extra-)?index-url|find-links\s*=|trusted-host"  # package hosts, which belong to the machine's own settings
    r"|https?://[^\s'\"<>)]*(?:/simple\b|artifactory|devpi|nexus|pypi\.)"
)


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines) of every function and method in the file."""
    nodes = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in nodes]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_longer_than_it_may_be() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES and path not in LONG_FILES} == {}
    assert {path for path in LONG_FILES if lengths.get(path, 0) <= MAX_FILE_LINES} == set(), "no longer long: take it off"


def test_no_function_is_longer_than_it_may_be() -> None:
    found = {
        f"{relative(p)}:{name}": lines for p in python_files() for name, lines in functions(p) if lines > MAX_FUNCTION_LINES
    }
    assert {name: lines for name, lines in found.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(found), "no longer long: take it off"


def test_the_package_never_prints() -> None:
    calls = [
        f"{relative(path)}:{node.lineno}"
        for path in package_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_every_module_has_a_name_that_says_something() -> None:
    stems = {relative(p): p.stem for p in package_files()} | {relative(p): p.name for p in PACKAGE.rglob("*") if p.is_dir()}
    assert [path for path, stem in stems.items() if stem.strip("_") in VAGUE_NAMES] == []


def test_no_two_modules_have_one_name() -> None:
    """But ``config``, which is the settings of its room everywhere."""
    stems = Counter(path.stem for path in package_files() if path.name not in ("__init__.py", "config.py"))
    assert [stem for stem, number in stems.items() if number > 1] == []


def test_rooms_stay_small() -> None:
    """A folder's files, but for ``__init__``."""
    rooms = Counter(relative(path.parent) for path in package_files() if path.name != "__init__.py")
    assert {room: number for room, number in rooms.items() if number > MAX_ROOM_FILES} == {}


def test_every_module_of_the_package_says_what_it_is_for() -> None:
    silent = [relative(p) for p in package_files() if p.stat().st_size and ast.get_docstring(tree_of(p)) is None]
    assert silent == []


def test_nothing_of_one_machine_is_committed() -> None:
    found = []
    for path in tracked_files():
        if path == Path(__file__):
            continue  # it holds the patterns
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{relative(path)}:{n}: {match.group()}" for n, line in enumerate(lines, 1) if (match := FOREIGN.search(line))
        ]
    assert not found, "\n" + "\n".join(found[:20])


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("data: /work/" + "shared/data", True),
        ("checkpoint: /home/" + "ann/teacher.pt", True),
        ("pip install --index-" + "url x", True),
        ("https://packages.example.org/" + "simple/torch", True),
        ("data: ../data", False),
        ("see https://arxiv.org/abs/1910.01279", False),
        ("os.path.join(home, 'x')", False),
        ("WORKDIR /opt/raydfkd", False),
    ],
)
def test_the_pattern_of_foreign_text(text: str, foreign: bool) -> None:
    assert (FOREIGN.search(text) is not None) is foreign


def test_the_architecture_page_is_short_and_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_PAGE_LINES
    rooms = {path.parent if path.name == "__init__.py" else path for path in package_files()}
    named = {room.stem for room in rooms if room.is_dir() and room != PACKAGE} | {p.stem for p in PACKAGE.glob("*.py")}
    missing = [name for name in sorted(named - {"__init__", "families"}) if f"`{name}`" not in text and f"/{name}`" not in text]
    assert missing == []

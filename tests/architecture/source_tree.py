"""The project's files as the architecture tests look at them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "raydfkd"
LATE_IMPORTS = ("import_module", "__import__", "deferred")
"""Functions that import the module they are given by name."""


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def python_files() -> list[Path]:
    """Python files of the package, the tests and the experiments."""
    return sorted(path for folder in ("raydfkd", "tests", "experiments") for path in (ROOT / folder).rglob("*.py"))


def tracked_files() -> list[Path]:
    """What git tracks; without git, every file outside folders that tools make."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    made = {".git", ".venv", "__pycache__", "runs", "build", "dist"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not any(part in made or part.endswith("_cache") for part in p.parts)]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of each import anywhere in the file: at the top, in functions, under TYPE_CHECKING, by name.

    ``from a.b import c`` gives ``a.b.c``, which may be a module or a name in one: its first parts tell the room in any case.
    """
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in LATE_IMPORTS:
            yield from ((node.lineno, a.value) for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))

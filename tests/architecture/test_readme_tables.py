from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_readme_are_those_of_the_result_files() -> None:
    script = runpy.run_path(str(ROOT / "experiments" / "results" / "readme_tables.py"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- results: ") == text.count("<!-- end -->") == len(script["TABLES"])
    assert script["rendered"](text) == text
    # A figure that differs is written anew.
    assert script["rendered"](text.replace("| 78.4 |", "| 79.4 |")) == text

"""The progress of ``raydfkd dataset fetch``: a bar on a terminal, and few lines elsewhere."""

from __future__ import annotations

import pytest

from raydfkd.cli.verbs.dataset_fetch_verb import Progress


def test_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Progress(lambda: now[0], terminal=False) as progress:
        for done in range(0, 1001, 100):
            now[0] += 2
            progress("file.bin", done, 1000)
        progress("other.bin", 5, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["file.bin 0/1,000", "file.bin 300/1,000", "file.bin 600/1,000", "file.bin 900/1,000",
                     "file.bin 1,000/1,000", "other.bin 5"]  # fmt: skip


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(terminal=True) as progress:
        progress("file.bin", 0, 1000)
        progress("file.bin", 1000, 1000)
        progress("checking file.bin", 5, 0)
    told = capsys.readouterr().out
    assert "checking file.bin" in told
    assert "100%" in told

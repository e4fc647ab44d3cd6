"""Lines of progress where no terminal is."""

from __future__ import annotations

import pytest

from raydfkd.cli.lines import Lines


def test_plain_lines_come_every_few_seconds_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = Lines("images", clock=lambda: now[0], terminal=False)
    for done in range(0, 101, 10):
        lines("judging", done, 100)
        now[0] += 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "judging 0/100"
    assert told[-1] == "judging 100/100  10 images/s  0 s left"
    assert len(told) == 3


def test_before_any_time_has_passed_there_is_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("images", clock=lambda: 5.0, terminal=False)
    lines("judging", 0, 100)
    lines("judging", 100, 100)
    assert capsys.readouterr().out.splitlines()[-1] == "judging 100/100"


def test_figures_and_what_a_pass_counts_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = Lines(clock=lambda: now[0], terminal=False)
    lines("iterations", 0, 4, {})
    now[0] = 10
    lines("iterations", 4, 4, {"loss": 0.25})
    assert capsys.readouterr().out.splitlines()[-1] == "iterations 4/4  loss 0.25  0.4 iterations/s  0 s left"

"""Live progress: plain lines off a terminal, a live table on one, from records as they stand in metrics.jsonl."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raydfkd.cli.progress import Progress
from raydfkd.cli.progress_state import ProgressState, plain_line, table_rows

RESULT = {
    "method": "ssdkd",
    "metric_name": "accuracy",
    "teacher": {"model": "wrn_16_2", "metric": 0.888},
    "student": {"model": "wrn_16_1", "metric_last": 0.823},
    "end_to_end_s": 1320.0,
    "synthesis_s": 902.4,
}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(total_steps: int | None = 6000, **values: Any) -> tuple[Progress, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=False, width=40)
    return Progress(total_steps, console=console, clock=clock, **values), out, clock


def record(kind: str, time_s: float, step: int, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "time_s": time_s, "step": step, **values}


GENERATOR_WAITS = {"generator_wait_limiter_s": 1.5, "generator_wait_weights_s": 0.5}


def filled() -> list[dict[str, Any]]:
    return [
        record("synthesis", 5.0, 0, generator_id="inversion-0", seconds=4.0, num_images=256, loss=5.25),
        record("synthesis", 6.0, 0, generator_id="inversion-1", seconds=4.0, num_images=256, loss=4.5, **GENERATOR_WAITS),
        record("distillation", 60.0, 100, kd_loss=12.3456, lr=0.1),
        record("distillation", 90.0, 300, kd_loss=9.0, lr=0.1),
        record("replay", 90.0, 300, size=2500, capacity=5000, fill=0.5, class_entropy=0.98),
        record(
            "throughput",
            100.0,
            300,
            distilled_per_s=1210.0,
            student_wait_data_s=1.0,
            student_wait_limiter_s=0.1,
        ),
        record("evaluation", 100.0, 300, metric_last=0.4213, metric_ema=0.4034, agreement=0.5, split="test"),
        record("event", 100.0, 300, message="generator inversion-1 died; restarted", restart=True),
    ]


def test_a_plain_line_says_everything_known() -> None:
    state = ProgressState(total_steps=6000)
    state.stage = "distilling"
    assert all(state.take(r) for r in filled())
    # Steps 0 to 300 in the 84 s since the last record without a step: 1596 s for the other 5700.
    assert plain_line(state) == (
        "[1 min 40 s] | distilling | step 300/6,000 (5%) | 26 min 36 s left | images/s synthesized 256 distilled 1,210"
        " | buffer 2,500/5,000 (50%)"
        " | kd_loss 9 synthesis_loss 4.5 | accuracy last 42.13% EMA 40.34%"
        " | waits student 1% (data 1%) generator 20% (limiter 15%, weights 5%) | restarts 1"
    )


def test_a_plain_line_leaves_out_what_is_not_known() -> None:
    assert plain_line(ProgressState(total_steps=None)) == "[0.00 s] | starting | step 0"


def test_lines_come_at_most_once_a_period() -> None:
    progress, out, clock = plain(period_s=10.0)
    with progress:
        for _ in range(31):
            progress.update(record("distillation", clock.now - 100.0, int(clock.now), kd_loss=1.0))
            clock.now += 1.0
    lines = out.getvalue().splitlines()
    assert [line.split("]")[0] for line in lines] == ["[10 s", "[20 s", "[30 s"]


def test_stages_and_events_come_at_once_and_are_not_wrapped_or_marked_up() -> None:
    progress, out, _ = plain()
    with progress:
        progress.stage("warm-up", "filling the buffer with 20 batches of [bold]256[/bold]")
        progress.update(record("event", 1.0, 0, message="replay actor restarted from its snapshot [epoch 2] :smile:"))
        progress.stage("distilling")
    assert out.getvalue().splitlines() == [
        "warm-up: filling the buffer with 20 batches of [bold]256[/bold]",
        "event: replay actor restarted from its snapshot [epoch 2] :smile:",
        "distilling",
    ]


def test_an_unknown_kind_is_ignored() -> None:
    progress, out, clock = plain()
    with progress:
        clock.now += 60.0
        progress.update({"kind": "horoscope", "time_s": 5.0, "step": 3, "size": "large"})
        progress.update({})
    assert out.getvalue() == ""


def test_finish_prints_the_last_line_the_outcome_and_the_report() -> None:
    progress, out, _ = plain()
    with progress:
        progress.update(record("distillation", 20.0, 6000, kd_loss=1.0))
        progress.finish(RESULT, report=Path("runs") / "a" / "report.html")
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("[20 s] | starting | step 6,000/6,000 (100%)")
    assert lines[1] == "outcome"
    assert [line.split("  ")[1:][-1].strip() for line in lines if "student accuracy" in line] == ["82.30%"]
    assert any("end to end" in line and line.endswith("22 min 00 s") for line in lines)
    assert lines[-1] == f"report: {Path('runs') / 'a' / 'report.html'}"


def test_what_generators_synthesize_and_wait_for_is_counted_over_the_last_minute() -> None:
    state = ProgressState(total_steps=None)
    for number in range(40):
        of_one = {"generator_id": f"g{number % 2}", "seconds": 6.0, "num_images": 256, **GENERATOR_WAITS}
        state.take(record("synthesis", 4.0 * number, 0, **of_one))
    assert state.synthesized_per_s == pytest.approx(64.0)
    assert "waits generator 25% (limiter 19%, weights 6%)" in plain_line(state)
    unhindered = {"generator_id": "g0", "seconds": 2.0, "num_images": 256, **dict.fromkeys(GENERATOR_WAITS, 0.0)}
    for time_s in range(160, 240, 2):
        state.take(record("synthesis", float(time_s), 0, **unhindered))
    assert state.synthesized_per_s == pytest.approx(128.0)
    assert "waits" not in plain_line(state)


def test_an_event_that_says_so_is_a_restart() -> None:
    state = ProgressState(total_steps=None)
    state.take(record("event", 1.0, 0, message="generator g0 came back", restart=True))
    state.take(record("event", 2.0, 0, message="will not restart any more", restart=False))
    assert state.totals.restarts == 1


def test_the_time_left_does_not_count_the_warm_up() -> None:
    state = ProgressState(total_steps=200)
    for seconds in (1.0, 30.0, 60.0):
        state.take(record("synthesis", seconds, 0, generator_id="g"))
    assert state.time_left_s is None
    state.take(record("distillation", 70.0, 100))
    assert state.time_left_s == pytest.approx(10.0)


def test_the_pace_is_that_of_the_last_two_minutes() -> None:
    state = ProgressState(total_steps=10_000)
    for second in range(0, 500, 10):
        state.take(record("distillation", float(second), second if second <= 200 else 200 + 5 * (second - 200)))
    assert state.steps_per_s == pytest.approx(5.0, rel=0.05)


def test_a_resumed_run_counts_its_pace_from_the_resume() -> None:
    state = ProgressState(total_steps=1000)
    state.take(record("distillation", 5000.0, 500))
    state.take(record("distillation", 5010.0, 600))
    assert state.time_left_s == pytest.approx(40.0)


def test_a_terminal_gets_a_table_with_the_same_rows_from_start_to_end() -> None:
    state = ProgressState(total_steps=6000, metric_label="mIoU")
    labels = [label for label, _ in table_rows(state)]
    for each in filled():
        state.take(each)
    rows = table_rows(state)
    assert [label for label, _ in rows][: len(labels)] == labels
    assert dict(rows)["mIoU"] == "last 42.13% EMA 40.34%"
    assert dict(rows)["images/s"] == "256 synthesized, 1,210 distilled"
    assert dict(rows)["last event"] == "generator inversion-1 died; restarted"


def test_the_live_table_is_drawn_and_the_outcome_follows_it() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=40, color_system=None, legacy_windows=False)
    with Progress(6000, title="cifar10 [small]", console=console, clock=Clock()) as progress:
        progress.stage("distilling", "2 generators, 1 student")
        for each in filled():
            progress.update(each)
        progress.finish(RESULT)
    text = out.getvalue()
    for expected in (
        "cifar10 [small]",
        "distilling: 2 generators, 1 student",
        "step 300/6,000 (5%)",
        "26 min 36 s left",
        "restarts",
    ):
        assert expected in text, expected
    assert text.rindex("82.30%") > text.rindex("images/s")
    assert "outcome" in text


def test_an_error_ends_the_live_table() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    progress = Progress(10, console=console)

    def fail() -> None:
        with progress:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with console.status("another live display can start"):
        pass

"""What the run's coordinator keeps: records with their steps, waits, the request to stop, targets."""

from __future__ import annotations

from typing import Any

import pytest
from replay_rig import config

from raydfkd.runtime import coordinator
from raydfkd.runtime.coordinator import Coordinator
from raydfkd.runtime.generators.autoscale_policy import Waits
from raydfkd.synthesis.method import AutoscaleConfig

Exported = list[tuple[str, int, Any]]


def build(exported: Exported | None = None, restarted: bool = False, **source: Any) -> Coordinator:
    settings = config({"mode": "decoupled"})
    changed = settings.sources["inversion"].model_copy(update=source)
    taken: Exported = [] if exported is None else exported
    return Coordinator(
        settings.model_copy(update={"sources": {"inversion": changed}}), lambda *record: taken.append(record), restarted
    )


def test_a_record_without_a_step_gets_the_newest_and_all_are_exported() -> None:
    exported: Exported = []
    run = build(exported)
    run.push("throughput", 40, {"images_distilled_since": 8})
    run.push("synthesis", 36, {"generator_id": "inversion-0", "seconds": 1.0})
    run.push("generators", None, {"source": "inversion"})
    records, failure = run.drain()
    assert [record["step"] for record in records] == [40, 36, 40]
    assert failure is None
    assert [(kind, step) for kind, step, _ in exported] == [("throughput", 40), ("synthesis", 36), ("generators", 40)]
    assert run.drain() == ([], None), "records are handed over once"


def test_waits_are_metered_where_a_source_scales_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(coordinator.time, "monotonic", lambda: now[0])
    run = build(autoscale=AutoscaleConfig(max=3, window_s=10))
    for _ in range(3):
        now[0] += 5
        run.push("throughput", 1, {"student_wait_data_s": 1.0})
        run.push("synthesis", 1, {"generator_id": "inversion-0", "seconds": 3.0, "generator_wait_limiter_s": 1.0})
    assert run.waits("inversion", 10.0, 100.0) == Waits(0.2, 0.25)
    assert run.waits("inversion", 10.0, 1.0) == Waits(None, 0.25), "nothing from before the last change"


def test_it_remembers_a_stop_and_the_targets() -> None:
    run = build()
    assert (run.stopping(), run.targets()) == (False, {})
    run.request_stop()
    run.note_targets({"inversion": 3})
    assert (run.stopping(), run.targets()) == (True, {"inversion": 3})


def test_a_restart_leaves_a_record_that_counts() -> None:
    [record], _ = build(restarted=True).drain()
    assert record["restart"] is True
    assert "coordinator restarted" in record["message"]

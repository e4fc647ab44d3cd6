"""Making a batch never waits for the device until the batch leaves it, with one copy."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_synthesis import make, summary

from raydfkd.models import flat_weights
from raydfkd.testing.device_waits import DeviceWaits

ON = summary(num_batches=50, counts=[3] * 10)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("fast", {}), ("fast", {"meta": "reptile"}), ("fast", {"meta": "sequential"}), ("ssdkd", {"difficulty_of": "target"})],
)
def test_a_batch_leaves_with_one_copy_and_no_other_wait(method: str, settings: dict[str, Any]) -> None:
    with DeviceWaits() as waits:
        synthesizer = make(method, device="meta", steps_per_batch=3, **settings)
        synthesizer.step(ON)
        waits.found.clear()
        synthesizer.step(ON)
    assert waits.found == ["copy to the host"]


def test_new_weights_of_the_student_arrive_in_one_copy_that_is_not_waited_for() -> None:
    weights = flat_weights(make("fast").student)
    with DeviceWaits() as waits:
        synthesizer = make("fast", device="meta")
        waits.found.clear()
        synthesizer.load_student(weights, 1)
    assert waits.found == []

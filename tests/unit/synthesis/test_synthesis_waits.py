"""Making a batch never waits for the device until the batch leaves it, with one copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_synthesis import make, summary

from raydfkd.models import flat_weights
from raydfkd.synthesis.transfer_out import host_arrays
from raydfkd.testing.device_waits import DEVICE, DeviceWaits

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


def test_arrays_have_the_shapes_and_types_of_what_leaves_and_what_is_there_already_stays() -> None:
    with DeviceWaits() as waits:
        there = [torch.zeros(3, 2, 2, dtype=torch.uint8, device=DEVICE), torch.zeros(3, dtype=torch.float64, device=DEVICE)]
        here = torch.arange(3)
        waits.found.clear()
        images, targets, figures = host_arrays([there[0], here, there[1]])
    assert waits.found == ["copy to the host"]
    assert (images.shape, images.dtype, figures.shape, figures.dtype) == ((3, 2, 2), np.uint8, (3,), np.float64)
    assert targets.tolist() == [0, 1, 2]
    plain = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    (array,) = host_arrays([plain])
    np.testing.assert_array_equal(array, plain.numpy())
    assert array.flags.c_contiguous

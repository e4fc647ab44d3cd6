"""A student's step never waits for its device: seen on a device that has shapes and no values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_distillation import SHAPE, make

from raydfkd.testing.device_waits import DEVICE, DeviceWaits


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_padding": 2, "flip": True},
        {"augmentation": {"level": "extreme", "mixup": "sample"}},
        {"accumulation_steps": 2, "optimizer": {"max_grad_norm": 0.1}},
        {"objective": {"kind": "dkd"}},
        {"objective": {"kind": "correlation"}},
        {"objective": {"kind": "nkd"}},
    ],
)
def test_a_step_waits_for_nothing(settings: dict[str, Any]) -> None:
    with DeviceWaits() as waits:
        distiller = make(norm=True, device="meta", **settings)
        images = torch.zeros((16, *SHAPE), dtype=torch.uint8, device=DEVICE)
        weights = torch.ones(16, device=DEVICE)
        distiller.step(images, weights)
        waits.found.clear()  # of the construction and of the optimizer's first state
        distiller.step(images, weights)
    assert waits.found == []


def test_what_waits_is_found() -> None:
    with DeviceWaits() as waits:
        values = torch.zeros(4, device=DEVICE)
        float(values.sum())
        values.cpu()
        torch.zeros(4).to(DEVICE)
        torch.zeros(4).to(DEVICE, non_blocking=True)
        with pytest.raises(AssertionError, match="nonzero"):
            values.nonzero()
        with pytest.raises(AssertionError, match="index"):
            values[values > 0]
    assert len(waits.found) == 5

"""bfloat16 where it is asked for and the device has it, float32 otherwise."""

from __future__ import annotations

import pytest
import torch

from raydfkd.models import precision

CPU = torch.device("cpu")


def product_type(enabled: bool) -> torch.dtype:
    with precision.autocast(CPU, enabled):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize(("has", "enabled", "expected"), [
    (True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32), (False, False, torch.float32),
])  # fmt: skip
def test_both_must_hold(monkeypatch: pytest.MonkeyPatch, has: bool, enabled: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(precision, "supports_bfloat16", lambda device: has)
    assert product_type(enabled) == expected


def test_a_gpu_that_only_emulates_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert precision.supports_bfloat16(torch.device("cuda")) is False


def test_the_cpu_is_asked_itself_and_other_devices_are_not_trusted() -> None:
    assert isinstance(precision.supports_bfloat16(CPU), bool)
    assert precision.supports_bfloat16(torch.device("meta")) is False

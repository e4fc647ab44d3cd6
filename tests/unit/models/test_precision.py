"""bfloat16 where it is asked for and the device has it, float32 otherwise; and evaluation mode for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raydfkd.models import precision
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

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


@pytest.mark.parametrize(("avx512_bf16", "amx", "expected"), [
    (False, False, False), (True, False, True), (False, True, True),
])  # fmt: skip
def test_an_x86_processor_that_only_emulates_it_does_not_count(
    monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool, amx: bool, expected: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision.supports_bfloat16(CPU) is expected


def test_the_cpu_is_asked_itself_and_other_devices_are_not_trusted() -> None:
    assert isinstance(precision.supports_bfloat16(CPU), bool)
    assert precision.supports_bfloat16(torch.device("meta")) is False


def test_each_layer_gets_its_own_mode_back_also_after_an_error() -> None:
    teacher = FrozenTeacher(nn.Identity(), 2, (2, 8, 8), (0.0, 0.0), (1.0, 1.0))
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(2).eval(), nn.Dropout()), teacher)
    before = [layer.training for layer in network.modules()]
    assert set(before) == {True, False}
    with precision.evaluating(network):
        assert not any(layer.training for layer in network.modules())
    assert [layer.training for layer in network.modules()] == before
    with pytest.raises(ZeroDivisionError), precision.evaluating(network):
        _ = 1 / 0
    assert [layer.training for layer in network.modules()] == before


def test_a_callable_that_is_no_module_has_no_mode() -> None:
    with precision.evaluating(len):
        pass

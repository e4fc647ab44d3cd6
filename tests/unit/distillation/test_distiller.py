"""One student update against closed forms: loss, priorities, clip, accumulation, moving average, state."""

from __future__ import annotations

import copy
import io
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny_distillation import drawn, make, parameters
from torch import Tensor, nn

from raydfkd.augment import BatchAugmentation
from raydfkd.distillation.distiller import Distiller
from raydfkd.losses.distillation import kd_loss_per_sample

SGD = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.1}


def kd_by_hand(distiller: Distiller, images: Tensor, temperature: float) -> Tensor:
    """Per-sample loss of the student as it stands, in the mode in which it trains."""
    student = copy.deepcopy(distiller.student)
    with torch.no_grad():
        view = distiller.teacher.normalization(images.float() / 255)
        return kd_loss_per_sample(student(view), distiller.teacher.model(view), temperature)


@pytest.mark.parametrize("norm", [False, True])
def test_priorities_are_the_weighted_losses_of_the_same_forward(norm: bool) -> None:
    """SSD-KD Eq. 4 and Algorithm 1, lines 19-21: before the update, in training mode, in draw order."""
    distiller = make(norm=norm, objective={"temperature": 7.0})
    images, weights = drawn()
    expected = kd_by_hand(distiller, images, 7.0) * weights
    output = distiller.step(images, weights)
    torch.testing.assert_close(output.priorities_B, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, expected.mean(), rtol=1e-4, atol=1e-5)
    assert not output.priorities_B.requires_grad
    assert output.priorities_B.dtype == torch.float32


def test_the_update_is_plain_sgd_on_the_weighted_loss() -> None:
    distiller = make(optimizer=SGD)
    images, weights = drawn()
    student = copy.deepcopy(distiller.student)
    view = distiller.teacher.normalization(images.float() / 255)
    loss = (weights * kd_loss_per_sample(student(view), distiller.teacher.model(view), 20.0)).mean()
    loss.backward()
    expected = torch.cat([(p - 0.1 * p.grad).detach().flatten() for p in student.parameters()])
    norm = torch.cat([p.grad.flatten() for p in student.parameters()]).norm()
    output = distiller.step(images, weights)
    torch.testing.assert_close(parameters(distiller.student), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.grad_norm, norm, rtol=1e-4, atol=1e-6)


def test_agreement_is_of_the_forward_of_training() -> None:
    distiller = make()
    images, weights = drawn(num=64)
    view = distiller.teacher.normalization(images.float() / 255)
    agree = (distiller.student(view).argmax(1) == distiller.teacher.model(view).argmax(1)).float().mean()
    assert distiller.step(images, weights).agreement.item() == pytest.approx(agree.item())


def test_two_parts_add_up_to_the_whole_batch() -> None:
    """For a student without BatchNorm (whose statistics are of each part) and without augmentation (drawn by part)."""
    whole, parts = make(), make(accumulation_steps=2)
    for seed in range(3):
        one, two = whole.step(*drawn(seed)), parts.step(*drawn(seed))
        # T^2 = 400 times the rounding of float32 softmax values
        torch.testing.assert_close(two.priorities_B, one.priorities_B, rtol=1e-4, atol=2e-4)
        torch.testing.assert_close(two.loss, one.loss, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(two.grad_norm, one.grad_norm, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(two.agreement, one.agreement)
    # float32 sums in another order, through three steps with momentum
    torch.testing.assert_close(parameters(parts.student), parameters(whole.student), rtol=1e-4, atol=1e-5)


def test_a_clipped_gradient_has_the_limits_norm_and_is_reported_unclipped() -> None:
    free, clipped = make(optimizer=SGD), make(optimizer={**SGD, "max_grad_norm": 0.01})
    before = parameters(clipped.student)
    images, weights = drawn()
    norm = free.step(images, weights).grad_norm
    assert norm > 0.1
    torch.testing.assert_close(clipped.step(images, weights).grad_norm, norm)
    assert (parameters(clipped.student) - before).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    loose = make(optimizer={**SGD, "max_grad_norm": 1e6})
    loose.step(images, weights)
    assert torch.equal(parameters(loose.student), parameters(free.student))


@pytest.mark.parametrize("setting", [{"momentum": 0.5}, {"momentum": 0.5, "nesterov": True}, {"weight_decay": 0.1}])
def test_every_setting_of_the_optimizer_is_used(setting: dict) -> None:
    base = {"momentum": 0.5} if "nesterov" in setting else {}
    plain, changed = make(optimizer={**SGD, **base}), make(optimizer={**SGD, **setting})
    for seed in range(2):
        plain.step(*drawn(seed))
        changed.step(*drawn(seed))
    assert not torch.equal(parameters(plain.student), parameters(changed.student))


def test_adam_is_torchs() -> None:
    settings = {"kind": "adam", "lr": 0.01, "momentum": 0.8, "weight_decay": 0.1, "schedule": "constant"}
    distiller, twin = make(optimizer=settings), make(optimizer=SGD)
    adam = torch.optim.Adam(twin.student.parameters(), 0.01, (0.8, 0.999), weight_decay=0.1)
    for seed in range(3):
        images, weights = drawn(seed)
        distiller.step(images, weights)
        view = twin.teacher.normalization(images.float() / 255)
        adam.zero_grad()
        (weights * kd_loss_per_sample(twin.student(view), twin.teacher.model(view), 20.0)).mean().backward()
        adam.step()
    torch.testing.assert_close(parameters(distiller.student), parameters(twin.student), rtol=1e-4, atol=1e-5)


def test_the_rate_of_each_step_is_the_schedules() -> None:
    distiller = make(total_steps=3, optimizer={"lr": 0.4, "final_lr": 0.1})
    assert [distiller.step(*drawn()).lr for _ in range(3)] == pytest.approx([0.4, 0.25, 0.1])
    assert distiller.num_steps == 3


def test_the_average_follows_its_closed_form_with_a_growing_decay() -> None:
    distiller = make(norm=True, ema_decay=0.3)
    average = {name: t.clone() for name, t in distiller.student.state_dict().items()}
    decays = []
    for n in range(1, 5):
        distiller.step(*drawn(n))
        decays.append(min(0.3, (1 + n) / (10 + n)))
        for name, now in distiller.student.state_dict().items():
            if now.is_floating_point():
                average[name] = decays[-1] * average[name] + (1 - decays[-1]) * now
    assert decays == pytest.approx([2 / 11, 3 / 12, 0.3, 0.3])
    for name, found in distiller.student_ema.state_dict().items():
        if found.is_floating_point():
            torch.testing.assert_close(found, average[name], rtol=1e-5, atol=1e-6, msg=name)


def test_without_decay_the_average_is_the_student() -> None:
    distiller = make(norm=True, ema_decay=0.0)
    distiller.step(*drawn())
    for one, other in zip(distiller.student_ema.state_dict().values(), distiller.student.state_dict().values(), strict=True):
        if one.is_floating_point():
            assert torch.equal(one, other)
    assert not any(p.requires_grad for p in distiller.student_ema.parameters())
    assert not any(layer.training for layer in distiller.student_ema.modules())
    assert distiller.student.training


def test_a_restored_distiller_goes_on_bit_for_bit() -> None:
    one = make(norm=True, crop_padding=1, flip=True, total_steps=6)
    one.reseed(3)
    for seed in range(3):
        one.step(*drawn(seed))
    packed = io.BytesIO()
    torch.save(one.state_dict(), packed)
    packed.seek(0)
    other = make(norm=True, crop_padding=1, flip=True, total_steps=6, seed=9)
    other.load_state_dict(torch.load(packed, weights_only=True))
    for distiller in (one, other):
        distiller.reseed(4)  # as at each round's beginning: the generator itself is not saved
    for seed in range(3, 6):
        expected, found = one.step(*drawn(seed)), other.step(*drawn(seed))
        assert torch.equal(found.priorities_B, expected.priorities_B)
        assert found.lr == expected.lr
    for net in ("student", "student_ema"):
        for a, b in zip(getattr(one, net).state_dict().values(), getattr(other, net).state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_a_reseed_repeats_the_augmentation() -> None:
    losses = []
    for seed in (1, 1, 2):
        distiller = make(crop_padding=2, flip=True)
        distiller.reseed(seed)
        losses.append(distiller.step(*drawn()).loss.item())
    assert losses[0] == losses[1] != losses[2]


def test_both_networks_see_the_augmented_and_mixed_image() -> None:
    distiller, images = make(augmentation={"level": "extreme", "mixup": "sample"}), drawn()[0]
    view = BatchAugmentation(distiller.config.augmentations, distiller.teacher.normalization.mean)(
        images, torch.Generator().manual_seed(3)
    )
    seen: dict[str, Tensor] = {}
    for name in ("teacher", "student"):
        network = distiller.teacher.model if name == "teacher" else distiller.student
        network.register_forward_pre_hook(lambda module, args, name=name: seen.setdefault(name, args[0].detach().clone()))
    distiller.reseed(3)
    distiller.step(images, torch.ones(16))
    for name in ("teacher", "student"):
        torch.testing.assert_close(seen[name], distiller.teacher.normalize(view), msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "setting", [{"crop_padding": 2}, {"flip": True}, {"augmentation": {"level": "none", "mixup": "batch"}}]
)
def test_both_augmentations_reach_the_student(setting: dict) -> None:
    plain, changed = make(), make(**setting)
    changed.reseed(0)
    assert plain.step(*drawn()).loss.item() != changed.step(*drawn()).loss.item()


def test_the_loss_falls_on_a_fixed_batch_and_the_teacher_stays() -> None:
    distiller = make(norm=True, optimizer={"lr": 0.05, "schedule": "constant", "max_grad_norm": 1.0})
    teacher = distiller.teacher.state_sha256()
    images, _ = drawn()
    losses = [distiller.step(images, torch.ones(16)).loss.item() for _ in range(40)]
    assert losses[-1] < 0.4 * losses[0]
    assert distiller.teacher.state_sha256() == teacher


def test_the_input_images_are_left_alone() -> None:
    images, weights = drawn()
    before = images.clone()
    make(crop_padding=1, flip=True).step(images, weights)
    assert torch.equal(images, before)


def test_a_wrapper_sees_every_forward_of_training() -> None:
    class Counting(nn.Module):
        calls = 0

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any) -> tuple[Tensor, Tensor]:
            Counting.calls += 1
            return self.inner(*inputs)

    distiller = make(accumulation_steps=2)
    distiller.wrap_learner(Counting)
    before = parameters(distiller.student)
    distiller.step(*drawn())
    assert Counting.calls == 2
    assert not torch.equal(parameters(distiller.student), before)


def test_compile_is_asked_for_both_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda call: compiled.append(call.__self__.network) or call)
    distiller = make(compile=True)
    assert compiled == [distiller.student, distiller.teacher.model]
    distiller.step(*drawn())
    make()
    assert len(compiled) == 2


def test_autocast_surrounds_the_networks_and_not_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def bfloat16(device: torch.device, enabled: bool) -> object:
        asked.append(enabled)
        return torch.autocast(device.type, dtype=torch.bfloat16) if enabled else nullcontext()

    monkeypatch.setattr("raydfkd.distillation.distiller.autocast", bfloat16)
    exact, low = make(), make()
    low.bf16 = True
    expected, found = exact.step(*drawn()), low.step(*drawn())
    assert asked == [False, True]
    assert found.priorities_B.dtype == torch.float32
    assert not torch.equal(found.priorities_B, expected.priorities_B)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0.1, atol=0.1)
    assert all(p.dtype == torch.float32 for p in low.student.parameters())

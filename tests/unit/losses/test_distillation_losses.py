"""KD against a formula written by hand, its scale, importance weighting and agreement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raydfkd.losses.distillation import agreement, importance_weighted_mean, kd_loss_per_sample, self_paced_weights


def logits(seed: int, num: int = 6, classes: int = 5, scale: float = 3.0) -> Tensor:
    return torch.randn(num, classes, generator=torch.Generator().manual_seed(seed)) * scale


def by_hand(student: Tensor, teacher: Tensor, temperature: float) -> np.ndarray:
    """T^2 sum_k p_T (log p_T - log p_S) in float64, one sample and one class at a time."""
    out = []
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p_student = np.exp(np.array(s) / temperature) / np.exp(np.array(s) / temperature).sum()
        p_teacher = np.exp(np.array(t) / temperature) / np.exp(np.array(t) / temperature).sum()
        out.append(temperature**2 * sum(p * (np.log(p) - np.log(q)) for p, q in zip(p_teacher, p_student, strict=True)))
    return np.array(out)


def gradient(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    leaf = student.clone().requires_grad_()
    kd_loss_per_sample(leaf, teacher, temperature).mean().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_is_the_formula(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    losses = kd_loss_per_sample(student, teacher, temperature)
    assert losses.shape == (6,)
    # float32 against float64: log-softmax errors of about 1e-7 are multiplied by T^2.
    np.testing.assert_allclose(losses, by_hand(student, teacher, temperature), rtol=1e-4, atol=1e-6 * temperature**2)


def test_kd_is_zero_for_equal_networks_and_asymmetric_otherwise() -> None:
    student, teacher = logits(0), logits(1)
    assert torch.equal(kd_loss_per_sample(teacher, teacher, 4.0), torch.zeros(6))
    assert (kd_loss_per_sample(student, teacher, 4.0) > 0).all()
    assert not torch.allclose(kd_loss_per_sample(student, teacher, 4.0), kd_loss_per_sample(teacher, student, 4.0))


def test_kd_does_not_care_about_constants_added_to_logits() -> None:
    student, teacher = logits(0), logits(1)
    moved = kd_loss_per_sample(student + 7.0, teacher - 3.0, 2.0)
    torch.testing.assert_close(moved, kd_loss_per_sample(student, teacher, 2.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_kd_gradient_is_t_times_the_difference_of_probabilities(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)) / len(student)
    torch.testing.assert_close(gradient(student, teacher, temperature), expected, rtol=1e-4, atol=1e-6)


def test_the_gradients_scale_does_not_depend_on_a_large_temperature() -> None:
    """T^2 makes the gradient tend to (centred s - centred t) / (K B) as T grows, neither to 0 nor to infinity."""
    student, teacher = logits(0, scale=1.0), logits(1, scale=1.0)
    num, classes = student.shape
    limit = ((student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))) / (classes * num)
    for temperature in (50.0, 200.0):
        torch.testing.assert_close(gradient(student, teacher, temperature), limit, rtol=0.1, atol=3 / temperature * 0.05)
    norms = [float(gradient(student, teacher, t).norm()) for t in (50.0, 100.0, 200.0)]
    assert max(norms) / min(norms) == pytest.approx(1.0, abs=0.03)


def test_kd_computes_in_float32_whatever_it_is_given() -> None:
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    losses = kd_loss_per_sample(student, teacher, 20.0)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, kd_loss_per_sample(student.float(), teacher.float(), 20.0), rtol=0, atol=0)


def test_kd_is_finite_for_extreme_logits() -> None:
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert kd_loss_per_sample(student, teacher, 1.0).item() == pytest.approx(2e4)


def test_the_importance_weighted_loss_is_backpropagated_and_is_the_next_priority() -> None:
    """SSD-KD Eq. 4: delta_i = w_i KL_i; the loss is their mean over the batch, not over the sum of weights."""
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    weights = torch.tensor([1.0, 0.5, 0.25])
    loss, priorities = importance_weighted_mean(losses, weights)
    assert loss.item() == pytest.approx((1.0 + 1.0 + 1.0) / 3)
    assert priorities.tolist() == [1.0, 1.0, 1.0]
    assert not priorities.requires_grad
    loss.backward()
    torch.testing.assert_close(losses.grad, weights / 3)


def test_agreement_is_the_share_of_equal_choices() -> None:
    student = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 4.0], [0.0, 9.0]])
    teacher = torch.tensor([[9.0, 1.0], [3.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert agreement(student, teacher).item() == 0.75


def test_self_paced_weights_fall_from_one_with_the_loss_and_rise_with_lambda() -> None:
    losses = torch.tensor([0.0, 1.0, 3.0, 200.0], requires_grad=True)
    weights = self_paced_weights(losses, 2.0)
    expected = [(1 + np.exp(-2)) / (1 + np.exp(loss - 2)) for loss in (0.0, 1.0, 3.0)]
    assert weights.tolist() == pytest.approx([*expected, 0.0], rel=1e-5, abs=1e-30)
    assert weights[0].item() == pytest.approx(1)
    assert not weights.requires_grad
    assert self_paced_weights(losses[:3], 30.0).tolist() == pytest.approx([1, 1, 1])

"""DKD, NKD, OFA and the hard-label term against formulas in float64, one sample and one class at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.losses.logit_distillation import (
    decoupled_kd_per_sample,
    hard_label_loss_per_sample,
    l1_per_sample,
    normalized_kd_per_sample,
    ofa_loss_per_sample,
    smoothed_label_kl_per_sample,
)

TEMPERATURES = [0.5, 1.0, 4.0]


def logits(seed: int, num: int = 6, classes: int = 5, scale: float = 3.0) -> Tensor:
    return torch.randn(num, classes, generator=torch.Generator().manual_seed(seed)) * scale


def softmax(row: list[float], temperature: float = 1.0) -> np.ndarray:
    powers = np.exp(np.array(row) / temperature)
    return powers / powers.sum()


def rows(student: Tensor, teacher: Tensor) -> list[tuple[list[float], list[float], int]]:
    """(student's logits, teacher's logits, y) of each sample."""
    teachers = teacher.double().tolist()
    return [(s, t, int(np.argmax(t))) for s, t in zip(student.double().tolist(), teachers, strict=True)]


def without(row: list[float], index: int) -> list[float]:
    return row[:index] + row[index + 1 :]


def test_the_hard_label_is_the_teachers_choice() -> None:
    student, teacher = logits(0), logits(1)
    expected = [-np.log(softmax(s)[y]) for s, _, y in rows(student, teacher)]
    np.testing.assert_allclose(hard_label_loss_per_sample(student, teacher), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_the_divergence_from_a_smoothed_label_is_its_formula(smoothing: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = []
    for s, _, y in rows(student, teacher):
        q = np.full(5, smoothing / 5)
        q[y] += 1 - smoothing
        expected.append(sum(a * np.log(a / b) for a, b in zip(q, softmax(s), strict=True) if a > 0))
    np.testing.assert_allclose(smoothed_label_kl_per_sample(student, teacher, smoothing), expected, rtol=1e-5)


def test_a_student_with_the_smoothed_label_as_its_answer_has_nothing_to_learn() -> None:
    teacher = logits(1)
    label = torch.nn.functional.one_hot(teacher.argmax(1), 5) * 0.8 + 0.2 / 5
    least = smoothed_label_kl_per_sample(label.log() + 3.0, teacher, 0.2)
    torch.testing.assert_close(least, torch.zeros(6), rtol=0, atol=1e-6)
    hard = hard_label_loss_per_sample(logits(0), teacher)
    assert torch.equal(smoothed_label_kl_per_sample(logits(0), teacher, 0.0), hard)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dkd_is_its_two_divergences(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    target, non_target = [], []
    for s, t, y in rows(student, teacher):
        p, q = softmax(t, temperature)[y], softmax(s, temperature)[y]
        target.append(temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))
        p_rest, q_rest = softmax(without(t, y), temperature), softmax(without(s, y), temperature)
        non_target.append(temperature**2 * (p_rest * np.log(p_rest / q_rest)).sum())
    found = decoupled_kd_per_sample(student, teacher, temperature)
    np.testing.assert_allclose(found[0], target, rtol=1e-3, atol=1e-5 * temperature**2)
    np.testing.assert_allclose(found[1], non_target, rtol=1e-4, atol=1e-5 * temperature**2)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_plain_kd_is_tckd_plus_the_non_target_share_of_nckd(temperature: float) -> None:
    """KD = TCKD + (1 - p_T[y]) NCKD, the identity that DKD starts from."""
    student, teacher = logits(2, num=50), logits(3, num=50)
    target, non_target = decoupled_kd_per_sample(student, teacher, temperature)
    share = 1 - (teacher / temperature).softmax(1).max(1).values
    kd = kd_loss_per_sample(student, teacher, temperature)
    torch.testing.assert_close(target + share * non_target, kd, rtol=1e-4, atol=1e-5 * max(1.0, temperature**2))


def test_dkd_of_two_classes_has_no_non_target_part() -> None:
    student, teacher = logits(0, classes=2), logits(1, classes=2)
    target, non_target = decoupled_kd_per_sample(student, teacher, 4.0)
    assert torch.equal(non_target, torch.zeros(6))
    torch.testing.assert_close(target, kd_loss_per_sample(student, teacher, 4.0), rtol=1e-4, atol=1e-5)


def test_nckd_does_not_see_the_logit_of_y_and_tckd_no_order_of_the_others() -> None:
    student, teacher = logits(0), logits(1)
    labels = teacher.argmax(1)
    raised = student.clone()
    raised[torch.arange(6), labels] += 5.0
    before, after = decoupled_kd_per_sample(student, teacher, 2.0), decoupled_kd_per_sample(raised, teacher, 2.0)
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0], after[0])
    swapped = student.clone()
    others = [[k for k in range(5) if k != y][:2] for y in labels.tolist()]
    for i, (a, b) in enumerate(others):
        swapped[i, [a, b]] = student[i, [b, a]]
    exchanged = decoupled_kd_per_sample(swapped, teacher, 2.0)
    torch.testing.assert_close(exchanged[0], before[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(exchanged[1], before[1])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nkd_is_its_formula(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = []
    for s, t, y in rows(student, teacher):
        rest = -(softmax(without(t, y), temperature) * np.log(softmax(without(s, y), temperature))).sum()
        expected.append(-softmax(t)[y] * np.log(softmax(s)[y]) + 1.5 * temperature**2 * rest)
    found = normalized_kd_per_sample(student, teacher, temperature, 1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_soft_cross_entropy_is_nkd_with_the_non_target_mass_as_weight() -> None:
    """CE(p_T, p_S) = -p_T[y] log p_S[y] - (1 - p_T[y]) log(1 - p_S[y]) + (1 - p_T[y]) CE(q_T, q_S): what NKD renormalises."""
    student, teacher = logits(4, num=40), logits(5, num=40)
    labels = teacher.argmax(1, keepdim=True)
    p_teacher, p_student = (x.softmax(1).gather(1, labels).squeeze(1) for x in (teacher, student))
    target = normalized_kd_per_sample(student, teacher, 1.0, 0.0)
    rest = normalized_kd_per_sample(student, teacher, 1.0, 1.0) - target
    whole = target - (1 - p_teacher) * torch.log1p(-p_student) + (1 - p_teacher) * rest
    torch.testing.assert_close(whole, -(teacher.softmax(1) * student.log_softmax(1)).sum(1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_ofa_is_its_formula(exponent: float, temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = []
    for s, t, y in rows(student, teacher):
        one_hot = np.eye(5)[y]
        targets = (softmax(t, temperature) + one_hot) ** exponent - one_hot
        expected.append(-(targets * np.log(softmax(s, temperature))).sum())
    np.testing.assert_allclose(ofa_loss_per_sample(student, teacher, exponent, temperature), expected, rtol=1e-4)


def test_ofa_with_exponent_one_is_cross_entropy_and_a_larger_one_raises_the_share_of_y() -> None:
    student, teacher = logits(0), logits(1)
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1)
    plain = ofa_loss_per_sample(student, teacher, 1.0, 1.0)
    torch.testing.assert_close(plain, kd_loss_per_sample(student, teacher, 1.0) + entropy, rtol=1e-4, atol=1e-5)
    leaf = torch.zeros(1, 5, requires_grad=True)
    shares = []
    for exponent in (1.0, 1.5, 3.0):
        (gradient,) = torch.autograd.grad(ofa_loss_per_sample(leaf, teacher[:1], exponent, 1.0).sum(), leaf)
        shares.append(float(gradient[0, teacher[0].argmax()] / gradient.abs().sum()))
    assert shares[0] > shares[1] >= shares[2] - 1e-6  # descending is towards y: its gradient is the most negative


ALL: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
    ("tckd", lambda s, t: decoupled_kd_per_sample(s, t, 3.0)[0]),
    ("nckd", lambda s, t: decoupled_kd_per_sample(s, t, 3.0)[1]),
    ("nkd without y", lambda s, t: normalized_kd_per_sample(s, t, 3.0, 2.0) - normalized_kd_per_sample(s, t, 3.0, 0.0)),
    ("ofa", lambda s, t: ofa_loss_per_sample(s, t, 1.0, 3.0)),
]


@pytest.mark.parametrize(("name", "loss"), ALL, ids=[name for name, _ in ALL])
def test_the_teachers_own_logits_are_a_minimum(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    teacher = logits(1)
    leaf = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, teacher).sum(), leaf)
    assert gradient.abs().max() < 1e-5  # against values of up to 10 elsewhere
    least, other = loss(teacher, teacher), loss(logits(0), teacher)
    assert (other > least).all()
    if "kd" in name and "nkd" not in name:
        torch.testing.assert_close(least, torch.zeros(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "loss"), ALL, ids=[name for name, _ in ALL])
def test_extreme_and_low_precision_logits(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student = torch.tensor([[300.0, -300.0, 0.0], [-300.0, 300.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-300.0, 300.0, 0.0], [-300.0, 300.0, 0.0]])
    values = loss(student, teacher)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()
    low, high = logits(0).bfloat16(), logits(1).bfloat16()
    found = loss(low, high)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(low.float(), high.float()))


def test_l1_is_the_mean_distance_of_a_samples_logits() -> None:
    student = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    teacher = torch.tensor([[0.0, 1.0], [0.0, 0.5]])
    assert l1_per_sample(student, teacher).tolist() == [2.0, 0.0]
    assert l1_per_sample(student[:, :, None].expand(2, 2, 3), teacher[:, :, None].expand(2, 2, 3)).tolist() == [2.0, 0.0]

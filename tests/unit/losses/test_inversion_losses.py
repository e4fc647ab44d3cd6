"""The generator's losses against hand values: BN statistics, task term with Eq. 3's phi, adversarial term."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.losses.inversion import (
    activation_loss,
    adversarial_loss,
    bn_loss,
    disagreement_loss,
    modulating_weights,
    negative_batch_entropy,
    one_hot_loss,
    smoothed_statistics,
    total_variation,
)


def two_layers() -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    batch = [
        (torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 3.0], requires_grad=True)),
        (torch.tensor([0.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)),
    ]
    running = [(torch.tensor([4.0, 6.0]), torch.tensor([3.0, 1.0])), (torch.tensor([2.0]), torch.tensor([5.0]))]
    return batch, running


def test_bn_loss_sums_unsquared_norms_of_means_and_variances() -> None:
    batch, running = two_layers()
    # layer 1: |(3, 4)| + |(0, -2)| = 5 + 2; layer 2: |2| + |0| = 2
    assert bn_loss(batch, running).item() == pytest.approx(9.0)
    assert bn_loss(batch, running, first_weight=10).item() == pytest.approx(72.0)


def test_bn_loss_gradient_is_the_unit_vector_away_from_the_running_statistics() -> None:
    batch, running = two_layers()
    bn_loss(batch, running).backward()
    torch.testing.assert_close(batch[0][0].grad, torch.tensor([-3.0, -4.0]) / 5)
    torch.testing.assert_close(batch[0][1].grad, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(batch[1][0].grad, torch.tensor([-1.0]))
    assert batch[1][1].grad.tolist() == [0.0], "at the exact match the gradient is 0, not NaN"


def test_bn_loss_refuses_lists_of_different_lengths() -> None:
    batch, running = two_layers()
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        bn_loss(batch, running[:1])


def test_total_variation_sums_the_norms_of_four_kinds_of_differences() -> None:
    image = torch.tensor([[[[0.0, 3.0], [4.0, 0.0]]]])
    # across: -3, 4; down: -4, 3; falling: 0; rising: 4 - 3
    assert total_variation(image).item() == pytest.approx(5 + 5 + 0 + 1)
    assert total_variation(image.repeat(4, 1, 1, 1)).item() == pytest.approx(2 * 11), "one norm over the batch"


def test_smoothed_statistics_mix_and_carry_only_the_rest_of_the_gradient() -> None:
    batch, _ = two_layers()
    average = [(torch.tensor([10.0, 10.0]), torch.tensor([1.0, 1.0])), (torch.tensor([3.0]), torch.tensor([2.0]))]
    mixed = smoothed_statistics(batch, average, 0.9)
    torch.testing.assert_close(mixed[0][0], torch.tensor([9.1, 9.2]))
    torch.testing.assert_close(mixed[1][1], torch.tensor([2.3]))
    torch.cat([tensor for pair in mixed for tensor in pair]).sum().backward()
    for tensor in (tensor for pair in batch for tensor in pair):
        torch.testing.assert_close(tensor.grad, torch.full_like(tensor, 0.1), rtol=1e-6, atol=0)


def test_momentum_scales_the_gradient_of_bn_loss_by_its_rest() -> None:
    """With the average equal to the batch the direction is that of the plain loss, so only the factor 1-m is left."""
    norms = []
    for momentum in (0.0, 0.9):
        batch, running = two_layers()
        average = [(mean.detach(), variance.detach()) for mean, variance in batch]
        bn_loss(smoothed_statistics(batch, average, momentum), running).backward()
        norms.append(float(batch[0][0].grad.norm()))
    assert norms[1] == pytest.approx(0.1 * norms[0], rel=1e-5)


def test_one_hot_loss_is_the_weighted_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    targets = torch.tensor([0, 1])
    each = [math.log(2), math.log(4)]
    assert one_hot_loss(logits, targets).item() == pytest.approx(sum(each) / 2)
    weights = torch.tensor([0.5, 0.25])
    assert one_hot_loss(logits, targets, weights).item() == pytest.approx((0.5 * each[0] + 0.25 * each[1]) / 2)
    assert one_hot_loss(logits.bfloat16(), targets).dtype == torch.float32


def test_adversarial_loss_counts_agreeing_samples_and_divides_by_all() -> None:
    student = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[5.0, 1.0], [4.0, 0.0], [3.0, 0.0], [9.0, 0.0]])  # samples 0 and 2 agree
    each = kd_loss_per_sample(student, teacher, 1.0)
    assert adversarial_loss(student, teacher).item() == pytest.approx(-float(each[0] + each[2]) / 4)


def test_adversarial_loss_has_gradient_only_through_agreeing_samples() -> None:
    student = torch.tensor([[2.0, 1.0], [0.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[5.0, 1.0], [4.0, 0.0]], requires_grad=True)
    adversarial_loss(student, teacher).backward()
    for leaf in (student, teacher):
        assert leaf.grad[0].abs().sum() > 0
        assert leaf.grad[1].abs().sum() == 0
    step = student.detach() - student.grad  # descent makes the student differ more
    assert kd_loss_per_sample(step, teacher.detach(), 1.0)[0] > kd_loss_per_sample(student.detach(), teacher.detach(), 1.0)[0]


LOGITS = torch.tensor([[math.log(3.0), 0.0, 0.0], [0.0, math.log(8.0), 0.0], [0.0, 0.0, math.log(18.0)]])
CONFIDENCE = [3 / 5, 8 / 10, 18 / 20]
COUNTS = torch.tensor([10, 30, 60])


@pytest.mark.parametrize(("diversity", "difficulty"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_phi_is_the_closed_form_for_every_pair_of_switches(diversity: bool, difficulty: bool, gamma: float) -> None:
    phi = modulating_weights(LOGITS, COUNTS, 100, diversity=diversity, difficulty=difficulty, gamma=gamma)
    expected = [
        (1 - n / 100 if diversity else 1.0) * ((1 - p) ** gamma if difficulty else 1.0)
        for n, p in zip([10, 30, 60], CONFIDENCE, strict=True)
    ]
    torch.testing.assert_close(phi, torch.tensor(expected))


def test_phi_may_go_by_the_probability_of_the_target() -> None:
    """The focal weight: a prediction that is sure and wrong counts in full, where the literal one all but drops it."""
    logits, targets = torch.tensor([[8.0, 0.0, 0.0], [8.0, 0.0, 0.0]]), torch.tensor([0, 1])
    nothing = {"diversity": False, "difficulty": True, "gamma": 2.0}
    of_target = modulating_weights(logits, COUNTS, 100, **nothing, targets_B=targets)
    probabilities = logits.softmax(1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(of_target, (1 - probabilities) ** 2)
    assert of_target[1] > 0.99
    assert modulating_weights(logits, COUNTS, 100, **nothing)[1] < 1e-5


def test_phi_is_detached() -> None:
    leaf = LOGITS.clone().requires_grad_()
    phi = modulating_weights(leaf, COUNTS, 100, diversity=True, difficulty=True, gamma=2.0)
    assert not phi.requires_grad
    targets = torch.tensor([1, 1, 1])
    one_hot_loss(leaf, targets, phi).backward()
    other = LOGITS.clone().requires_grad_()
    (phi * F.cross_entropy(other, targets, reduction="none")).mean().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_phi_of_an_empty_buffer_has_no_diversity_factor() -> None:
    empty = torch.zeros(3, dtype=torch.int64)
    assert modulating_weights(LOGITS, empty, 0, diversity=True, difficulty=False, gamma=2.0).tolist() == [1.0, 1.0, 1.0]
    both = modulating_weights(LOGITS, empty, 0, diversity=True, difficulty=True, gamma=2.0)
    torch.testing.assert_close(both, torch.tensor([(1 - p) ** 2 for p in CONFIDENCE]))


def test_phi_of_a_class_that_fills_the_buffer_is_zero_and_of_an_absent_one_is_full() -> None:
    phi = modulating_weights(LOGITS, torch.tensor([50, 0, 0]), 50, diversity=True, difficulty=False, gamma=2.0)
    assert phi.tolist() == [0.0, 1.0, 1.0]


def test_negative_batch_entropy_is_that_of_the_mean_prediction_to_base_ten() -> None:
    sure = 1000.0 * F.one_hot(torch.tensor([0, 0, 0, 1]), 3)  # a class that nobody predicts has probability 0
    logits = sure.requires_grad_()
    loss = negative_batch_entropy(logits)
    assert loss.item() == pytest.approx(0.75 * math.log10(0.75) + 0.25 * math.log10(0.25), rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert negative_batch_entropy(torch.eye(10) * 9).item() == pytest.approx(-1.0, rel=1e-5), "even: -log10 of 10 classes"


def test_activation_loss_is_minus_the_mean_size() -> None:
    assert activation_loss(torch.tensor([[1.0, -3.0], [0.0, 2.0]])).item() == -1.5


def test_disagreement_loss_is_one_less_the_published_codes_js() -> None:
    student = torch.log(torch.tensor([[0.7, 0.2, 0.1]])).mul(3).requires_grad_()
    teacher = torch.log(torch.tensor([[0.1, 0.2, 0.7]])).mul(3).requires_grad_()
    # M = (.4, .2, .4); half of each side's mean of M log(M / P)
    half = 0.5 * (0.4 * math.log(0.4 / 0.7) + 0.4 * math.log(0.4 / 0.1)) / 3
    loss = disagreement_loss(student, teacher)
    assert loss.item() == pytest.approx(1 - 2 * half, rel=1e-5)
    assert disagreement_loss(teacher, teacher).item() == pytest.approx(1.0)
    # Probabilities are cut to [.01, .99], so that even opposite certainties are a finite distance apart.
    far = disagreement_loss(torch.tensor([[900.0, 0.0]]), torch.tensor([[0.0, 900.0]])).item()
    assert far == pytest.approx(1 - 0.5 * (0.5 * math.log(0.5 / 0.99) + 0.5 * math.log(0.5 / 0.01)), rel=1e-5)

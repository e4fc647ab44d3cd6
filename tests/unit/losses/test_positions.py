"""One formula for images and for pixels: what the losses make of logits with positions behind the classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.losses.distillation import agreement, kd_loss_per_position, kd_loss_per_sample
from raydfkd.losses.inversion import adversarial_loss, modulating_weights, negative_batch_entropy, one_hot_loss
from raydfkd.losses.logit_distillation import (
    decoupled_kd_per_sample,
    hard_label_loss_per_sample,
    normalized_kd_per_sample,
    ofa_loss_per_sample,
    smoothed_label_kl_per_sample,
)
from raydfkd.losses.positions import IGNORED, class_histogram, dominant_classes, label_loss, mean_over_positions

CLASSES, NUM_SAMPLES = 5, 3
PER_SAMPLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kd": lambda s, t: kd_loss_per_sample(s, t, 4.0),
    "hard label": hard_label_loss_per_sample,
    "smoothed label": lambda s, t: smoothed_label_kl_per_sample(s, t, 0.2),
    "target part": lambda s, t: decoupled_kd_per_sample(s, t, 4.0)[0],
    "non-target part": lambda s, t: decoupled_kd_per_sample(s, t, 4.0)[1],
    "normalized": lambda s, t: normalized_kd_per_sample(s, t, 2.0, 1.5),
    "ofa": lambda s, t: ofa_loss_per_sample(s, t, 1.5, 2.0),
}


def logits(seed: int, shape: tuple[int, ...]) -> Tensor:
    return 3 * torch.randn(NUM_SAMPLES, CLASSES, *shape, generator=torch.Generator().manual_seed(seed))


def rows(values: Tensor) -> Tensor:
    """[B,K,...] to [B * positions,K]."""
    return values.flatten(2).movedim(2, 1).flatten(0, 1)


def labels(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, CLASSES, (NUM_SAMPLES, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 6), (7,), (1, 1)])
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_a_samples_loss_is_the_mean_of_its_positions(name: str, shape: tuple[int, ...]) -> None:
    student, teacher, loss = logits(0, shape).requires_grad_(), logits(1, shape), PER_SAMPLE[name]
    each = loss(rows(student), rows(teacher)).unflatten(0, (NUM_SAMPLES, -1))
    found = loss(student, teacher)
    assert found.shape == (NUM_SAMPLES,)
    assert found.std() > 0.01, "samples differ"
    torch.testing.assert_close(found, each.mean(1))
    gradients = [torch.autograd.grad(x, student)[0] for x in (found.sum(), each.mean(1).sum())]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shape", [(4, 6), (7,), (1, 1)])
def test_scalars_are_means_over_samples_and_positions(shape: tuple[int, ...]) -> None:
    student, teacher, targets = logits(0, shape), logits(1, shape), labels(2, shape)
    teacher[:1] = student[:1]  # so that some choices agree
    flat = (rows(student), rows(teacher))
    assert 0 < agreement(student, teacher).item() < 1
    torch.testing.assert_close(agreement(student, teacher), agreement(*flat))
    student[:1] += 0.3 * logits(3, shape)[:1]  # which differ all the same
    flat = (rows(student), rows(teacher))
    assert adversarial_loss(student, teacher) < 0
    torch.testing.assert_close(adversarial_loss(student, teacher), adversarial_loss(*flat))
    torch.testing.assert_close(one_hot_loss(teacher, targets), one_hot_loss(flat[1], targets.flatten()))
    weights = torch.rand(targets.shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        one_hot_loss(teacher, targets, weights), one_hot_loss(flat[1], targets.flatten(), weights.flatten())
    )


@pytest.mark.parametrize("of_target", [False, True])
def test_each_position_has_its_own_phi_by_the_buffers_positions(of_target: bool) -> None:
    teacher, targets = logits(0, (4, 6)), labels(1, (4, 6))
    counts = torch.tensor([100, 40, 30, 20, 10])
    settings = {"diversity": True, "difficulty": True, "gamma": 2.0}
    found = modulating_weights(teacher, counts, 200, **settings, targets_B=targets if of_target else None)
    each = modulating_weights(rows(teacher), counts, 200, **settings, targets_B=targets.flatten() if of_target else None)
    assert found.shape == (NUM_SAMPLES, 4, 6)
    torch.testing.assert_close(found.flatten(), each)


def test_positions_that_do_not_count_are_left_out_of_every_mean() -> None:
    """Against a loop over pixels; the second sample has none that counts."""
    scores, targets = logits(0, (4, 6)).requires_grad_(), labels(1, (4, 6))
    targets[0, :2], targets[1] = IGNORED, IGNORED
    expected = []
    for i in range(NUM_SAMPLES):
        pixels = [(y, x) for y in range(4) for x in range(6) if targets[i, y, x] != IGNORED]
        values = [-scores[i, :, y, x].log_softmax(0)[targets[i, y, x]] for y, x in pixels]
        expected.append(torch.stack(values).mean() if values else torch.zeros(()))
    each = F.cross_entropy(scores, targets, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(mean_over_positions(each, targets), torch.stack(expected))
    torch.testing.assert_close(one_hot_loss(scores, targets), torch.stack(expected).mean())
    counted = rows(scores)[targets.flatten() != IGNORED], targets[targets != IGNORED]
    torch.testing.assert_close(label_loss(scores, targets, 0.1), F.cross_entropy(*counted, label_smoothing=0.1))
    nothing = label_loss(scores, torch.full_like(targets, IGNORED))
    assert nothing == 0
    assert torch.equal(torch.autograd.grad(nothing, scores)[0], torch.zeros_like(scores))


def test_labels_of_images_give_the_plain_cross_entropy_to_the_bit() -> None:
    scores, targets = logits(0, ()), labels(1, ())
    assert torch.equal(label_loss(scores, targets, 0.1), F.cross_entropy(scores, targets, label_smoothing=0.1))
    assert torch.equal(one_hot_loss(scores, targets), F.cross_entropy(scores, targets, reduction="none").mean())


def test_a_batch_s_entropy_is_that_of_the_mean_over_all_its_positions() -> None:
    teacher = logits(0, (4, 6))
    shares = rows(teacher).softmax(1).mean(0)
    torch.testing.assert_close(negative_batch_entropy(teacher), (shares * shares.log10()).sum())
    torch.testing.assert_close(negative_batch_entropy(rows(teacher)), (shares * shares.log10()).sum())


def test_classes_of_positions_are_counted_sample_by_sample() -> None:
    found = labels(0, (4, 6))
    expected = torch.stack([torch.bincount(one.flatten(), minlength=CLASSES) for one in found])
    assert torch.equal(class_histogram(found, CLASSES), expected)
    assert torch.equal(dominant_classes(found, CLASSES), expected.argmax(1))
    assert class_histogram(found[:0], CLASSES).shape == (0, CLASSES)
    of_images = labels(0, ())
    assert dominant_classes(of_images, CLASSES) is of_images


def test_without_positions_values_stay_as_they_are() -> None:
    values = torch.tensor([1.0, 2.0])
    assert mean_over_positions(values) is values
    torch.testing.assert_close(mean_over_positions(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])), torch.tensor([3.0]))
    student, teacher = logits(0, ()), logits(1, ())
    assert torch.equal(kd_loss_per_position(student, teacher, 4.0), kd_loss_per_sample(student, teacher, 4.0))

"""HiDFD's GAN losses: closed forms, the direction in which each pushes, and whom its gradient reaches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raydfkd.losses.gan import (
    AdversarialKind,
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    class_discriminator_loss,
    class_generator_loss,
    class_regularization,
    class_weights,
    feature_blending,
    feature_transfer,
    updated_class_counts,
)

KINDS: tuple[AdversarialKind, ...] = ("hinge", "log")
ALWAYS = torch.tensor(0.0)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient_of(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_adversarial_losses_by_hand() -> None:
    real, synthetic = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.25, 1.0])
    assert adversarial_discriminator_loss(real, synthetic, "hinge").item() == pytest.approx((0 + 0.5 + 2 + 0 + 1.25 + 2) / 3)
    assert adversarial_generator_loss(synthetic, "hinge").item() == pytest.approx(1.75 / 3)
    sigmoid_real, sigmoid_synthetic = ([1 / (1 + math.exp(-v)) for v in t.tolist()] for t in (real, synthetic))
    by_hand = -sum(math.log(p) for p in sigmoid_real) / 3 - sum(math.log(1 - p) for p in sigmoid_synthetic) / 3
    assert adversarial_discriminator_loss(real, synthetic, "log").item() == pytest.approx(by_hand, rel=1e-5)
    by_hand = -sum(math.log(p) for p in sigmoid_synthetic) / 3
    assert adversarial_generator_loss(synthetic, "log").item() == pytest.approx(by_hand, rel=1e-5)


def test_log_losses_stay_finite_where_the_sigmoid_saturates() -> None:
    far = torch.tensor([200.0, -200.0])
    assert adversarial_discriminator_loss(far, far, "log").item() == pytest.approx(200.0)
    assert adversarial_generator_loss(far, "log").item() == pytest.approx(100.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_each_network_moves_the_logits_its_way(kind: AdversarialKind) -> None:
    """Inside the hinge's margin: the discriminator raises real and lowers synthetic logits, the generator raises synthetic."""
    real, synthetic = normal(0, 8).clamp(-0.9, 0.9), normal(1, 8).clamp(-0.9, 0.9)
    assert (gradient_of(lambda r: adversarial_discriminator_loss(r, synthetic, kind), real) < 0).all()
    assert (gradient_of(lambda s: adversarial_discriminator_loss(real, s, kind), synthetic) > 0).all()
    assert (gradient_of(lambda s: adversarial_generator_loss(s, kind), synthetic) < 0).all()


def test_the_generators_log_loss_does_not_vanish_when_the_discriminator_wins() -> None:
    won = torch.tensor([-20.0])
    assert gradient_of(lambda s: adversarial_generator_loss(s, "log"), won).item() == pytest.approx(-1.0)


def test_class_losses_by_hand() -> None:
    """K = 2, outputs (0 real, 0 synthetic, 1 real, 1 synthetic) with probabilities in powers of a half."""
    real = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log() + 3
    synthetic = torch.tensor([[0.25, 0.5, 0.125, 0.125], [0.5, 0.125, 0.125, 0.25]]).log() - 1
    loss = class_discriminator_loss(real, torch.tensor([0]), synthetic, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(math.log(2) + (math.log(2) + math.log(4)) / 2, rel=1e-5)
    # -log(1/4) + log(1/2), and -log(1/8) + log(1/4): each log 2
    assert class_generator_loss(synthetic, torch.tensor([0, 1])).item() == pytest.approx(math.log(2), rel=1e-5)


def test_class_generator_loss_is_the_difference_of_two_cross_entropies() -> None:
    logits, classes = normal(0, 6, 10), torch.tensor([0, 4, 2, 2, 1, 3])
    expected = nn.functional.cross_entropy(logits, 2 * classes) - nn.functional.cross_entropy(logits, 2 * classes + 1)
    torch.testing.assert_close(class_generator_loss(logits, classes), expected)


def test_class_losses_push_the_outputs_of_the_right_class_and_origin() -> None:
    logits, classes, other = normal(0, 3, 8), torch.tensor([0, 3, 1]), torch.tensor([2, 0, 3])
    by_real = gradient_of(lambda x: class_discriminator_loss(x, classes, logits, other), logits)
    by_synthetic = gradient_of(lambda x: class_discriminator_loss(logits, other, x, classes), logits)
    by_generator = gradient_of(lambda x: class_generator_loss(x, classes), logits)
    for i, label in enumerate(classes.tolist()):
        assert (by_real[i] < 0).nonzero().flatten().tolist() == [2 * label], "real images: up for 'class y, real' only"
        assert (by_synthetic[i] < 0).nonzero().flatten().tolist() == [2 * label + 1]
        assert (by_generator[i] < 0).nonzero().flatten().tolist() == [2 * label]
        assert (by_generator[i] > 0).nonzero().flatten().tolist() == [2 * label + 1]


def features() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Teacher real, teacher synthetic, discriminator real, discriminator synthetic; distances are triples of Pythagoras."""
    teacher_real = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    teacher_synthetic = torch.tensor([[5.0, 12.0], [1.0, 1.0]])
    discriminator_real = torch.tensor([[0.0, 0.0], [4.0, 5.0]])
    discriminator_synthetic = torch.tensor([[8.0, 16.0], [1.0, 1.0]])
    return teacher_real, teacher_synthetic, discriminator_real, discriminator_synthetic


def test_transfer_compares_the_same_images_and_blending_crosses_them() -> None:
    # transfer: real 0 and 5, synthetic 5 and 0; blending: |Dx^ - Tx| = sqrt(320) and 0, |Dx - Tx^| = 13 and 5
    assert feature_transfer(*features()).item() == pytest.approx((0 + 5 + 5 + 0) / 2)
    assert feature_blending(*features(), ALWAYS, 0.7).item() == pytest.approx((math.sqrt(320) + 0 + 13 + 5) / 2)


def test_blending_is_applied_where_the_draw_is_below_q() -> None:
    everything = feature_blending(*features(), ALWAYS, 1.0).item()
    assert feature_blending(*features(), torch.tensor(0.69), 0.7).item() == everything
    assert feature_blending(*features(), torch.tensor(0.7), 0.7).item() == 0
    assert feature_blending(*features(), torch.tensor([0.9, 0.1]), 0.7).item() == pytest.approx(5 / 2)
    assert feature_blending(*features(), torch.zeros(2), 0.0).item() == 0
    assert feature_blending(*features(), torch.full((2,), 1 - 2**-24), 1.0).item() == everything


def test_on_average_blending_weighs_q() -> None:
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    teacher, discriminator = torch.zeros(20_000, 1), torch.ones(20_000, 1)
    blended = feature_blending(teacher, teacher, discriminator, discriminator, draws, 0.7)
    assert blended.item() == pytest.approx(2 * 0.7, abs=0.02)  # three standard errors


def test_guidance_reaches_discriminator_and_projector_but_not_the_teacher() -> None:
    images, made = normal(0, 4, 6), normal(1, 4, 6)
    teacher, discriminator, projector = nn.Linear(6, 5), nn.Linear(6, 3), nn.Linear(3, 5)
    for loss in (lambda *f: feature_blending(*f, ALWAYS, 0.7), feature_transfer):
        for network in (teacher, discriminator, projector):
            network.zero_grad()
        loss(teacher(images), teacher(made), projector(discriminator(images)), projector(discriminator(made))).backward()
        assert all(p.grad is None for p in teacher.parameters())
        for parameter in [*discriminator.parameters(), *projector.parameters()]:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_guidance_has_unit_gradients_towards_the_teacher_and_none_at_a_match() -> None:
    teacher_real, teacher_synthetic, real, synthetic = features()
    gradient = gradient_of(lambda x: feature_transfer(teacher_real, teacher_synthetic, real, x), synthetic)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8], [0.0, 0.0]]) / 2)
    gradient = gradient_of(lambda x: feature_blending(teacher_real, teacher_synthetic, x, synthetic, ALWAYS, 1.0), real)
    torch.testing.assert_close(gradient, torch.tensor([[-5 / 13, -12 / 13], [0.6, 0.8]]) / 2)


def test_guidance_refuses_features_that_would_broadcast() -> None:
    with pytest.raises(AssertionError, match=r"\(2, 1\) features against \(2, 4\)"):
        feature_transfer(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 1), torch.zeros(2, 1))


def predicting(*classes: int, num_classes: int = 4) -> Tensor:
    return 5 * nn.functional.one_hot(torch.tensor(classes), num_classes).float()


def test_class_counts_follow_the_closed_form_of_their_moving_average() -> None:
    """After t equal batches: n_t = (1-g)^t n_0 + (1 - (1-g)^t) n."""
    gamma, logits = 0.3, predicting(0, 0, 0, 2, 3).requires_grad_()
    start = torch.full((4,), 2.0)
    counts = start
    for steps in range(1, 6):
        counts = updated_class_counts(counts, logits, gamma)
        left = (1 - gamma) ** steps
        torch.testing.assert_close(counts, left * start + (1 - left) * torch.tensor([3.0, 0.0, 1.0, 1.0]))
    assert not counts.requires_grad
    assert start.tolist() == [2.0] * 4, "a new tensor each time"


def test_class_counts_weigh_the_latest_batch_most() -> None:
    counts = updated_class_counts(updated_class_counts(torch.ones(4), predicting(0, 0), 0.5), predicting(1, 1), 0.5)
    torch.testing.assert_close(counts, torch.tensor([0.25 + 0.5, 0.25 + 1.0, 0.25, 0.25]))


def test_class_weights_are_inverse_frequencies_of_mean_one() -> None:
    torch.testing.assert_close(class_weights(torch.full((7,), 3.0)), torch.ones(7))
    weights = class_weights(torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(weights / weights[2], torch.tensor([4.0, 2.0, 1.0]))
    assert weights.mean().item() == pytest.approx(1.0)
    clipped = class_weights(torch.tensor([0.0, 1.0]), min_relative_frequency=0.02)
    assert (clipped[0] / clipped[1]).item() == pytest.approx(100.0)
    assert clipped.mean().item() == pytest.approx(1.0)
    thousand = torch.ones(1000)
    thousand[0] = 0.1
    assert (class_weights(thousand)[0] / class_weights(thousand)[1]).item() == pytest.approx(10.0), "of however many classes"


def test_class_regularization_by_hand() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]])
    counts = torch.tensor([6.0, 3.0, 1.0])
    mean, inverse = [0.3, 0.425, 0.275], [1 / 0.6, 1 / 0.3, 1 / 0.1]
    expected = sum(w / (sum(inverse) / 3) * p * math.log(p) for w, p in zip(inverse, mean, strict=True))
    assert class_regularization(probabilities.log() + 2, counts).item() == pytest.approx(expected, rel=1e-5)


def test_with_equal_counts_it_is_the_negative_entropy_and_least_for_uniform_predictions() -> None:
    counts = torch.ones(4)
    assert class_regularization(torch.zeros(3, 4), counts).item() == pytest.approx(-math.log(4))
    assert class_regularization(100 * predicting(0, 1, 2, 3), counts).item() == pytest.approx(-math.log(4), rel=1e-4)
    assert class_regularization(100 * predicting(1, 1, 1), counts).item() == pytest.approx(0.0, abs=1e-6)


def test_a_dropped_class_weighs_most_and_is_pushed_up() -> None:
    logits = predicting(0, 0, 1, 1, 2) + 0.1 * normal(0, 5, 4)
    counts = torch.ones(4)
    for _ in range(5):
        counts = updated_class_counts(counts, logits, 0.5)
    assert class_weights(counts).argmax() == 3
    assert class_weights(counts)[3] > 2
    gradient = gradient_of(lambda x: class_regularization(x, counts), logits)
    assert (gradient[:, 3] < 0).all(), "descent raises the dropped class's logit on every image"
    before, after = (x.softmax(1).mean(0)[3] for x in (logits, logits - gradient))
    assert after > before
    plain = gradient_of(lambda x: class_regularization(x, torch.ones(4)), logits)
    assert gradient[:, 3].abs().sum() > plain[:, 3].abs().sum(), "the weight makes the push stronger"


def test_regularization_reaches_the_generator_through_the_teacher() -> None:
    generator, teacher = nn.Linear(2, 6), nn.Linear(6, 4).requires_grad_(False)
    class_regularization(teacher(generator(normal(0, 5, 2))), torch.tensor([4.0, 1.0, 1.0, 1.0])).backward()
    assert generator.weight.grad is not None
    assert generator.weight.grad.abs().sum() > 0


def test_a_class_without_any_probability_gives_finite_gradients() -> None:
    logits = torch.tensor([[300.0, 0.0, 0.0, -300.0]]).expand(3, 4)
    gradient = gradient_of(lambda x: class_regularization(x, torch.tensor([1.0, 0.0, 1.0, 0.0])), logits)
    assert gradient.isfinite().all()


def test_losses_are_computed_in_float32() -> None:
    half, classes = normal(0, 4, 6).bfloat16(), torch.tensor([0, 1, 2, 0])
    row = half[:, 0]
    values = [
        *(adversarial_discriminator_loss(row, row, kind) for kind in KINDS),
        *(adversarial_generator_loss(row, kind) for kind in KINDS),
        class_discriminator_loss(half, classes, half, classes),
        class_generator_loss(half, classes),
        feature_blending(half, half, half, half, ALWAYS, 1.0),
        feature_transfer(half, half, half, half),
        class_regularization(half, torch.ones(6)),
    ]
    assert {value.dtype for value in values} == {torch.float32}
    assert all(value.isfinite() for value in values)
    torch.testing.assert_close(values[4], class_discriminator_loss(half.float(), classes, half.float(), classes))

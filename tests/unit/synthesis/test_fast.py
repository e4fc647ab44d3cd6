"""The FastDFKD synthesizer against a loop written by hand, and what it promises of state, seeds and its teacher."""

from __future__ import annotations

import io

import numpy as np
import pytest
import reference_loop
import torch
from tiny_synthesis import SHAPE, build_teacher, make, same, summary, weights_of

from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.models import flat_weights
from raydfkd.synthesis.fast import REPTILE_SCALE, FastSynthesizer

ON = summary(num_batches=50)
"""Far past the start of the adversarial loss, before the reset."""
# Our batch statistics come from another kernel than the reference's: float32 rounding, through two Adam steps.
CLOSE = {"rtol": 2e-3, "atol": 2e-5}


def state_bytes(synthesizer: FastSynthesizer) -> io.BytesIO:
    packed = io.BytesIO()
    torch.save(synthesizer.state_dict(), packed)
    packed.seek(0)
    return packed


def gradients(synthesizer: FastSynthesizer) -> list[torch.Tensor]:
    """The meta-gradient of the last call, which stays until the next."""
    return [parameter.grad for parameter in synthesizer.generator.parameters()]


@pytest.mark.parametrize("buffered", [summary(0), ON])
def test_the_fomaml_gradient_is_the_sum_of_the_clones_gradients(buffered) -> None:
    synthesizer = make(steps_per_batch=2)
    expected = reference_loop.run(synthesizer, None, adversarial=buffered is ON)
    synthesizer.step(buffered)
    for found, *steps in zip(gradients(synthesizer), *expected.gradients, strict=True):
        torch.testing.assert_close(found, sum(steps), **CLOSE)


def test_the_meta_step_is_adam_with_k_times_the_clones_rate() -> None:
    """Adam's first step moves every weight with a gradient by its rate."""
    synthesizer = make(steps_per_batch=2, generator_lr=1e-3)
    before = weights_of(synthesizer)["first_linear.weight"]
    synthesizer.step(ON)
    moved = (weights_of(synthesizer)["first_linear.weight"] - before).abs()
    assert moved.median().item() == pytest.approx(2e-3, rel=1e-2)


def test_the_common_generator_is_not_the_clone() -> None:
    synthesizer = make(steps_per_batch=2)
    adapted = reference_loop.run(synthesizer, None, adversarial=True).adapted
    synthesizer.step(ON)
    gap = (weights_of(synthesizer)["to_image.weight"] - adapted.to_image.weight).abs().max()
    assert gap > 1e-4


def test_the_reptile_gradient_is_the_scaled_way_back_from_the_clone() -> None:
    synthesizer = make(meta="reptile", steps_per_batch=2)
    before = weights_of(synthesizer)
    adapted = dict(reference_loop.run(synthesizer, None, adversarial=True).adapted.named_parameters())
    synthesizer.step(ON)
    for (name, start), found in zip(before.items(), gradients(synthesizer), strict=True):
        torch.testing.assert_close(found, REPTILE_SCALE * (start - adapted[name].detach()), rtol=2e-2, atol=2e-3)
    assert REPTILE_SCALE == 67


def test_sequential_adapts_the_common_generator_itself() -> None:
    synthesizer = make(meta="sequential", steps_per_batch=3)
    adapted = dict(reference_loop.run(synthesizer, None, adversarial=True).adapted.named_parameters())
    synthesizer.step(ON)
    for name, found in weights_of(synthesizer).items():
        torch.testing.assert_close(found, adapted[name], rtol=1e-2, atol=1e-4)
    assert synthesizer.state_dict()["meta_optimizer"]["state"] == {}, "there is no meta step"


@pytest.mark.parametrize("meta", ["fomaml", "reptile", "sequential"])
def test_the_batch_is_the_one_of_lowest_loss_rounded_to_bytes(meta: str) -> None:
    synthesizer = make(meta=meta, steps_per_batch=4)
    expected = reference_loop.run(synthesizer, None, adversarial=True)
    batch = synthesizer.step(ON)
    assert batch.metrics["loss"] == pytest.approx(min(expected.losses), rel=1e-3)
    assert batch.images.dtype == np.uint8
    assert np.abs(batch.images - (expected.best * 255).round().numpy()).max() <= 1
    best = int(np.argmin(expected.losses))
    assert batch.metrics["bn_loss"] == pytest.approx(expected.bn_losses[best], rel=1e-3)


def test_a_worse_last_step_is_not_what_is_stored() -> None:
    """A rate that leaps makes later steps worse; the first, of lowest loss, is kept with its own metrics."""
    synthesizer = make(meta="sequential", steps_per_batch=3, generator_lr=3.0, latent_lr=3.0, adversarial_weight=0.0)
    expected = reference_loop.run(synthesizer, None, adversarial=False)
    assert expected.losses[0] < min(expected.losses[1:])
    batch = synthesizer.step(ON)
    assert batch.metrics["loss"] == pytest.approx(expected.losses[0], rel=1e-4)
    assert np.abs(batch.images - (expected.best * 255).round().numpy()).max() <= 1


def test_what_is_stored_is_judged_as_it_is_stored() -> None:
    synthesizer = make(temperature=5.0)
    batch = synthesizer.step(ON)
    view = torch.from_numpy(batch.images).float() / 255
    with torch.no_grad():
        teacher_logits = synthesizer.teacher(view)
        student_logits = synthesizer.student(synthesizer.teacher.normalize(view))
    np.testing.assert_array_equal(batch.teacher_class, teacher_logits.argmax(1))
    np.testing.assert_allclose(batch.teacher_confidence, teacher_logits.softmax(1).max(1).values, rtol=1e-4)
    np.testing.assert_allclose(batch.priorities, kd_loss_per_sample(student_logits, teacher_logits, 5.0), rtol=1e-3, atol=1e-4)
    assert (batch.images.shape, len(batch)) == ((12, *SHAPE), 12)
    assert (batch.teacher_class.dtype, batch.targets.dtype) == (np.int32, np.int64)
    assert (batch.teacher_confidence.dtype, batch.priorities.dtype) == (np.float32, np.float32)
    assert (batch.source, batch.generator_id, batch.student_version) == ("fast", "inversion-0", 0)
    assert set(batch.metrics) == {"loss", "bn_loss", "one_hot_loss", "adversarial_loss"}


def test_the_bn_average_follows_its_closed_form_over_two_calls() -> None:
    synthesizer = make(steps_per_batch=2)
    first = reference_loop.run(synthesizer, None, adversarial=True).statistics
    synthesizer.step(ON)
    average = synthesizer.state_dict()["average"]
    for found, raw in zip(average, first, strict=True):
        torch.testing.assert_close(tuple(found), raw, **CLOSE)
    second = reference_loop.run(synthesizer, [tuple(pair) for pair in average], adversarial=True)
    batch = synthesizer.step(ON)
    assert batch.metrics["bn_loss"] == pytest.approx(second.bn_losses[int(np.argmin(second.losses))], rel=1e-3)
    for found, old, raw in zip(synthesizer.state_dict()["average"], average, second.statistics, strict=True):
        for new, was, now in zip(found, old, raw, strict=True):
            torch.testing.assert_close(new, 0.9 * was + 0.1 * now, **CLOSE)
    assert not any(tensor.requires_grad for pair in synthesizer.state_dict()["average"] for tensor in pair)


def test_without_momentum_the_second_call_forgets_the_first() -> None:
    synthesizer = make(bn_momentum=0.0)
    synthesizer.step(ON)
    expected = reference_loop.run(synthesizer, None, adversarial=True)
    assert synthesizer.step(ON).metrics["loss"] == pytest.approx(min(expected.losses), rel=1e-3)


def test_the_adversarial_term_is_off_until_its_start_and_then_reads_the_student() -> None:
    """Published: it starts with the warm-up's last batch, when as many less one are in."""
    for start, explicit in ((2, None), (5, 5)):
        for num_batches, on in ((start - 1, False), (start, True)):
            outcomes = []
            for scale in (1.0, 1.2):
                synthesizer = make(warmup=3, adversarial_start_batches=explicit)
                synthesizer.load_student(scale * flat_weights(synthesizer.student), 7)
                batch = synthesizer.step(summary(num_batches))
                assert ("adversarial_loss" in batch.metrics) is on
                outcomes.append((weights_of(synthesizer), batch))
            assert same(outcomes[0][0], outcomes[1][0]) is not on
            assert outcomes[0][1].student_version == 7
            assert not np.array_equal(outcomes[0][1].priorities, outcomes[1][1].priorities), "priorities always read it"


def test_a_weight_of_zero_leaves_the_adversarial_term_out() -> None:
    assert "adversarial_loss" not in make(adversarial_weight=0.0).step(ON).metrics


@pytest.mark.parametrize("term", ["bn_weight", "one_hot_weight", "adversarial_weight"])
def test_each_term_of_the_loss_counts(term: str) -> None:
    one, other = make(), make(**{term: 0.05})
    one.step(ON)
    other.step(ON)
    assert not same(weights_of(one), weights_of(other))


@pytest.mark.parametrize(("explicit", "due"), [(None, 3 + 119), (4, 4)])
def test_the_first_layer_is_drawn_anew_once_at_the_due_batch(explicit: int | None, due: int) -> None:
    synthesizer = make(reset_batches=explicit, generator_lr=1e-9)

    def spread() -> float:
        return float(weights_of(synthesizer)["first_linear.weight"].detach().std())

    start = spread()
    synthesizer.step(summary(due - 1))
    assert spread() == pytest.approx(start, rel=1e-4)
    synthesizer.step(summary(due))
    weights = weights_of(synthesizer)
    assert spread() == pytest.approx(0.02, rel=0.2)
    assert weights["first_linear.bias"].abs().max() < 1e-6
    assert weights["first_norm.weight"].abs().max() < 0.1
    synthesizer.step(summary(due + 1))
    assert (weights_of(synthesizer)["first_linear.weight"] - weights["first_linear.weight"]).abs().max() < 1e-6
    again = make(reset_batches=explicit, generator_lr=1e-9)
    again.load_state_dict(torch.load(state_bytes(synthesizer), weights_only=True))
    again.step(summary(due + 2))
    assert (weights_of(again)["first_linear.weight"] - weights["first_linear.weight"]).abs().max() < 1e-6


def test_a_reset_that_comes_late_still_comes() -> None:
    """Several generators share the clock, so one of them may never see the due number itself."""
    synthesizer = make(reset_batches=4, reset_bn_weight_mean=1.0, generator_lr=1e-9)
    synthesizer.step(summary(9))
    weights = weights_of(synthesizer)
    assert weights["first_linear.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert weights["first_norm.weight"].mean().item() == pytest.approx(1.0, abs=0.05)


def test_the_loss_falls_over_thirty_steps_on_one_batch_of_latents() -> None:
    plain = {"adversarial_weight": 0.0, "crop_padding": 0, "flip": False, "generator_lr": 5e-3, "latent_lr": 0.015}
    first = make(steps_per_batch=1, **plain).step(summary()).metrics["loss"]
    last = make(steps_per_batch=30, **plain).step(summary()).metrics["loss"]
    assert last < 0.6 * first


@pytest.mark.parametrize("meta", ["fomaml", "reptile", "sequential"])
def test_a_restored_synthesizer_goes_on_bit_for_bit(meta: str) -> None:
    one = make(meta=meta, reset_batches=51)
    one.step(ON)
    saved = state_bytes(one)
    other = make(meta=meta, reset_batches=51, seed=99)
    other.step(summary())
    other.load_state_dict(torch.load(saved, weights_only=True))
    for num_batches in (50, 51):
        expected, found = one.step(summary(num_batches)), other.step(summary(num_batches))
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.targets, expected.targets)
        assert found.metrics == expected.metrics
    assert same(weights_of(one), weights_of(other))


def test_a_seed_repeats_and_another_does_not() -> None:
    one, again, other = (make(seed=seed) for seed in (5, 5, 6))
    for _ in range(2):
        batches = [synthesizer.step(ON) for synthesizer in (one, again, other)]
    np.testing.assert_array_equal(batches[0].images, batches[1].images)
    assert batches[0].metrics == batches[1].metrics
    assert not np.array_equal(batches[0].images, batches[2].images)


def test_global_randomness_is_neither_read_nor_moved() -> None:
    one, other = make(), make()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = one.step(ON)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(found.images, other.step(ON).images)


def test_teacher_and_student_are_as_they_were() -> None:
    synthesizer = make()
    student = flat_weights(synthesizer.student)
    for num_batches in (0, 50, 200):
        synthesizer.step(summary(num_batches))
    assert synthesizer.teacher.state_sha256() == build_teacher().state_sha256()
    np.testing.assert_array_equal(flat_weights(synthesizer.student), student)
    assert not any(layer.training for layer in synthesizer.student.modules())
    assert all(p.grad is None for p in (*synthesizer.teacher.parameters(), *synthesizer.student.parameters()))


def test_weights_of_another_student_are_refused() -> None:
    with pytest.raises(ValueError, match="weight vector has shape"):
        make().load_student(np.zeros(3, np.float32), 1)


def test_augmentation_reaches_the_teacher() -> None:
    plain, cropped, flipped = make(crop_padding=0, flip=False), make(crop_padding=2, flip=False), make(crop_padding=0)
    losses = [synthesizer.step(ON).metrics["loss"] for synthesizer in (plain, cropped, flipped)]
    assert len(set(losses)) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; every other test of this file is its CPU twin")
def test_the_reset_and_a_state_work_on_a_gpu() -> None:
    one, other = make(device="cuda", reset_batches=1), make(device="cuda", seed=3)
    one.step(summary(0))
    batch = one.step(summary(1))
    other.load_state_dict(torch.load(state_bytes(one), map_location="cpu", weights_only=True))
    assert batch.images.shape == (12, *SHAPE)
    np.testing.assert_array_equal(one.step(summary(2)).targets, other.step(summary(2)).targets)

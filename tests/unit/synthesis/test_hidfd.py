"""HiDFD's synthesizer: what each step trains, what is delivered, and that it goes on where it stopped."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_synthesis import TASK, build_teacher
from torch import Tensor, nn

from raydfkd.errors import ConfigError, TeacherError
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.gans import gan_synthesizer, hidfd
from raydfkd.synthesis.gans.gan_synthesizer import GANSynthesizer
from raydfkd.synthesis.gans.hidfd import HiDFDConfig
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.types import BufferSummary, SyntheticBatch

CPU = torch.device("cpu")
SUMMARY = BufferSummary(0, np.zeros(10, np.int64), 0)
TINY = {"gan_batch_size": 6, "batch_size": 8, "generator_channels": 1, "discriminator_channels": 1, "latent_dim": 4}


def collected(num: int = 30, side: int = 8, classes: tuple[int, ...] = (0, 3, 7)) -> SyntheticBatch:
    rng = np.random.default_rng(0)
    labels = np.array([classes[i % len(classes)] for i in range(num)], np.int32)
    return SyntheticBatch(
        images=rng.integers(0, 256, (num, 1, side, side)).astype(np.uint8),
        targets=labels.astype(np.int64),
        teacher_class=labels,
        teacher_confidence=np.full(num, 0.9, np.float32),
        source="collected",
        generator_id="collected",
        student_version=-1,
    )


def build(
    seed: int = 0, teacher: FrozenTeacher | None = None, images: SyntheticBatch | None = None, **settings: Any
) -> GANSynthesizer:
    config = HiDFDConfig.model_validate({"pretrain_steps": 3, "steps_per_batch": 1, **TINY, **settings})
    own = build_teacher() if teacher is None else teacher
    parts = SynthesisParts(TASK, own, collected=collected() if images is None else images)
    return hidfd.build(config, parts, SynthesisContext("gan-0", seed, 2, 1.0, bf16=False), CPU)


def weights(*modules: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for module in modules for parameter in module.parameters()])


def test_it_prepares_in_slices_and_then_delivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan_synthesizer, "SLICE_S", 0.0)  # a slice ends after its first step
    synthesizer = build()
    synthesizer.load_student(np.zeros(1), 5)
    done = []
    while (prepared := synthesizer.prepare()) is not None:
        done.append((prepared.done, prepared.total))
        assert np.isfinite(list(prepared.metrics.values())).all()
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_batches_are_what_the_buffer_wants() -> None:
    synthesizer = build()
    synthesizer.load_student(np.zeros(1), 5)
    prepared = synthesizer.prepare()
    assert prepared is not None
    assert (prepared.done, prepared.total) == (3, 3)
    assert synthesizer.prepare() is None
    batch = synthesizer.step(SUMMARY)
    assert (batch.images.shape, batch.images.dtype) == ((8, 1, 8, 8), np.uint8)
    assert (batch.source, batch.generator_id, batch.student_version, batch.priorities) == ("hidfd", "gan-0", 5, None)
    assert set(batch.targets.tolist()) <= {0, 3, 7}, "only classes that were collected are asked for"
    assert synthesizer.gan.num_steps == 4
    with torch.no_grad():
        logits = synthesizer.gan.teacher(torch.from_numpy(batch.images).float() / 255)
    np.testing.assert_array_equal(batch.teacher_class, logits.argmax(1).numpy())
    np.testing.assert_allclose(batch.teacher_confidence, logits.softmax(1).amax(1).numpy(), rtol=1e-5)


def test_a_gan_that_stands_still_delivers_without_training() -> None:
    synthesizer = build(steps_per_batch=0)
    synthesizer.prepare()
    before = weights(synthesizer.gan.generator)
    first, second = synthesizer.step(SUMMARY), synthesizer.step(SUMMARY)
    assert torch.equal(weights(synthesizer.gan.generator), before)
    assert (first.images != second.images).any()
    assert first.metrics == {}


def test_each_step_trains_its_own_networks_and_never_the_teacher() -> None:
    gan = build().gan
    teacher = copy.deepcopy(gan.teacher.state_dict())
    generator, critics = weights(gan.generator), weights(gan.discriminator, gan.projector)
    gan._discriminator_step()
    assert torch.equal(weights(gan.generator), generator)
    assert not torch.equal(weights(gan.discriminator), critics[: len(weights(gan.discriminator))])
    assert not torch.equal(weights(gan.projector), critics[len(weights(gan.discriminator)) :])
    critics = weights(gan.discriminator, gan.projector)
    gan._generator_step()
    assert torch.equal(weights(gan.discriminator, gan.projector), critics)
    assert not torch.equal(weights(gan.generator), generator)
    for name, tensor in gan.teacher.state_dict().items():
        assert torch.equal(tensor, teacher[name]), name


@pytest.mark.parametrize(
    ("setting", "term", "critic"),
    [
        ("feature_blending", "blending_loss", True),
        ("feature_transfer", "transfer_loss", True),
        ("class_smoothing", "smoothing_loss", False),
    ],
)
def test_each_guidance_term_can_be_switched_off_and_moves_what_it_should(setting: str, term: str, critic: bool) -> None:
    with_it, without = build().gan, build(**{setting: False}).gan
    told = {True: with_it.train_step(), False: without.train_step()}
    assert term in told[True]
    assert term not in told[False]
    part = (lambda gan: weights(gan.discriminator)) if critic else (lambda gan: weights(gan.generator))
    assert not torch.equal(part(with_it), part(without))


def test_blending_with_probability_0_is_none() -> None:
    never, off = build(blending_probability=0.0).gan, build(feature_blending=False).gan
    never.train_step()
    off.train_step()
    torch.testing.assert_close(weights(never.discriminator), weights(off.discriminator), rtol=0, atol=0)


def test_the_pairs_that_are_blended_share_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = build().gan
    asked: list[Tensor] = []
    original = gan.generator.forward
    monkeypatch.setattr(
        gan.generator, "forward", lambda latents, classes: (asked.append(classes), original(latents, classes))[1]
    )
    drawn: list[Tensor] = []
    draw = gan._draw_real
    monkeypatch.setattr(gan, "_draw_real", lambda: (lambda real: (drawn.append(real[1]), real)[1])(draw()))
    gan._discriminator_step()
    assert torch.equal(asked[0], drawn[0])


def test_it_goes_on_where_its_state_was_taken() -> None:
    teacher = build_teacher()
    one = build(teacher=copy.deepcopy(teacher))
    one.prepare()
    state = copy.deepcopy(one.state_dict())
    other = build(seed=9, teacher=copy.deepcopy(teacher))
    other.load_state_dict(state)
    for _ in range(2):
        first, second = one.step(SUMMARY), other.step(SUMMARY)
        np.testing.assert_array_equal(first.images, second.images)
        assert first.metrics == second.metrics
    assert other.prepare() is None


def test_generators_of_other_seeds_are_other_gans() -> None:
    first, same, other = build(0).gan, build(0).gan, build(1).gan
    assert torch.equal(weights(first.generator), weights(same.generator))
    assert not torch.equal(weights(first.generator), weights(other.generator))


def test_the_averaged_generator_follows_with_its_decay() -> None:
    gan = build(ema_decay=0.5).gan
    before = weights(gan.averaged)
    gan.train_step()
    decay = min(0.5, 2 / 11)
    torch.testing.assert_close(weights(gan.averaged), decay * before + (1 - decay) * weights(gan.generator))


def test_images_of_another_size_are_made_at_the_gans_and_resized() -> None:
    synthesizer = build(images=collected(side=8), image_size=16)
    synthesizer.prepare()
    assert synthesizer.step(SUMMARY).images.shape == (8, 1, 8, 8)


def test_what_it_cannot_do_without_is_named() -> None:
    parts = SynthesisParts(TASK, build_teacher())
    config = HiDFDConfig.model_validate({"pretrain_steps": 1, **TINY})
    with pytest.raises(ConfigError, match="give them in collected"):
        hidfd.build(config, parts, SynthesisContext("gan-0", 0, 2, 1.0, bf16=False), CPU)
    headless = FrozenTeacher(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), 10, (1, 8, 8), [0.0], [1.0])
    with pytest.raises(TeacherError, match="name its classifier_head"):
        build(teacher=headless)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"feature_blending": False, "blending_probability": 0.5}, "feature_blending false does not use blending_probability"),
        ({"feature_blending": False, "feature_transfer": False, "guidance_weight": 0.3}, "does not use guidance_weight"),
        ({"class_smoothing": False, "class_count_momentum": 0.1}, "does not use class_count_momentum"),
        ({"pretrain_steps": 0, "steps_per_batch": 0}, "would never be trained"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        HiDFDConfig.model_validate(settings)

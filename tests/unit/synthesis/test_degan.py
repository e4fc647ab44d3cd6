"""DeGAN: its networks, what each step trains against the losses written out, and that it goes on where it stopped."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_synthesis import CLASSES, SHAPE, TASK, build_teacher, hand_over, summary
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.errors import ConfigError
from raydfkd.losses.gan import mean_entropy, negative_mean_prediction_entropy
from raydfkd.models.discriminators.dcgan_discriminator import DCGANDiscriminator
from raydfkd.models.generators.dcgan_generator import DCGANGenerator
from raydfkd.synthesis.gans.degan import DeGAN, DeGANConfig, build
from raydfkd.synthesis.gans.gan_synthesizer import GANSynthesizer
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.types import SyntheticBatch

CPU = torch.device("cpu")
TINY = {"gan_batch_size": 6, "batch_size": 8, "base_channels": 2, "latent_dim": 4, "pretrain_steps": 3}


def collected(num: int = 30) -> SyntheticBatch:
    classes = np.arange(num, dtype=np.int32) % CLASSES
    return SyntheticBatch(
        images=np.random.default_rng(0).integers(0, 256, (num, *SHAPE)).astype(np.uint8),
        targets=classes.astype(np.int64),
        teacher_class=classes,
        teacher_confidence=np.full(num, 0.9, np.float32),
        source="collected",
        generator_id="collected",
        student_version=-1,
    )


def make(seed: int = 0, bias: float = 0.0, **settings: Any) -> GANSynthesizer:
    """``bias``: how much the teacher prefers class 0."""
    config = DeGANConfig.model_validate({**TINY, **settings})
    teacher = build_teacher()
    with torch.no_grad():
        teacher.model.fc.bias[0] += bias  # type: ignore[union-attr, index, operator]
    parts = SynthesisParts(TASK, teacher, collected=collected())
    return build(config, parts, SynthesisContext("gan-0", seed, 2, 1.0, bf16=False), CPU)


def gan(**settings: Any) -> DeGAN:
    made = make(**settings).gan
    assert isinstance(made, DeGAN)
    return made


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_the_networks_for_32_pixels_are_the_published_ones() -> None:
    with torch.device("meta"):
        generator, discriminator = DCGANGenerator((3, 32, 32), 100, 64), DCGANDiscriminator((3, 32, 32), 64)
    convolutions = [tuple(p.shape) for p in generator.parameters() if p.ndim == 4]
    assert convolutions == [(100, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 1, 1)]
    convolutions = [tuple(p.shape) for p in discriminator.parameters() if p.ndim == 4]
    assert convolutions == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 2, 2)]


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (1, 28, 28), (3, 64, 32), (3, 224, 224)])
def test_the_networks_take_every_size_that_a_task_may_have(shape: tuple[int, int, int]) -> None:
    generator, discriminator = DCGANGenerator(shape, 5, 1), DCGANDiscriminator(shape, 1)
    images = generator(torch.randn(2, 5)).detach()
    assert images.shape == (2, *shape)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert discriminator(images).shape == (2,)


def test_entropies_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [100.0, -100.0]])
    assert mean_entropy(logits).item() == pytest.approx(np.log(2) / 2)
    expected = 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert negative_mean_prediction_entropy(logits).item() == pytest.approx(expected)


def test_a_step_is_the_papers_two_losses_on_the_same_images() -> None:
    """Its updates are those of Adam on the losses written out with probabilities."""
    one = gan(entropy_weight=0.5)
    twin, teacher = copy.deepcopy(one), build_teacher()
    frozen = copy.deepcopy(one.teacher.state_dict())
    terms = one.train_step()
    real, latents = twin._draw_real(), twin._draw_latents(6)
    fake = twin.generator(latents)
    adam = [torch.optim.Adam(x.parameters(), 2e-4, (0.5, 0.999)) for x in (twin.discriminator, twin.generator)]
    of_real, of_fake = twin.discriminator(real).sigmoid(), twin.discriminator(fake.detach()).sigmoid()
    loss = F.binary_cross_entropy(of_real, torch.ones(6)) + F.binary_cross_entropy(of_fake, torch.zeros(6))
    loss.backward()
    adam[0].step()
    p = teacher(fake).softmax(1)
    mean = p.mean(0)
    fooled = F.binary_cross_entropy(twin.discriminator(fake).sigmoid(), torch.ones(6))
    adam[1].zero_grad()
    (fooled - 0.5 * (p * p.log()).sum(1).mean() + 5 * (mean * mean.log()).sum()).backward()
    adam[1].step()
    assert terms["discriminator_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert terms["generator_loss"].item() == pytest.approx(fooled.item(), rel=1e-4)
    assert terms["class_evenness"].item() == pytest.approx(-(mean * mean.log()).sum().item() / np.log(CLASSES), rel=1e-4)
    torch.testing.assert_close(weights(one.discriminator), weights(twin.discriminator), rtol=0, atol=2e-5)
    torch.testing.assert_close(weights(one.generator), weights(twin.generator), rtol=0, atol=2e-5)
    for name, tensor in one.teacher.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name


def test_diversity_makes_the_teachers_classes_more_even() -> None:
    without, with_it = gan(bias=4.0, diversity_weight=0.0, lr=5e-3), gan(bias=4.0, diversity_weight=50.0, lr=5e-3)
    for _ in range(25):
        evenness = [float(one.train_step()["class_evenness"]) for one in (without, with_it)]
    assert evenness[1] > evenness[0] + 0.05


def test_batches_are_the_generators_in_evaluation_mode_and_have_no_target() -> None:
    synthesizer = make()
    prepared = synthesizer.prepare()
    assert prepared is not None
    assert (prepared.done, prepared.total) == (3, 3)
    batch = synthesizer.step(summary())
    assert (batch.images.shape, batch.images.dtype) == ((8, *SHAPE), np.uint8)
    assert (batch.source, batch.targets.tolist(), batch.metrics) == ("degan", [-1] * 8, {})
    made = synthesizer.gan
    assert isinstance(made, DeGAN)
    assert all(layer.training for layer in made.generator.modules())
    state = made.rng.get_state()
    latents = made._draw_latents(8)
    made.rng.set_state(state)
    images, _ = made.sample(8)
    with torch.no_grad():
        torch.testing.assert_close(images, copy.deepcopy(made.generator).eval()(latents))


def test_it_goes_on_where_its_state_was_taken() -> None:
    one, other = make(steps_per_batch=1), make(seed=9, steps_per_batch=1)
    one.prepare()
    hand_over(one, other)
    for _ in range(2):
        expected, found = one.step(summary()), other.step(summary())
        np.testing.assert_array_equal(found.images, expected.images)
        assert found.metrics == expected.metrics
    assert other.prepare() is None


def test_without_collected_images_it_is_refused() -> None:
    config, context = DeGANConfig.model_validate(TINY), SynthesisContext("gan-0", 0, 2, 1.0, bf16=False)
    with pytest.raises(ConfigError, match="degan trains a GAN on real images: give them in collected"):
        build(config, SynthesisParts(TASK, build_teacher()), context, CPU)

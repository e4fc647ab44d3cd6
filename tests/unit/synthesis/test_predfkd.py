"""The PRE-DFKD synthesizer: its steps against the losses written out, what it delivers, and how it goes on from a state."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_synthesis import SHAPE, assert_alike, build, build_teacher, hand_over, summary
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.errors import TeacherError
from raydfkd.models import flat_weights
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.predfkd import PreDFKDSynthesizer

SMALL: dict[str, Any] = {
    "batch_size": 27,
    "generator_batch_size": 16,
    "base_channels": 4,
    "latent_dim": 6,
    "memory_steps_per_batch": 2,
    "generator_lr": 0.01,
}


def make(seed: int = 1, teacher: FrozenTeacher | None = None, **settings: Any) -> PreDFKDSynthesizer:
    return build("predfkd", {"method": "predfkd", **SMALL, **settings}, seed=seed, temperature=None, teacher=teacher)


def weights(*networks: nn.Module) -> np.ndarray:
    return np.concatenate([flat_weights(network) for network in networks])


def draws(synthesizer: PreDFKDSynthesizer) -> torch.Generator:
    rng = torch.Generator()
    rng.set_state(synthesizer.rng.get_state())
    return rng


def test_a_novel_step_follows_the_papers_loss() -> None:
    """One step of plain Adam on the sum of the four terms, from the same latents."""
    synthesizer = make()
    twin = copy.deepcopy(synthesizer.generator)
    latents = torch.randn(16, 6, generator=draws(synthesizer))
    images = twin(latents)
    logits, features = synthesizer.teacher.forward_features(images)
    guess = synthesizer.student(synthesizer.teacher.normalize(images))
    mean = logits.softmax(1).mean(0)
    p, q = (guess / 3).softmax(1), (logits.detach() / 3).softmax(1)
    middle = ((p + q) / 2).clamp(0.01, 0.99)
    js = sum((0.5 * middle * (middle / each.clamp(0.01, 0.99)).log()).mean() for each in (p, q))
    one_hot = F.cross_entropy(logits, logits.argmax(1))
    loss = one_hot + 5 * (mean * mean.log10()).sum() - 0.1 * features.abs().mean() + 1 - js
    loss.backward()
    torch.optim.Adam(twin.parameters(), 0.01).step()
    metrics = synthesizer._novel_step()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    moved = dict(synthesizer.generator.named_parameters())
    compared = [name for name, parameter in twin.named_parameters() if parameter.grad.abs().mean() > 1e-5]
    assert len(compared) > 7, "but for biases before a BatchNorm, whose gradient is 0"
    for name in compared:
        # Adam's first step is its rate times the gradient's sign; near 0 rounding decides the sign.
        assert (moved[name] - twin.get_parameter(name)).abs().median() < 1e-5, name


def test_each_term_of_the_novel_loss_counts() -> None:
    plain = make()
    plain.step(summary())
    for term in ("one_hot_weight", "entropy_weight", "activation_weight", "disagreement_weight"):
        other = make(**{term: 3.3})
        other.step(summary())
        assert not np.array_equal(weights(plain.generator), weights(other.generator)), term


def test_a_memory_step_follows_the_papers_loss() -> None:
    synthesizer = make(kl_weight=0.5)
    rng, teacher = draws(synthesizer), synthesizer.teacher
    encoder, decoder = copy.deepcopy(synthesizer.encoder), copy.deepcopy(synthesizer.decoder)
    given = copy.deepcopy(synthesizer.generator)(torch.randn(8, 6, generator=rng)).detach()
    mean, log_variance = encoder(teacher.normalize(given))
    made = decoder(mean + (log_variance / 2).exp() * torch.randn(8, 6, generator=rng))
    pixels = (teacher.normalize(made) - teacher.normalize(given)).abs().mean()
    logits = (teacher(made) - teacher(given)).abs().mean()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    metrics = synthesizer._memory_step()
    expected = {"memory_loss": pixels + logits + 0.5 * kl, "memory_image_loss": pixels, "memory_logit_loss": logits}
    assert metrics == pytest.approx({name: term.item() for name, term in expected.items()}, rel=1e-4)


def test_the_memory_is_given_its_own_images_after_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    synthesizer, given = make(), []
    encode = synthesizer.encoder.forward
    monkeypatch.setattr(synthesizer.encoder, "forward", lambda images: (given.append(len(images)), encode(images))[1])
    for _ in range(2):
        synthesizer.step(summary())
    assert given == [8, 8, 10, 10]


def test_remembered_latents_are_refined_by_one_adam_step() -> None:
    synthesizer = make()
    seen: list[Tensor] = []
    decode = synthesizer.decoder.forward
    synthesizer.decoder.forward = lambda latents: (seen.append(latents.detach().clone()), decode(latents))[1]  # type: ignore[method-assign]
    drawn = torch.randn(6, 6, generator=draws(synthesizer))
    synthesizer._remember(6)
    first, refined = seen
    assert torch.equal(first, drawn)
    moved = (refined - first).abs()
    assert moved.max() < 0.0201
    assert moved.median().item() == pytest.approx(0.02, rel=1e-2), "Adam's first step moves every latent by its rate"
    assert all(parameter.grad is None for parameter in synthesizer.decoder.parameters())


def test_each_step_trains_its_own_networks_and_never_teacher_or_student() -> None:
    synthesizer = make()
    student, novel, memory = (
        weights(synthesizer.student),
        weights(synthesizer.generator),
        weights(synthesizer.decoder, synthesizer.encoder),
    )
    synthesizer._novel_step()
    assert not np.array_equal(weights(synthesizer.generator), novel)
    trained = dict(synthesizer.generator.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    np.testing.assert_array_equal(weights(synthesizer.decoder, synthesizer.encoder), memory)
    synthesizer._memory_step()
    assert all(torch.equal(trained[name], before[name]) for name in before)
    assert not np.array_equal(weights(synthesizer.decoder), memory[: len(weights(synthesizer.decoder))])
    assert not np.array_equal(weights(synthesizer.encoder), memory[len(weights(synthesizer.decoder)) :])
    np.testing.assert_array_equal(weights(synthesizer.student), student)
    assert synthesizer.teacher.state_sha256() == build_teacher().state_sha256()


def test_the_memory_learns_what_the_generator_makes() -> None:
    synthesizer = make(memory_lr=5e-3, latent_dim=16)
    first = np.mean([synthesizer._memory_step()["memory_loss"] for _ in range(5)])
    for _ in range(150):
        synthesizer._memory_step()
    last = np.mean([synthesizer._memory_step()["memory_loss"] for _ in range(5)])
    assert last < 0.8 * first


@pytest.mark.parametrize(("share", "remembered"), [(1 / 9, 3), (0.5, 14), (0.0, 0)])
def test_a_batch_is_novel_images_and_then_the_memorys(share: float, remembered: int) -> None:
    synthesizer, made = make(memory_share=share), []
    novel, own = synthesizer.generator.forward, synthesizer.decoder.forward
    synthesizer.step(summary())
    synthesizer.generator.forward = lambda z: (made.append(("novel", len(z))), novel(z))[1]  # type: ignore[method-assign]
    synthesizer.decoder.forward = lambda z: (made.append(("own", synthesizer.decoder.training)), own(z))[1]  # type: ignore[method-assign]
    batch = synthesizer._made({"loss": 1.0})
    assert (len(batch), batch.images.shape[1:], batch.images.dtype) == (27, SHAPE, np.uint8)
    assert sum(number for kind, number in made if kind == "novel") == 27 - remembered
    assert all(number <= 16 for kind, number in made if kind == "novel")
    assert [training for kind, training in made if kind == "own"] == [False] * (2 if remembered else 0)
    assert synthesizer.decoder.training
    assert (batch.targets == -1).all()
    assert (batch.source, batch.generator_id, batch.priorities) == ("predfkd", "inversion-0", None)
    with torch.no_grad():
        logits = synthesizer.teacher(torch.from_numpy(batch.images).float() / 255)
    np.testing.assert_array_equal(batch.teacher_class, logits.argmax(1))


def test_metrics_are_of_both_trainings() -> None:
    assert set(make().step(summary()).metrics) == {
        *("loss", "one_hot_loss", "entropy_loss", "activation_loss", "disagreement_loss"),
        *("memory_loss", "memory_image_loss", "memory_logit_loss"),
    }


def test_a_restored_synthesizer_goes_on_bit_for_bit() -> None:
    one, other = make(), make(seed=9)
    one.step(summary())
    hand_over(one, other)
    assert_alike(one, other)


def test_a_seed_repeats_and_global_randomness_is_left_alone() -> None:
    one, again, other = make(seed=5), make(seed=5), make(seed=6)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = one.step(summary())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(again.step(summary()).images, first.images)
    assert not np.array_equal(other.step(summary()).images, first.images)


def test_a_teacher_without_a_head_is_refused_where_its_features_are_read() -> None:
    headless = FrozenTeacher(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), 10, SHAPE, [0.0], [1.0])
    student = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    from tiny_synthesis import TASK

    from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
    from raydfkd.synthesis.predfkd import PreDFKDConfig

    parts, context = SynthesisParts(TASK, headless, student), SynthesisContext("a-0", 0, 3, None, bf16=False)
    with pytest.raises(TeacherError, match="name its classifier_head"):
        PreDFKDSynthesizer(PreDFKDConfig.model_validate(SMALL), parts, context, torch.device("cpu"))
    without = PreDFKDConfig.model_validate({**SMALL, "activation_weight": 0})
    assert len(PreDFKDSynthesizer(without, parts, context, torch.device("cpu")).step(summary())) == 27

"""NAYER: a batch against a plain loop, when noise and generator are drawn anew, and where embeddings come from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_synthesis import CLASSES, SHAPE, assert_alike, build, build_student, build_teacher, hand_over, summary
from torch.nn import functional as F

from raydfkd.errors import ConfigError
from raydfkd.models.teachers.bn_statistics import BatchNormStatistics
from raydfkd.synthesis.nayer import NAYERConfig

SMALL: dict[str, Any] = {
    "method": "nayer",
    "batch_size": 23,
    "steps_per_batch": 3,
    "base_channels": 4,
    "code_dim": 16,
    "latent_dim": 6,
    "crop_padding": 0,
    "flip": False,
}
WARM, LEARNING = summary(0), summary(3)
"""The warm-up is of three batches."""


def make(seed: int = 1, **settings: Any) -> Any:
    return build("nayer", {**SMALL, **settings}, seed=seed)


def noise_of(synthesizer: Any) -> torch.Tensor:
    return synthesizer.generator.noisy_layers[0].weight.detach().clone()


@pytest.mark.parametrize("now", [WARM, LEARNING])
def test_a_batch_is_of_the_best_step_of_adam_on_the_published_loss(now: Any) -> None:
    """Two batches, so that the second's statistics are smoothed; the student counts once the warm-up is over."""
    synthesizer = make(adversarial_weight=30.0)
    synthesizer.step(now)
    average = copy.deepcopy(synthesizer._average)
    generator, random = copy.deepcopy(synthesizer.generator), torch.Generator()
    random.set_state(synthesizer.rng.get_state())
    made = synthesizer.step(now)

    teacher = build_teacher()
    student, statistics = build_student(teacher).eval().requires_grad_(False), BatchNormStatistics(teacher)
    generator.redraw_noise(random)
    targets = torch.cat([torch.arange(10), torch.arange(10), torch.randint(0, 10, (3,), generator=random)])
    optimizer = torch.optim.Adam(generator.parameters(), 4e-3, (0.5, 0.999))
    losses, pictures = [], []
    for _ in range(3):
        images = generator(targets)
        with statistics.capture():
            t = teacher(images)
        bn = torch.zeros(())
        for (m, v), (old_m, old_v), (mu, s) in zip(statistics.batch, average, statistics.running, strict=True):
            bn = bn + (0.1 * m + 0.9 * old_m - mu).norm() + (0.1 * v + 0.9 * old_v - s).norm()
        loss = 10 * bn + 0.5 * F.cross_entropy(t, targets)
        if now is LEARNING:
            s = student(teacher.normalize(images))
            agrees = (s.argmax(1) == t.argmax(1)).float()
            loss = loss - 30 * (agrees * F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        pictures.append(images.detach())
    assert made.metrics["loss"] == pytest.approx(min(losses), rel=1e-4)
    assert ("adversarial_loss" in made.metrics) is (now is LEARNING)
    expected = (pictures[int(np.argmin(losses))] * 255).round()
    np.testing.assert_allclose(made.images.astype(np.float32), expected.numpy(), atol=1)
    np.testing.assert_array_equal(made.targets, targets)


def test_every_class_is_made_equally_often_and_the_rest_at_random() -> None:
    counts = [np.bincount(make(seed).step(WARM).targets, minlength=CLASSES) for seed in range(5)]
    assert all(count.min() >= 2 for count in counts)
    assert all(count.sum() == 23 for count in counts)
    assert len({tuple(count) for count in counts}) > 1
    few = build("nayer", {**SMALL, "batch_size": 4}).step(WARM)
    assert few.images.shape == (4, *SHAPE)


def test_noise_is_new_in_each_batch_and_the_rest_goes_on() -> None:
    synthesizer, noises, bodies = make(lr=1e-9), [], []
    for _ in range(3):
        synthesizer.step(WARM)
        noises.append(noise_of(synthesizer))
        bodies.append(synthesizer.generator.body.first_linear.weight.detach().clone())
    assert not torch.allclose(noises[0], noises[1])
    assert not torch.allclose(noises[1], noises[2])
    torch.testing.assert_close(bodies[0], bodies[2], atol=1e-6, rtol=0)


def test_the_generator_is_drawn_anew_after_its_life_and_when_the_warm_up_ends() -> None:
    synthesizer, networks, codes = make(life_batches=2, warmup_life_batches=3), [], []
    for number in (0, 1, 2, 2, 3, 4, 5, 6):  # of the run; it ends its warm-up with three
        synthesizer.step(summary(number))
        networks.append(synthesizer.generator)
        codes.append(synthesizer.generator.embeddings_KD)
    lives = [sum(one is other for other in networks) for one in dict.fromkeys(networks)]
    assert lives == [3, 1, 2, 2]
    assert all(torch.equal(code, codes[0]) for code in codes), "the classes stay what they are"


def test_embeddings_come_from_a_file_or_are_drawn(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(CLASSES, 7)).astype(np.float32)
    np.save(tmp_path / "text.npy", array)
    given = build("nayer", {**SMALL, "code_dim": 512, "class_embeddings": tmp_path / "text.npy"})
    np.testing.assert_array_equal(given.generator.embeddings_KD, array)
    drawn = make().generator.embeddings_KD
    assert drawn.shape == (CLASSES, 16)
    assert torch.equal(make().generator.embeddings_KD, drawn)


def test_class_names_are_encoded_by_the_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def encode(reference: str, names: tuple[str, ...]) -> torch.Tensor:
        asked.append((reference, names))
        return torch.randn(len(names), 5)

    monkeypatch.setattr("raydfkd.models.generators.class_embeddings.encode_names", encode)
    names = tuple("abcdefghij")
    settings = {**SMALL, "code_dim": 512, "text_encoder": "hf:x/y"}
    assert build("nayer", {**settings, "class_names": names}).generator.embeddings_KD.shape == (CLASSES, 5)
    assert asked == [("hf:x/y", names)]
    with pytest.raises(ConfigError, match="class_names has 2 names for 10 classes: give one for each"):
        build("nayer", {**settings, "class_names": ("a", "b")})


def test_the_teacher_comes_to_see_the_targets() -> None:
    made = make(steps_per_batch=120, bn_weight=0.0, base_channels=16, latent_dim=32).step(WARM)
    assert (made.teacher_class == made.targets).mean() > 0.5


def test_a_restored_synthesizer_goes_on_bit_for_bit() -> None:
    settings: dict[str, Any] = {"life_batches": 2, "warmup_life_batches": 2, "flip": True, "crop_padding": 1}
    one, other = make(**settings), make(seed=9, **settings)
    one.step(WARM)
    hand_over(one, other)
    assert_alike(one, other)


def test_an_image_that_cannot_be_made_is_refused() -> None:
    NAYERConfig()
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        NAYERConfig(batch_size=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ("a",)}, "without text_encoder the generator does not use class_names: leave it out"),
        ({"text_encoder": "hf:x/y"}, "text_encoder hf:x/y has nothing to encode: give class_names"),
        ({"text_encoder": "hf:x/y", "class_names": ("a",), "code_dim": 3}, "text_encoder does not use code_dim"),
        ({"class_embeddings": "x.npy", "code_dim": 3}, "class_embeddings does not use code_dim: leave it out"),
    ],
)
def test_settings_that_undo_one_another_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NAYERConfig.model_validate(settings)

"""The procedural synthesizer: what it delivers, how evenly, what it says of it, and that it continues bit for bit."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_synthesis import CLASSES, MEAN, SHAPE, STD, TASK, build_teacher, summary
from torch import Tensor, nn

from raydfkd.errors import ConfigError, DataError
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment, load_experiment
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.synthesis.methods import METHODS
from raydfkd.synthesis.procedural.balance import even_shares
from raydfkd.synthesis.procedural.glsl_folder import GlslFolderImagesConfig
from raydfkd.synthesis.procedural.spectral_noise import SpectralImagesConfig
from raydfkd.synthesis.procedural.synthesizer import ProceduralConfig, ProceduralSynthesizer

CPU = torch.device("cpu")
CONTEXT = SynthesisContext("render-0", 3, 1, 4.0, bf16=False)


class Corner(nn.Module):
    """Sees the class that the upper left pixel says: a tenth of the grey values each."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        pixel = images[:, 0, 0, 0] * STD[0] + MEAN[0]
        return -((torch.arange(CLASSES) + 0.5) / CLASSES - pixel[:, None]).abs() * 20


class Scripted:
    """A source of noise whose corner pixels are as a list says, again and again."""

    def __init__(self, classes: list[int], constant: bool = False) -> None:
        self.classes, self.constant, self.calls = classes, constant, 0

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        self.calls += 1
        images = torch.rand(count, *SHAPE, generator=generator)
        if self.constant:
            images[:] = 0.5
        images[:, 0, 0, 0] = (torch.tensor(self.classes)[torch.arange(count) % len(self.classes)] + 0.5) / CLASSES
        return images


def scripted(classes: list[int], constant: bool = False, **settings: Any) -> tuple[ProceduralSynthesizer, Scripted]:
    config = ProceduralConfig(**{"batch_size": 20, **settings})
    source = Scripted(classes, constant)
    teacher = FrozenTeacher(Corner(), CLASSES, SHAPE, MEAN, STD)
    return ProceduralSynthesizer(config, TASK, teacher, source, CONTEXT, CPU), source


def build(images: dict[str, Any], **settings: Any) -> ProceduralSynthesizer:
    config = ProceduralConfig.model_validate({"batch_size": 12, "images": images, **settings})
    teacher = build_teacher()
    made = METHODS.get("procedural").build(config, SynthesisParts(TASK, teacher), CONTEXT, CPU)
    assert isinstance(made, ProceduralSynthesizer)
    return made


def counts_of(classes: np.ndarray) -> list[int]:
    return np.bincount(classes, minlength=CLASSES).tolist()


def test_a_batch_holds_what_the_teacher_says_of_its_uint8_images() -> None:
    made = build({"kind": "spectral"})
    made.load_student(np.zeros(1, np.float32), 7)
    batch = made.step(summary())
    assert (batch.images.shape, batch.images.dtype) == ((12, *SHAPE), np.uint8)
    assert (batch.source, batch.generator_id, batch.student_version) == ("procedural", "render-0", 7)
    assert batch.priorities is None
    assert (batch.targets == -1).all()
    with torch.no_grad():
        confidence, classes = made.teacher(torch.from_numpy(batch.images).float() / 255).softmax(1).max(1)
    assert batch.teacher_class.tolist() == classes.tolist()
    assert batch.teacher_confidence.tolist() == pytest.approx(confidence.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "images",
    [{"kind": "noise"}, {"kind": "spectral"}, {"kind": "leaves"}, {"kind": "shaders"}, {"kind": "photograph"}],
    ids=lambda images: images["kind"],
)
def test_it_continues_bit_for_bit_from_its_state(images: dict[str, Any]) -> None:
    first, second = build(images), build(images)
    first.step(summary())
    second.load_state_dict(first.state_dict())
    one, other = first.step(summary()), second.step(summary())
    assert (one.images == other.images).all()
    assert one.teacher_class.tolist() == other.teacher_class.tolist()
    assert one.metrics == other.metrics


def test_it_renders_until_every_class_has_its_share() -> None:
    made, source = scripted(list(range(6)), batch_size=10)
    batch = made.step(summary())
    assert source.calls == 4  # classes 6 to 9 never come
    assert counts_of(batch.teacher_class)[6:] == [0, 0, 0, 0]
    assert batch.metrics["rendered"] == 40
    assert batch.metrics["acceptance_rate"] == pytest.approx(10 / 40)


def test_it_stops_as_soon_as_all_have_their_share_and_delivers_them_evenly() -> None:
    made, source = scripted([0, 0, 0, 0, 0, 0, *range(1, CLASSES)], batch_size=30)
    batch = made.step(summary())
    assert source.calls == 2  # two of each of classes 1 to 9 in the first, four in both
    assert counts_of(batch.teacher_class) == [3] * CLASSES
    assert batch.metrics["batch_class_evenness"] == pytest.approx(1.0)
    assert batch.metrics["rendered_class_evenness"] < 1


def test_it_gives_the_buffer_what_it_lacks() -> None:
    made, _ = scripted(list(range(CLASSES)), batch_size=20)
    batch = made.step(summary(counts=[9, 9, 9, 9, 9, 9, 9, 9, 0, 5]))
    assert counts_of(batch.teacher_class)[8] == 8  # all that four times twenty images hold of it
    assert counts_of(batch.teacher_class)[9] == 4
    assert sum(counts_of(batch.teacher_class)) == 20


def test_unbalanced_it_delivers_what_it_renders() -> None:
    made, source = scripted([0, 0, 0, 1], class_balanced=False, drop_degenerate=False)
    batch = made.step(summary(counts=[100] + [0] * 9))
    assert source.calls == 1
    assert counts_of(batch.teacher_class)[:2] == [15, 5]
    assert batch.metrics["acceptance_rate"] == 1.0


def test_what_the_filters_drop_is_counted_and_too_few_are_repeated() -> None:
    made, source = scripted([3], batch_size=8, max_tries=3)
    real, calls = source.render, iter(range(99))

    def mostly_constant(count: int, generator: torch.Generator) -> Tensor:
        images = real(count, generator)
        images[: count - 1] = next(calls) / 10
        return images

    source.render = mostly_constant  # type: ignore[method-assign]
    batch = made.step(summary())
    assert batch.metrics["constant"] == 21
    assert len(np.unique(batch.images.reshape(8, -1), axis=0)) == 3
    assert (batch.metrics["repeated"], batch.metrics["acceptance_rate"]) == (5, pytest.approx(3 / 24))


def test_nothing_but_constant_pictures_is_the_user_s_mistake() -> None:
    made, _ = scripted([1], constant=True)
    with pytest.raises(DataError, match="all 80 images that source 'shaders' rendered are constant or have two colours"):
        made.step(summary())


def test_every_candidate_is_delivered_at_most_once_while_there_are_enough() -> None:
    made, _ = scripted([4, 7], batch_size=16)
    batch = made.step(summary())
    assert len(np.unique(batch.images.reshape(16, -1), axis=0)) == 16
    assert batch.metrics["repeated"] == 0


def brute_force(held: list[int], available: list[int], total: int) -> list[int]:
    """The best of all choices: the sorted counts compared from the poorest on."""
    choices = [c for c in product(*(range(a + 1) for a in available)) if sum(c) == min(total, sum(available))]
    return max(sorted(h + c for h, c in zip(held, choice, strict=True)) for choice in choices)


def test_shares_are_the_best_of_all_choices() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        held, available, total = rng.integers(0, 6, 4), rng.integers(0, 5, 4), int(rng.integers(0, 12))
        shares = even_shares(held, available, total)
        assert (shares <= available).all()
        assert sorted((held + shares).tolist()) == brute_force(held.tolist(), available.tolist(), total)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": {"kind": "fractal"}}, "does not match any of the expected tags"),
        ({"images": {"kind": "noise", "textured": True}}, "Extra inputs"),
        ({"drop_degenerate": False, "class_balanced": False, "max_tries": 9}, "does not use max_tries"),
        ({"images": {"kind": "spectral", "min_exponent": 4}}, "min_exponent 4 is above max_exponent 3.5"),
        ({"images": {"kind": "glsl_folder", "path": "x", "min_time_s": 40}}, "min_time_s 40 is above max_time_s 10"),
        ({"images": {"kind": "shaders", "families": []}}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ProceduralConfig.model_validate(settings)


def test_images_of_other_channels_are_refused() -> None:
    teacher = FrozenTeacher(Corner(), CLASSES, (2, 8, 8), [0.5] * 2, [0.5] * 2)
    with pytest.raises(ConfigError, match="1 channel or 3"):
        ProceduralSynthesizer.build(ProceduralConfig(), SynthesisParts(TASK, teacher), CONTEXT, CPU)


def experiment(tmp_path: Path, images: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
        "teacher": {"model": "lenet_like_missing", "normalization": {"mean": [0.5], "std": [0.25]}},
        "sources": {"render": {"method": "procedural", "batch_size": 8, "images": images}},
        "replay": {"synthetic": {"capacity": 16}},
        "students": {"small": {"model": "small_cnn_4"}},
    }


def test_paths_of_images_are_relative_to_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "shaders").mkdir()
    tree = experiment(tmp_path, {"kind": "glsl_folder", "path": "shaders"})
    config = build_experiment(tree, base=tmp_path)
    images = config.sources["render"].images  # type: ignore[union-attr]
    assert isinstance(images, GlslFolderImagesConfig)
    assert images.path == tmp_path / "shaders"
    import yaml

    (tmp_path / "e.yaml").write_text(yaml.safe_dump(tree))
    assert load_experiment(tmp_path / "e.yaml").sources["render"].images.path == images.path  # type: ignore[union-attr]


def test_a_teacher_without_batch_norm_and_without_gradient_passes_the_audit(tmp_path: Path) -> None:
    class Opaque(Corner):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).detach()

    config: ExperimentConfig = build_experiment(experiment(tmp_path, {"kind": "noise"}), base=tmp_path)
    found = builder.audit(config, FrozenTeacher(Opaque(), CLASSES, SHAPE, MEAN, STD))
    assert (found.has_batch_norm, found.input_gradient) == (False, False)


def test_the_method_s_own_settings_have_the_paper_s_exponents() -> None:
    config = SpectralImagesConfig()
    assert (config.min_exponent, config.max_exponent) == (0.5, 3.5)

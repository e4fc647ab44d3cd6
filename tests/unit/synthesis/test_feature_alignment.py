"""Feature alignment: what it moves and what it leaves alone, in a toy feature space and in every method that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_synthesis import CLASSES, SHAPE, assert_alike, build, build_teacher, hand_over, summary
from torch import Tensor, nn

from raydfkd.errors import ConfigError, TeacherError
from raydfkd.models import flat_weights
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.feature_alignment import FeatureAlignment, FeatureAlignmentConfig
from raydfkd.types import SyntheticBatch

CPU = torch.device("cpu")
ON: dict[str, Any] = {"hidden_dim": 16}
SMALL: dict[str, dict[str, Any]] = {
    "fast": {"batch_size": 12, "base_channels": 4, "latent_dim": 6, "crop_padding": 1},
    "ssdkd": {"batch_size": 12, "base_channels": 4, "latent_dim": 6, "crop_padding": 1},
    "cmi": {
        "batch_size": 12,
        "base_channels": 4,
        "latent_dim": 6,
        "crop_padding": 1,
        "steps_per_batch": 2,
        "projected_dim": 8,
        "bank_size": 40,
        "num_negatives": 20,
    },
    "deep_inversion": {"batch_size": 12, "steps_per_batch": 2, "lr": 0.5, "kept_step": "last", "shift": 1},
    "predfkd": {"batch_size": 27, "generator_batch_size": 16, "base_channels": 4, "latent_dim": 6, "generator_lr": 0.01},
}
METHODS = list(SMALL)
KINDS_OF_INPUT = ("real", "synthetic", "mismatched")


def prototypes(num: int = 40, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES) -> SyntheticBatch:
    labels = np.arange(num) % classes
    images = np.random.default_rng(0).integers(0, 256, (num, *shape)).astype(np.uint8)
    return batch_of(images, labels)


def batch_of(images: np.ndarray, labels: np.ndarray, teacher_class: np.ndarray | None = None) -> SyntheticBatch:
    return SyntheticBatch(
        images=images,
        targets=labels.astype(np.int64),
        teacher_class=(labels if teacher_class is None else teacher_class).astype(np.int32),
        teacher_confidence=np.ones(len(images), np.float32),
        source="collected",
        generator_id="collected",
        student_version=-1,
    )


def make(method: str = "fast", seed: int = 1, alignment: dict[str, Any] | None = ON, **settings: Any) -> Any:
    settings = {"method": method, "feature_alignment": alignment, **SMALL[method], **settings}
    return build(method, settings, seed=seed, collected=prototypes())


def aligner(teacher: FrozenTeacher, images: SyntheticBatch, **settings: Any) -> FeatureAlignment:
    return FeatureAlignment(FeatureAlignmentConfig.model_validate(settings), teacher, images, 0, CPU, bf16=False)


# A toy: two classes, each of two Gaussians in the plane of two pixels, which are the teacher's features.
CENTRES = torch.tensor([[[0.2, 0.3], [0.4, 0.3]], [[0.6, 0.8], [0.8, 0.6]]])
MEANS = CENTRES.mean(1)
TOLERANCE = 0.07


def toy_teacher() -> FrozenTeacher:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(2, 4))
    return FrozenTeacher(network, 2, (1, 2, 2), [0.5], [0.25], classifier_head="2")


def toy_prototypes(shuffled: bool) -> SyntheticBatch:
    pixels = torch.full((2, 2, 100, 4), 0.5)
    pixels[..., :2] = CENTRES[:, :, None] + 0.03 * torch.randn(2, 2, 100, 2, generator=torch.Generator().manual_seed(1))
    labels = np.repeat([0, 1], 200)
    if shuffled:
        labels = np.random.default_rng(0).permutation(labels)
    return batch_of((pixels * 255).round().byte().view(400, 1, 2, 2).numpy(), labels)


def aligned_means(shuffled: bool) -> Tensor:
    """Mean feature pixels [2,2] of each class of 128 free images, over the last of 300 steps on the alignment loss alone."""
    alignment = aligner(toy_teacher(), toy_prototypes(shuffled), augmentation=(), share=1, hidden_dim=64, discriminator_lr=5e-3)
    images = 0.5 + 0.1 * torch.randn(128, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    images.requires_grad_()
    classes = torch.arange(128) % 2
    optimizer = torch.optim.Adam([images], 0.01, (0.5, 0.999))
    means = []
    for step in range(300):
        optimizer.zero_grad()
        alignment.terms(images, classes)["alignment_loss"].backward()
        optimizer.step()
        if step >= 200:
            means.append(torch.stack([images.detach().flatten(1)[classes == k, :2].mean(0) for k in (0, 1)]))
    return torch.stack(means).mean(0)


def test_synthetic_means_move_to_the_prototypes_of_their_class() -> None:
    """From the middle, 0.28 away from either."""
    assert (aligned_means(shuffled=False) - MEANS).norm(dim=1).max() < TOLERANCE


def test_they_do_not_where_the_prototypes_labels_are_shuffled() -> None:
    assert (aligned_means(shuffled=True) - MEANS).norm(dim=1).min() > 2 * TOLERANCE


def test_the_gradient_reaches_the_images_and_neither_teacher_nor_discriminator() -> None:
    teacher = build_teacher()
    alignment = aligner(teacher, prototypes(), **ON, share=1)
    images = torch.rand(12, *SHAPE, requires_grad=True)
    terms = alignment.terms(images, torch.arange(12) % CLASSES)
    discriminator = flat_weights(alignment.discriminator)
    left = [p.grad.clone() for p in alignment.discriminator.parameters()]
    terms["alignment_loss"].backward()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(p.grad, before) for p, before in zip(alignment.discriminator.parameters(), left, strict=True))
    np.testing.assert_array_equal(flat_weights(alignment.discriminator), discriminator)
    assert not terms["discriminator_loss"].requires_grad
    assert all(p.requires_grad for p in alignment.discriminator.parameters()), "its next step needs them"


class BorderOnTheDiagonal(nn.Module):
    """A discriminator of the toy's features that says "real" of those on their class's side of x + y = 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features_BF: Tensor, codes_BE: Tensor) -> Tensor:
        return self.scale * ((features_BF.sum(1) > 1) == (codes_BE.argmax(1) == 1)).float().sub(0.5)


def test_what_it_gets_right_and_the_distance_are_those_of_its_inputs() -> None:
    """Three of four synthetic images are on the wrong side, which it says; features of images that are prototypes are at 0."""
    images = toy_prototypes(shuffled=False)
    alignment = aligner(toy_teacher(), images, augmentation=())
    alignment.discriminator = BorderOnTheDiagonal()
    pixels = torch.full((4, 1, 2, 2), 0.5)
    pixels[:, 0, 0] = torch.tensor([0.3, 0.3])
    found = alignment.terms(pixels, torch.tensor([0, 1, 1, 1]))
    assert float(found["discriminator_real_accuracy"]) == 1
    assert float(found["discriminator_mismatched_accuracy"]) == 1
    assert float(found["discriminator_synthetic_accuracy"]) == 0.75
    prototypes_again = torch.from_numpy(images.images).float().div(255)
    near = alignment.terms(prototypes_again, torch.from_numpy(images.targets))["feature_distance"]
    assert 0 <= float(near) < 0.01 < 0.1 < float(found["feature_distance"])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_discriminator_takes_its_steps_first(steps: int) -> None:
    alignment = aligner(build_teacher(), prototypes(), **ON, discriminator_steps=steps, discriminator_lr=1e-3)
    before = flat_weights(alignment.discriminator)
    alignment.terms(torch.rand(12, *SHAPE), torch.arange(12) % CLASSES)
    # Adam's steps are at most about its rate.
    assert (1e-3 * steps * 0.5) < np.abs(flat_weights(alignment.discriminator) - before).max() < 1e-3 * steps * 1.5


def test_the_discriminator_learns_real_from_synthetic_and_class_from_class() -> None:
    """Three rows of inputs: collected with their class, synthetic with theirs, collected with another class."""
    alignment, seen = aligner(build_teacher(), prototypes(), **ON, share=1, augmentation=()), []
    forward = alignment.discriminator.forward
    alignment.discriminator.forward = lambda f, c: (seen.append((f, c.argmax(1))), forward(f, c))[1]  # type: ignore[method-assign]
    images, classes = torch.rand(12, *SHAPE), torch.arange(12) % CLASSES
    for _ in range(10):
        alignment.terms(images, classes)
    assert all((codes[:12] != codes[24:]).all() for _, codes in seen[::2]), "never the image's own class"
    (features, codes), (_, again), *_ = seen
    real, synthetic, mismatched = features.chunk(3)
    theirs, made, _ = codes.chunk(3)
    assert torch.equal(real, mismatched)
    torch.testing.assert_close(synthetic, alignment.teacher.forward_features(images)[1])
    assert torch.equal(made, classes)
    assert torch.equal(again, classes)
    known = alignment.teacher.forward_features(torch.from_numpy(prototypes().images).float() / 255)[1]
    rows = torch.cdist(real, known).argmin(1)
    torch.testing.assert_close(real, known[rows])
    np.testing.assert_array_equal(theirs, prototypes().targets[rows])


@pytest.mark.parametrize(("augmentation", "through_the_teacher"), [(("cutout",), [16, 2]), ((), [16])])
def test_a_step_takes_its_images_and_an_eighth_as_many_views_of_prototypes_through_the_teacher(
    augmentation: tuple[str, ...], through_the_teacher: list[int]
) -> None:
    """Only the features of these views change; of prototypes as they are there is nothing to renew."""
    alignment, passes = aligner(build_teacher(), prototypes(), **ON, augmentation=augmentation), []
    views = alignment._views.clone()
    alignment._capture.model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    alignment.terms(torch.rand(16, *SHAPE), torch.arange(16) % CLASSES)
    assert passes == through_the_teacher
    changed = (alignment._views != views).any(1).sum()
    assert 0 < changed <= 2 if augmentation else changed == 0


def test_what_takes_no_step_makes_no_views() -> None:
    """As the check of the settings does, before a run builds the same again."""
    teacher, passes = build_teacher(), []
    teacher.model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    aligner(teacher, prototypes(), **ON)
    assert sum(passes) == len(prototypes().images)


@pytest.mark.parametrize(("share", "aligned"), [(1.0, 12), (0.5, 6), (0.01, 1)])
def test_a_step_aligns_its_share(share: float, aligned: int) -> None:
    images = torch.rand(12, *SHAPE, requires_grad=True)
    alignment = aligner(build_teacher(), prototypes(), **ON, share=share)
    alignment.terms(images, torch.arange(12) % CLASSES)["alignment_loss"].backward()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).sum() == aligned


def test_a_class_code_is_its_number_or_the_mean_feature_of_its_prototypes() -> None:
    teacher, images = build_teacher(), prototypes()
    assert torch.equal(aligner(teacher, images).codes_KE, torch.eye(CLASSES))
    features = teacher.forward_features(torch.from_numpy(images.images).float() / 255)[1]
    expected = torch.stack([features[torch.from_numpy(images.targets == k)].mean(0) for k in range(CLASSES)])
    torch.testing.assert_close(aligner(teacher, images, class_code="class_mean").codes_KE, expected)


def test_another_layer_is_pooled() -> None:
    teacher = build_teacher()
    named = next(name for name, layer in teacher.model.named_modules() if isinstance(layer, nn.Conv2d))
    alignment = aligner(teacher, prototypes(), layer=named)
    width = teacher.model.get_submodule(named).out_channels
    assert alignment.discriminator.hidden.in_features == width + CLASSES


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_it(method: str) -> None:
    """The same seed with another weight gives other images; off, there is no trace of it."""
    images = []
    for weight in (1.0, 50.0):
        synthesizer = make(method, alignment={**ON, "weight": weight})
        batches = [synthesizer.step(summary()) for _ in range(2)]
        assert {"alignment_loss", "discriminator_loss", "feature_distance"} <= set(batches[0].metrics)
        assert all(0 <= batches[0].metrics[f"discriminator_{kind}_accuracy"] <= 1 for kind in KINDS_OF_INPUT)
        images.append(batches[1].images)
    assert not np.array_equal(*images)
    off = make(method, alignment=None)
    assert "alignment" not in off.state_dict()
    assert "alignment_loss" not in off.step(summary()).metrics


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_that_is_reported_holds_it_with_its_weight(method: str) -> None:
    plain, aligned = (
        make(method, alignment=a, **({} if method == "predfkd" else {"steps_per_batch": 1}))
        for a in (None, {**ON, "weight": 3.0})
    )
    without, found = plain.step(summary()).metrics, aligned.step(summary()).metrics
    assert found["loss"] == pytest.approx(without["loss"] + 3 * found["alignment_loss"], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_discriminator_goes_on_from_batch_to_batch_and_from_a_state(method: str) -> None:
    one, other = make(method), make(method, seed=9)
    one.step(summary())
    learnt = flat_weights(one.alignment.discriminator)
    hand_over(one, other)
    np.testing.assert_array_equal(flat_weights(other.alignment.discriminator), learnt)
    assert_alike(one, other)
    assert 0 < np.abs(flat_weights(one.alignment.discriminator) - learnt).max() < 0.05, "a few steps on, and not drawn anew"


def test_predfkd_aligns_with_the_class_that_the_teacher_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    synthesizer, asked = make("predfkd"), []
    terms = synthesizer.alignment.terms

    def note(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        asked.append((images.detach(), classes))
        return terms(images, classes)

    monkeypatch.setattr(synthesizer.alignment, "terms", note)
    synthesizer.step(summary())
    ((images, classes),) = asked
    assert torch.equal(classes, synthesizer.teacher(images).argmax(1))


def test_a_prototype_without_a_label_has_the_teachers() -> None:
    labels = np.array([*range(CLASSES), -1, -1])
    images = batch_of(np.zeros((12, *SHAPE), np.uint8), labels, np.array([*range(CLASSES), 4, 7]))
    assert aligner(build_teacher(), images)._classes.tolist() == [*range(CLASSES), 4, 7]


def test_prototypes_that_do_not_fit_are_refused_in_a_sentence() -> None:
    teacher = build_teacher()
    with pytest.raises(ConfigError, match=r"collected images of shape \[1, 4, 4\] and the teacher takes \[1, 8, 8\]: give"):
        aligner(teacher, prototypes(shape=(1, 4, 4)))
    with pytest.raises(ConfigError, match="collected image of class 11 and the task has num_classes 10: give"):
        aligner(teacher, prototypes(classes=12))
    with pytest.raises(ConfigError, match=r"no collected image of class 8, 9: collect some of every class, or read"):
        aligner(teacher, prototypes(classes=8))
    with pytest.raises(ConfigError, match="give them in collected"):
        build("fast", {"method": "fast", "feature_alignment": ON, **SMALL["fast"]})


def test_a_teacher_without_such_a_layer_is_refused_in_a_sentence() -> None:
    headless = FrozenTeacher(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), 10, SHAPE, [0.0], [1.0])
    with pytest.raises(TeacherError, match="whose input feature_alignment reads: name its classifier_head, or another layer"):
        aligner(headless, prototypes())
    assert aligner(headless, prototypes(), layer="0").discriminator.hidden.in_features == 10 + CLASSES
    with pytest.raises(TeacherError, match="the teacher has no layer 'conv9' to read features of"):
        aligner(headless, prototypes(), layer="conv9")

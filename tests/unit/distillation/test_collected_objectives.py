"""The objectives for collected images, DFND's and KD3's: against their formulas, and as a part of a distiller."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from objective_rig import CLASSES, build, pair
from tiny_distillation import drawn, make, parameters
from torch import Tensor

from raydfkd.distillation.distiller import Distiller
from raydfkd.distillation.objectives.dfnd import DFNDObjective
from raydfkd.distillation.objectives.kd3 import KD3Objective, class_thresholds, teachers_share
from raydfkd.losses.contrastive import paired_contrastive_loss_per_sample
from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.models.shared_classifier import share_classifier


def dfnd(**settings: Any) -> DFNDObjective:
    objective = build("dfnd", **settings)
    assert isinstance(objective, DFNDObjective)
    return objective


def kd3(**settings: Any) -> KD3Objective:
    objective = build("kd3", **settings)
    assert isinstance(objective, KD3Objective)
    return objective


def resumed(distiller: Distiller, again: Distiller) -> None:
    packed = io.BytesIO()
    torch.save(distiller.state_dict(), packed)
    packed.seek(0)
    again.load_state_dict(torch.load(packed, weights_only=True))


# DFND


def test_the_noise_matrix_has_the_teachers_accuracy_and_even_errors() -> None:
    noise = dfnd(teacher_accuracy=0.8).log_noise().exp()
    torch.testing.assert_close(noise, torch.full((CLASSES, CLASSES), 0.05) + 0.75 * torch.eye(CLASSES))
    learned = dfnd(teacher_accuracy=0.8)
    with torch.no_grad():
        learned.trained["noise"]["weights"].normal_()  # type: ignore[index, operator]
    noise = learned.log_noise().exp()
    torch.testing.assert_close(noise.sum(1), torch.ones(CLASSES))
    torch.testing.assert_close(noise.diagonal(), torch.full((CLASSES,), 0.8))


def test_dfnd_is_kl_and_the_likelihood_of_the_teachers_class_through_the_matrix() -> None:
    student, teacher = pair("dfnd")
    objective = dfnd(teacher_accuracy=0.8)
    with torch.no_grad():
        objective.trained["noise"]["weights"].normal_()  # type: ignore[index, operator]
    seen = student.logits.softmax(1) @ objective.log_noise().exp()
    expected = kd_loss_per_sample(student.logits, teacher.logits, 4.0) - seen[range(4), teacher.logits.argmax(1)].log()
    torch.testing.assert_close(objective(student, teacher, 0.3), expected)


def test_the_matrix_is_learned_by_an_adam_of_its_own() -> None:
    """Adam's first step is its rate for every entry with a gradient, whatever the student's rate and clip are."""
    optimizer = {"lr": 0.2, "max_grad_norm": 1e-3, "weight_decay": 0.0}
    distiller = make(objective={"kind": "dfnd", "noise_lr": 0.01}, optimizer=optimizer)
    matrix = distiller.objective.trained["noise"]["weights"]  # type: ignore[index]
    before = parameters(distiller.student)
    distiller.step(*drawn())
    moved = matrix.detach()[~torch.eye(10, dtype=torch.bool)].abs()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-2, atol=0)
    assert 0 < (parameters(distiller.student) - before).norm() < 0.01


# KD3


def test_the_teacher_leaves_the_choice_by_the_half_of_training() -> None:
    assert teachers_share(0.0) == pytest.approx(1 - math.exp(-5))
    assert teachers_share(0.25) == pytest.approx(1 - math.exp(-5 * 0.625**2))
    assert teachers_share(0.5) == teachers_share(1.0) == 0


def test_rarer_classes_need_less_confidence() -> None:
    found = class_thresholds(torch.tensor([40.0, 20.0, 0.0]), 0.95)
    torch.testing.assert_close(found, torch.tensor([0.95, 0.95 * 0.5 / 1.5, 0.0]))


def choice_by_hand(s: Tensor, t: Tensor, share: float, confidence: float) -> list[bool]:
    probabilities = (share * t + (1 - share) * s).softmax(1)
    classes = probabilities.argmax(1).tolist()
    most = max(classes.count(k) for k in classes)
    chosen = []
    for row, k in enumerate(classes):
        relative = classes.count(k) / most
        chosen.append(float(probabilities[row, k].detach()) > confidence * relative / (2 - relative))
    return chosen


@pytest.mark.parametrize("progress", [0.0, 0.7])
def test_kd3_is_the_mean_of_the_weighted_and_contrasted_images_that_are_chosen(progress: float) -> None:
    student, teacher = pair("kd3", 12)
    objective = kd3(batch_size=12, confidence=0.95, contrast_weight=0.5)
    chosen = choice_by_hand(student.logits, teacher.logits, teachers_share(progress), 0.95)
    assert 1 < sum(chosen) < 12
    assert student.perturbed is not None
    layer = objective.trained["embedding"]
    views = [torch.nn.functional.normalize(layer(x.maps[-1].mean((2, 3))), dim=1) for x in (student, student.perturbed)]
    expected = []
    for i in range(12):
        if not chosen[i]:
            expected.append(torch.zeros(()))
            continue
        weight = torch.sigmoid((student.logits[i] - teacher.logits[i]).square().sum().sqrt())
        error = (student.maps[-1][i] - teacher.maps[-1][i]).square().mean()
        contrast = torch.zeros(())
        for own, other in ((0, 1), (1, 0)):
            rivals = [(side, j) for side in (0, 1) for j in range(12) if chosen[j] and (side, j) != (own, i)]
            scores = torch.stack([views[own][i] @ views[side][j] / 0.3 for side, j in rivals])
            contrast = contrast + (scores.logsumexp(0) - views[own][i] @ views[other][i] / 0.3) / 2
        expected.append((weight * error + 0.5 * contrast) * 12 / sum(chosen))
    torch.testing.assert_close(objective(student, teacher, progress), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_class_counts_are_a_running_sum_and_no_choice_is_no_loss() -> None:
    student, teacher = pair("kd3")
    objective = kd3(confidence=0.95, count_momentum=0.5)
    objective(student, teacher, 1.0)
    objective(student, teacher, 1.0)
    first = torch.nn.functional.one_hot(student.logits.argmax(1), CLASSES).sum(0).float()
    torch.testing.assert_close(objective.trained["choice"].class_counts, 1.5 * first)
    with torch.no_grad():
        student.logits.mul_(0.001)
        objective.trained["choice"].class_counts.fill_(1e6)  # type: ignore[operator, union-attr]
    losses = objective(student, teacher, 1.0)
    losses.sum().backward()
    assert torch.equal(losses, torch.zeros(4))


def test_the_paired_contrast_by_hand() -> None:
    """Two images at right angles, each twice the same: S = log(1 + 2 exp(-1/T)) for all four views."""
    views = torch.eye(2)
    found = paired_contrastive_loss_per_sample(views, views, 0.5, torch.tensor([True, True]))
    torch.testing.assert_close(found, torch.full((2,), math.log(1 + 2 * math.exp(-2))))
    alone = paired_contrastive_loss_per_sample(views, views, 0.5, torch.tensor([True, False]))
    torch.testing.assert_close(alone, torch.zeros(2))


# Both in a distiller


def distiller_of(kind: str, seed: int = 0) -> Distiller:
    distiller = make(norm=True, seed=seed)
    student = distiller.student if kind == "dfnd" else share_classifier(distiller.student, distiller.teacher)
    config = distiller.config.model_validate({**distiller.config.model_dump(), "objective": {"kind": kind}})
    torch.manual_seed(seed)
    return Distiller(config, distiller.teacher, student, 40, torch.device("cpu"), bf16=False)


@pytest.mark.parametrize("kind", ["dfnd", "kd3"])
def test_a_resumed_distiller_goes_on_bit_for_bit(kind: str) -> None:
    one, other = distiller_of(kind), distiller_of(kind, seed=3)
    one.reseed(1)
    for seed in range(2):
        one.step(*drawn(seed))
    resumed(one, other)
    for distiller in (one, other):
        distiller.reseed(2)
    for seed in range(2, 4):
        expected, found = one.step(*drawn(seed)), other.step(*drawn(seed))
        assert torch.equal(found.priorities_B, expected.priorities_B)
    assert torch.equal(parameters(other.student), parameters(one.student))
    assert torch.equal(parameters(other.objective.trained), parameters(one.objective.trained))


def test_kd3_trains_the_projector_and_its_embedding_and_not_the_head() -> None:
    distiller = distiller_of("kd3")
    before = copy.deepcopy(distiller.student.state_dict())
    embedding = parameters(distiller.objective.trained)
    distiller.step(*drawn())
    after = distiller.student.state_dict()
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["projector.layers.0.weight"], before["projector.layers.0.weight"])
    assert not torch.equal(parameters(distiller.objective.trained), embedding)

"""In bfloat16 an objective's own layers may not change what a student learns: gradients against float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objective_rig import CLASSES, KINDS, build, config_of
from torch import Tensor

from raydfkd.distillation.objectives import OBJECTIVES, build_objective
from raydfkd.models.catalog import build_classifier
from raydfkd.models.features import FeatureReader
from raydfkd.models.network_output import NetworkOutput
from raydfkd.models.teachers.teacher import FrozenTeacher

SHAPE, BATCH_SIZE = (3, 16, 16), 32
OWN_TERM: dict[str, dict[str, float]] = {
    "correlation": {"ce_weight": 0.0},
    "ofa": {"ce_weight": 0.0, "logit_weight": 0.0},
    "semckd": {"ce_weight": 0.0, "kl_weight": 0.0},
}
"""Objectives with layers of their own, and what leaves nothing of their loss but the term that goes through these."""


UNMEASURED = {
    "dfnd": "its matrix meets the logits in float32",
    "kd3": "its contrast has a thousandth of the loss's weight",
}
"""Other objectives with layers of their own, and why their precision does not matter."""


def float32(output: NetworkOutput) -> NetworkOutput:
    embedding = None if output.embedding is None else output.embedding.float()
    return replace(output, logits=output.logits.float(), maps=tuple(x.float() for x in output.maps), embedding=embedding)


def gradients(kind: str, networks_low: bool, layers_low: bool) -> dict[str, Tensor]:
    """Of one batch: of the objective's layers and of the student's weights, each in one vector."""
    torch.manual_seed(0)
    network = build_classifier("wrn_10_2", CLASSES, SHAPE)
    teacher = FrozenTeacher(network, CLASSES, SHAPE, (0.5,) * 3, (0.3,) * 3)
    student = build_classifier("wrn_10_1", CLASSES, SHAPE)
    reads = OBJECTIVES.get(kind).objective
    read_student = FeatureReader(student, reads.needs, CLASSES, SHAPE)
    read_teacher = teacher.feature_reader(reads.teacher_needs)
    shapes = read_student.shapes(), read_teacher.shapes()
    objective = build_objective(config_of(kind, **OWN_TERM[kind]), *shapes, CLASSES, BATCH_SIZE)
    images = torch.randn(BATCH_SIZE, *SHAPE)
    with torch.autocast("cpu", torch.bfloat16, enabled=networks_low):
        with torch.no_grad():
            wanted = read_teacher(images)
        output = read_student(images)
    if not layers_low:
        output, wanted = float32(output), float32(wanted)
    with torch.autocast("cpu", torch.bfloat16, enabled=layers_low):
        loss = objective(output, wanted, 1.0).mean()
    loss.backward()
    parameters = {"layers": objective.trained.parameters(), "student": student.parameters()}
    return {name: torch.cat([p.grad.flatten() for p in some if p.grad is not None]) for name, some in parameters.items()}


def test_every_objective_with_layers_is_measured() -> None:
    assert [kind for kind in KINDS if len(build(kind).trained)] == sorted([*OWN_TERM, *UNMEASURED])


@pytest.mark.parametrize("kind", OWN_TERM)
def test_bfloat16_layers_add_little_to_the_error_of_bfloat16_networks(kind: str) -> None:
    exact = gradients(kind, networks_low=False, layers_low=False)
    errors = {
        layers_low: {
            name: float((found - exact[name]).norm() / exact[name].norm())
            for name, found in gradients(kind, networks_low=True, layers_low=layers_low).items()
        }
        for layers_low in (False, True)
    }
    assert errors[True]["student"] < 1.15 * errors[False]["student"], "15 to 20%, by the networks' own rounding"
    assert errors[True]["layers"] < min(0.03, 1.4 * errors[False]["layers"]), "0.7 to 2.0%"

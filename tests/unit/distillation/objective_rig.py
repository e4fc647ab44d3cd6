"""Objectives built for, and fed with, made-up network outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from raydfkd.distillation.objective import Objective, ObjectiveConfig
from raydfkd.distillation.objectives import OBJECTIVES, AnyObjective, build_objective
from raydfkd.models.network_output import FeatureShapes, NetworkOutput

CLASSES = 5
STUDENT = FeatureShapes(((3, 8, 8), (4, 8, 8), (6, 4, 4)), 6)
TEACHER = FeatureShapes(((4, 8, 8), (6, 4, 4), (8, 2, 2), (8, 2, 2)), 8)
ALIGNED = FeatureShapes(((3, 8, 8), (8, 2, 2)), 8)
"""What a student with its teacher's classifier gives."""
RELATED = FeatureShapes(((3, 8, 8), (5, 8, 8), (6, 4, 4), (6, 2, 2)), 6)
"""What a student that is as deep as its teacher gives."""
FAMILY = FeatureShapes(((3, 8, 8), (5, 4, 4), (6, 2, 2), (6, 2, 2)), 6)
"""What a student of its teacher's family gives."""
SHAPES = {"classifier_sharing": ALIGNED, "kd3": ALIGNED, "msarc": RELATED, "attention_transfer": FAMILY}
"""Of the student for objectives that ask something of it."""
KINDS = sorted(OBJECTIVES)
SHARING = ("classifier_sharing", "kd3")
"""Objectives whose student has its teacher's classifier; they read the last map alone."""


def config_of(kind: str, **settings: Any) -> ObjectiveConfig:
    return TypeAdapter(AnyObjective).validate_python({"kind": kind, **settings})


def build(kind: str, batch_size: int = 4, **settings: Any) -> Objective:
    torch.manual_seed(7)
    if kind == "kd3":  # so few images as here would hardly be chosen
        settings = {"confidence": 0.0, **settings}
    return build_objective(config_of(kind, **settings), SHAPES.get(kind, STUDENT), TEACHER, CLASSES, batch_size)


def outputs(shapes: FeatureShapes, seed: int, batch_size: int = 4, dtype: torch.dtype = torch.float32) -> NetworkOutput:
    """Leaves that require a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    maps = tuple(noise(batch_size, *shape).abs().requires_grad_() for shape in shapes.maps)
    assert shapes.embedding is not None
    return NetworkOutput(
        (3 * noise(batch_size, CLASSES)).requires_grad_(),
        maps,
        noise(batch_size, shapes.embedding).requires_grad_(),
        noise(CLASSES, shapes.embedding).requires_grad_(),
        gradients=tuple(noise(batch_size, shape[0]).requires_grad_() for shape in shapes.maps),
    )


def pair(kind: str, batch_size: int = 4, dtype: torch.dtype = torch.float32) -> tuple[NetworkOutput, NetworkOutput]:
    student = outputs(SHAPES.get(kind, STUDENT), 0, batch_size, dtype)
    if kind == "msarc":  # it differentiates the student's logits with respect to its maps
        weights = torch.randn(CLASSES, generator=torch.Generator().manual_seed(2))
        pooled = torch.stack([x.float().square().mean((1, 2, 3)) for x in student.maps]).sum(0)
        student = replace(student, logits=student.logits + (pooled[:, None] * weights).to(dtype))
        student.logits.retain_grad()
    if kind == "kd3":
        student = replace(student, perturbed=outputs(ALIGNED, 2, batch_size, dtype))
    return student, outputs(TEACHER, 1, batch_size, dtype)

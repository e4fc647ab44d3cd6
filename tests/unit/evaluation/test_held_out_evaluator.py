"""Agreement on unlabelled images against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydfkd.evaluation.held_out_agreement import HeldOutEvaluator
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher


class Brightness(nn.Module):
    """Two classes: logit of the second is the image's mean times ``scale`` plus ``shift``."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        second = images.mean(dim=(1, 2, 3)) * self.scale + self.shift
        return torch.stack([torch.zeros_like(second), second], 1)


IMAGES = np.stack([np.full((1, 8, 8), value, np.uint8) for value in (0, 51, 204, 255)])


def evaluator(batch_size: int = 3) -> HeldOutEvaluator:
    """The teacher's normalised pixels are -1, -0.6, 0.6 and 1."""
    teacher = FrozenTeacher(Brightness(2.0), 2, (1, 8, 8), [0.5], [0.5])
    return HeldOutEvaluator(IMAGES, teacher, batch_size, torch.device("cpu"), bf16=False)


def test_a_student_like_its_teacher_agrees_wholly() -> None:
    assert evaluator().measure(Brightness(2.0)) == (1.0, pytest.approx(0.0, abs=1e-7))


def test_agreement_and_divergence_are_their_definitions() -> None:
    """The student answers the first class on -1 and -0.6 as the teacher does, on 0.6 too (1.2 - 1.3 < 0), not on 1."""
    agreement, kl = evaluator().measure(Brightness(2.0, shift=-1.3))
    pixels = (-1.0, -0.6, 0.6, 1.0)

    def probability(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    expected = 0.0
    for pixel in pixels:
        p, q = probability(2 * pixel), probability(2 * pixel - 1.3)
        expected += (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / len(pixels)
    assert agreement == 0.75
    assert kl == pytest.approx(expected, rel=1e-5)


def test_parts_of_any_size_give_the_same_and_the_student_keeps_its_mode() -> None:
    student = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1), Brightness(1.0)).train()
    student[1].eval()  # as somebody freezes statistics
    first, second = evaluator(1).measure(student), evaluator(4).measure(student)
    assert first == pytest.approx(second)
    assert [layer.training for layer in student] == [True, False, True]
    assert len(evaluator()) == 4

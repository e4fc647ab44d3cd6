"""Students and distillers small enough to be followed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.distiller import Distiller
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.teacher import FrozenTeacher

SHAPE = (1, 8, 8)
CLASSES = 10
PLAIN: dict[str, Any] = {"crop_padding": 0, "flip": False}


class Plain(nn.Module):
    """No BatchNorm, so that an image's output depends on nothing but the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 36, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).relu().flatten(1))


def student_config(**settings: Any) -> StudentConfig:
    return StudentConfig.model_validate({"model": "plain", "batch_size": 16, **PLAIN, **settings})


def make(*, norm: bool = False, total_steps: int = 40, seed: int = 0, device: str = "cpu", **settings: Any) -> Distiller:
    """A new distiller; ``norm``: of a student with BatchNorm."""
    torch.manual_seed(100 + seed)
    student = build_classifier("small_cnn_4", CLASSES, SHAPE) if norm else Plain()
    torch.manual_seed(5)
    teacher = build_classifier("small_cnn_8", CLASSES, SHAPE)
    with torch.no_grad():
        teacher.fc.weight.mul_(20)
    frozen = FrozenTeacher(teacher, CLASSES, SHAPE, (0.4,), (0.3,))
    return Distiller(student_config(**settings), frozen, student, total_steps, torch.device(device), bf16=False)


def drawn(seed: int = 0, num: int = 16) -> tuple[Tensor, Tensor]:
    """A batch of images and its importance weights in (0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, *SHAPE), generator=generator, dtype=torch.int64).to(torch.uint8)
    return images, torch.rand(num, generator=generator).clamp_min(0.05)


def parameters(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])

"""Agreement of a student with its teacher on unlabelled images that are never trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.models.precision import autocast, evaluating
from raydfkd.models.teachers.teacher import FrozenTeacher, pixels_of


class HeldOutEvaluator:
    """Compares students with one teacher, caching the teacher's outputs.

    Args:
        images: uint8 [N,C,H,W]; they stay on the device.
        teacher: on ``device``.
        batch_size: images in one forward pass.
        device: where teacher and students are.
        bf16: bfloat16 autocast where the device has it.
    """

    def __init__(
        self, images: np.ndarray, teacher: FrozenTeacher, batch_size: int, device: torch.device, bf16: bool = True
    ) -> None:
        self._images = torch.from_numpy(np.array(images)).to(device)
        self._teacher = teacher
        self._batch_size = batch_size
        self._device = device
        self._bf16 = bf16
        self._targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self._images)

    def measure(self, student: nn.Module) -> tuple[float, float]:
        """Share of images, or of pixels, on which both predict the same class, and the mean KL(teacher || student) in nats at
        temperature 1.

        Args:
            student: takes normalised images; it is in evaluation mode during the call (see ``models.precision.evaluating``).
        """
        if self._targets is None:
            self._targets = self._log_probabilities(self._teacher)
        with evaluating(student):
            answers = self._log_probabilities(nn.Sequential(self._teacher.normalization, student))
        same = (answers.argmax(1) == self._targets.argmax(1)).float().mean()
        divergence = F.kl_div(answers, self._targets, reduction="batchmean", log_target=True)
        return float(same), float(divergence) / answers[0, 0].numel()

    def _log_probabilities(self, network: nn.Module) -> Tensor:
        """float32 [N,K] or [N,K,H,W] of a network that takes images in [0,1]."""
        parts = []
        with torch.no_grad(), autocast(self._device, self._bf16):
            for batch in self._images.split(self._batch_size):
                parts.append(network(pixels_of(batch)).float().log_softmax(1))
        return torch.cat(parts)

"""FastDFKD's meta-generator: each batch comes from a clone adapted for a few steps, and the common generator learns from it.

Fang et al., "Up to 100x Faster Data-Free Knowledge Distillation", AAAI 2022. SSD-KD (``ssdkd.py``) builds on it.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from raydfkd.augment import random_crop_flip
from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.losses.inversion import adversarial_loss, bn_loss, one_hot_loss, smoothed_statistics
from raydfkd.models import load_flat_weights
from raydfkd.models.generators import build_generator
from raydfkd.models.generators.upsampling import UpsamplingGenerator
from raydfkd.models.precision import autocast
from raydfkd.models.teachers.bn_statistics import BatchNormStatistics
from raydfkd.models.teachers.teacher import FrozenTeacher, pixels_of
from raydfkd.synthesis.config import FastConfig
from raydfkd.synthesis.context import SynthesisContext, SynthesisParts
from raydfkd.types import BufferSummary, Preparation, SyntheticBatch, WeightsVersion

ADAM_BETAS = (0.5, 0.999)
REPTILE_SCALE = 67.0
"""FastDFKD multiplies the Reptile difference by this before it is used as the meta-gradient."""


class FastSynthesizer:
    """One meta-generator; ``step`` makes a batch.

    Args:
        config: the method's settings.
        teacher: frozen, with BatchNorm layers (the builder has checked).
        student: a copy that only this synthesizer uses; its weights come by ``load_student``.
        generator: latents [B,latent_dim] to images [B,C,H,W] in [0,1].
        context: see ``SynthesisContext``.
        device: where all of it runs.
    """

    def __init__(
        self,
        config: FastConfig,
        teacher: FrozenTeacher,
        student: nn.Module,
        generator: UpsamplingGenerator,
        context: SynthesisContext,
        device: torch.device,
    ) -> None:
        self.config = config
        self.context = context
        self.device = device
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self.student = student.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.generator = generator.to(device).to(memory_format=torch.channels_last).train()
        self.student_version: WeightsVersion = 0
        self.rng = torch.Generator().manual_seed(context.seed)
        self._statistics = BatchNormStatistics(self.teacher)
        self._average: list[tuple[Tensor, Tensor]] | None = None
        self._was_reset = False
        generator_lr, self._latent_lr = config.rates()
        self._generator_lr = generator_lr
        # FOMAML sums k gradients and takes one step k times as long (FastDFKD).
        meta_lr = generator_lr * config.steps_per_batch if config.meta == "fomaml" else generator_lr
        self._meta_optimizer = torch.optim.Adam(self.generator.parameters(), lr=meta_lr, betas=ADAM_BETAS)

    @classmethod
    def build(cls, config: FastConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Self:
        """With a generator network drawn from the context's seed.

        Raises:
            UnknownNameError, ConfigError: no such generator, or it cannot make such images.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            generator = build_generator(config.generator, parts.teacher.image_shape, config.latent_dim, config.base_channels)
        return cls(config, parts.teacher, parts.student, generator, context, device)

    def prepare(self) -> Preparation | None:
        """Nothing: it learns while it makes batches."""
        return None

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        load_flat_weights(self.student, weights)
        self.student_version = version

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        self._reset_when_due(summary)
        config = self.config
        latents = torch.randn(config.batch_size, config.latent_dim, generator=self.rng).to(self.device).requires_grad_()
        targets = torch.randint(0, self.teacher.num_classes, (config.batch_size,), generator=self.rng).to(self.device)
        sequential = config.meta == "sequential"
        worker = self.generator if sequential else copy.deepcopy(self.generator)
        optimizer = torch.optim.Adam(
            [
                {"params": list(worker.parameters()), "lr": self._generator_lr},
                {"params": [latents], "lr": self._latent_lr},
            ],
            betas=ADAM_BETAS,
        )
        self._meta_optimizer.zero_grad(set_to_none=True)
        best_loss, best_images, metrics = float("inf"), None, {}
        for _ in range(config.steps_per_batch):
            optimizer.zero_grad(set_to_none=True)
            images, loss, terms = self._loss(worker, latents, targets, summary)
            value = float(loss.detach())
            if best_images is None or value < best_loss:
                best_loss, best_images, metrics = value, images.detach(), terms
            loss.backward()
            if config.meta == "fomaml":
                _add_gradients(self.generator, worker)
            optimizer.step()
        if config.meta == "reptile":
            _reptile_gradients(self.generator, worker)
        if not sequential:
            self._meta_optimizer.step()
        self._update_average()
        assert best_images is not None
        return self._finish(best_images, targets, {"loss": best_loss, **metrics})

    def task_weights(self, teacher_logits_BK: Tensor, targets_B: Tensor, summary: BufferSummary) -> Tensor | None:
        """phi of SSD-KD Eq. 3; FastDFKD has none."""
        return None

    def task_targets(self, teacher_logits_BK: Tensor, targets_B: Tensor) -> Tensor:
        """The classes in the task loss: FastDFKD's random targets."""
        return targets_B

    def _loss(
        self, worker: nn.Module, latents: Tensor, targets: Tensor, summary: BufferSummary
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        config = self.config
        adversarial = config.adversarial_weight > 0 and summary.num_batches >= self._adversarial_start()
        with autocast(self.device, self.context.bf16):
            images = worker(latents).float()
            view = random_crop_flip(images, config.crop_padding, config.flip, self.rng)
            with self._statistics.capture():
                teacher_logits = self.teacher(view)
            student_logits = self.student(self.teacher.normalize(view)) if adversarial else None
        batch = self._statistics.batch
        if self._average is not None and config.bn_momentum > 0:
            batch = smoothed_statistics(batch, self._average, config.bn_momentum)
        terms = {
            "bn_loss": bn_loss(batch, self._statistics.running),
            "one_hot_loss": one_hot_loss(
                teacher_logits, self.task_targets(teacher_logits, targets), self.task_weights(teacher_logits, targets, summary)
            ),
        }
        loss = config.bn_weight * terms["bn_loss"] + config.one_hot_weight * terms["one_hot_loss"]
        if student_logits is not None:
            terms["adversarial_loss"] = adversarial_loss(student_logits, teacher_logits)
            loss = loss + config.adversarial_weight * terms["adversarial_loss"]
        return images, loss, {name: float(term.detach()) for name, term in terms.items()}

    def _finish(self, images: Tensor, targets: Tensor, metrics: dict[str, float]) -> SyntheticBatch:
        """Rounds to uint8 and lets teacher and student judge what will really be stored (Algorithm 1, lines 12-14)."""
        stored = (images * 255).round_().clamp_(0, 255).to(torch.uint8)
        judged = self.teacher.judge(stored, self.context.bf16)
        with torch.no_grad(), autocast(self.device, self.context.bf16):
            student_logits = self.student(self.teacher.normalize(pixels_of(stored))).float()
        priorities = kd_loss_per_sample(student_logits, judged.logits, self.context.priority_temperature)
        return SyntheticBatch(
            images=stored.contiguous(memory_format=torch.contiguous_format).cpu().numpy(),
            targets=targets.cpu().numpy(),
            teacher_class=judged.classes.cpu().numpy(),
            teacher_confidence=judged.confidences.cpu().numpy(),
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.student_version,
            priorities=priorities.cpu().numpy(),
            metrics=metrics,
        )

    def _adversarial_start(self) -> int:
        start = self.config.adversarial_start_batches
        return max(0, self.context.warmup_batches - 1) if start is None else start

    def _reset_when_due(self, summary: BufferSummary) -> None:
        due = self.config.reset_batches
        # FastDFKD counts calls from 1 and resets at call warm-up + 120, before which there were that many batches less one.
        due = self.context.warmup_batches + 119 if due is None else due
        if not self._was_reset and summary.num_batches >= due:
            self.generator.reset_first_layer(self.config.reset_bn_weight_mean, self.rng)
            self._was_reset = True

    def _update_average(self) -> None:
        """FastDFKD's BN momentum, once a call, from the last step's raw batch statistics."""
        momentum = self.config.bn_momentum
        batch = [(mean.detach(), variance.detach()) for mean, variance in self._statistics.batch]
        if self._average is not None:
            batch = smoothed_statistics(batch, self._average, momentum)
        self._average = batch

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "meta_optimizer": self._meta_optimizer.state_dict(),
            "average": None if self._average is None else [list(pair) for pair in self._average],
            "was_reset": self._was_reset,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self._meta_optimizer.load_state_dict(state["meta_optimizer"])
        average = state["average"]
        self._average = None if average is None else [(m.to(self.device), v.to(self.device)) for m, v in average]
        self._was_reset = state["was_reset"]
        self.rng.set_state(state["rng"].cpu())


def _add_gradients(generator: nn.Module, worker: nn.Module) -> None:
    """First-order MAML: the clone's gradient is the meta-gradient, summed over the steps."""
    for parameter, adapted in zip(generator.parameters(), worker.parameters(), strict=True):
        assert adapted.grad is not None
        parameter.grad = adapted.grad.clone() if parameter.grad is None else parameter.grad.add_(adapted.grad)


def _reptile_gradients(generator: nn.Module, worker: nn.Module) -> None:
    """Reptile: the way from the adapted clone back to the common generator is the meta-gradient."""
    for parameter, adapted in zip(generator.parameters(), worker.parameters(), strict=True):
        parameter.grad = REPTILE_SCALE * (parameter.detach() - adapted.detach())

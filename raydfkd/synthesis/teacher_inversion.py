"""What the methods that optimise images through the teacher share: their student, the rounding and judging of what is stored.

FastDFKD, SSD-KD, DeepInversion, CMI, PRE-DFKD and the generators of ``adversarial`` are of this kind. All but PRE-DFKD may also
look at what the teacher's layers compute (``LayerLossConfig``): the statistics of BatchNorm's inputs, and how alike a vision
transformer finds an image's patches. The first four aim each image at a class (``TargetedConfig``).

``bn_relative`` is ours: L_BN grows with the teacher's depth by orders of magnitude, so that a published weight, tuned for one
teacher, is wrong for another; relative, L_BN is divided by its value on the first images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError
from raydfkd.metrics import Figure
from raydfkd.synthesis import transfer_out
from raydfkd.synthesis.feature_alignment import FeatureAlignment, FeatureAlignmentConfig
from raydfkd.synthesis.method import SynthesisConfig, SynthesisContext, SynthesisParts
from raydfkd.types import Preparation, SyntheticBatch, WeightsVersion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.losses import distillation, inversion, patches, positions
    from raydfkd.losses.inversion import Statistics
    from raydfkd.models import precision, weight_vector
    from raydfkd.models.teachers import attention_patches, bn_statistics, frozen_teacher
else:
    torch = deferred("torch")
    distillation, inversion = deferred("raydfkd.losses.distillation"), deferred("raydfkd.losses.inversion")
    patches, positions = deferred("raydfkd.losses.patches"), deferred("raydfkd.losses.positions")
    precision, weight_vector = deferred("raydfkd.models.precision"), deferred("raydfkd.models.weight_vector")
    attention_patches = deferred("raydfkd.models.teachers.attention_patches")
    bn_statistics = deferred("raydfkd.models.teachers.bn_statistics")
    frozen_teacher = deferred("raydfkd.models.teachers.frozen_teacher")

LAYER_FIGURES = (Figure("Scale of the BatchNorm-statistics loss", {"bn_scale": "scale"}),)
"""Of the methods with ``LayerLossConfig``."""


class InversionConfig(SynthesisConfig):
    """Settings of every method that optimises images, or a generator, through the teacher."""

    student: str | None = None
    """Student that this source plays against: generators get its weights, and new images their initial priorities from its
    losses; null: the first one."""
    feature_alignment: FeatureAlignmentConfig | None = None
    """Align generated images with the collected ones of their class (Condensed Data Expansion); null: off."""

    @property
    def needs_prototypes(self) -> bool:
        return self.feature_alignment is not None

    def with_alignment(self, images: int) -> int:
        """So many images that a generator is trained on, and those that feature alignment takes through the teacher again."""
        return images if self.feature_alignment is None else round((1 + self.feature_alignment.share) * images)


class LayerLossConfig(InversionConfig):
    """Settings of the methods whose loss also reads the teacher's layers."""

    bn_weight: float = Field(0.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    bn_relative: bool = False
    """Divide the BatchNorm-statistics loss by its value on the first images, so that a weight suits teachers of any depth."""
    patch_weight: float = Field(0.0, ge=0)
    """Weight of the patch-similarity loss, for vision transformers: patches are to differ as in pictures (PSAQ-ViT: 1)."""

    @model_validator(mode="after")
    def _relative_to_something(self) -> Self:
        if self.bn_weight == 0:
            self.refuse_idle("bn_weight 0", "bn_relative")
        return self

    @property
    def reads_batch_norm(self) -> bool:
        return self.bn_weight > 0


class TargetedConfig(LayerLossConfig):
    """Settings of the methods that aim each image at a class."""

    balanced_targets: bool = False
    """Aim at every class equally often in each batch (NAYER), and not at classes drawn at random."""
    class_loss: Literal["teacher", "gap_aware"] = "teacher"
    """What one_hot_weight multiplies: cross-entropy of the teacher's logits to the target class; or GapSSG's, which grows with
    the gap between student and teacher and aims at where they differ (weight 0.5 there)."""


class InversionSynthesizer:
    """The teacher, a copy of the student, and the way from images to a ``SyntheticBatch``.

    Args:
        config: the method's settings.
        parts: the run's task, teacher and student (a copy that only this synthesizer uses), and, for feature alignment, the
            collected images.
        context: see ``SynthesisContext``.
        device: where all of it runs.

    Attributes:
        alignment: None: feature alignment is off.

    Raises:
        ConfigError, TeacherError: see ``FeatureAlignment``.
    """

    def __init__(self, config: InversionConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> None:
        assert parts.student is not None
        self.config = config
        self.context = context
        self.device = device
        self.task = parts.task
        self.teacher = parts.teacher.to(device).to(memory_format=torch.channels_last)
        self.student = parts.student.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.student_version: WeightsVersion = 0
        self.rng = torch.Generator().manual_seed(context.seed)
        self.alignment: FeatureAlignment | None = None
        if config.feature_alignment is not None:
            if parts.collected is None:
                raise ConfigError("feature_alignment aligns generated images with collected ones: give them in collected")
            seed = context.seed + 2  # independent of the synthesizer's draws and of an attack's
            settings, prototypes = config.feature_alignment, parts.collected
            self.alignment = FeatureAlignment(settings, self.teacher, prototypes, seed, device, context.bf16)

    def prepare(self) -> Preparation | None:
        """No preparation: it learns while it makes batches."""
        return None

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        weight_vector.load_flat_weights(self.student, weights)
        self.student_version = version

    def _aligned(
        self, loss: Tensor, terms: dict[str, Tensor], images: Tensor, classes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss and its terms with those of feature alignment, if it is on; ``classes`` int64 [B], or [B,H,W] of
        pixels, of which an image has the class of most."""
        if self.alignment is None:
            return loss, terms
        more = self.alignment.terms(images, positions.dominant_classes(classes, self.teacher.num_classes))
        return loss + self.alignment.config.weight * more["alignment_loss"], terms | more

    def state_dict(self) -> dict[str, Any]:
        """What every method's state holds."""
        state: dict[str, Any] = {"rng": self.rng.get_state()}
        return state if self.alignment is None else state | {"alignment": self.alignment.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.set_state(state["rng"].cpu())
        if self.alignment is not None:
            self.alignment.load_state_dict(state["alignment"])

    def _finish(
        self, images: Tensor, targets: Tensor, metrics: dict[str, float], figures: dict[str, Tensor] | None = None
    ) -> SyntheticBatch:
        """Rounds to uint8 and evaluates teacher and student on the images as stored (SSD-KD, Algorithm 1, lines 12-14).

        Args:
            figures: further metrics that are still on the device, scalars; they leave it together with the images.
        """
        stored = (images * 255).round_().clamp_(0, 255).to(torch.uint8)
        teacher_logits = self.teacher.logits_of(stored, self.context.bf16)
        priorities = self._priorities(stored, teacher_logits)
        figures = {} if figures is None else figures
        # Logits of whole images are few and are judged where they arrive; maps of logits are judged on the device.
        few = teacher_logits.ndim == 2
        leaving = {"images": stored, "targets": targets}
        if few:
            leaving["logits"] = teacher_logits
        if priorities is not None:
            leaving["priorities"] = priorities
        if figures:
            leaving["figures"] = torch.stack([value.double() for value in figures.values()])
        left = dict(zip(leaving, transfer_out.host_arrays(list(leaving.values())), strict=True))
        return SyntheticBatch.of_judgement(
            self.task.judge(torch.from_numpy(left["logits"]) if few else teacher_logits),
            images=left["images"],
            targets=left["targets"],
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.student_version,
            priorities=left.get("priorities"),
            metrics=dict(zip(figures, left["figures"].tolist(), strict=True)) | metrics if figures else metrics,
        )

    def _priorities(self, stored: Tensor, teacher_logits: Tensor) -> Tensor | None:
        temperature = self.context.priority_temperature
        if temperature is None:
            return None
        with torch.no_grad(), precision.autocast(self.device, self.context.bf16):
            student_logits = self.student(self.teacher.normalize(frozen_teacher.pixels_of(stored))).float()
        return distillation.kd_loss_per_sample(student_logits, teacher_logits, temperature)


class LayerLossSynthesizer(InversionSynthesizer):
    """Adds what reads the teacher's layers.

    Attributes:
        bn_scale: by which L_BN is multiplied; None: not known before the first images.

    Raises:
        TeacherError: the teacher lacks the layers that a loss reads.
        ConfigError, TeacherError: see ``InversionSynthesizer``.
    """

    config: LayerLossConfig

    def __init__(self, config: LayerLossConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> None:
        super().__init__(config, parts, context, device)
        self._statistics = bn_statistics.BatchNormStatistics(self.teacher, required=config.reads_batch_norm)
        self._patches = attention_patches.AttentionPatches(self.teacher) if config.patch_weight > 0 else None
        self.bn_scale: float | None = None if config.bn_relative else 1.0

    @contextmanager
    def _reading_layers(self) -> Iterator[None]:
        """The teacher's next forward pass is the one that the losses below read."""
        with self._statistics.capture(), nullcontext() if self._patches is None else self._patches.capture():
            yield

    def _bn_loss(self, like: Tensor, batch: Statistics | None = None, first_weight: float = 1.0) -> Tensor:
        """L_BN times its scale; 0, on the device of ``like``, for a teacher without BatchNorm.

        Args:
            batch: in place of the statistics that were read.
        """
        batch = self._statistics.batch if batch is None else batch
        if not batch:
            return like.new_zeros(())
        loss = inversion.bn_loss(batch, self._statistics.running, first_weight)
        if self.bn_scale is None:
            self.bn_scale = 1 / max(float(loss.detach()), torch.finfo(torch.float32).tiny)
        return self.bn_scale * loss

    def _with_patches(self, loss: Tensor, terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms with the patch-similarity loss, if it is on, and the scale of L_BN, where that is chosen."""
        if self._patches is not None:
            patch_loss = torch.stack([patches.patch_similarity_loss(tokens) for tokens in self._patches.tokens]).sum()
            loss, terms = loss + self.config.patch_weight * patch_loss, terms | {"patch_loss": patch_loss}
        if self.config.bn_relative and self.bn_scale is not None:
            terms = terms | {"bn_scale": torch.tensor(self.bn_scale)}
        return loss, terms

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"bn_scale": self.bn_scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.bn_scale = state["bn_scale"]


class TargetedSynthesizer(LayerLossSynthesizer):
    """Adds the classes that images are aimed at."""

    config: TargetedConfig

    @property
    def _is_gap_aware(self) -> bool:
        return self.config.class_loss == "gap_aware"

    def _draw_targets(self) -> Tensor:
        """int64 [B] on the CPU; balanced, in the order of classes, what does not divide evenly goes to different ones."""
        num, num_classes = self.config.batch_size, self.teacher.num_classes
        if not self.config.balanced_targets:
            return self.task.draw_targets(num, self.rng)
        rest = torch.randperm(num_classes, generator=self.rng)[: num % num_classes]
        return torch.cat([torch.arange(num_classes).repeat(num // num_classes), rest]).sort().values

    def _class_loss(
        self, teacher_logits: Tensor, student_logits: Tensor | None, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        if not self._is_gap_aware:
            return inversion.one_hot_loss(teacher_logits, targets, weights)
        assert student_logits is not None
        return inversion.gap_aware_loss(student_logits, teacher_logits, targets, weights)


def portions(total: int, largest: int) -> list[int]:
    """``total`` in as few parts as possible of at most ``largest``, of nearly one size."""
    count = -(-total // largest)
    return [total // count + (i < total % count) for i in range(count)]

"""KD3: dynamic selection, weighted feature matching and contrast on collected images (Tang et al., NeurIPS 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry
from raydfkd.distillation.objectives.classifier_sharing import with_teachers_classifier

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from raydfkd.augment import mix_style
    from raydfkd.losses import contrastive, feature_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    torch, nn, F = deferred("torch"), deferred("torch.nn"), deferred("torch.nn.functional")
    mix_style = deferred("raydfkd.augment.mix_style")
    contrastive = deferred("raydfkd.losses.contrastive")
    feature_distillation = deferred("raydfkd.losses.feature_distillation")

TEACHERS_SHARE_ENDS = 0.5
"""Completed share of training (epoch 120 of 240) from which the student alone chooses."""


class KD3ObjectiveConfig(ObjectiveConfig):
    """KD3 (Tang et al., NeurIPS 2023): the student learns, with the teacher's classifier, from images that both chose."""

    kind: Literal["kd3"] = "kd3"
    """Name of the objective."""
    confidence: float = Field(0.95, ge=0, lt=1)
    """Images of the most frequent class take part above this probability; those of rarer ones need less."""
    count_momentum: float = Field(0.99, ge=0, lt=1)
    """Share of earlier batches in the running class counts."""
    contrast_weight: float = Field(1e-3, ge=0)
    """Weight of the contrast between an image and itself in another style."""
    contrast_temperature: float = Field(0.3, gt=0)
    """Temperature of the contrast."""
    embedding_dim: int = Field(128, ge=1)
    """Width of the embedding in which images are contrasted."""
    style_alpha: float = Field(0.1, gt=0)
    """Styles are mixed in shares lambda ~ Beta(alpha, alpha)."""


class KD3Objective(Objective):
    """w(x) mean squared difference of the last maps + contrast, over the images chosen, as its code computes them.

    The student is a ``SharedClassifierStudent``, as in SimKD. With t and s the logits of teacher and student, p is the largest
    of softmax(a t + (1 - a) s), with a = 1 - exp(-5 (1 - 1.5 progress)^2) for the first half of training and then 0. An image
    of class k takes part if p > confidence b / (2 - b), where b is the count of class k over the largest count. w is the
    sigmoid of ||s - t||_2, a constant. The contrast is of a linear embedding of the student's pooled features for the image
    and for its MixStyle.

    Ours: the choice is made in each batch, from running class counts, where the paper makes it for all images before each
    epoch; a batch's mean is over the images chosen, which here are fewer than the batch. Embedded are the
    projected features, the backbone's own in the code, whose second contrast, of the teacher's features, trains nothing but
    its own layer and is left out.

    Raises:
        ValueError: the student's last map has another width than the teacher's (a bug of the caller).
    """

    needs = frozenset({"maps"})
    teacher_needs = frozenset({"maps"})
    config: KD3ObjectiveConfig

    def __init__(self, config: KD3ObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        student, teacher = context.student_shapes.maps[-1], context.teacher_shapes.maps[-1]
        if student[0] != teacher[0]:
            raise ValueError(
                f"the student's last map has {student[0]} channels and the teacher's {teacher[0]}: share_classifier first"
            )
        self.trained["embedding"] = nn.Linear(student[0], config.embedding_dim)
        self._choice = nn.Module()
        self._choice.register_buffer("class_counts", torch.zeros(context.num_classes))
        self.trained["choice"] = self._choice

    def perturbed_view(self, view: Tensor, generator: torch.Generator) -> Tensor:
        return mix_style.mix_style(view, self.config.style_alpha, generator)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        assert student.perturbed is not None
        config = self.config
        s, t = student.logits.detach().float(), teacher.logits.float()
        chosen = self._chosen(s, t, float(progress))
        weights = torch.linalg.vector_norm(s - t, dim=1).sigmoid()
        losses = weights * feature_distillation.feature_alignment_per_sample(student.maps[-1], teacher.maps[-1])
        contrast = contrastive.paired_contrastive_loss_per_sample(
            self._embedded(student), self._embedded(student.perturbed), config.contrast_temperature, chosen
        )
        return chosen * (losses + config.contrast_weight * contrast) * (len(s) / chosen.sum().clamp_min(1))

    def _embedded(self, output: NetworkOutput) -> Tensor:
        return F.normalize(self.trained["embedding"](output.maps[-1].mean((2, 3))).float(), dim=1)

    def _chosen(self, s: Tensor, t: Tensor, progress: float) -> Tensor:
        """bool [B]; the class counts move on by this batch."""
        share = teachers_share(progress)
        confidences, classes = (share * t + (1 - share) * s).softmax(1).max(1)
        counts: Tensor = self._choice.class_counts  # type: ignore[assignment]
        counts.mul_(self.config.count_momentum).add_(F.one_hot(classes, len(counts)).sum(0))
        return confidences > class_thresholds(counts, self.config.confidence)[classes]


def teachers_share(progress: float) -> float:
    """a, the share of the teacher's logits in the choice."""
    return 0.0 if progress >= TEACHERS_SHARE_ENDS else 1 - math.exp(-5 * (1 - 1.5 * progress) ** 2)


def class_thresholds(counts_K: Tensor, confidence: float) -> Tensor:
    """[K]: confidence b / (2 - b), with b a class's count over the largest."""
    relative = counts_K / counts_K.max()
    return confidence * relative / (2 - relative)


OBJECTIVE = ObjectiveEntry(
    config=KD3ObjectiveConfig,
    objective=KD3Objective,
    title="KD3: chosen, weighted and contrasted collected images",
    paper="Tang et al., NeurIPS 2023",
    student=with_teachers_classifier,
)

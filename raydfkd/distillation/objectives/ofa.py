"""OFA-KD: exits at the student's stages learn the teacher's logits, so that the two may be of any kind (Hao et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry, stage_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raydfkd.losses import logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    nn = deferred("torch.nn")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class OFAObjectiveConfig(ObjectiveConfig):
    """OFA-KD (Hao et al., NeurIPS 2023): exits at every stage of the student learn the teacher's logits."""

    kind: Literal["ofa"] = "ofa"
    """Name of the objective."""
    temperature: float = Field(1.0, gt=0)
    """Softening T; no factor T squared here."""
    exponent: float = Field(1.0, gt=0)
    """Above 1 it raises the share of the teacher's class in the targets (eps; 1.5 on ImageNet)."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    logit_weight: float = Field(1.0, ge=0)
    """Weight of the student's own logits' term."""
    stage_weight: float = Field(1.0, ge=0)
    """Weight of each stage exit's term."""


class OFAObjective(Objective):
    """w_CE CE + w_L OFA(student's logits) + w_S sum over stages of OFA(exit's logits).

    An exit halves the resolution once for each stage that follows its own (separable convolutions, width doubled, and at last
    the wider of both networks' pooled features), pools, and classifies; the last stage's has a 1x1 convolution instead. Stages
    are the maps but the stem's: 4 of ResNet-18 as published, 3 of a WRN. Ours starts weights as PyTorch does, the official code
    in its own way. The exits are no part of the student.

    Raises:
        ConfigError: the student has no stage after its stem.
    """

    needs = frozenset({"maps"})
    config: OFAObjectiveConfig

    def __init__(self, config: OFAObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        stages = stage_shapes(context.student_shapes, "student", config.kind)
        widths = (stages[-1][0], context.student_shapes.embedding, context.teacher_shapes.embedding)
        width = max(width for width in widths if width is not None)
        self.exits = nn.ModuleList(
            _exit(shape[0], width, len(stages) - 1 - index, context.num_classes) for index, shape in enumerate(stages)
        )
        self.trained["exits"] = self.exits

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        config = self.config
        losses = config.ce_weight * logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        losses = losses + config.logit_weight * self._ofa(student.logits, teacher.logits)
        for leave, stage_map in zip(self.exits, student.maps[1:], strict=True):
            losses = losses + config.stage_weight * self._ofa(leave(stage_map), teacher.logits)
        return losses

    def _ofa(self, student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
        return logit_distillation.ofa_loss_per_sample(
            student_logits_BK, teacher_logits_BK, self.config.exponent, self.config.temperature
        )


def _exit(channels: int, width: int, num_stages_after: int, num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for left in range(num_stages_after, 0, -1):
        layers.append(_separable(channels, width if left == 1 else 2 * channels))
        channels *= 2
    if num_stages_after == 0:
        layers.append(nn.Conv2d(channels, width, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def _separable(in_width: int, out_width: int) -> nn.Sequential:
    """Two depthwise 3x3 and pointwise convolutions; the first halves the resolution."""
    return nn.Sequential(
        nn.Conv2d(in_width, in_width, 3, 2, 1, groups=in_width, bias=False),
        nn.Conv2d(in_width, in_width, 1, bias=False),
        nn.BatchNorm2d(in_width),
        nn.ReLU(),
        nn.Conv2d(in_width, in_width, 3, 1, 1, groups=in_width, bias=False),
        nn.Conv2d(in_width, out_width, 1, bias=False),
        nn.BatchNorm2d(out_width),
        nn.ReLU(),
    )


OBJECTIVE = ObjectiveEntry(
    config=OFAObjectiveConfig,
    objective=OFAObjective,
    title="OFA-KD: exits at every stage",
    paper="Hao et al., NeurIPS 2023",
)

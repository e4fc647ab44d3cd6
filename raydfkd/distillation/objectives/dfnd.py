"""DFND: distillation where the teacher's labels of collected images may be wrong (Chen et al., CVPR 2021)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry, require_classes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.losses import distillation, logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    torch, nn = deferred("torch"), deferred("torch.nn")
    distillation = deferred("raydfkd.losses.distillation")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class DFNDObjectiveConfig(ObjectiveConfig):
    """DFND (Chen et al., CVPR 2021): KL, and a cross-entropy to the teacher's class through a learned matrix of its errors."""

    kind: Literal["dfnd"] = "dfnd"
    """Name of the objective."""
    temperature: float = Field(4.0, gt=0)
    """Softening T of the KL, which is multiplied by T squared."""
    teacher_accuracy: float = Field(0.9523, gt=0, lt=1)
    """The teacher's accuracy on its own task, the matrix's diagonal: give your teacher's; 0.9523 is the published one's on
    CIFAR-10 (0.7774 on CIFAR-100)."""
    noise_lr: float = Field(1e-3, gt=0)
    """Adam rate of the matrix, constant."""


class DFNDObjective(Objective):
    """KL at T + the noise-adapted cross-entropy, each with weight 1.

    Q's diagonal is the teacher's accuracy a, its other entries are (1 - a) times a softmax over the wrong classes of each row,
    learned by an Adam of its own; ours starts them equal. The other half of the method, the choice of images of which the
    teacher is surest, is ``collected.confident``.

    Raises:
        ConfigError: there is one class only.
    """

    config: DFNDObjectiveConfig

    def __init__(self, config: DFNDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        require_classes(context, config.kind)
        weights = torch.zeros(context.num_classes, context.num_classes)
        self.trained["noise"] = nn.ParameterDict({"weights": nn.Parameter(weights)})

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trained.parameters(), lr=self.config.noise_lr)

    def log_noise(self) -> Tensor:
        """log Q, float32 [K,K]; rows are true classes, columns the teacher's."""
        weights = self.trained["noise"].get_parameter("weights")
        accuracy = self.config.teacher_accuracy
        diagonal = torch.eye(len(weights), dtype=torch.bool, device=weights.device)
        wrong = weights.masked_fill(diagonal, -math.inf).log_softmax(1) + math.log(1 - accuracy)
        return wrong.masked_fill(diagonal, math.log(accuracy))

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        soft = distillation.kd_loss_per_sample(student.logits, teacher.logits, self.config.temperature)
        return soft + logit_distillation.noise_adapted_loss_per_sample(student.logits, teacher.logits, self.log_noise())


OBJECTIVE = ObjectiveEntry(
    config=DFNDObjectiveConfig,
    objective=DFNDObjective,
    title="DFND: KL and a learned matrix of the teacher's errors",
    paper="Chen et al., CVPR 2021",
)

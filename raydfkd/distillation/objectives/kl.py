"""KL to the teacher at a temperature: its probabilities, or its predicted class, smoothed or not (Hinton et al., 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveEntry

if TYPE_CHECKING:
    from torch import Tensor

    from raydfkd.losses import distillation, logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    distillation = deferred("raydfkd.losses.distillation")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class KLObjectiveConfig(ObjectiveConfig):
    """KL(teacher || student) at a temperature, times its square."""

    kind: Literal["kl"] = "kl"
    """Name of the objective."""
    temperature: float = Field(20.0, gt=0)
    """Softening T; the loss is multiplied by T squared."""
    teacher_output: Literal["soft", "one_hot", "smoothed"] = "soft"
    """The student's targets: the teacher's probabilities, its predicted class, or its predicted class with a share
    label_smoothing spread evenly over all classes (the last two with temperature 1)."""
    label_smoothing: float = Field(0.1, gt=0, lt=1)
    """teacher_output smoothed: that share."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> KLObjectiveConfig:
        if self.teacher_output != "soft" and self.temperature != 1:
            raise ValueError(f"teacher_output {self.teacher_output} is not softened: set temperature to 1")
        if self.teacher_output != "smoothed":
            self.refuse_idle(f"teacher_output {self.teacher_output}", "label_smoothing")
        return self

    @property
    def hard_label_smoothing(self) -> float | None:
        """Share of the hard label that is spread over all classes; None: the teacher's probabilities are learnt."""
        return {"soft": None, "one_hot": 0.0, "smoothed": self.label_smoothing}[self.teacher_output]

    @property
    def first_priority_temperature(self) -> float | None:
        return self.temperature if self.teacher_output == "soft" and self.self_pacing is None else None


class KLObjective(Objective):
    """KL alone."""

    config: KLObjectiveConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        smoothing = self.config.hard_label_smoothing
        if smoothing is None:
            return distillation.kd_loss_per_sample(student.logits, teacher.logits, self.config.temperature)
        return logit_distillation.smoothed_label_kl_per_sample(student.logits, teacher.logits, smoothing)


OBJECTIVE = ObjectiveEntry(
    config=KLObjectiveConfig,
    objective=KLObjective,
    title="KL to the teacher at a temperature",
    paper="Hinton et al., 2015",
)

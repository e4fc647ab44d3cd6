"""Settings of the student objectives, as published by default. No torch here: the configuration tree imports this file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DKD_WARMUP_FRACTION = 20 / 240
"""DKD's 20 of 240 epochs."""


class ObjectiveSettings(BaseModel):
    """What every objective has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """Name of the objective."""


class KLObjectiveConfig(ObjectiveSettings):
    """KL(teacher || student) at a temperature, times its square."""

    kind: Literal["kl"] = "kl"
    """Name of the objective."""
    temperature: float = Field(20.0, gt=0)
    """Softening T; the loss is multiplied by T squared."""
    teacher_output: Literal["soft", "one_hot", "smoothed"] = "soft"
    """What the student learns of the teacher's answer: all its probabilities, its choice alone, or its choice with a share
    label_smoothing spread evenly over all classes (the last two with temperature 1)."""
    label_smoothing: float = Field(0.1, gt=0, lt=1)
    """teacher_output smoothed: that share."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> KLObjectiveConfig:
        if self.teacher_output != "soft" and self.temperature != 1:
            raise ValueError(f"teacher_output {self.teacher_output} is not softened: set temperature to 1")
        # Not by model_fields_set: a saved experiment holds every field, and must run again.
        default = KLObjectiveConfig.model_fields["label_smoothing"].default
        if self.teacher_output != "smoothed" and self.label_smoothing != default:
            raise ValueError(f"teacher_output {self.teacher_output} does not use label_smoothing: leave it out")
        return self

    @property
    def hard_label_smoothing(self) -> float | None:
        """Share of the hard label that is spread over all classes; None: the teacher's probabilities are learnt."""
        return {"soft": None, "one_hot": 0.0, "smoothed": self.label_smoothing}[self.teacher_output]


class VanillaKDObjectiveConfig(ObjectiveSettings):
    """Hinton et al. 2015: cross-entropy to the teacher's choice plus KL at a temperature."""

    kind: Literal["vanilla_kd"] = "vanilla_kd"
    """Name of the objective."""
    temperature: float = Field(4.0, gt=0)
    """Softening T of the KL term, which is multiplied by T squared."""
    ce_weight: float = Field(0.1, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    kl_weight: float = Field(0.9, ge=0)
    """Weight of the KL term."""


class SemCKDObjectiveConfig(ObjectiveSettings):
    """SemCKD (Chen et al., AAAI 2021): each stage of the student learns from the stages of the teacher that suit it."""

    kind: Literal["semckd"] = "semckd"
    """Name of the objective."""
    temperature: float = Field(4.0, gt=0)
    """Softening T of the KL term, which is multiplied by T squared."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight of the KL term."""
    feature_weight: float = Field(400.0, ge=0)
    """Weight of the stage maps' term (50 on ImageNet)."""
    attention_temperature: float = Field(1.0, gt=0)
    """Softening of the attention over the teacher's stages."""


class CorrelationObjectiveConfig(ObjectiveSettings):
    """CC (Peng et al., ICCV 2019) in RepDistiller's form: the errors of neighbours in a batch should not correlate."""

    kind: Literal["correlation"] = "correlation"
    """Name of the objective."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    correlation_weight: float = Field(0.02, ge=0)
    """Weight of the correlation term."""
    embedding_dim: int = Field(128, ge=1)
    """Width to which both networks' pooled features are projected."""


class DKDObjectiveConfig(ObjectiveSettings):
    """DKD (Zhao et al., CVPR 2022): KL split into the teacher's class and the other classes, weighted independently."""

    kind: Literal["dkd"] = "dkd"
    """Name of the objective."""
    temperature: float = Field(4.0, gt=0)
    """Softening T; both parts are multiplied by T squared."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    target_weight: float = Field(1.0, ge=0)
    """Weight of the part about the teacher's class (alpha)."""
    non_target_weight: float = Field(8.0, ge=0)
    """Weight of the part about the other classes (beta; 6 for VGG)."""
    warmup_fraction: float = Field(DKD_WARMUP_FRACTION, ge=0, le=1)
    """Share of the training over which both parts grow linearly to their weights."""


class RKDObjectiveConfig(ObjectiveSettings):
    """RKD (Park et al., CVPR 2019): distances and angles between the pooled features of a batch."""

    kind: Literal["rkd"] = "rkd"
    """Name of the objective."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    distance_weight: float = Field(25.0, ge=0)
    """Weight of the distances' term."""
    angle_weight: float = Field(50.0, ge=0)
    """Weight of the angles' term."""


class CATKDObjectiveConfig(ObjectiveSettings):
    """CAT-KD (Guo et al., CVPR 2023): the class-activation maps of the last stage."""

    kind: Literal["cat_kd"] = "cat_kd"
    """Name of the objective."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    map_weight: float = Field(400.0, ge=0)
    """Weight of the maps' term; published ones differ by pair, and are about 1 to 5 if maps are not normalised."""
    normalize: bool = True
    """Scale each class's pooled map to length 1 first."""
    resolution: int = Field(2, ge=1)
    """Pixels a side to which maps are pooled first (4 on ImageNet)."""


class NKDObjectiveConfig(ObjectiveSettings):
    """NKD (Yang et al., ICCV 2023): the teacher's class weighted by its probability, the others renormalised."""

    kind: Literal["nkd"] = "nkd"
    """Name of the objective."""
    temperature: float = Field(1.0, gt=0)
    """Softening T of the other classes' part, which is multiplied by T squared."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    non_target_weight: float = Field(1.5, ge=0)
    """Weight of the other classes' part (gamma)."""


class OFAObjectiveConfig(ObjectiveSettings):
    """OFA-KD (Hao et al., NeurIPS 2023): exits at every stage of the student learn the teacher's logits."""

    kind: Literal["ofa"] = "ofa"
    """Name of the objective."""
    temperature: float = Field(1.0, gt=0)
    """Softening T; no factor T squared here."""
    exponent: float = Field(1.0, gt=0)
    """Above 1 it raises the share of the teacher's class in the targets (eps; 1.5 on ImageNet)."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher chooses."""
    logit_weight: float = Field(1.0, ge=0)
    """Weight of the student's own logits' term."""
    stage_weight: float = Field(1.0, ge=0)
    """Weight of each stage exit's term."""


class ClassifierSharingObjectiveConfig(ObjectiveSettings):
    """HiDFD's student stage (SimKD): the student's projected features meet the teacher's, and use the teacher's classifier."""

    kind: Literal["classifier_sharing"] = "classifier_sharing"
    """Name of the objective."""
    alignment: Literal["maps", "pooled"] = "maps"
    """maps: mean squared difference of the last maps (SimKD, HiDFD's code); pooled: L2 distance of the pooled ones (Eq. 14)."""


ObjectiveConfig = Annotated[
    KLObjectiveConfig
    | VanillaKDObjectiveConfig
    | SemCKDObjectiveConfig
    | CorrelationObjectiveConfig
    | DKDObjectiveConfig
    | RKDObjectiveConfig
    | CATKDObjectiveConfig
    | NKDObjectiveConfig
    | OFAObjectiveConfig
    | ClassifierSharingObjectiveConfig,
    Field(discriminator="kind"),
]
"""Any of them, told apart by ``kind``."""

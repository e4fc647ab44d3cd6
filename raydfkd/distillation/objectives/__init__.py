"""What a student minimises, by name: each objective's settings, where it was published, and how to build it.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from raydfkd.distillation.objectives.config import ObjectiveConfig
from raydfkd.registry import Registry

if TYPE_CHECKING:
    from raydfkd.distillation.objectives.base import FeatureShapes, Objective


def _class(module: str, name: str) -> Callable[[], type[Objective]]:
    def load() -> type[Objective]:
        return getattr(import_module(f"raydfkd.distillation.objectives.{module}"), name)

    return load


@dataclass(frozen=True)
class ObjectiveEntry:
    """A student objective.

    Attributes:
        load: imports and returns its class (torch is imported only then), whose ``needs`` and ``teacher_needs`` say what it
            reads of the two networks.
        title, paper: for people.
    """

    load: Callable[[], type[Objective]]
    title: str
    paper: str


OBJECTIVES: Registry[ObjectiveEntry] = Registry("objective")
for _kind, _entry in {
    "kl": ObjectiveEntry(_class("logits", "KLObjective"), "KL to the teacher at a temperature", "Hinton et al., 2015"),
    "vanilla_kd": ObjectiveEntry(_class("logits", "VanillaKDObjective"), "cross-entropy and KL", "Hinton et al., 2015"),
    "semckd": ObjectiveEntry(
        _class("semckd", "SemCKDObjective"), "SemCKD: attention over the teacher's stages", "Chen et al., AAAI 2021"
    ),
    "correlation": ObjectiveEntry(
        _class("relational", "CorrelationObjective"), "CC: correlation congruence", "Peng et al., ICCV 2019"
    ),
    "dkd": ObjectiveEntry(_class("logits", "DKDObjective"), "DKD: decoupled KL", "Zhao et al., CVPR 2022"),
    "rkd": ObjectiveEntry(
        _class("relational", "RKDObjective"), "RKD: distances and angles in a batch", "Park et al., CVPR 2019"
    ),
    "cat_kd": ObjectiveEntry(
        _class("class_attention", "CATKDObjective"), "CAT-KD: class-activation maps", "Guo et al., CVPR 2023"
    ),
    "nkd": ObjectiveEntry(_class("logits", "NKDObjective"), "NKD: normalised KD", "Yang et al., ICCV 2023"),
    "ofa": ObjectiveEntry(_class("one_for_all", "OFAObjective"), "OFA-KD: exits at every stage", "Hao et al., NeurIPS 2023"),
    "classifier_sharing": ObjectiveEntry(
        _class("alignment", "ClassifierSharingObjective"),
        "HiDFD's student stage: the teacher's classifier on aligned features",
        "Chen et al., CVPR 2022",
    ),
}.items():
    OBJECTIVES.add(_kind, _entry)


def build_objective(
    config: ObjectiveConfig,
    student_shapes: FeatureShapes,
    teacher_shapes: FeatureShapes,
    num_classes: int,
    batch_size: int,
) -> Objective:
    """A new objective, in training mode; trainable parts are drawn from torch's global random generator.

    Args:
        student_shapes, teacher_shapes: of the features that the two networks will give.
        batch_size: samples of one forward pass (one worker's part of a batch). SemCKD cannot take any other number.

    Raises:
        ConfigError: the networks have not what the objective needs.
    """
    from raydfkd.distillation.objectives.base import ObjectiveContext

    context = ObjectiveContext(student_shapes, teacher_shapes, num_classes, batch_size)
    return OBJECTIVES.get(config.kind).load()(config, context)

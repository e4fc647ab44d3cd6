"""What a student minimises, by name. Importing this imports no torch.

An objective of ours is one file here and one line below; another package adds one by the entry-point group
``raydfkd.objectives``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry
from raydfkd.registry import Registry

if TYPE_CHECKING:
    from raydfkd.models.network_output import FeatureShapes

OBJECTIVES: Registry[ObjectiveEntry] = Registry("objective", ObjectiveEntry, "raydfkd.objectives")
OBJECTIVES.add("kl", "raydfkd.distillation.objectives.kl:OBJECTIVE")
OBJECTIVES.add("l1", "raydfkd.distillation.objectives.l1:OBJECTIVE")
OBJECTIVES.add("vanilla_kd", "raydfkd.distillation.objectives.vanilla_kd:OBJECTIVE")
OBJECTIVES.add("semckd", "raydfkd.distillation.objectives.semckd:OBJECTIVE")
OBJECTIVES.add("correlation", "raydfkd.distillation.objectives.correlation:OBJECTIVE")
OBJECTIVES.add("dkd", "raydfkd.distillation.objectives.dkd:OBJECTIVE")
OBJECTIVES.add("rkd", "raydfkd.distillation.objectives.rkd:OBJECTIVE")
OBJECTIVES.add("cat_kd", "raydfkd.distillation.objectives.cat_kd:OBJECTIVE")
OBJECTIVES.add("nkd", "raydfkd.distillation.objectives.nkd:OBJECTIVE")
OBJECTIVES.add("ofa", "raydfkd.distillation.objectives.ofa:OBJECTIVE")
OBJECTIVES.add("attention_transfer", "raydfkd.distillation.objectives.attention_transfer:OBJECTIVE")
OBJECTIVES.add("msarc", "raydfkd.distillation.objectives.msarc:OBJECTIVE")
OBJECTIVES.add("classifier_sharing", "raydfkd.distillation.objectives.classifier_sharing:OBJECTIVE")
OBJECTIVES.add("dfnd", "raydfkd.distillation.objectives.dfnd:OBJECTIVE")
OBJECTIVES.add("kd3", "raydfkd.distillation.objectives.kd3:OBJECTIVE")

DEFAULT_KIND = "kl"
"""What is minimised by default."""

if TYPE_CHECKING:
    AnyObjective = ObjectiveConfig
else:
    AnyObjective = OBJECTIVES.union("kind")
"""Settings of any objective, distinguished by ``kind``."""


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
        batch_size: samples of one forward pass, for objectives that can take no other number: one worker's part of one
            accumulation part of the batch.

    Raises:
        ConfigError: the networks do not have what the objective needs.
    """
    context = ObjectiveContext(student_shapes, teacher_shapes, num_classes, batch_size)
    return OBJECTIVES.get(config.kind).objective(config, context)

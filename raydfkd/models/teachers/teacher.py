"""The teacher as the rest of the package uses it: built, frozen, audited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raydfkd.errors import ConfigError
from raydfkd.models.catalog import EXPORTED_SUFFIX, build_classifier
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.exported import load_exported
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher, Normalization, pixels_of
from raydfkd.models.teachers.teacher_audit import TeacherAudit, audit_teacher, require_batch_norm, require_input_gradient
from raydfkd.models.weights import load_weights

__all__ = [
    "FrozenTeacher",
    "Normalization",
    "TeacherAudit",
    "audit_teacher",
    "build_teacher",
    "pixels_of",
    "require_batch_norm",
    "require_input_gradient",
]


def build_teacher(
    model: str,
    num_classes: int,
    image_shape: ImageShape,
    mean: Sequence[float],
    std: Sequence[float],
    checkpoint: Path | None,
    classifier_head: str | None = None,
    feature_layers: Sequence[str] | None = None,
) -> FrozenTeacher:
    """Builds the network ``model``, loads ``checkpoint`` into it if there is one, and freezes it. Without one, ``hf:`` brings
    the weights in its folder.

    Args:
        model: any name accepted by :func:`build_classifier`, or the path of a torch.export file, which ends in ``.pt2``.

    Raises:
        UnknownNameError, ConfigError: the model's name or shape is wrong.
        CheckpointError: the weights cannot be loaded.
        TeacherError: the parts are inconsistent.
    """
    if model.endswith(EXPORTED_SUFFIX):
        if checkpoint is not None:
            raise ConfigError(f"the teacher {model} holds its own weights; leave out the checkpoint {checkpoint}")
        return FrozenTeacher(load_exported(model), num_classes, image_shape, mean, std, classifier_head, feature_layers)
    network = build_classifier(model, num_classes, image_shape, pretrained=checkpoint is None)
    if checkpoint is not None:
        load_weights(network, checkpoint)
    return FrozenTeacher(network, num_classes, image_shape, mean, std, classifier_head, feature_layers)

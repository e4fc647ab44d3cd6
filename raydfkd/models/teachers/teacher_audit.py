"""A teacher's capabilities, determined by running it on random images before anything is started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from raydfkd.errors import TeacherError
from raydfkd.models.exported import ExportedClassifier
from raydfkd.models.teachers.bn_statistics import batch_norm_layers
from raydfkd.models.teachers.frozen_teacher import PROBE_BATCH_SIZE, FrozenTeacher
from raydfkd.models.teachers.teacher_warnings import warnings_of

AUDIT_BATCH_SIZE = PROBE_BATCH_SIZE


@dataclass(frozen=True)
class TeacherAudit:
    """The findings.

    Attributes:
        num_params: weights of the network, buffers not counted.
        normalization_layers: how many layers of each normalising type, by class name.
        has_batch_norm: whether a BatchNorm layer with running statistics can be read.
        input_gradient: whether the logits have a finite gradient with respect to the images that is not zero.
        deterministic: whether the same images give the same logits bit for bit.
        feature_dim: width of the penultimate features, None if they cannot be read.
        finite: whether all weights, buffers and logits are finite (an audit that finds otherwise raises).
        notes: what else a user should know, one sentence each.
        warnings: what looks wrong, one sentence each.
        sha256: of the weights, buffers and normalisation.
    """

    num_params: int
    normalization_layers: dict[str, int]
    has_batch_norm: bool
    input_gradient: bool
    deterministic: bool
    feature_dim: int | None
    finite: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    sha256: str

    def table(self) -> list[tuple[str, str]]:
        """Rows of (what, finding), for display."""
        layers = ", ".join(f"{count} {name}" for name, count in sorted(self.normalization_layers.items()))
        rows = [
            ("parameters", f"{self.num_params:,}"),
            ("normalisation layers", layers or "none"),
            ("BatchNorm statistics", _yes_no(self.has_batch_norm)),
            ("gradient to the images", _yes_no(self.input_gradient)),
            ("deterministic", _yes_no(self.deterministic)),
            ("penultimate features", "not readable" if self.feature_dim is None else str(self.feature_dim)),
            ("finite", _yes_no(self.finite)),
            ("sha256", self.sha256),
        ]
        rows += [("note", note) for note in self.notes]
        return rows + [("warning", warning) for warning in self.warnings]


def audit_teacher(teacher: FrozenTeacher) -> TeacherAudit:
    """Runs the teacher on a few uniform random images (a fixed seed) and reports its capabilities.

    Raises:
        TeacherError: it cannot take such images, gives another number of classes, or gives NaN or infinity.
    """
    images = _random_images(teacher)
    with torch.no_grad():
        logits = _logits(teacher, images)
        _require_classes(teacher, logits)
        _require_finite(teacher, logits)
        deterministic = bool(torch.equal(logits, teacher(images)))
    input_gradient = _has_input_gradient(teacher, images)
    feature_dim = _feature_dim(teacher, images)
    return TeacherAudit(
        num_params=sum(p.numel() for p in teacher.model.parameters()),
        normalization_layers=_normalization_layers(teacher.model),
        has_batch_norm=bool(batch_norm_layers(teacher.model)),
        input_gradient=input_gradient,
        deterministic=deterministic,
        feature_dim=feature_dim,
        finite=True,
        notes=_notes(teacher, input_gradient, feature_dim),
        warnings=tuple(warnings_of(teacher, images, logits.float(), deterministic)),
        sha256=teacher.state_sha256(),
    )


def require_batch_norm(audit: TeacherAudit, method: str) -> None:
    """Raises TeacherError if ``method`` needs BatchNorm statistics that the teacher lacks."""
    if audit.has_batch_norm:
        return
    layers = ", ".join(sorted(audit.normalization_layers)) or "no normalisation layer that can be read"
    raise TeacherError(
        f"method {method!r} matches BatchNorm statistics, but this teacher has {layers}; set the source's bn_weight to 0, "
        "or choose a method without that loss"
    )


def require_input_gradient(audit: TeacherAudit, method: str) -> None:
    """Raises TeacherError if ``method`` optimises images through a teacher that gives no gradient."""
    if not audit.input_gradient:
        raise TeacherError(
            f"method {method!r} needs the gradient of the teacher's logits to its images, which this teacher lacks"
        )


def _random_images(teacher: FrozenTeacher) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(AUDIT_BATCH_SIZE, *teacher.image_shape, generator=generator)
    return images.to(teacher.normalization.mean.device)


def _logits(teacher: FrozenTeacher, images: torch.Tensor) -> torch.Tensor:
    try:
        logits = teacher(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        expected = next((m.in_channels for m in teacher.model.modules() if isinstance(m, nn.Conv2d)), None)
        channels, height, width = teacher.image_shape
        if expected is not None and expected != channels:
            raise TeacherError(
                f"the teacher takes {expected}-channel images, the task has {channels} channels; change one of them"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TeacherError(
            f"the teacher cannot take {AUDIT_BATCH_SIZE} images of shape ({channels}, {height}, {width}): {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise TeacherError(f"the teacher gives a {type(logits).__name__}; it must give one tensor of logits")
    return logits


def _require_classes(teacher: FrozenTeacher, logits: torch.Tensor) -> None:
    if logits.ndim < 2 or logits.shape[0] != AUDIT_BATCH_SIZE:
        raise TeacherError(f"the teacher gives {list(logits.shape)} for {AUDIT_BATCH_SIZE} images; it must give logits [B,K]")
    if logits.shape[1] != teacher.num_classes:
        raise TeacherError(f"the teacher has {logits.shape[1]} classes, the task has {teacher.num_classes}; change one of them")


def _require_finite(teacher: FrozenTeacher, logits: torch.Tensor) -> None:
    broken = [n for n, t in teacher.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if broken:
        raise TeacherError(
            f"the teacher's weights hold NaN or infinity ({len(broken)} tensors, first {broken[0]!r}); use another checkpoint"
        )
    if not torch.isfinite(logits).all():
        raise TeacherError(
            "the teacher gives NaN or infinite logits for images in [0,1]; check its checkpoint and normalization"
        )


def _has_input_gradient(teacher: FrozenTeacher, images: torch.Tensor) -> bool:
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = teacher(images)
        if not logits.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(logits.float().square().sum(), images, allow_unused=True)
    return gradient is not None and bool(torch.isfinite(gradient).all() and gradient.abs().sum() > 0)


def _feature_dim(teacher: FrozenTeacher, images: torch.Tensor) -> int | None:
    if not teacher.has_classifier_head:
        return None
    with torch.no_grad():
        return int(teacher.forward_features(images)[1].shape[1])


def _normalization_layers(model: nn.Module) -> dict[str, int]:
    names = (type(m).__name__ for m in model.modules() if not list(m.children()))
    return dict(Counter(name for name in names if "Norm" in name))


def _notes(teacher: FrozenTeacher, input_gradient: bool, feature_dim: int | None) -> tuple[str, ...]:
    notes = []
    if isinstance(teacher.model, ExportedClassifier):
        notes.append("an exported program: its layers cannot be read, so no BatchNorm statistics and no features")
    elif feature_dim is None:
        notes.append("no Linear layer gives the logits; name the classifier_head to use its features")
    if not input_gradient:
        notes.append("no gradient reaches the images: methods that optimise images or a generator cannot use it")
    if teacher.output_kind == "probabilities":
        notes.append("a softmax at its end gives probabilities: their logarithms are used, as good as its logits")
    elif teacher.output_kind == "log probabilities":
        notes.append("a log-softmax at its end gives logarithms of probabilities, which are logits too")
    return tuple(notes)


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"

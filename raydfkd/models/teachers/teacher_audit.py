"""A teacher's capabilities, determined by running it on random images before anything is started."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from raydfkd.errors import RaydfkdError, TeacherError, described
from raydfkd.models.exported import ExportedClassifier, ScriptedClassifier
from raydfkd.models.external import WRAP
from raydfkd.models.network_output import output_described
from raydfkd.models.teachers.attention_patches import attention_layers
from raydfkd.models.teachers.bn_statistics import batch_norm_layers
from raydfkd.models.teachers.frozen_teacher import PROBE_BATCH_SIZE, FrozenTeacher
from raydfkd.models.teachers.teacher_warnings import warnings_of

AUDIT_BATCH_SIZE = PROBE_BATCH_SIZE


@dataclass(frozen=True)
class TeacherAudit:
    """The findings.

    Attributes:
        num_params: weights of the network, buffers not counted.
        normalization_layers: how many layers of each normalising type its forward pass calls, by class name.
        has_batch_norm: whether a BatchNorm layer with running statistics can be read.
        attention_layers: those over patches, by name.
        uncalled_batch_norm: BatchNorm layers that its forward pass does not call, by name.
        input_gradient: whether the logits have a finite gradient with respect to the images that is not zero.
        no_gradient_because: the reason, where that is an error.
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
    attention_layers: tuple[str, ...]
    uncalled_batch_norm: tuple[str, ...]
    input_gradient: bool
    no_gradient_because: str | None
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
            *([("attention over patches", f"{len(self.attention_layers)} layers")] if self.attention_layers else []),
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
    input_gradient, reason = _input_gradient(teacher, images)
    feature_dim = _feature_dim(teacher, images)
    batch_norm = batch_norm_layers(teacher)
    uncalled = tuple(name for name in batch_norm_layers(teacher.model) if name not in batch_norm)
    return TeacherAudit(
        num_params=sum(p.numel() for p in teacher.model.parameters()),
        normalization_layers=_normalization_layers(teacher),
        has_batch_norm=bool(batch_norm),
        attention_layers=tuple(attention_layers(teacher)),
        uncalled_batch_norm=uncalled,
        input_gradient=input_gradient,
        no_gradient_because=reason,
        deterministic=deterministic,
        feature_dim=feature_dim,
        finite=True,
        notes=_notes(teacher, input_gradient, feature_dim, uncalled),
        warnings=tuple(warnings_of(teacher, images, logits.float(), deterministic)),
        sha256=teacher.state_sha256(),
    )


def require_batch_norm(audit: TeacherAudit, method: str) -> None:
    """Raises TeacherError if ``method`` needs BatchNorm statistics that the teacher lacks."""
    if audit.has_batch_norm:
        return
    layers = ", ".join(sorted(audit.normalization_layers)) or (
        "no normalisation layer that can be read (BatchNorm folded into convolutions, or inside a program, cannot)"
    )
    if audit.uncalled_batch_norm:
        layers = (
            f"BatchNorm layers, such as {audit.uncalled_batch_norm[0]!r}, that its forward pass does not call (a layer's "
            "forward(x), or F.batch_norm with its buffers, is no call of the layer)"
        )
    raise TeacherError(
        f"method {method!r} matches BatchNorm statistics, but this teacher has {layers}; set the source's bn_weight to 0, "
        "or choose another method: raydfkd doctor names those that suit this teacher"
    )


def require_input_gradient(audit: TeacherAudit, method: str) -> None:
    """Raises TeacherError if ``method`` optimises images through a teacher that gives no gradient."""
    if not audit.input_gradient:
        reason = "" if audit.no_gradient_because is None else f" ({audit.no_gradient_because})"
        raise TeacherError(
            f"method {method!r} needs the gradient of the teacher's logits to its images, which this teacher lacks{reason}: "
            "choose a method that needs none (raydfkd methods), or a teacher in plain float operations"
        )


def require_positions(teacher: FrozenTeacher, positions: tuple[int, ...]) -> None:
    """Raises TeacherError if its logits do not have these axes behind the classes."""
    if teacher.positions == positions:
        return
    gives, needed = ([AUDIT_BATCH_SIZE, teacher.num_classes, *axes] for axes in (teacher.positions, positions))
    what = "one class for each image" if not positions else "one class for each pixel of the images"
    raise TeacherError(
        f"the teacher gives logits {gives} for {AUDIT_BATCH_SIZE} images, and the task has {what}, logits {needed}: change "
        "task.kind or the teacher"
        + (", or interpolate its logits to the images' size" if teacher.positions and positions else "")
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
        reason = described(error).removeprefix(f"{type(error).__name__}: ")
        raise TeacherError(
            f"the teacher cannot take {AUDIT_BATCH_SIZE} images of shape ({channels}, {height}, {width}): {reason}"
        ) from error
    except RaydfkdError:
        raise
    except Exception as error:
        raise TeacherError(f"the teacher does not take a tensor of images: {described(error)}; {WRAP}") from error
    if not isinstance(logits, torch.Tensor):
        raise TeacherError(f"the teacher gives {output_described(logits)}; it must give one tensor of logits")
    return logits


def _require_classes(teacher: FrozenTeacher, logits: torch.Tensor) -> None:
    if logits.ndim < 2 or logits.shape[0] != AUDIT_BATCH_SIZE:
        raise TeacherError(
            f"the teacher gives {output_described(logits)} for {AUDIT_BATCH_SIZE} images; it must give logits [B,K]"
        )
    if logits.shape[1] != teacher.num_classes:
        raise TeacherError(f"the teacher has {logits.shape[1]} classes, the task has {teacher.num_classes}; change one of them")


def _require_finite(teacher: FrozenTeacher, logits: torch.Tensor) -> None:
    tensors = {n: t for n, t in teacher.state_dict().items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
    broken = [n for n, t in tensors.items() if not torch.isfinite(t).all()]
    if broken:
        raise TeacherError(
            f"the teacher's weights hold NaN or infinity ({len(broken)} tensors, first {broken[0]!r}); use another checkpoint"
        )
    if not torch.isfinite(logits).all():
        raise TeacherError(
            "the teacher gives NaN or infinite logits for images in [0,1]; check its checkpoint and normalization"
        )


def _input_gradient(teacher: FrozenTeacher, images: torch.Tensor) -> tuple[bool, str | None]:
    """Whether there is one, and if an operation without a derivative raises an error, which."""
    images = images.clone().requires_grad_()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*an autograd kernel was not registered", category=UserWarning)
            logits = teacher(images)
            if not logits.requires_grad:
                return False, None
            (gradient,) = torch.autograd.grad(logits.float().square().sum(), images, allow_unused=True)
    except Exception as error:  # a forward pass without gradient has just worked
        return False, described(error)
    return gradient is not None and bool(torch.isfinite(gradient).all() and gradient.abs().sum() > 0), None


def _feature_dim(teacher: FrozenTeacher, images: torch.Tensor) -> int | None:
    if not teacher.has_classifier_head:
        return None
    with torch.no_grad():
        return int(teacher.forward_features(images)[1].shape[1])


def _normalization_layers(teacher: FrozenTeacher) -> dict[str, int]:
    """Those with a name that says so, innermost: a block of a convolution and its BatchNorm may be named after both."""
    layers = dict(teacher.model.named_modules())
    called = [layers[name] for name in (layers if teacher.executed is None else teacher.executed)]
    named = [layer for layer in called if "Norm" in type(layer).__name__]
    return dict(Counter(type(x).__name__ for x in named if not any("Norm" in type(y).__name__ for y in _inside(x))))


def _inside(layer: nn.Module) -> list[nn.Module]:
    return [inner for inner in layer.modules() if inner is not layer]


def _notes(teacher: FrozenTeacher, input_gradient: bool, feature_dim: int | None, uncalled: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if isinstance(teacher.model, ExportedClassifier | ScriptedClassifier):
        kind = "an exported" if isinstance(teacher.model, ExportedClassifier) else "a TorchScript"
        notes.append(f"{kind} program: its layers cannot be read, so no BatchNorm statistics and no features")
    elif feature_dim is None:
        notes.append("no Linear layer gives the logits; name the classifier_head to use its features")
    if not input_gradient:
        notes.append("no gradient reaches the images: methods that optimise images or a generator cannot use it")
    if teacher.output_kind == "probabilities":
        notes.append("a softmax at its end gives probabilities: their logarithms are used, as good as its logits")
    elif teacher.output_kind == "log probabilities":
        notes.append("a log-softmax at its end gives logarithms of probabilities, which are logits too")
    elif teacher.output_kind in ("one logit", "one probability"):
        notes.append(f"{teacher.output_kind} for two classes, taken as that of class 1: both classes' logits are made of it")
    if uncalled:
        notes.append(f"BatchNorm layers that its forward pass does not call do not count: {_some(uncalled)}")
    return tuple(notes)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"

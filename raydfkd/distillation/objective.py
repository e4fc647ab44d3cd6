"""The parts of a student objective: settings, a registry entry, and a class that computes one loss per sample.

An objective is one file with these three, which must not import torch at import time (``raydfkd.deferred``), since the
settings tree is built from all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError
from raydfkd.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.losses import distillation
    from raydfkd.models.network_output import Feature, FeatureShapes, NetworkOutput
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    nn, distillation = deferred("torch.nn"), deferred("raydfkd.losses.distillation")


class SelfPacingConfig(Settings):
    """CuDFKD's easy-to-hard weight of each image (Li et al., 2022): v = (1 + e^-lambda) / (1 + e^(loss - lambda)).

    The weighted losses are also the new priorities, so that prioritized replay comes to hard images when they count. The
    published lambda grows by 1e-4 (CIFAR-10) or 2e-5 with each step, 6 or 1.2 in 60,000 of them; here evenly from start to end.
    """

    start: float = Field(1.0, ge=0)
    """lambda at the first step, in the objective's own units (1 to 2.2 as published, for L1 of logits)."""
    end: float = Field(7.0, ge=0)
    """lambda at the last step."""

    def threshold(self, progress: float | Tensor) -> float | Tensor:
        """lambda after this share of training."""
        return self.start + (self.end - self.start) * progress


class ObjectiveConfig(Settings):
    """Settings of an objective; the defaults are the published values."""

    kind: str
    """Name of the objective."""
    self_pacing: SelfPacingConfig | None = None
    """Weigh each image's loss by how easy it is, hard ones from late in training on; null: all alike."""

    @property
    def first_priority_temperature(self) -> float | None:
        """T if the loss is exactly the KD loss at T, so that a synthesizer, which knows nothing else of the objective, can give
        its images an initial priority (SSD-KD Eq. 4) on the scale of later ones. None: images start with the largest priority
        of their table."""
        return None


class StudentLayers(Protocol):
    """What an entry's ``student`` may read from a student's settings: the names of layers (see ``StudentConfig``)."""

    @property
    def feature_layers(self) -> tuple[str, ...] | None: ...

    @property
    def classifier_head(self) -> str | None: ...


@dataclass(frozen=True)
class ObjectiveEntry:
    """An objective in the registry.

    Attributes:
        config: its settings; their field ``kind`` is a Literal of the name under which it is registered.
        objective: its class, whose ``needs`` and ``teacher_needs`` say what it reads of the two networks.
        title, paper: for display.
        student: (the student's network as configured, the teacher, the student's settings) to the network that is trained for
            this objective, whose new layers are drawn from torch's global random generator. Layer names in the
            settings refer to the former. None: the network is unchanged.
    """

    config: type[ObjectiveConfig]
    objective: type[Objective]
    title: str
    paper: str
    student: Callable[[nn.Module, FrozenTeacher, StudentLayers], nn.Module] | None = None


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective is built from.

    Attributes:
        student_shapes, teacher_shapes: of the features it will receive.
        batch_size: samples of one forward pass, which are one worker's part of one accumulation part of the batch.
    """

    student_shapes: FeatureShapes
    teacher_shapes: FeatureShapes
    num_classes: int
    batch_size: int


class Objective:
    """Per-sample losses of a student.

    Always one value per sample: the buffer's importance weights multiply them, and the weighted values are the next priorities
    (SSD-KD Eq. 4). Where y appears it is the teacher's argmax, since there are no labels.

    Formulas are computed in float32 (``raydfkd.losses``). An objective's own layers run under the networks' autocast on
    unconverted features: with bfloat16 networks, float32 layers would not make the student's gradient more accurate.

    Attributes:
        needs: which of ``maps``, ``embedding`` and ``head`` the student's output must include.
        teacher_needs: the same for the teacher.
        trained: its own layers by name, trained with the student and saved with the run; empty by default.
    """

    needs: ClassVar[frozenset[Feature]] = frozenset()
    teacher_needs: ClassVar[frozenset[Feature]] = frozenset()

    def __init__(self, config: Any, context: ObjectiveContext) -> None:
        self.config = config
        self.trained = nn.ModuleDict()

    def __call__(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        """Losses float32 [B], with gradients only for the student's tensors and the objective's own layers.

        Args:
            progress: completed share of training, in [0,1]; a scalar on the device where the step is a CUDA graph.
        """
        losses = self.losses(student, teacher.detached(), progress)
        pacing: SelfPacingConfig | None = self.config.self_pacing
        if pacing is None:
            return losses
        return distillation.self_paced_weights(losses, pacing.threshold(progress)) * losses

    def build_optimizer(self) -> torch.optim.Optimizer | None:
        """An optimizer with a rate of its own, of all of ``trained``, that steps with the student's; None: the student's has
        them too."""
        return None

    def perturbed_view(self, view: Tensor, generator: torch.Generator) -> Tensor | None:
        """Other images [B,C,H,W] that the student must see besides the normalised ``view``: its output for them is the
        ``perturbed`` one of what the objective is called with. None: no others.

        Args:
            generator: a CPU generator.
        """
        return None

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        """As ``forward`` with a detached teacher; implemented by each objective."""
        raise NotImplementedError


def require_classes(context: ObjectiveContext, kind: str) -> None:
    """Raises ConfigError if there is no class other than y."""
    if context.num_classes < 2:
        raise ConfigError(
            f"objective {kind!r} compares classes with one another: it needs at least 2, got {context.num_classes}"
        )


def stage_shapes(shapes: FeatureShapes, network: str, kind: str) -> tuple[tuple[int, int, int], ...]:
    """(C,H,W) of the stages' outputs, i.e. all maps but the stem's. Raises ConfigError if there are none."""
    if len(shapes.maps) < 2:
        raise ConfigError(
            f"objective {kind!r} compares stages, and the {network} gives {len(shapes.maps)} maps: at least 2 are needed, "
            "a stem's and a stage's; name more layers in its feature_layers"
        )
    return shapes.maps[1:]


def require_pooled_head(shapes: FeatureShapes, network: str, kind: str) -> None:
    """Raises ConfigError if a network has more between its last map and its head than global average pooling."""
    if shapes.maps[-1][0] != shapes.embedding:
        raise ConfigError(
            f"objective {kind!r} applies the head at each pixel of the last map, but the {network}'s head takes "
            f"{shapes.embedding} features and its last map has {shapes.maps[-1][0]} channels: name the layer that is pooled "
            "last in its feature_layers, or take another objective"
        )

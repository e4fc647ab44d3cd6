"""What every student objective is: the outputs of two networks in, one loss a sample out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from raydfkd.errors import ConfigError
from raydfkd.models.features import Feature, FeatureShapes, NetworkOutput

__all__ = ["Feature", "FeatureShapes", "NetworkOutput", "Objective", "ObjectiveContext", "require_classes", "stage_shapes"]


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective is built for.

    Attributes:
        student_shapes, teacher_shapes: of the features that it will be given.
        batch_size: samples of one forward pass.
    """

    student_shapes: FeatureShapes
    teacher_shapes: FeatureShapes
    num_classes: int
    batch_size: int


class Objective(nn.Module):
    """Per-sample losses of a student. Its own parameters, if any, are trained with the student's.

    One value a sample, always: the buffer's importance weights multiply them, and the weighted values are the next priorities
    (SSD-KD Eq. 4). Where y appears it is the teacher's argmax, since there are no labels.

    Attributes:
        needs: which of ``maps``, ``embedding`` and ``head`` the student's output must have.
        teacher_needs: the same of the teacher.
    """

    needs: ClassVar[frozenset[Feature]] = frozenset()
    teacher_needs: ClassVar[frozenset[Feature]] = frozenset()

    def __init__(self, config: Any, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """Losses float32 [B], with gradient in the student's tensors and in the objective's own parameters alone.

        Args:
            progress: share of the training that is done, in [0,1].
        """
        return self.losses(student, teacher.detached(), progress)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """The same of a detached teacher; what each objective defines."""
        raise NotImplementedError


def require_classes(context: ObjectiveContext, kind: str) -> None:
    """Raises ConfigError if there is no class beside y."""
    if context.num_classes < 2:
        raise ConfigError(
            f"objective {kind!r} compares classes with one another: it needs at least 2, got {context.num_classes}"
        )


def stage_shapes(shapes: FeatureShapes, network: str, kind: str) -> tuple[tuple[int, int, int], ...]:
    """(C,H,W) of the stages' outputs, which are the maps but the stem's. Raises ConfigError if there are none."""
    if len(shapes.maps) < 2:
        raise ConfigError(
            f"objective {kind!r} compares stages, and the {network} gives {len(shapes.maps)} maps: at least 2 are needed, "
            "a stem's and a stage's; name more layers in its feature_layers"
        )
    return shapes.maps[1:]

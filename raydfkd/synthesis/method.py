"""Base classes for synthesis methods: settings, registry entry, and the inputs from which a synthesizer is built.

A method is one file: a subclass of ``SynthesisConfig`` whose ``method`` is its name, its synthesizer, and a ``Method`` that
describes it to the rest of the program. The file is listed in one line of ``methods.py``, or by an entry point of
another package. Importing it imports no torch (see ``raydfkd.deferred``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.metrics import Figure
from raydfkd.resources import ResourcesConfig
from raydfkd.settings import Settings
from raydfkd.synthesis.boundary import BoundaryAttackConfig
from raydfkd.synthesis.low_loss_filter import LowLossFilterConfig
from raydfkd.types import Synthesizer, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
    from raydfkd.models.teachers.teacher_audit import TeacherAudit
    from raydfkd.tasks.task import Task


Presets = Mapping[str, Mapping[str, Any]]
"""Settings of a method by the name of the run that they are published for."""


class AutoscaleConfig(Settings):
    """Adding and removing a source's generators during the run, depending on which side waits for the other."""

    min: int = Field(1, ge=1)
    """Fewest generators."""
    max: int = Field(ge=1)
    """Most generators."""
    add_above: float = Field(0.1, gt=0, lt=1)
    """Share of time students wait for images above which a generator is added (below half of it one may be removed)."""
    spare: float = Field(0.2, gt=0, lt=1)
    """Share of time that generators must still wait after one is removed; one is added only if they wait less."""
    window_s: float = Field(60.0, gt=0)
    """Seconds over which waits are measured."""
    cooldown_s: float = Field(60.0, ge=0)
    """Minimum seconds between two changes (never less than window_s)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"autoscale.min {self.min} is above autoscale.max {self.max}: give min <= max")
        return self


class SynthesisConfig(Settings):
    """What every synthesis method has. One that plays against a student has a setting ``student`` besides, its name or null.
    One with several published runs has ``presets``, and a setting ``preset`` that names one of them or is null."""

    presets: ClassVar[Presets] = {}

    method: str
    """Name of the synthesis method."""
    num_generators: int = Field(1, ge=1)
    """Generator actors that fill the buffer from this source, each with a network of its own."""
    resources: ResourcesConfig = ResourcesConfig()
    """What each generator actor requests from the cluster."""
    autoscale: AutoscaleConfig | None = None
    """decoupled, on Ray: let the run add and remove generators itself; null: only `raydfkd scale` changes their number."""
    batch_size: int = Field(256, ge=1)
    """Images per batch added to the buffer."""
    low_loss_filter: LowLossFilterConfig | None = None
    """Store only images of which the teacher is sure (TA-DFKD); null: all. A boundary attack comes after it."""
    boundary_attack: BoundaryAttackConfig | None = None
    """Attack some images of each batch; null: none."""

    @model_validator(mode="before")
    @classmethod
    def _filled_by_preset(cls, settings: Any) -> Any:
        """What is given comes first. The settings that result are all there is, so that they can be saved and read again."""
        name = settings.get("preset") if isinstance(settings, dict) else None
        if not isinstance(name, str) or name not in cls.presets:
            return settings
        preset = cls.presets[name]
        if preset and all(key in settings for key in preset):
            raise ValueError(
                f"preset {name} changes nothing, since all that it sets is given too ({', '.join(preset)}): leave it out, or "
                "some of them"
            )
        return {**preset, **settings, "preset": None}

    @model_validator(mode="after")
    def _attack_has_room(self) -> Self:
        attack = self.boundary_attack
        if attack is not None and attack.num_attacked(self.batch_size) == 0:
            raise ValueError(
                f"boundary_attack.share {attack.share:g} of batch_size {self.batch_size} is less than the "
                f"{attack.images_per_attack} images of one attack: raise one of them"
            )
        return self

    @model_validator(mode="after")
    def _scale_within_bounds(self) -> Self:
        scale = self.autoscale
        if scale is not None and not scale.min <= self.num_generators <= scale.max:
            raise ValueError(
                f"num_generators {self.num_generators} is outside autoscale.min {scale.min} .. autoscale.max {scale.max}: "
                "start with a number between them"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _alignment_has_what_it_aligns(cls, settings: Any) -> Any:
        given = settings.get("feature_alignment") if isinstance(settings, dict) else None
        if given is not None and "feature_alignment" not in cls.model_fields:
            raise ValueError(
                f"feature_alignment needs images that are optimised through the teacher, which method "
                f"{settings.get('method')} does not do: leave it out, or choose a method that does, such as fast"
            )
        return settings

    @property
    def opponent(self) -> str | None:
        """Name of the student it plays against; None: the first one, or no student."""
        return getattr(self, "student", None)

    @property
    def reads_batch_norm(self) -> bool:
        """Whether these settings need the teacher's BatchNorm statistics, if the method may."""
        return True

    @property
    def class_balanced_batches(self) -> bool:
        """Whether batches are selected to balance the buffer's classes."""
        return False

    @property
    def needs_prototypes(self) -> bool:
        """Whether it needs a collected image of every class."""
        return False

    @property
    def datasets_read(self) -> tuple[DatasetConfig, ...]:
        """Data sets it derives its images from, for the manifest."""
        return ()

    def images_trained_on(self, batches: int) -> int:
        """Images that go through the teacher forward and backward until so many batches are made; for estimates of time."""
        return 0


@dataclass(frozen=True)
class SynthesisContext:
    """What a synthesizer knows about its run.

    Attributes:
        generator_id: stamped on its batches.
        seed: for its networks' initialisation and its own random generator.
        warmup_batches: batches inserted before the student's first step, in the whole run.
        priority_temperature: temperature of the KD loss that gives a new image its priority (SSD-KD Eq. 4); None: the
            student's objective is another loss, so new images get no initial priority.
        bf16: run networks in bfloat16 autocast where the device has it.
    """

    generator_id: str
    seed: int
    warmup_batches: int
    priority_temperature: float | None
    bf16: bool = True


@dataclass(frozen=True)
class SynthesisParts:
    """The networks and images that a synthesizer may use; these copies are its own.

    Attributes:
        task: the task; it judges the images that will be stored.
        teacher: frozen.
        student: untrained; its weights are updated by ``load_student``. None for a method without a ``student`` setting.
        collected: real or condensed images, None if the experiment has none; ``targets`` are their classes.
    """

    task: Task
    teacher: FrozenTeacher
    student: nn.Module | None = None
    collected: SyntheticBatch | None = None


@dataclass(frozen=True)
class TeacherTraits:
    """What a method may ask of a teacher before it is suggested for it.

    Attributes:
        image_shape: (C,H,W).
        has_batch_norm: it has BatchNorm statistics that can be read.
        input_gradient: its logits have a gradient with respect to the images.
        has_attention: it has attention layers over patches.
    """

    image_shape: tuple[int, int, int]
    has_batch_norm: bool
    input_gradient: bool
    has_attention: bool = False

    @property
    def takes_colour(self) -> bool:
        return self.image_shape[0] == 3

    @classmethod
    def of(cls, image_shape: tuple[int, int, int], audit: TeacherAudit) -> Self:
        """Those of an audited teacher."""
        return cls(image_shape, audit.has_batch_norm, audit.input_gradient, bool(audit.attention_layers))


@dataclass(frozen=True)
class Suggestion:
    """Settings of a method, and of what goes with it, for a teacher.

    Attributes:
        rank: its place among the methods that suit such a teacher; 1 is the best.
        settings: of the source, besides ``method``, ``batch_size`` and what it runs on.
        reasons: why, by the setting's name; ``method`` says why the method suits the teacher.
        student: settings of its student.
        sampler: settings of the buffer's.
    """

    rank: int
    settings: dict[str, Any]
    reasons: dict[str, str]
    student: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=lambda: {"kind": "uniform"})


@dataclass(frozen=True)
class Frame:
    """What a method is published with, besides its own settings: how a bench runs it.

    Attributes:
        student: settings of its student, such as the objective.
        fresh_steps: student steps on each batch, every image of which is seen once and dropped; None: images are kept.
    """

    student: dict[str, Any] = field(default_factory=dict)
    fresh_steps: int | None = None


Build = Callable[[Any, SynthesisParts, SynthesisContext, "torch.device"], Synthesizer]
"""From a method's settings, a run's networks and images, its context and a device to a synthesizer."""


@dataclass(frozen=True)
class Method:
    """A synthesis method, as described to the rest of the program.

    Attributes:
        config: its settings.
        build: makes its synthesizer; torch may be imported by then.
        title, paper: for display.
        needs_batch_norm: it reads the teacher's BatchNorm statistics.
        needs_gradient: it differentiates the teacher with respect to its input.
        needs_collected: it trains on collected images.
        needs_image_classes: each of its images is of one class, so that it is for no task with a class for each pixel.
        figures: those of its metrics that the report plots besides losses.
        suggest: its settings for a teacher, or None if it does not suit it. ``raydfkd doctor`` names the methods that suit,
            best first, and ``raydfkd init`` takes the best; None: it never does.
        frame: what it is published with.
    """

    config: type[SynthesisConfig]
    build: Build
    title: str
    paper: str
    needs_batch_norm: bool = False
    needs_gradient: bool = False
    needs_collected: bool = False
    needs_image_classes: bool = False
    figures: tuple[Figure, ...] = ()
    suggest: Callable[[TeacherTraits], Suggestion | None] | None = None
    frame: Frame = Frame()

    @property
    def needs_student(self) -> bool:
        """Whether it plays against a student."""
        return "student" in self.config.model_fields

"""The whole experiment as one checked tree. Imports neither torch nor ray.

An experiment names its parts in maps (``sources``, ``students``), so that several are not a special case.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raydfkd.data.config import CollectedConfig
from raydfkd.data.data_root import named_teacher
from raydfkd.data.kinds import AnyDataset
from raydfkd.distillation.config import StudentConfig
from raydfkd.models.hugging_face.hub_folder import PREFIX
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.pace import ScheduleConfig, refuse_standstill, refuse_too_few_draws
from raydfkd.pipeline.experiment.runtime_config import ReproducesConfig, RuntimeConfig
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, merge, read_layers, validate
from raydfkd.replay.config import ReplayConfig
from raydfkd.resources import ResourcesConfig
from raydfkd.settings import InputFile, InputPath, Settings, require_file_names
from raydfkd.synthesis.methods import METHODS, AnySource
from raydfkd.tasks import AnyTask


class NormalizationConfig(Settings):
    """Per-channel statistics of the images the teacher was trained on, with pixel values scaled to [0,1]."""

    mean: tuple[float, ...]
    """Mean of each channel."""
    std: tuple[float, ...]
    """Standard deviation of each channel."""


class TeacherConfig(Settings):
    """The trained network."""

    model: Annotated[str, InputFile(".pt2", PREFIX)]
    """A catalog name, torchvision:NAME, timm:NAME, hf:FOLDER or hf:ORG/NAME (transformers' and timm's image classifiers),
    package.module:callable, or a .pt2 file."""
    checkpoint: Annotated[Path, InputFile(or_name=True)] | None = None
    """Its weights (.safetensors, or a safely loaded .pt or .pth), or a teacher's NAME (teachers/NAME.safetensors below the data
    root); null for a .pt2 file, for hf: with the folder's own weights, or a callable that loads its own."""
    normalization: NormalizationConfig | None = None
    """Input statistics; null: read from the checkpoint's metadata."""
    classifier_head: str | None = None
    """Dotted name of the layer that turns features into logits; null: the last linear layer."""
    feature_layers: tuple[str, ...] | None = None
    """Dotted names of the layers whose outputs are the stage maps, the stem's first and the pooled one last, for objectives
    that read maps; null: found automatically."""

    @property
    def weights(self) -> Path | None:
        """The file of its weights.

        Raises:
            CheckpointError: there is no teacher of that name.
        """
        if self.checkpoint is None or InputFile(or_name=True).is_path(self.checkpoint):
            return self.checkpoint
        return named_teacher(str(self.checkpoint))


class EvaluationConfig(Settings):
    """Labelled images for reporting. They are never used for training or selection."""

    dataset: AnyDataset
    """Data set to evaluate on."""
    period_steps: int | None = Field(None, ge=1)
    """Student steps between evaluations; null: ten evaluations over the run."""
    batch_size: int = Field(500, ge=1)
    """Images per forward pass."""


class HeldOutConfig(Settings):
    """Images that the student never trains on, to measure its agreement with the teacher without labels."""

    path: InputPath
    """Parquet file of images as raydfkd writes them, such as a sweep's held_out.parquet."""
    period_steps: int | None = Field(None, ge=1)
    """Student steps between measurements; null: ten measurements over the run."""
    batch_size: int = Field(500, ge=1)
    """Images per forward pass."""


class ExperimentConfig(Settings):
    """One distillation run."""

    task: AnyTask
    """What the networks predict; without a kind, classification."""
    teacher: TeacherConfig
    """The trained network to distil from."""
    sources: dict[str, AnySource] = Field(default_factory=dict)
    """What fills the buffer, by name; none: students learn from the collected images alone."""
    collected: CollectedConfig | None = None
    """Real or condensed images from anywhere: they train HiDFD's GAN, are what ``feature_alignment`` aligns with and what
    ``few_shot`` trains on, and fill ``replay.pinned`` if that is given."""
    replay: ReplayConfig
    """The buffer between sources and students."""
    students: dict[str, StudentConfig] = Field(min_length=1)
    """The students, by name, each with its own priorities; where only one can be used, it is the first."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How synthesis and distillation alternate."""
    evaluation: EvaluationConfig | None = None
    """Labelled images to report on; null: no labelled images are read."""
    held_out: HeldOutConfig | None = None
    """Unlabelled images for measuring agreement with the teacher; all trials of a sweep get the same ones."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where and how the run executes."""
    reproduces: ReproducesConfig | None = None
    """The row of a paper's table that this is, for result.json and the report; changes nothing in the run."""

    @field_validator("sources", "students", mode="before")
    @classmethod
    def _leave_out(cls, value: Any) -> Any:
        """``NAME: null`` removes a source or a student of the base."""
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_together(self) -> ExperimentConfig:
        self._check_students()
        if self.runtime.runner == "local" and self.schedule.mode == "decoupled":
            raise ValueError(
                "runtime.runner local runs in one process and therefore in lockstep: set schedule.mode=lockstep or runner=ray"
            )
        if self.runtime.runner == "local" and any(student.num_workers > 1 for student in self.students.values()):
            raise ValueError("runtime.runner local has one student worker: set students.*.num_workers=1 or runner=ray")
        if self.runtime.runner == "local":
            self.runtime.refuse_idle("runtime.runner local", "placement")
        scaled = [name for name, source in self.sources.items() if source.autoscale is not None]
        if scaled and self.schedule.mode == "lockstep":
            raise ValueError(
                f"sources.{scaled[0]}.autoscale needs schedule.mode decoupled: in lockstep the seed fixes who makes each batch"
            )
        elastic = [name for name, student in self.students.items() if student.elastic]
        if elastic and self.schedule.mode == "lockstep":
            raise ValueError(
                f"students.{elastic[0]}.min_workers needs schedule.mode decoupled: in lockstep the seed determines the "
                "student, and the result depends on the number of workers"
            )
        self._refuse_missing_images()
        self._refuse_image_classes()
        sizes = {source.batch_size for source in self.sources.values()}
        if len(sizes) > 1:
            raise ValueError(f"sources have batch sizes {sorted(sizes)}: the schedule counts batches, so give all the same")
        if self.replay.synthetic.capacity < self.synthesis_batch_size:
            raise ValueError(
                f"replay.synthetic.capacity {self.replay.synthetic.capacity} holds less than one synthesized batch of "
                f"{self.synthesis_batch_size}: make it at least that"
            )
        refuse_standstill(self.schedule, self.synthesis_batch_size, self.student.batch_size)
        drawn = max(student.batch_size for student in self.students.values())
        refuse_too_few_draws(self.schedule, self.replay.synthetic, self.synthesis_batch_size, drawn)
        return self

    def _check_students(self) -> None:
        known = ", ".join(self.students)
        require_file_names("student", self.students)
        require_file_names("source", self.sources)
        for source in self.sources:
            if self.student_of(source) not in self.students:
                raise ValueError(
                    f"sources.{source}.student {self.student_of(source)!r} is not a student of this run: use {known}"
                )
        sizes = {name: student.batch_size for name, student in self.students.items()}
        if self.schedule.samples_per_insert is not None and len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(
                f"schedule.samples_per_insert holds for each student, but the students draw different numbers per step "
                f"({listed}): give them all the same batch_size, or leave the ratio out"
            )
        for name, student in self.students.items():
            if student.few_shot is not None and self.collected is None:
                raise ValueError(f"students.{name}.few_shot trains on real or condensed images: name them in collected")
            if student.pruned is not None and self.teacher.model.endswith(".pt2"):
                raise ValueError(
                    f"students.{name}.pruned needs the teacher's layers, and {self.teacher.model} is an exported program: name "
                    "the student's model instead"
                )
            if self.schedule.rounds == 0 and not (student.few_shot or student.keeps_filters or student.checkpoint):
                raise ValueError(
                    f"schedule.rounds 0 trains nobody, and students.{name} starts with random weights: give it few_shot, "
                    "pruned filters that are kept or a checkpoint, or set rounds to 1 or more"
                )
        if self.schedule.rounds == 0 and self.sources:
            raise ValueError("schedule.rounds 0 leaves the sources nobody to make images for: leave them out, or set rounds")

    def _refuse_missing_images(self) -> None:
        if self.replay.pinned is not None and self.collected is None:
            raise ValueError("replay.pinned has nothing to hold: give collected images or leave it out")
        if not self.sources:
            if self.collected is None or self.replay.pinned is None:
                raise ValueError("nothing fills the buffer: give sources, or collected images and replay.pinned for them")
            if (self.schedule.warmup_batches, self.schedule.batches_per_round) != (0, 0):
                raise ValueError(
                    "without sources nothing is synthesized: set schedule.warmup_batches=0 and batches_per_round=0"
                )
            return
        if self.schedule.warmup_batches == 0:
            raise ValueError("schedule.warmup_batches 0 leaves the student nothing to start from: use 1 or more")
        lacking = [name for name, source in self.sources.items() if METHODS.get(source.method).needs_collected]
        if lacking and self.collected is None:
            raise ValueError(f"source {lacking[0]!r} trains on real images: name them in collected")
        aligned = [name for name, source in self.sources.items() if source.needs_prototypes]
        if aligned and self.collected is None:
            raise ValueError(
                f"sources.{aligned[0]}.feature_alignment aligns with real or condensed images: name them in collected"
            )

    def _refuse_image_classes(self) -> None:
        """What is about the one class of an image has nothing to go by where each pixel has a class."""
        if not self.task.positions:
            return
        because = f"task {self.task.kind} has a class for each pixel"
        for name, source in self.sources.items():
            if source.boundary_attack is not None:
                raise ValueError(
                    f"sources.{name}.boundary_attack pushes images across the boundary between two classes, and {because}: "
                    "leave it out"
                )
            if METHODS.get(source.method).needs_image_classes:
                raise ValueError(
                    f"sources.{name}'s method {source.method} makes images of one class each, and {because}: choose another, "
                    "such as ssdkd"
                )
        if self.collected is not None and self.collected.labels == "dataset":
            raise ValueError(f"collected.labels dataset reads one class an image, and {because}: leave it out")

    @property
    def student_name(self) -> str:
        """The first student's name: the one used where only one can be."""
        return next(iter(self.students))

    @property
    def student(self) -> StudentConfig:
        """The first one."""
        return self.students[self.student_name]

    def student_of(self, source: str) -> str:
        """The student that a source plays against: it provides the weights, and the losses that give initial priorities."""
        settings = self.sources.get(source)
        named = None if settings is None else settings.opponent
        return self.student_name if named is None else named

    def model_of(self, student: str) -> str:
        """What a student's network is called."""
        settings = self.students[student]
        if settings.pruned is None:
            assert settings.model is not None, "validated"
            return settings.model
        return f"{self.teacher.model} pruned by {settings.pruned.ratio:.0%}"

    def label_of(self, student: str) -> str:
        """What a student is called in messages: by its name if there is more than one."""
        return "student" if len(self.students) == 1 else f"student {student}"

    @property
    def synthesis_batch_size(self) -> int:
        return next((source.batch_size for source in self.sources.values()), 1)

    @property
    def generators(self) -> list[tuple[str, int]]:
        """(source, index within it) of every generator, in the order of their turns in lockstep."""
        return [(name, index) for name, source in self.sources.items() for index in range(source.num_generators)]

    @property
    def resources(self) -> list[ResourcesConfig]:
        """What an actor of each student and of each source requests."""
        return [s.resources for s in self.students.values()] + [s.resources for s in self.sources.values()]

    def batches_to_request(self, student_step: int, mirrored: bool, draws_itself: bool = False) -> int:
        """Training batches that a student's worker on Ray asks for at once, before ``student_step``.

        In lockstep these are all of the round, as far as the buffer's draws do not depend on its priorities.

        Args:
            mirrored: whether the worker has a mirror; otherwise it is sent each batch's images.
            draws_itself: whether it makes the draws.
        """
        schedule, tables = self.schedule, (self.replay.synthetic, self.replay.pinned)
        if schedule.mode == "decoupled":
            return schedule.batches_per_request
        waits = any(table is not None and table.sampler.kind == "prioritized" for table in tables)
        if not mirrored or (waits and not draws_itself):
            return 1
        return schedule.student_steps_per_round - student_step % schedule.student_steps_per_round

    @property
    def leaves_draws(self) -> bool:
        """Whether a student's only worker may draw a round's batches itself: prioritized ones, of synthesized images alone."""
        return (
            self.schedule.mode == "lockstep"
            and self.replay.pinned is None
            and self.replay.synthetic.sampler.kind == "prioritized"
        )

    @property
    def evaluation_period_steps(self) -> int:
        given = None if self.evaluation is None else self.evaluation.period_steps
        return max(1, self.schedule.total_steps // 10) if given is None else given

    @property
    def held_out_period_steps(self) -> int:
        given = None if self.held_out is None else self.held_out.period_steps
        return max(1, self.schedule.total_steps // 10) if given is None else given


def generator_id(source: str, index: int) -> str:
    """The name of a source's generator, stamped on its batches."""
    return f"{source}-{index}"


def source_of(generator: str) -> str:
    """The source of a generator's name."""
    return generator.rpartition("-")[0]


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Reads an experiment, applies ``a.b=c`` overrides and makes its paths absolute.

    A file may build on another, its base, with ``base: other.yaml`` (relative to its own folder; chains are allowed): mappings
    are merged, everything else is replaced, and so is a mapping with a different ``kind``. A relative path is looked up
    beside the file that gives it and then in the working directory.

    Raises:
        ConfigError: anything is wrong with it, in one sentence.
    """
    tree, where = read_experiment(Path(path))
    return build_experiment(tree, overrides, base=Path(path).parent, where=where)


def read_experiment(path: Path) -> tuple[dict[str, Any], str]:
    """An experiment's unchecked settings with its bases under them, and what to call them in a message.

    Raises:
        ConfigError: a file cannot be read.
    """
    *below, (_, tree) = read_layers(path)
    lower: dict[str, Any] = {}
    for file, layer in below:
        lower = merge(lower, anchor_paths(layer, ExperimentConfig, file.parent))
    where = f"{path} (with its base {', '.join(file.name for file, _ in reversed(below))})" if below else str(path)
    return merge(lower, tree), where


def build_experiment(
    tree: dict[str, Any], overrides: Iterable[str] = (), *, base: Path = Path(), where: str | Path = "the experiment"
) -> ExperimentConfig:
    """As :func:`load_experiment`, from a tree of plain values."""
    return validate(ExperimentConfig, anchor_paths(apply_overrides(tree, list(overrides)), ExperimentConfig, base), where)

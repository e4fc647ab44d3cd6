"""A sweep as one checked tree: which experiment, which settings, how they are searched. Imports neither torch nor ray.

Everything is checked before anything starts: each point known in advance is built into an experiment, and for a space that a
searcher explores, both ends of every range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment, read_experiment
from raydfkd.pipeline.experiment.config_errors import shown
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, merge, read_yaml, set_dotted, validate
from raydfkd.pipeline.sweep.space import ChoiceConfig, GridConfig, RangeConfig, SpaceConfig, draws_of, product_of, star_of

MOST_TRIALS = 10_000

MUTABLE = (
    "students.*.optimizer.lr", "students.*.optimizer.final_lr", "students.*.optimizer.max_grad_norm", "students.*.ema_decay",
    "students.*.objective.temperature", "students.*.objective.*_weight",
    "sources.*.bn_weight", "sources.*.one_hot_weight", "sources.*.adversarial_weight", "sources.*.bn_momentum",
    "sources.*.difficulty_gamma", "sources.*.class_weight", "sources.*.guidance_weight", "sources.*.smoothing_weight",
    "sources.*.blending_probability", "sources.*.class_count_momentum",
    "replay.*.sampler.importance_exponent", "replay.*.sampler.importance_exponent_final",
    "replay.inflation", "replay.pinned_fraction",
)  # fmt: skip
"""Settings that a run resumed from a checkpoint reads again. Not included: what the checkpoint contains (optimizers' other
settings; the priority exponent, which is part of the stored priorities) and what it must match (networks, sizes)."""

CLOCK = ("schedule.rounds", "schedule.student_steps_per_round")
"""Settings that change how many student steps a trial has."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchConfig(_Config):
    """How points of the space are chosen."""

    kind: Literal["grid", "one_at_a_time", "random", "optuna"] = "grid"
    """grid: every combination; one_at_a_time: every value, with the other settings as in the experiment (as in papers'
    sensitivity figures); random: independent draws; optuna: Optuna's TPE, which learns from finished trials."""
    num_trials: int | None = Field(None, ge=1, le=MOST_TRIALS)
    """Number of trials (random and optuna; the others have one per point)."""
    seed: int = Field(0, ge=0)
    """Seed of the draws, and of the generator that makes the held-out images."""

    @model_validator(mode="after")
    def _number_of_trials(self) -> SearchConfig:
        if self.lays_out and self.num_trials is not None:
            raise ValueError(f"kind {self.kind} tries every point: leave num_trials out or choose random")
        if not self.lays_out and self.num_trials is None:
            raise ValueError(f"kind {self.kind} needs num_trials: how many trials to make")
        return self

    @property
    def lays_out(self) -> bool:
        """Whether every point is laid out, none drawn."""
        return self.kind in ("grid", "one_at_a_time")


class NoSchedulerConfig(_Config):
    """Every trial runs to its end."""

    kind: Literal["none"] = "none"
    """none: every trial runs to its end; asha: successive halving stops trials that lag; pbt: in population-based training,
    trials that lag continue from a leader's checkpoint with perturbed settings."""


class ASHAConfig(_Config):
    """Asynchronous successive halving (Li et al. 2020): trials that lag at a rung are stopped."""

    kind: Literal["asha"] = "asha"
    """Which scheduler decides which trials continue."""
    grace_period_steps: int = Field(ge=1)
    """Student steps of the first rung: no trial is stopped before."""
    reduction_factor: float = Field(3.0, gt=1)
    """Factor eta: one in eta trials passes a rung, and each rung is eta times as long as the previous one."""


class PBTConfig(_Config):
    """Population-based training (Jaderberg et al. 2017): laggards copy a leader's checkpoint and perturb its settings."""

    kind: Literal["pbt"] = "pbt"
    """Which scheduler decides which trials continue."""
    perturbation_interval_steps: int = Field(ge=1)
    """Student steps between comparisons, a multiple of schedule.student_steps_per_round."""
    mutable: tuple[str, ...] = Field(min_length=1)
    """Keys of the space that change when a trial continues from another's checkpoint; the others are copied from it."""
    quantile_fraction: float = Field(0.25, gt=0, le=0.5)
    """Share of the trials that copy, and share that are copied from."""
    resample_probability: float = Field(0.25, ge=0, le=1)
    """Probability that a changed setting is resampled; otherwise it moves by a fifth, or to its neighbour in the list."""


class HeldOutObjectiveConfig(_Config):
    """Agreement with the teacher on images made for the sweep, which no trial trains on. No label is read."""

    kind: Literal["agreement", "kl"] = "agreement"
    """agreement: share of held-out images on which student and teacher choose the same class; kl: mean KL(teacher || student)
    on them; evaluation: accuracy on the experiment's labelled evaluation set, which is not data-free."""
    student: Literal["last", "ema"] = "ema"
    """Which weights of the student are measured: the latest, or their moving average."""
    student_name: str | None = None
    """Name of the experiment's student to measure; null: the first one."""
    num_images: int = Field(1000, ge=2)
    """Held-out images; synthetic, and up to half of them collected if the experiment has collected images."""
    period_steps: int | None = Field(None, ge=1)
    """Student steps between measurements; null: the scheduler's interval, or ten measurements over the run."""


class EvaluationObjectiveConfig(_Config):
    """Accuracy on the experiment's labelled evaluation set: the sweep is then no longer data-free, and says so."""

    kind: Literal["evaluation"] = "evaluation"
    """What trials are compared by."""
    student: Literal["last", "ema"] = "ema"
    """Which weights of the student are measured: the latest, or their moving average."""
    student_name: str | None = None
    """Name of the experiment's student to measure; null: the first one."""
    period_steps: int | None = Field(None, ge=1)
    """Student steps between measurements; null: the scheduler's interval, or ten measurements over the run."""


class SweepRuntimeConfig(_Config):
    """Where the trials run."""

    max_concurrent_trials: int | None = Field(None, ge=1)
    """Maximum number of concurrent trials; null: as many as fit on the cluster, which is always a limit."""
    address: str | None = None
    """Ray cluster to join; null: a local Ray, started and stopped by the sweep."""
    num_cpus: int | None = Field(None, ge=1)
    """Only if the sweep starts Ray: CPUs that Ray may use; null: all."""
    out: Path | None = None
    """Sweep directory; null: runs/<name of the sweep file>."""


class SweepConfig(_Config):
    """One sweep over settings of an experiment."""

    experiment: Path
    """The experiment's YAML file, relative to the sweep's."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Settings of the experiment overridden in all trials, as a tree or by dotted key."""
    space: dict[str, SpaceConfig] = Field(min_length=1)
    """What to try, by dotted key of the experiment."""
    search: SearchConfig = SearchConfig()
    """How points are chosen."""
    scheduler: Annotated[NoSchedulerConfig | ASHAConfig | PBTConfig, Field(discriminator="kind")] = NoSchedulerConfig()
    """Which scheduler decides which trials continue."""
    objective: Annotated[HeldOutObjectiveConfig | EvaluationObjectiveConfig, Field(discriminator="kind")] = (
        HeldOutObjectiveConfig()
    )
    """What trials are compared by."""
    runtime: SweepRuntimeConfig = SweepRuntimeConfig()
    """Where the trials run."""

    @field_validator("overrides", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        """The tree that dotted keys are short for; of two that set the same, the later one holds."""
        if not isinstance(value, dict):
            return value
        tree: dict[str, Any] = {}
        for key, below in value.items():
            tree = set_dotted(tree, key, below) if isinstance(key, str) and "." in key else merge(tree, {key: below})
        return tree

    @field_validator("objective", mode="before")
    @classmethod
    def _default_kind(cls, value: Any) -> Any:
        return {"kind": "agreement", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_together(self) -> SweepConfig:
        for key, entry in self.space.items():
            if self.search.lays_out and not isinstance(entry, GridConfig):
                raise ValueError(
                    f"space key {key} is of kind {entry.kind}, which search.kind {self.search.kind} cannot enumerate: use kind "
                    "grid with values, or search.kind random"
                )
            if not self.search.lays_out and isinstance(entry, GridConfig):
                raise ValueError(f"space key {key} is of kind grid, but search.kind {self.search.kind} draws: use choice")
        self._refuse_moving_clock()
        if isinstance(self.scheduler, PBTConfig):
            self._check_pbt(self.scheduler)
        period = self.objective.period_steps
        if isinstance(self.scheduler, ASHAConfig) and period is not None and self.scheduler.grace_period_steps % period:
            raise ValueError(
                f"objective.period_steps {period} does not match asha's rungs: it must divide "
                f"scheduler.grace_period_steps {self.scheduler.grace_period_steps}"
            )
        return self

    def _refuse_moving_clock(self) -> None:
        moving = [key for key in CLOCK if key in self.space]
        if moving and self.scheduler.kind != "none":
            raise ValueError(f"{self.scheduler.kind} compares trials of equal length: take {moving[0]} out of the space")

    def _check_pbt(self, pbt: PBTConfig) -> None:
        if self.search.kind == "optuna":
            raise ValueError("scheduler pbt chooses settings itself: use search.kind random or grid")
        if self.search.kind == "random" and self.search.num_trials == 1:
            raise ValueError("scheduler pbt needs a population: set search.num_trials to 2 or more")
        for key in pbt.mutable:
            if key not in self.space:
                raise ValueError(f"scheduler.mutable names {key}, which is not in the space: add it there or leave it out")
            if not any(fnmatchcase(key, pattern) for pattern in MUTABLE):
                raise ValueError(
                    f"scheduler.mutable names {key}, which cannot change when a run resumes from a checkpoint: allowed are "
                    f"{', '.join(MUTABLE)}"
                )
        if self.objective.period_steps not in (None, pbt.perturbation_interval_steps):
            raise ValueError("pbt measures once per perturbation interval: leave objective.period_steps out")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        config: its settings; ``experiment`` is absolute.
        tree: the experiment's settings with the overrides in them, not a point's.
        base: the experiment that ``tree`` describes.
        points: settings of each trial by dotted key, or None where a searcher chooses them.
    """

    config: SweepConfig
    tree: dict[str, Any]
    base: ExperimentConfig
    points: list[dict[str, Any]] | None

    def experiment_of(self, settings: dict[str, Any]) -> ExperimentConfig:
        """The experiment at one point, as a user would run it.

        Raises:
            ConfigError: there is none: a key does not exist, a value is not allowed, or values contradict each other.
        """
        tree = self.tree
        for key, value in settings.items():
            tree = set_dotted(tree, key, value)
        where = ", ".join(f"{key}={shown(value)}" for key, value in settings.items())
        return build_experiment(tree, base=self.config.experiment.parent, where=f"space point {where}")

    @property
    def num_trials(self) -> int:
        return len(self.points) if self.points is not None else self.config.search.num_trials or 0

    @property
    def period_steps(self) -> int:
        """Student steps between measurements."""
        given, scheduler = self.config.objective.period_steps, self.config.scheduler
        if isinstance(scheduler, PBTConfig):
            return scheduler.perturbation_interval_steps
        if given is not None:
            return given
        if isinstance(scheduler, ASHAConfig):
            return scheduler.grace_period_steps
        return max(1, self.base.schedule.total_steps // 10)

    @property
    def student_name(self) -> str:
        """The student that trials are compared by."""
        named = self.config.objective.student_name
        return self.base.student_name if named is None else named

    @property
    def mode(self) -> Literal["min", "max"]:
        return "min" if self.config.objective.kind == "kl" else "max"


def load_sweep(path: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """Reads a sweep, applies ``a.b=c`` overrides of its own keys (``overrides.a.b=c`` for the experiment's) and checks all.

    Raises:
        ConfigError: anything is wrong with it, in one sentence.
    """
    path = Path(path)
    config = validate(SweepConfig, apply_overrides(read_yaml(path), list(overrides)), path)
    file = path.parent / config.experiment.expanduser()
    beside = path.with_name("experiment.yaml")
    if not file.is_file() and path.name == "sweep.yaml" and beside.is_file():
        file = beside  # a sweep directory that was moved
    if not file.is_file():
        raise ConfigError(f"{path}: its experiment {file} does not exist: correct the path, relative to the file's folder")
    below, where = read_experiment(file)
    tree = merge(
        anchor_paths(below, ExperimentConfig, file.parent), anchor_paths(config.overrides, ExperimentConfig, path.parent)
    )
    base = build_experiment(tree, where=f"{where}, with the overrides of {path}" if config.overrides else where)
    sweep = Sweep(config.model_copy(update={"experiment": file.resolve()}), tree, base, _points(config, base))
    _check(sweep, path)
    return sweep


def _points(config: SweepConfig, base: ExperimentConfig) -> list[dict[str, Any]] | None:
    if config.search.kind == "grid":
        number = math.prod(len(entry.probes) for entry in config.space.values())
        if number > MOST_TRIALS:
            raise ConfigError(f"the grid has {number:,} points, more than {MOST_TRIALS:,}: take values out, or draw at random")
        return product_of(config.space)
    if config.search.kind == "one_at_a_time":
        plain = base.model_dump(mode="json")
        return star_of(config.space, {key: _value_at(plain, key) for key in config.space})
    if config.search.kind == "random":
        return draws_of(config.space, config.search.num_trials or 0, config.search.seed)
    return None


def _value_at(tree: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none: whether the key exists is checked when the point is built."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _check(sweep: Sweep, path: Path) -> None:
    config, schedule = sweep.config, sweep.base.schedule
    if config.objective.kind == "evaluation" and sweep.base.evaluation is None:
        raise ConfigError(f"{path}: objective.kind evaluation needs an evaluation section in the experiment: use agreement")
    if sweep.student_name not in sweep.base.students:
        known = ", ".join(sweep.base.students)
        raise ConfigError(
            f"{path}: objective.student_name {sweep.student_name!r} is not a student of the experiment: use {known}"
        )
    if sweep.period_steps > schedule.total_steps:
        raise ConfigError(
            f"{path}: trials are measured every {sweep.period_steps} student steps and have {schedule.total_steps}: shorten "
            "objective.period_steps, or the scheduler's, or lengthen schedule.rounds"
        )
    scheduler = config.scheduler
    if isinstance(scheduler, PBTConfig) and scheduler.perturbation_interval_steps % schedule.student_steps_per_round:
        raise ConfigError(
            f"{path}: scheduler.perturbation_interval_steps {scheduler.perturbation_interval_steps} must be a multiple of "
            f"schedule.student_steps_per_round {schedule.student_steps_per_round}: checkpoints are made between rounds"
        )
    for point in probed_points(sweep):
        try:
            sweep.experiment_of(point)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}{_hint(config.space, error)}") from error


def probed_points(sweep: Sweep) -> list[dict[str, Any]]:
    """The points checked in advance: all known ones, and each range's ends with the others at their lower ends."""
    probes = {key: entry.probes for key, entry in sweep.config.space.items()}
    lower = {key: values[0] for key, values in probes.items()}
    ends = [{**lower, key: value} for key, values in probes.items() for value in values]
    return [*(sweep.points or []), *(ends if sweep.points is None or sweep.config.scheduler.kind == "pbt" else [])]


def _hint(space: dict[str, Any], error: ConfigError) -> str:
    """What to write if a range gave a whole-number setting a fraction."""
    ranges = [entry.kind for entry in space.values() if isinstance(entry, RangeConfig) and not entry.whole]
    return f" (a whole-number setting takes int or log_int, not {ranges[0]})" if ranges and "integer" in str(error) else ""


__all__ = [
    "ASHAConfig",
    "ChoiceConfig",
    "EvaluationObjectiveConfig",
    "GridConfig",
    "HeldOutObjectiveConfig",
    "PBTConfig",
    "Sweep",
    "SweepConfig",
    "load_sweep",
]

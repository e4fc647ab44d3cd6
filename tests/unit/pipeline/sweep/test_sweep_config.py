"""A sweep's file: what is read, and that everything wrong with it is told before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raydfkd.errors import ConfigError
from raydfkd.pipeline.sweep.config import MUTABLE, load_sweep
from raydfkd.pipeline.sweep.sweep_result import write_beginning
from raydfkd.sweep_dir import SweepDir

LR = "students.small.optimizer.lr"
EXPERIMENT = {
    "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
    "teacher": {"model": "small_cnn_8", "checkpoint": "teacher.safetensors"},
    "sources": {"inversion": {"method": "ssdkd", "batch_size": 16}},
    "replay": {"synthetic": {"capacity": 64, "sampler": {"kind": "prioritized"}}},
    "students": {"small": {"model": "small_cnn_4", "batch_size": 16}},
    "schedule": {"warmup_batches": 2, "rounds": 10, "student_steps_per_round": 4},
    "runtime": {"runner": "local"},
}
GRID = {"kind": "grid", "values": [0.1, 0.01]}
RANGE = {"kind": "log_uniform", "low": 0.001, "high": 0.1}
RANDOM = {"kind": "random", "num_trials": 3}
PBT = {"kind": "pbt", "perturbation_interval_steps": 8, "mutable": [LR]}


def write(folder: Path, **sections: Any) -> Path:
    """A sweep over a learning rate in a folder of its own beside the experiment; None leaves a section out."""
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "exp.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    tree = {"experiment": "../exp.yaml", "space": {LR: GRID}, **sections}
    path = folder / "sweeps" / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}, sort_keys=False))
    return path


def test_a_grid_with_overrides(tmp_path: Path) -> None:
    space = {LR: GRID, "replay.synthetic.capacity": {"kind": "grid", "values": [32, 64, 128]}}
    path = write(tmp_path, space=space, overrides={"schedule": {"rounds": 20}, "students": {"small": {"flip": False}}})
    sweep = load_sweep(path, ["overrides.students.small.crop_padding=1", "objective.num_images=50"])
    assert (sweep.num_trials, sweep.period_steps, sweep.mode) == (6, 8, "max")
    assert sweep.config.objective.num_images == 50
    first = sweep.experiment_of(sweep.points[0])
    assert (first.student.optimizer.lr, first.replay.synthetic.capacity) == (0.1, 32)
    assert (first.schedule.rounds, first.student.flip, first.student.crop_padding) == (20, False, 1)
    assert first.teacher.checkpoint == (tmp_path / "teacher.safetensors").resolve()
    assert sweep.experiment_of({}) == sweep.base


def test_overrides_take_dotted_keys_as_the_space_does_and_later_ones_hold(tmp_path: Path) -> None:
    given = {"schedule.rounds": 20, "students": {"small": {"flip": False}}, "students.small.crop_padding": 1}
    sweep = load_sweep(write(tmp_path, space={LR: GRID}, overrides=given), ["overrides.schedule.rounds=30"])
    assert (sweep.base.schedule.rounds, sweep.base.student.flip, sweep.base.student.crop_padding) == (30, False, 1)
    with pytest.raises(ConfigError, match=r"unknown key schedule\.round: did you mean 'rounds'"):
        load_sweep(write(tmp_path, space={LR: GRID}, overrides={"schedule.round": 3}))


def test_a_sweep_s_folder_can_be_moved(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, space={LR: GRID}))
    old, new = SweepDir.create(tmp_path / "old"), SweepDir(tmp_path / "elsewhere" / "new")
    write_beginning(sweep, old)
    new.path.parent.mkdir()
    old.path.rename(new.path)
    moved = load_sweep(new.sweep_path)
    assert moved.points == sweep.points
    assert moved.experiment_of({}) == sweep.base
    assert new.manifest()["began_at"] == str(old.path)
    assert yaml.safe_load(new.sweep_path.read_text())["experiment"] == "experiment.yaml"
    settings = yaml.safe_load(new.sweep_path.read_text())
    settings["experiment"] = str(old.experiment_path)  # as earlier versions wrote it
    new.sweep_path.write_text(yaml.safe_dump(settings))
    assert load_sweep(new.sweep_path).experiment_of({}) == sweep.base


def test_one_at_a_time_takes_the_experiment_s_own_values_for_the_others(tmp_path: Path) -> None:
    space = {LR: GRID, "sources.inversion.bn_weight": {"kind": "grid", "values": [1.0, 10.0]}}
    sweep = load_sweep(write(tmp_path, space=space, search={"kind": "one_at_a_time"}))
    assert [list(point.values()) for point in sweep.points] == [[0.1, 10.0], [0.01, 10.0], [0.2, 1.0], [0.2, 10.0]]


def test_draws_and_searchers(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, space={LR: RANGE}, search=RANDOM))
    assert len(sweep.points) == sweep.num_trials == 3
    assert all(0.001 <= point[LR] <= 0.1 for point in sweep.points)
    sweep = load_sweep(write(tmp_path, space={LR: RANGE}, search={"kind": "optuna", "num_trials": 5}))
    assert (sweep.points, sweep.num_trials) == (None, 5)


@pytest.mark.parametrize(
    ("scheduler", "objective", "period"),
    [
        (None, None, 4),
        ({"kind": "asha", "grace_period_steps": 8}, None, 8),
        ({"kind": "asha", "grace_period_steps": 8}, {"kind": "kl", "period_steps": 2}, 2),
        (PBT, None, 8),
    ],
)
def test_trials_are_measured_where_the_scheduler_compares_them(
    tmp_path: Path, scheduler: Any, objective: Any, period: int
) -> None:
    sweep = load_sweep(write(tmp_path, scheduler=scheduler, objective=objective))
    assert sweep.period_steps == period
    assert sweep.mode == ("min" if objective else "max")


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"space": {"students.small.optimizer.lrr": GRID}}, "unknown key students.small.optimizer.lrr: did you mean 'lr'"),
        ({"space": {"student.small.optimizer.lr": GRID}}, "unknown key student: did you mean 'students'"),
        ({"space": {LR: {"kind": "grid", "values": [0.1, "fast"]}}}, "lr=fast|lr is 'fast'|lr='fast'"),
        ({"space": {LR: {"kind": "grid", "values": [0.1, -1]}}}, "must be greater than 0"),
        ({"space": {LR: {"kind": "grid", "values": []}}}, "at least 1 item"),
        ({"space": {LR: {"kind": "loguniform", "low": 1, "high": 2}}}, "did you mean 'log_uniform'"),
        ({"space": {LR: RANGE}}, "search.kind grid cannot enumerate: use kind grid"),
        ({"search": RANDOM}, "search.kind random draws: use choice"),
        ({"space": {LR: RANGE}, "search": {"kind": "random"}}, "needs num_trials"),
        ({"search": {"kind": "grid", "num_trials": 3}}, "leave num_trials out"),
        (
            {"space": {"schedule.rounds": {"kind": "uniform", "low": 1, "high": 9}}, "search": RANDOM},
            "a whole-number setting takes int or log_int, not uniform",
        ),
        (
            {"space": {LR: {"kind": "uniform", "low": -1, "high": 1}}, "search": {"kind": "optuna", "num_trials": 2}},
            "must be greater than 0",
        ),
        (
            {"space": {"replay.synthetic.capacity": {"kind": "grid", "values": [64, 8]}}},
            "holds less than one synthesized batch",
        ),
        ({"experiment": "other.yaml"}, "other.yaml does not exist"),
        ({"overrides": {"schedul": {"rounds": 3}}}, "unknown key schedul: did you mean 'schedule'"),
        ({"objective": {"kind": "evaluation"}}, "needs an evaluation section"),
        ({"objective": {"student_name": "big"}}, "student_name 'big' is not a student of the experiment: use small"),
        ({"objective": {"kind": "agreement", "period_steps": 41}}, "measured every 41 student steps and have 40"),
        ({"scheduler": {"kind": "asha", "grace_period_steps": 80}}, "measured every 80 student steps and have 40"),
        (
            {"scheduler": {"kind": "asha", "grace_period_steps": 8}, "objective": {"kind": "agreement", "period_steps": 3}},
            "it must divide",
        ),
        (
            {
                "scheduler": {"kind": "asha", "grace_period_steps": 4},
                "space": {"schedule.rounds": {"kind": "grid", "values": [5]}},
            },
            "asha compares trials of equal length: take schedule.rounds out",
        ),
        ({"scheduler": {**PBT, "perturbation_interval_steps": 6}}, "multiple of schedule.student_steps_per_round 4"),
        ({"scheduler": {**PBT, "mutable": ["students.small.ema_decay"]}}, "which is not in the space"),
        ({"scheduler": PBT, "space": {LR: RANGE}, "search": {"kind": "optuna", "num_trials": 4}}, "chooses settings itself"),
        ({"scheduler": PBT, "space": {LR: RANGE}, "search": {"kind": "random", "num_trials": 1}}, "needs a population"),
        ({"scheduler": PBT, "objective": {"kind": "kl", "period_steps": 4}}, "leave objective.period_steps out"),
        ({"sapce": {}}, "unknown key sapce: did you mean 'space'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_sweep(write(tmp_path, **sections))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["students.small.model", "replay.synthetic.capacity", "replay.synthetic.sampler.priority_exponent",
            "students.small.optimizer.momentum", "runtime.seed"],
)  # fmt: skip
def test_population_based_training_changes_only_what_a_resumed_run_reads_anew(tmp_path: Path, key: str) -> None:
    values = {"students.small.model": ["small_cnn_4"], "replay.synthetic.capacity": [64]}.get(key, [0])
    space = {LR: GRID, key: {"kind": "grid", "values": values}}
    with pytest.raises(ConfigError, match=f"names {key}, which cannot change when a run resumes from a checkpoint"):
        load_sweep(write(tmp_path, space=space, scheduler={**PBT, "mutable": [LR, key]}))
    assert all("optimizer.momentum" not in pattern for pattern in MUTABLE)


def test_the_whole_grid_is_built_beforehand(tmp_path: Path) -> None:
    """Only one corner contradicts itself: 64 images a batch do not fit into a buffer of 32."""
    space = {
        "sources.inversion.batch_size": {"kind": "grid", "values": [16, 64]},
        "replay.synthetic.capacity": {"kind": "grid", "values": [128, 32]},
    }
    with pytest.raises(ConfigError, match=r"batch_size=64, replay\.synthetic\.capacity=32"):
        load_sweep(write(tmp_path, space=space))


def test_a_huge_grid_is_refused_without_being_laid_out(tmp_path: Path) -> None:
    space = {f"sources.inversion.{name}_weight": {"kind": "grid", "values": list(range(1, 200))} for name in ("bn", "one_hot")}
    space[LR] = {"kind": "grid", "values": [0.1, 0.2]}
    with pytest.raises(ConfigError, match=r"79,202 points, more than 10,000"):
        load_sweep(write(tmp_path, space=space))

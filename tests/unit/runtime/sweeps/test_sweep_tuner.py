"""What Ray Tune is given for each kind of sweep, and a trial's process as Tune calls it. No Ray is started."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from ray import cloudpickle, tune

from raydfkd.errors import ResourceError, WaitTimeoutError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.sweep.config import load_sweep
from raydfkd.pipeline.sweep.held_out_images import make_held_out
from raydfkd.pipeline.sweep.sweep_result import SweepWatcher, write_beginning
from raydfkd.pipeline.sweep.trial import DONE, OBJECTIVE, STEPS, TrialPlan
from raydfkd.replay.arrow import to_parquet
from raydfkd.runtime.sweeps import sweep_trainable
from raydfkd.runtime.sweeps import tuner as runtime_sweep
from raydfkd.runtime.sweeps.sweep_search import optuna_searcher
from raydfkd.runtime.sweeps.sweep_trainable import LIVE, SETTINGS, SweepCallback, TrialTrainable, name_of
from raydfkd.sweep_dir import SweepDir

LR = "students.small.optimizer.lr"
RANGE = {LR: {"kind": "log_uniform", "low": 0.01, "high": 0.1}}
PBT = {"kind": "pbt", "perturbation_interval_steps": 4, "mutable": [LR]}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    torch.manual_seed(0)
    save_weights(build_classifier("small_cnn_4", 10, (1, 8, 8)), path)
    return path


def plan_of(folder: Path, teacher: Path, **sections: Any) -> TrialPlan:
    """A sweep over two rounds of four steps, measured after each."""
    small = {"batch_size": 4, "crop_padding": 1, "flip": False}
    tree = {
        "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
        "teacher": {"model": "small_cnn_4", "checkpoint": str(teacher), "normalization": {"mean": [0.3], "std": [0.3]}},
        "sources": {"a": {"method": "fast", "base_channels": 4, "latent_dim": 8, **small}},
        "replay": {"synthetic": {"capacity": 8}},
        "students": {"small": {"model": "small_cnn_4", **small}},
        "schedule": {"warmup_batches": 1, "rounds": 2, "student_steps_per_round": 4},
        "runtime": {"runner": "local", "device": "cpu", "bf16": False},
    }
    (folder / "exp.yaml").write_text(yaml.safe_dump(tree))
    settings = {
        "experiment": "exp.yaml",
        "space": {LR: {"kind": "grid", "values": [0.1, 0.02]}},
        "objective": {"num_images": 4, **({} if "scheduler" in sections else {"period_steps": 4})},
        **sections,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    sweep, directory = load_sweep(folder / "sweep.yaml"), SweepDir.create(folder / "out")
    write_beginning(sweep, directory)
    return TrialPlan(sweep, directory.path)


def with_plan(plan: TrialPlan) -> type[TrialTrainable]:
    """As ``tune.with_parameters`` hands it over."""

    class WithPlan(TrialTrainable):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, plan)

    return WithPlan


@pytest.mark.parametrize(
    ("sections", "scheduler"),
    [
        ({}, type(None)),
        ({"scheduler": {"kind": "asha", "grace_period_steps": 4}}, tune.schedulers.AsyncHyperBandScheduler),
        ({"scheduler": PBT}, tune.schedulers.PopulationBasedTraining),
        ({"space": RANGE, "search": {"kind": "random", "num_trials": 3}}, type(None)),
        ({"space": RANGE, "search": {"kind": "optuna", "num_trials": 3}}, type(None)),
    ],
)
def test_tune_is_given_what_can_be_pickled_for_a_resume(
    tmp_path: Path, teacher: Path, sections: dict[str, Any], scheduler: type
) -> None:
    if sections.get("search", {}).get("kind") == "optuna":
        pytest.importorskip("optuna")
    plan = plan_of(tmp_path, teacher, **sections)
    assert isinstance(runtime_sweep._scheduler(plan.sweep), scheduler)
    cloudpickle.loads(cloudpickle.dumps((runtime_sweep._scheduler(plan.sweep), SweepCallback(plan.path, 60), plan)))
    assert isinstance(runtime_sweep._tuner(plan, 2, resume=True), tune.Tuner)  # nothing to restore yet: a new one
    assert not ray.is_initialized()


def test_a_trial_asks_for_a_group_of_its_own_size(tmp_path: Path, teacher: Path) -> None:
    key = "students.small.resources.num_cpus"
    plan = plan_of(tmp_path, teacher, space={key: {"kind": "grid", "values": [1, 3]}})
    groups = [runtime_sweep._group_of(plan.sweep, {SETTINGS: point}) for point in plan.sweep.points or []]
    assert [group.bundles for group in groups] == [[{"CPU": 1.0}], [{"CPU": 3.0}]]
    assert runtime_sweep._distinct(plan.sweep) == [[("trial", {"CPU": 1.0})], [("trial", {"CPU": 3.0})]]


def test_a_trial_s_process_as_tune_calls_it(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher, scheduler=PBT)
    held_out = make_held_out(plan.sweep.base, 4, 0, torch.device("cpu"))
    plan.folder.held_out_path.write_bytes(to_parquet(held_out))
    process = with_plan(plan)(config={SETTINGS: {LR: 0.1}})
    first = process.train()
    assert (first[STEPS], first[DONE]) == (4, False)
    process.save(str(tmp_path / "copy"))
    process.stop()
    state = plan.folder.trials()[0]
    assert (state.state, state.values) == ("stopped", [first[OBJECTIVE]])
    other = with_plan(plan)(config={SETTINGS: {LR: 0.05}})
    other.restore(str(tmp_path / "copy"))
    last = other.train()
    assert (last[STEPS], last[DONE]) == (8, True)
    other.stop()
    assert plan.folder.trials()[0].settings == {LR: 0.05}


class FakeTrial:
    """What callbacks read of Tune's trials."""

    def __init__(self, **result: Any) -> None:
        self.trial_id = "ab12c_00003"
        self.status = "RUNNING"
        self.config = {SETTINGS: {LR: 0.1}}
        self.last_result = result


def test_callbacks_tell_the_watcher_and_write_down_a_death(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher)
    told: list[dict[str, Any]] = []

    class Told(SweepWatcher):
        def update(self, trial: str, **values: Any) -> None:
            told.append({"trial": trial, **values})

    began_at = tmp_path / "where the sweep began"
    callback = cloudpickle.loads(cloudpickle.dumps(SweepCallback(began_at, 60)))
    LIVE[str(began_at)] = Told(), plan.folder
    try:
        common: dict[str, Any] = {"iteration": 1, "trials": []}
        callback.on_trial_start(trial=FakeTrial(), **common)
        callback.on_trial_result(trial=FakeTrial(), result={STEPS: 4, OBJECTIVE: 0.5}, **common)
        callback.on_trial_complete(trial=FakeTrial(**{DONE: False}), **common)
        callback.on_trial_complete(trial=FakeTrial(**{DONE: True}), **common)
        callback.on_trial_error(trial=FakeTrial(), **common)
    finally:
        del LIVE[str(began_at)]
    assert [values.get("state") for values in told] == ["running", None, "stopped", "finished", "failed"]
    assert {values["trial"] for values in told} == {"00003"}
    (died,) = plan.folder.trials()
    assert (died.state, died.settings) == ("failed", {LR: 0.1})
    assert "its process died" in str(died.error)


def test_a_smaller_cluster_does_not_go_on_with_as_many_trials() -> None:
    runtime_sweep._require_room(now=2, before=2)
    with pytest.raises(ResourceError, match="started with 4 trials at once, the cluster now holds 2"):
        runtime_sweep._require_room(now=2, before=4)


def test_exploring_changes_the_settings_alone(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher, scheduler={**PBT, "resample_probability": 0})
    explored = runtime_sweep._explored(plan.sweep, random.Random(0), {SETTINGS: {LR: 0.1}, "other": 1})
    assert explored["other"] == 1
    assert explored[SETTINGS][LR] in (0.1, 0.02)


def test_an_optuna_space_has_the_sweep_s_kinds(tmp_path: Path, teacher: Path) -> None:
    optuna = pytest.importorskip("optuna")
    space = {
        **RANGE,
        "sources.a.steps_per_batch": {"kind": "int", "low": 1, "high": 4},
        "students.small.flip": {"kind": "choice", "values": [True, False]},
    }
    plan = plan_of(tmp_path, teacher, space=space, search={"kind": "optuna", "num_trials": 3})
    searcher = optuna_searcher(plan.sweep)
    distributions = optuna.distributions
    assert searcher._space == {
        f"{SETTINGS}/{LR}": distributions.FloatDistribution(0.01, 0.1, log=True),
        f"{SETTINGS}/sources.a.steps_per_batch": distributions.IntDistribution(1, 4),
        f"{SETTINGS}/students.small.flip": distributions.CategoricalDistribution((True, False)),
    }
    suggested = searcher.suggest("one")
    assert set(suggested) == {SETTINGS}
    plan.sweep.experiment_of(suggested[SETTINGS])


def test_names_of_trials() -> None:
    assert (name_of("ab12c_00003"), name_of("1f2e3d4c")) == ("00003", "1f2e3d4c")


class Standing:
    """A trial in one of Tune's states."""

    def __init__(self, status: str) -> None:
        self.status = status


def test_a_sweep_of_which_no_trial_finds_a_place_ends_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [1000.0]
    monkeypatch.setattr(sweep_trainable.time, "monotonic", lambda: now[0])
    callback = SweepCallback(tmp_path, 60)

    def look(after_s: float, *states: str) -> None:
        now[0] += after_s
        callback.on_step_end(0, [Standing(state) for state in states])

    look(0, "PENDING", "TERMINATED")
    look(59, "PENDING", "TERMINATED")
    look(10, "RUNNING", "PENDING")
    look(500, "PENDING")
    callback = cloudpickle.loads(cloudpickle.dumps(callback))
    now[0] = 5.0  # another process, with a clock of its own
    look(0, "PENDING")
    look(59, "PENDING")
    with pytest.raises(WaitTimeoutError, match=r"^waited 60 s to place a trial: .* --resume once there is room$"):
        look(2, "PENDING")


def test_a_resumed_sweep_tells_once_of_the_trials_that_had_ended(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    class Told(SweepWatcher):
        def update(self, trial: str, **values: Any) -> None:
            told.append((trial, values))

    ended, waiting = FakeTrial(**{STEPS: 4, OBJECTIVE: 0.5, DONE: True}), FakeTrial()
    ended.status, waiting.status = "TERMINATED", "PENDING"
    callback = SweepCallback(tmp_path, 60)
    LIVE[str(tmp_path)] = Told(), SweepDir(tmp_path)
    try:
        for _ in range(2):
            callback.on_step_begin(0, [ended, waiting])
    finally:
        del LIVE[str(tmp_path)]
    assert told == [("00003", {"settings": {LR: 0.1}, "step": 4, "objective": 0.5}), ("00003", {"state": "finished"})]

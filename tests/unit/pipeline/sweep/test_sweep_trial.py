"""A trial driven from measurement to measurement, without Ray: stopped, gone on with, copied, and failing."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import experiment, train_teacher

from raydfkd.data.collected import read_images
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.sweep.config import load_sweep
from raydfkd.pipeline.sweep.held_out_images import make_held_out
from raydfkd.pipeline.sweep.sweep_result import begin, write_beginning, write_end
from raydfkd.pipeline.sweep.trial import TrialPlan, TrialRun, TrialStopped
from raydfkd.replay.arrow import to_parquet
from raydfkd.run_dir import RunDir
from raydfkd.sweep_dir import SweepDir

LR = "students.small.optimizer.lr"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def plan_of(folder: Path, teacher: Path, **sections: Any) -> TrialPlan:
    """A sweep over four rounds of four steps, its directory with its held-out images."""
    import torch

    tree = experiment(teacher)
    tree["schedule"]["rounds"] = 4
    (folder / "exp.yaml").write_text(yaml.safe_dump(tree))
    settings = {
        "experiment": "exp.yaml",
        "space": {LR: {"kind": "grid", "values": [0.1, 0.02]}},
        "objective": {"kind": "agreement", "num_images": 24, "period_steps": 4},
        **sections,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    sweep, directory = load_sweep(folder / "sweep.yaml"), SweepDir.create(folder / "out")
    write_beginning(sweep, directory)
    held_out = make_held_out(sweep.base, 24, 0, torch.device("cpu"))
    directory.held_out_path.write_bytes(to_parquet(held_out))
    return TrialPlan(sweep, directory.path)


def no_ray(*_: Any) -> None:
    raise AssertionError("the local runner was asked for")


def trial(plan: TrialPlan, name: str = "00000", lr: float = 0.1) -> TrialRun:
    return TrialRun(plan, name, {LR: lr}, no_ray)


def drive(run: TrialRun) -> list[dict[str, Any]]:
    measured = [run.next()]
    while not measured[-1]["done"]:
        measured.append(run.next())
    return measured


def test_a_trial_is_measured_at_each_period_and_leaves_a_run_that_repeats(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher)
    run = trial(plan)
    measured = drive(run)
    assert [one["student_steps"] for one in measured] == [4, 8, 12, 16]
    assert [one["done"] for one in measured] == [False, False, False, True]
    records = list(run.run.metrics("held_out"))
    assert [one["objective"] for one in measured] == [record["agreement_ema"] for record in records]
    assert {record["num_images"] for record in records} == {24}
    assert run.run.manifest()["state"] == "finished"
    assert list(run.run.metrics("evaluation")) == []  # no label is read
    config = load_experiment(run.run.config_path)
    assert (config.student.optimizer.lr, config.held_out.path) == (0.1, plan.folder.held_out_path)
    (told,) = plan.folder.trials()
    assert (told.state, told.settings, told.values) == ("finished", {LR: 0.1}, [one["objective"] for one in measured])
    again = trial(plan).next()
    assert again == measured[-1]  # a finished trial says so again and does nothing


def test_a_stopped_trial_is_a_stopped_run_and_goes_on_to_the_same_end(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher)
    whole = drive(trial(plan, "whole"))
    run = trial(plan, "broken")
    assert [run.next()["student_steps"], run.next()["student_steps"]] == [4, 8]
    assert run.stop(600)
    manifest = run.run.manifest()
    assert (manifest["state"], manifest["error"]) == ("stopped", "stopped by the sweep at student step 8")
    on = drive(trial(plan, "broken"))
    assert on[-1] == whole[-1]
    assert {trial.name: trial.state for trial in plan.folder.trials()} == {"broken": "finished", "whole": "finished"}


def test_a_trial_waits_for_the_process_that_ran_it_before(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher)
    before, after = trial(plan), trial(plan)
    before.next()
    first: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: first.append(after.next()))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    assert before.stop(600)
    waiting.join(60)
    assert first[0]["student_steps"] == 4
    assert after.stop(600)


def test_a_trial_that_was_never_begun_can_be_stopped(tmp_path: Path, teacher: Path) -> None:
    assert trial(plan_of(tmp_path, teacher)).stop(1)


def test_a_trial_that_fails_says_why_and_where(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(
        tmp_path, teacher, overrides={"students": {"small": {"model": "raydfkd.testing.faulty_networks:student_that_refuses"}}}
    )
    run = trial(plan)
    with pytest.raises(Exception, match="these images are not what this student takes"):
        drive(run)
    (told,) = plan.folder.trials()
    assert (told.state, told.error) == ("failed", "these images are not what this student takes: give it others")
    result = write_end(plan.sweep, plan.folder, "finished", 0.0)
    assert (result["num_failed"], result["best"]) == (1, None)
    assert not plan.folder.best_path.exists()


def test_a_trial_goes_on_from_another_s_checkpoint_with_settings_of_its_own(tmp_path: Path, teacher: Path) -> None:
    """Population-based training: both were measured at step 8 and have a checkpoint of it."""
    pbt = {"kind": "pbt", "perturbation_interval_steps": 8, "mutable": [LR]}
    plan = plan_of(tmp_path, teacher, scheduler=pbt, objective={"kind": "agreement", "num_images": 24})
    leader, laggard = trial(plan, "leader", 0.1), trial(plan, "laggard", 0.02)
    assert [leader.next()["student_steps"], laggard.next()["student_steps"]] == [8, 8]
    assert leader.run.latest_checkpoint().name == "step-00000008"
    leader.save(tmp_path / "copy")
    assert laggard.stop(600)
    changed = trial(plan, "laggard", 0.12)
    changed.load(tmp_path / "copy")
    last = drive(changed)
    assert [one["student_steps"] for one in last] == [16]
    told = plan.folder.read_trial_file("laggard")
    assert told["copied"] == [{"step": 8, "from": "leader", "settings": {LR: 0.12}}]
    assert load_experiment(changed.run.config_path).student.optimizer.lr == 0.12
    events = [record["message"] for record in changed.run.metrics("event")]
    assert events == ["resumed from step-00000008"]
    lrs = [record["lr"] for record in changed.run.metrics("distillation") if record["step"] > 8]
    assert max(lrs) < 0.12
    assert leader.stop(600)


def test_an_own_checkpoint_is_not_copied_over_itself(tmp_path: Path, teacher: Path) -> None:
    pbt = {"kind": "pbt", "perturbation_interval_steps": 8, "mutable": [LR]}
    plan = plan_of(tmp_path, teacher, scheduler=pbt, objective={"kind": "agreement", "num_images": 24})
    run = trial(plan)
    run.next()
    run.save(tmp_path / "copy")
    assert run.stop(600)
    inside = run.run.latest_checkpoint() / "students/small.pt"
    written = inside.stat().st_mtime_ns
    on = trial(plan)
    on.load(tmp_path / "copy")
    assert inside.stat().st_mtime_ns == written
    assert plan.folder.read_trial_file("00000")["copied"] == []


def test_of_several_students_the_one_that_the_objective_names_is_measured(tmp_path: Path, teacher: Path) -> None:
    objective = {"num_images": 24, "period_steps": 8, "student_name": "other"}
    other = {"model": "small_cnn_8", "batch_size": 8, "crop_padding": 1, "flip": False}
    plan = plan_of(tmp_path, teacher, objective=objective, overrides={"students": {"other": other}})
    run = trial(plan)
    measured = drive(run)
    found = [r["agreement_ema"] for r in run.run.metrics("held_out") if r["student"] == "other"]
    assert [one["objective"] for one in measured] == found
    (told,) = plan.folder.trials()
    assert told.values == found
    assert plan.folder.manifest()["objective"]["label"] == "agreement with the teacher (averaged student other)"


def test_an_evaluation_objective_reads_labels_and_says_so(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher, objective={"kind": "evaluation", "student": "last", "period_steps": 8})
    run = trial(plan)
    measured = drive(run)
    assert [one["objective"] for one in measured] == [r["metric_last"] for r in run.run.metrics("evaluation")]
    assert list(run.run.metrics("held_out")) == []
    result = write_end(plan.sweep, plan.folder, "finished", 0.0)
    assert "labelled evaluation data (digits, split test)" in result["measured_on"]
    assert "not data-free" in result["measured_on"]


def test_the_best_is_written_as_an_experiment_of_the_user_s(tmp_path: Path, teacher: Path) -> None:
    """With the evaluation of the experiment itself, and without the sweep's held-out images."""
    plan = plan_of(tmp_path, teacher)
    drive(trial(plan, "00000", 0.1))
    drive(trial(plan, "00001", 0.02))
    result = write_end(plan.sweep, plan.folder, "finished", 0.0)
    best = max(result["trials"], key=lambda row: row["objective"])
    assert result["best_settings"] == best["settings"]
    config = load_experiment(plan.folder.best_path)
    assert config == plan.sweep.experiment_of(best["settings"])
    assert config.evaluation is not None
    assert config.held_out is None
    assert json.loads(plan.folder.result_path.read_text())["num_finished"] == 2


def test_the_sweep_s_own_files_make_the_same_sweep(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher, overrides={"students": {"small": {"ema_decay": 0.25}}})
    again = load_sweep(plan.folder.sweep_path)
    assert again.base == plan.sweep.base
    assert again.points == plan.sweep.points


def test_held_out_images_are_the_same_for_a_seed_and_unlike_a_run_s(tmp_path: Path, teacher: Path) -> None:
    import torch

    plan = plan_of(tmp_path, teacher)
    device = torch.device("cpu")
    one, same, other = (make_held_out(plan.sweep.base, 24, seed, device).images for seed in (0, 0, 1))
    assert one.shape == (24, 1, 8, 8)
    assert (one == same).all()
    assert (one != other).any()


def test_collected_images_are_held_out_from_every_trial(tmp_path: Path, teacher: Path) -> None:
    import torch

    from raydfkd.pipeline.experiment import builder
    from raydfkd.pipeline.run import collecting

    tree = experiment(teacher) | {
        "collected": {"dataset": {"kind": "digits", "split": "train"}, "num_images": 50},
        "replay": {"synthetic": {"capacity": 40}, "pinned": {"capacity": 50}},
    }
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump({"experiment": "exp.yaml", "space": {"collected.num_images": {"kind": "grid", "values": [50, 40]}}})
    )
    sweep = load_sweep(tmp_path / "sweep.yaml")
    plan, device = TrialPlan(sweep, tmp_path / "out"), torch.device("cpu")
    held = make_held_out(sweep.base, 24, 0, device)
    assert held.metrics == {"num_collected": 10.0, "num_ssdkd": 14.0}
    plan.folder.path.mkdir()
    plan.folder.held_out_path.write_bytes(to_parquet(held))
    kept_out = {image.tobytes() for image in read_images(plan.folder.held_out_path, "held_out").images[:10]}
    config = plan.experiment_of({"collected.num_images": 50}, tmp_path / "run")
    all_of_them = config.model_copy(update={"collected": config.collected.model_copy(update={"num_images": None})})
    pinned = all_of_them.replay.pinned.model_copy(update={"capacity": 2000})
    all_of_them = all_of_them.model_copy(update={"replay": all_of_them.replay.model_copy(update={"pinned": pinned})})
    teacher_network = builder.build_frozen_teacher(config)
    chosen = collecting.collect(all_of_them, teacher_network, device)
    everything = all_of_them.collected.model_copy(update={"exclude": None})
    found = collecting.collect(all_of_them.model_copy(update={"collected": everything}), teacher_network, device)
    assert not kept_out & {image.tobytes() for image in chosen.batch.images}
    assert len(chosen) == len(found) - len(kept_out)


def test_stopping_is_an_interrupt_to_whoever_catches_errors() -> None:
    assert not issubclass(TrialStopped, Exception)


def test_a_run_without_records_of_the_objective_has_no_measurement(tmp_path: Path, teacher: Path) -> None:
    plan = plan_of(tmp_path, teacher)
    RunDir.create(plan.folder.trial_path("00007")).update_manifest(state="running")
    (told,) = plan.folder.trials()
    assert (told.objective, told.last_step, told.state) == (None, 0, "running")


def test_the_time_of_a_session_that_was_killed_counts(tmp_path: Path, teacher: Path) -> None:
    """Up to its last record; an orderly session's is counted when it ends, and once."""
    plan = plan_of(tmp_path, teacher)
    began = begin(plan.folder)
    drive(trial(plan, "00000", 0.1))
    records = plan.folder.trial_path("00000") / "metrics.jsonl"
    os.utime(records, (began + 100, began + 100))
    again = begin(plan.folder)
    assert plan.folder.manifest()["elapsed_s"] == pytest.approx(100)
    result = write_end(plan.sweep, plan.folder, "stopped", again - 50)
    assert result["elapsed_s"] == pytest.approx(150, abs=5)
    begin(plan.folder)
    assert plan.folder.manifest()["elapsed_s"] == pytest.approx(150, abs=5)

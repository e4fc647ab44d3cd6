"""The local runner end to end on tiny networks: what is left behind, repeatability, kills, failures and refusals."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import At, experiment

from raydfkd.api import Result, distill
from raydfkd.errors import ConfigError, DataError, DiskFullError, RaydfkdError, RunDirError
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.run.recorder import Watcher
from raydfkd.run_dir import RunDir

TIMES = {"time_s", "seconds", "step_s", "rss_bytes", "distilled_per_s", "student_wait_limiter_s", "synthesized_per_s"}
"""What no seed repeats."""


@pytest.fixture(scope="module")
def bare() -> Any:
    """Runs without a report and TensorBoard events, whose making takes longer than these runs."""
    patch = pytest.MonkeyPatch()
    patch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    patch.setattr("raydfkd.pipeline.run.recorder.Recorder._to_tensorboard", lambda self, record: None)
    yield
    patch.undo()


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def run(teacher: Path, bare: None) -> Run:
    def go(out: Path, *overrides: str, **options: Any) -> Result:
        return distill(experiment(teacher), overrides=overrides, out=out, **options)

    return go


@pytest.fixture(scope="module")
def unbroken(run: Run, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Three rounds, a checkpoint at each one's beginning and at the end."""
    return RunDir(run(tmp_path_factory.mktemp("unbroken") / "run", "schedule.rounds=3").run_dir)


def student(run: RunDir) -> dict[str, bytes]:
    """Every tensor of both saved students (not the files' bytes: safetensors writes its header in no fixed order)."""
    return {
        f"{file}/{name}": tensor.numpy().tobytes()
        for file in ("student", "student_ema")
        for name, tensor in load_file(run.path / f"{file}.safetensors").items()
    }


def timeless(run: RunDir) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in TIMES} for record in run.metrics() if record["kind"] != "event"]


def test_a_run_leaves_everything_the_format_names(teacher: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's and tensorboardX's own
        result = distill(experiment(teacher), out=tmp_path / "run")
    run = RunDir(result.run_dir)
    assert sorted(p.relative_to(run.path).as_posix() for p in run.path.iterdir()) == [
        "analysis", "checkpoints", "config.yaml", "manifest.json", "metrics.jsonl", "report.html", "result.json", "samples",
        "student.safetensors", "student_ema.safetensors", "tensorboard",
    ]  # fmt: skip
    assert next((run.path / "tensorboard").iterdir()).name.startswith("events.out.tfevents")
    assert sorted(p.name for p in run.analysis.iterdir()) == ["buffer.npz", "features.npz"]
    assert sorted(p.name for p in run.samples.iterdir()) == ["by_class.npz", "round-00001.png", "round-00002.png"]
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["latest.json", "step-00000004", "step-00000008"]
    assert result.report.stat().st_size > 10_000


def test_the_result_says_what_happened(unbroken: RunDir, teacher: Path) -> None:
    result = unbroken.result()
    assert (result["method"], result["seed"], result["schedule"], result["runner"]) == ("ssdkd", 0, "lockstep", "local")
    assert result["images_synthesized"] == (2 + 3) * 16
    assert result["images_distilled"] == 12 * 16
    assert result["student_steps"] == 12
    assert result["metric_name"] == "accuracy"
    assert result["teacher"]["metric"] > 0.6
    assert 0 <= result["student"]["metric_last"] <= 1
    assert 0 <= result["class_entropy"] <= 1
    assert result["restarts"] == 0
    assert 0 < result["synthesis_s"] + result["distillation_s"] < result["end_to_end_s"]
    assert 0 < result["student_wait_fraction"] < 1
    assert result["device"].startswith("cpu")


def test_the_manifest_names_what_was_read_and_for_what(unbroken: RunDir) -> None:
    manifest = unbroken.manifest()
    assert manifest["state"] == "finished"
    assert manifest["teacher_sha256"] == unbroken.result()["teacher"]["sha256"]
    assert [(s["split"], s["purpose"]) for s in manifest["data_splits_read"]] == [("test", "evaluation only")]
    assert {"torch", "numpy", "ray"} <= set(manifest["packages"])
    assert not manifest.get("error")


def test_records_of_every_kind_are_written_when_they_are_due(unbroken: RunDir) -> None:
    records = list(unbroken.metrics())
    assert [r["step"] for r in records if r["kind"] == "distillation"] == [4, 8, 12]
    assert [r["step"] for r in records if r["kind"] == "evaluation"] == [4, 8, 12]
    synthesis = [r for r in records if r["kind"] == "synthesis"]
    assert [r["step"] for r in synthesis] == [0, 0, 0, 4, 8], "the warm-up, and one at each round's beginning"
    assert [r["student_version"] for r in synthesis] == [0, 0, 0, 1, 2], "with that round's student"
    assert {"loss", "bn_loss", "one_hot_loss", "generator_id", "num_images"} <= set(synthesis[0])
    assert "adversarial_loss" not in synthesis[0]
    assert "adversarial_loss" in synthesis[1], "published: from one batch before the warm-up's end"
    replay = [r for r in records if r["kind"] == "replay"]
    assert [r["size"] for r in replay] == [16, 32, 40, 40, 40]
    assert [r["fill"] for r in replay] == [0.4, 0.8, 1.0, 1.0, 1.0]
    assert sum(replay[-1]["class_counts"]) == 40
    assert [r["images_distilled"] for r in records if r["kind"] == "throughput"] == [64, 128, 192]


def test_the_saved_students_and_arrays_are_of_the_end(unbroken: RunDir) -> None:
    weights = load_file(unbroken.path / "student.safetensors")
    last = torch.load(unbroken.checkpoints / "step-00000012" / "students/small.pt", weights_only=True)
    assert all(torch.equal(weights[name], tensor) for name, tensor in last["student"].items())
    with np.load(unbroken.analysis / "buffer.npz") as arrays:
        assert len(arrays["priorities"]) == 40
    with np.load(unbroken.samples / "by_class.npz") as arrays:
        assert arrays["images"].dtype == np.uint8
        assert len(arrays["images"]) == len(arrays["teacher_class"]) > 0
    with np.load(unbroken.analysis / "features.npz") as arrays:
        assert arrays["synthetic_features"].shape[1] == arrays["real_features"].shape[1] == 16
        assert len(arrays["real_class"]) == 60


def test_a_seed_repeats_bit_for_bit(run: Run, unbroken: RunDir, tmp_path: Path) -> None:
    again = RunDir(run(tmp_path / "run", "schedule.rounds=3").run_dir)
    assert student(again) == student(unbroken)
    assert timeless(again) == timeless(unbroken)


def test_another_seed_differs(run: Run, unbroken: RunDir, tmp_path: Path) -> None:
    other = RunDir(run(tmp_path / "run", "schedule.rounds=3", "runtime.seed=1").run_dir)
    assert student(other) != student(unbroken)


def test_how_often_it_is_saved_and_logged_changes_nothing(run: Run, unbroken: RunDir, tmp_path: Path) -> None:
    other = RunDir(
        run(tmp_path / "run", "schedule.rounds=3", "runtime.checkpoint_period_rounds=50", "runtime.log_period_steps=1").run_dir
    )
    assert student(other) == student(unbroken)


def test_without_evaluation_data_nothing_labelled_is_read_and_the_student_is_the_same(
    run: Run, unbroken: RunDir, tmp_path: Path
) -> None:
    other = RunDir(run(tmp_path / "run", "schedule.rounds=3", "evaluation=null").run_dir)
    assert student(other) == student(unbroken)
    assert other.manifest()["data_splits_read"] == []
    assert other.result()["student"]["metric_last"] is None
    assert list(other.metrics("evaluation")) == []


def test_the_saved_config_runs_the_run_again(run: Run, unbroken: RunDir, bare: None, tmp_path: Path) -> None:
    config = load_experiment(unbroken.config_path)
    assert config.runtime.out == unbroken.path
    again = RunDir(distill(unbroken.config_path, out=tmp_path / "run").run_dir)
    assert student(again) == student(unbroken)


@pytest.mark.parametrize("killed_after", [2, 6, 9])
def test_killed_and_resumed_equals_unbroken_bit_for_bit(run: Run, unbroken: RunDir, tmp_path: Path, killed_after: int) -> None:
    """The directory as a kill would leave it (no handler ran) is continued: in the warm-up, after one and two checkpoints."""
    left = tmp_path / "killed"
    seen: list[int] = []

    def wanted(record: dict[str, Any]) -> bool:
        seen.append(1)
        return len(seen) == killed_after * 2

    copier = At(wanted, lambda: shutil.copytree(tmp_path / "run", left))
    run(tmp_path / "run", "schedule.rounds=3", watcher=copier)
    assert copier.done
    with (left / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "syn')  # the line that was being written
    assert RunDir(left).manifest()["state"] == "running"
    resumed = RunDir(run(left, "schedule.rounds=3", resume=True).run_dir)
    assert student(resumed) == student(unbroken)
    assert timeless(resumed) == timeless(unbroken)
    assert resumed.result()["images_synthesized"] == unbroken.result()["images_synthesized"]
    assert [r["message"].startswith("resumed from") for r in resumed.metrics("event")] == [True]
    times = [record["time_s"] for record in resumed.metrics()]
    assert times == sorted(times)


def fail(error: BaseException) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


@pytest.mark.parametrize(
    ("error", "state"),
    [(RuntimeError("out of luck"), "failed"), (KeyboardInterrupt(), "stopped"), (DataError("bad"), "failed")],
)
def test_a_run_that_breaks_says_so_in_its_manifest(run: Run, tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)) as caught:
        run(tmp_path / "run", watcher=At(lambda r: r["kind"] == "distillation", fail(error)))
    assert caught.value is error, "the first error is the one reported"
    manifest = RunDir.open(tmp_path / "run").manifest()
    assert manifest["state"] == state
    assert manifest["error"] == (str(error) or "KeyboardInterrupt")


def test_a_broken_run_can_be_resumed_and_is_then_whole(run: Run, unbroken: RunDir, tmp_path: Path) -> None:
    watcher = At(lambda r: r["kind"] == "distillation" and r["step"] == 8, fail(RuntimeError("out of luck")))
    with pytest.raises(RuntimeError):
        run(tmp_path / "run", "schedule.rounds=3", watcher=watcher)
    with pytest.raises(RunDirError, match="holds a failed run already: continue it with --resume"):
        run(tmp_path / "run")
    resumed = RunDir(run(tmp_path / "run", "schedule.rounds=3", resume=True).run_dir)
    assert student(resumed) == student(unbroken)
    assert resumed.manifest()["state"] == "finished"
    assert not resumed.manifest().get("error"), "an error that was overcome is not the run's"


def test_a_full_disk_is_told_in_one_sentence_and_a_resume_goes_on(
    run: Run, unbroken: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills up after the first checkpoint: the second one cannot be written, nor the manifest that it failed."""
    sync, full = os.fsync, []

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr("raydfkd.run_dir.os.fsync", fsync)
    watcher = At(lambda r: r["kind"] == "distillation" and r["step"] == 8, lambda: full.append(True))
    with pytest.raises(DiskFullError) as told:
        run(tmp_path / "run", "schedule.rounds=3", watcher=watcher)
    assert str(told.value) == (
        f"run directory {tmp_path / 'run'} cannot be written to: No space left on device; free some space, then resume with "
        "raydfkd run RUN --resume"
    )
    assert told.value.exit_code == 1
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_dir())
    assert left == ["generators", "replay", "shards", "step-00000004", "students"], (
        "what could not be written whole takes no room"
    )
    assert not list((tmp_path / "run").rglob("*.tmp"))
    full.clear()
    resumed = RunDir(run(tmp_path / "run", "schedule.rounds=3", resume=True).run_dir)
    assert student(resumed) == student(unbroken)
    assert timeless(resumed) == timeless(unbroken)


def test_a_run_that_breaks_while_it_is_finished_goes_on_from_its_end(
    run: Run, unbroken: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydfkd.pipeline.run.execute.finish", lambda *args: fail(RuntimeError("disk full"))())
    with pytest.raises(RuntimeError):
        run(tmp_path / "run", "schedule.rounds=3")
    monkeypatch.undo()
    last = tmp_path / "run" / "checkpoints" / "step-00000012"
    (last / "mark").write_text("")
    resumed = RunDir(run(tmp_path / "run", "schedule.rounds=3", resume=True).run_dir)
    assert student(resumed) == student(unbroken)
    assert timeless(resumed) == timeless(unbroken)
    assert (last / "mark").exists(), "the only whole checkpoint is not taken down to be written again"


def test_a_finished_run_is_neither_resumed_nor_written_over(run: Run, unbroken: RunDir) -> None:
    before = student(unbroken)
    with pytest.raises(RunDirError, match="holds a finished run: there is nothing to resume"):
        run(unbroken.path, resume=True)
    with pytest.raises(RunDirError, match="holds a finished run already: choose another --out"):
        run(unbroken.path)
    assert student(unbroken) == before


def test_nothing_to_resume(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="is not a run directory"):
        run(tmp_path / "nowhere", resume=True)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("teacher.checkpoint=/nowhere.safetensors", "there is no weights file"),
        ("teacher.model=small_cnn_16", "does not match the architecture"),
        ("teacher.model=smal_cnn_8", "unknown model"),
        ("students.small.model=smal_cnn_4", "unknown model"),
        ("students.small.checkpoint=/nowhere.pt", "there is no weights file"),
        ("sources.inversion.generator=huge", "unknown generator"),
        ("evaluation.dataset={kind: parquet, path: /nowhere.parquet}", "nowhere"),
        ("runtime.device=cuda", "no GPU"),
    ],
)
def test_a_refused_run_leaves_no_directory(run: Run, tmp_path: Path, override: str, told: str) -> None:
    if "cuda" in override and torch.cuda.is_available():
        pytest.skip("there is a GPU here, and so nothing to refuse")
    with pytest.raises(RaydfkdError, match=told) as caught:
        run(tmp_path / "run", override)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_leaves_the_users_own_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError):
        run(tmp_path, "students.small.model=smal_cnn_4")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_experiment_is_not_overwritten_by_its_own_run(teacher: Path, bare: None, tmp_path: Path) -> None:
    text = json.dumps(experiment(teacher))
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunDirError, match=r"holds the experiment itself as config\.yaml: choose another --out"):
        distill(tmp_path / "config.yaml", out=tmp_path)
    assert (tmp_path / "config.yaml").read_text() == text


def test_a_ray_run_may_ask_for_gpus_that_the_driver_has_not(
    teacher: Path, bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    monkeypatch.setattr("raydfkd.api._ray_runner", lambda *args: reached.append("ray") or fail(RuntimeError("enough"))())
    with pytest.raises(RuntimeError, match="enough"):
        distill(experiment(teacher), overrides=["runtime.runner=ray", "runtime.device=cuda"], out=tmp_path / "run")
    assert reached == ["ray"]


def test_a_wrong_tree_is_refused_before_anything_is_made(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key schedule\.round: did you mean 'rounds'"):
        run(tmp_path / "run", "schedule.round=3")
    assert list(tmp_path.iterdir()) == []


def test_several_sources_take_turns_and_repeat(run: Run, tmp_path: Path) -> None:
    more = ["sources.plain={method: fast, batch_size: 16, base_channels: 4, latent_dim: 8, num_generators: 2}"]
    runs = [RunDir(run(tmp_path / name, *more, "schedule.batches_per_round=2").run_dir) for name in "ab"]
    makers = [record["generator_id"] for record in runs[0].metrics("synthesis")]
    assert makers == ["inversion-0", "plain-0", "plain-1", "inversion-0", "plain-0", "plain-1"]
    assert runs[0].result()["method"] == "fast+ssdkd"
    assert student(runs[0]) == student(runs[1])


def test_where_the_run_goes(teacher: Path, bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``out``, then ``runtime.out``, then runs/NAME-seedN in the working directory."""
    monkeypatch.chdir(tmp_path)
    tree = copy.deepcopy(experiment(teacher))
    tree["schedule"] |= {"rounds": 1, "student_steps_per_round": 1}
    Path("my.yaml").write_text(json.dumps(tree))
    places = [
        distill("my.yaml", overrides=["runtime.seed=3"]).run_dir,
        distill("my.yaml", overrides=["runtime.out=there"]).run_dir,
        distill(tree).run_dir,
    ]
    assert [path.resolve() for path in places] == [
        tmp_path / "runs" / "my-seed3", tmp_path / "there", tmp_path / "runs" / "experiment-seed0",
    ]  # fmt: skip


def test_a_watcher_is_told_of_stages_records_and_the_end(run: Run, tmp_path: Path) -> None:
    class Listening(Watcher):
        def __init__(self) -> None:
            self.stages: list[str] = []
            self.records: list[dict[str, Any]] = []
            self.results: list[dict[str, Any]] = []

        def stage(self, name: str, detail: str = "") -> None:
            self.stages.append(name)

        def update(self, record: dict[str, Any]) -> None:
            self.records.append(record)

        def finish(self, result: dict[str, Any]) -> None:
            self.results.append(result)

    watcher = Listening()
    result = run(tmp_path / "run", watcher=watcher)
    assert watcher.stages == ["checking the teacher", "filling the buffer", "distilling", "finishing"]
    assert len(watcher.records) == len(list(RunDir(result.run_dir).metrics()))
    assert watcher.results == [result.result]

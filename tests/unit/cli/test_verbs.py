"""The verbs on a tiny experiment without Ray: what they print, write and leave as exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raydfkd.cli.verbs.run_verb import DEMO, DEMO_TEACHER
from raydfkd.distillation.objectives import OBJECTIVES
from raydfkd.errors import ResourceError
from raydfkd.models.weights import read_metadata
from raydfkd.pipeline.dataset.inspection import run_images
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.experiment.yaml_files import read_yaml
from raydfkd.run_dir import RunDir
from raydfkd.testing.command import invoke as raydfkd

ROOT = Path(__file__).parents[3]

RECIPE = """\
model: small_cnn_8
num_classes: 10
image_shape: [1, 8, 8]
dataset: {kind: digits, split: train, max_images: 300}
evaluation: {kind: digits, split: test}
epochs: 2
batch_size: 64
optimizer: {lr: 0.05}
bf16: false
"""

EXPERIMENT = """\
task: {kind: classification, num_classes: 10, image_shape: [1, 8, 8]}
teacher: {model: small_cnn_8, checkpoint: teacher.safetensors}
sources:
  inversion: {method: ssdkd, batch_size: 16, base_channels: 4, latent_dim: 8}
replay:
  synthetic: {capacity: 64, sampler: {kind: prioritized}}
students:
  small: {model: small_cnn_8, batch_size: 16}
schedule: {warmup_batches: 1, rounds: 2, student_steps_per_round: 2}
evaluation: {dataset: {kind: digits, max_images: 50}}
runtime: {runner: local, bf16: false}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained teacher, an experiment and its finished run, all made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "exp.yaml").write_text(EXPERIMENT)
    told = raydfkd("train-teacher", folder / "recipe.yaml", "seed=3", "--out", folder / "teacher.safetensors")
    assert "epoch 2/2" in told
    assert read_metadata(folder / "teacher.safetensors")["seed"] == "3"
    told = raydfkd("run", folder / "exp.yaml", "runtime.seed=5", "--out", folder / "run")
    assert told.splitlines()[-2:] == [f"run directory: {folder / 'run'}", f"report: {folder / 'run' / 'report.html'}"]
    return folder


def test_a_run_leaves_its_result_report_and_resolved_experiment(folder: Path) -> None:
    result = json.loads((folder / "run" / "result.json").read_text())
    assert (result["seed"], result["runner"], result["student_steps"]) == (5, "local", 4)
    assert "<html" in (folder / "run" / "report.html").read_text()
    assert load_experiment(folder / "run" / "config.yaml").runtime.seed == 5


def test_a_finished_run_is_neither_overwritten_nor_resumed(folder: Path) -> None:
    assert "finished run already: choose another --out" in raydfkd("run", folder / "exp.yaml", "--out", folder / "run", rc=2)
    assert "nothing to resume" in raydfkd("run", folder / "run", "--resume", rc=2)
    assert "nothing to resume" in raydfkd("run", folder / "exp.yaml", "--resume", "--out", folder / "run", rc=2)


def test_a_run_directory_stands_for_its_experiment(folder: Path, tmp_path: Path) -> None:
    raydfkd("run", folder / "run", "--out", tmp_path / "again")
    first, again = (json.loads((path / "result.json").read_text()) for path in (folder / "run", tmp_path / "again"))
    assert again["student"] == first["student"]


def test_runner_and_address_replace_the_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def distill(path: Path, **settings: object) -> None:
        seen.update(settings, runner=load_experiment(path, settings["overrides"]).runtime.runner)
        raise KeyboardInterrupt

    monkeypatch.setattr("raydfkd.api.distill", distill)
    told = raydfkd("run", folder / "exp.yaml", "--runner", "ray", "--address", "auto", "--out", tmp_path, rc=130)
    assert (seen["runner"], seen["address"], seen["out"], seen["resume"]) == ("ray", "auto", tmp_path, False)
    assert "stopped by Ctrl-C" in told
    assert "Traceback" not in told


def test_evaluate_measures_teacher_and_both_students(folder: Path) -> None:
    lines = raydfkd("evaluate", folder / "run").splitlines()
    assert lines[0].split() == ["network", "model", "accuracy", "agreement", "images", "split"]
    assert [line.split()[0] for line in lines[2:]] == ["teacher", "student", "student_ema"]
    result = json.loads((folder / "run" / "result.json").read_text())
    assert lines[3].split()[2] == f"{result['student']['metric_last']:.2%}"
    one = raydfkd("evaluate", folder / "run" / "student.safetensors", "--config", folder / "exp.yaml").splitlines()
    assert one[3].split() == lines[3].split()


def test_dataset_inspect_reads_the_buffer_of_a_run(folder: Path) -> None:
    lines = raydfkd("dataset", "inspect", folder / "run", "--attacked", 4).splitlines()
    assert lines[2].split() == ["images", "48"]  # of three batches, as many as the result tells
    entropy = next(line for line in lines if line.startswith("relative class entropy")).split()[-1]
    result = json.loads((folder / "run" / "result.json").read_text())
    assert float(entropy) == pytest.approx(result["class_entropy"], rel=1e-3)
    assert "starved" in lines[-1]
    fewer = raydfkd("dataset", "inspect", folder / "run", "--attacked", 0, "--max-images", 5).splitlines()
    assert fewer[2].split() == ["images", "5"]
    run = RunDir.open(folder / "run")
    assert np.array_equal(run_images(run, 5)[1], run_images(run)[1][[0, 9, 19, 28, 38]])


def test_evaluate_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    weights = folder / "run" / "student.safetensors"
    assert "needs --config" in raydfkd("evaluate", weights, rc=2)
    assert "names no evaluation data" in raydfkd("evaluate", weights, "evaluation=null", "--config", folder / "exp.yaml", rc=2)
    assert "is not a run directory" in raydfkd("evaluate", tmp_path, rc=2)
    assert "does not match the architecture" in raydfkd(
        "evaluate", weights, "students.small.model=small_cnn_16", "--config", folder / "exp.yaml", rc=2
    )


def test_export_and_its_refusals(folder: Path, tmp_path: Path) -> None:
    told = raydfkd("export", folder / "run", "--format", "safetensors", "--out", tmp_path / "s.safetensors", "--ema")
    assert "logits differ by at most" in told
    assert read_metadata(tmp_path / "s.safetensors")["model"] == "small_cnn_8"
    student = folder / "run" / "student.safetensors"
    assert "--ema chooses" in raydfkd("export", student, "--format", "pt2", "--out", tmp_path / "s.pt2", "--ema", rc=2)
    assert "no weights file" in raydfkd("export", tmp_path, "--format", "pt2", "--out", tmp_path / "s.pt2", rc=2)
    raydfkd("export", student, "--format", "gguf", "--out", tmp_path / "s.gguf", rc=2)


def test_report_of_one_run_and_of_several(folder: Path, tmp_path: Path) -> None:
    assert raydfkd("report", folder / "run") == f"report: {folder / 'run' / 'report.html'}\n"
    names = ("--label", "a", "--label", "b")
    told = raydfkd("report", folder / "run", folder / "run", *names, "--out", tmp_path / "both")
    assert told == f"comparison: {tmp_path / 'both' / 'comparison.html'}\n"
    assert "name several runs" in raydfkd("report", folder / "run", "--out", tmp_path, rc=2)
    assert "is not a run directory" in raydfkd("report", tmp_path, rc=2)


def test_config_check_prints_the_resolved_experiment(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "resolved.yaml").write_text(raydfkd("config", "check", folder / "exp.yaml", "schedule.rounds=7"))
    assert load_experiment(tmp_path / "resolved.yaml") == load_experiment(folder / "exp.yaml", ["schedule.rounds=7"])


def test_doctor_looks_at_teacher_student_buffer_data_and_time(folder: Path) -> None:
    told = raydfkd("doctor", folder / "exp.yaml")
    rows = {line.split("  ")[0]: line for line in told.splitlines()}
    assert {"teacher", "teacher: BatchNorm statistics", "student 'small'", "evaluation data", "the whole run"} <= set(rows)
    assert "64 images" in rows["buffer: synthetic"]
    assert told.endswith("no problem found\n")


def test_doctor_tells_every_problem_at_once(folder: Path) -> None:
    wrong = ["students.small.model=small_cn_8", "teacher.checkpoint=gone.safetensors"]
    problems = raydfkd("doctor", folder / "exp.yaml", *wrong, rc=2).splitlines()
    assert len(problems) == 2
    assert all(line.startswith("problem: ") for line in problems)
    assert "gone.safetensors" in problems[0]
    assert "did you mean 'small_cnn_8'" in problems[1]


def test_doctor_asks_ray_for_room_where_the_run_would(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(config: object) -> bool:
        raise ResourceError("no room for generator inversion-0")

    settings = (folder / "exp.yaml", "runtime.runner=ray")
    monkeypatch.setattr("raydfkd.cli.verbs.inspect_verbs._place", place)
    assert raydfkd("doctor", *settings, rc=2) == "problem: no room for generator inversion-0\n"
    monkeypatch.setattr("raydfkd.cli.verbs.inspect_verbs._place", lambda config: True)
    assert "every actor fits" in raydfkd("doctor", *settings)


def test_methods_lists_methods_and_objectives_with_papers() -> None:
    told = raydfkd("methods")
    assert "ssdkd" in told
    assert "CVPR 2024" in told
    assert "students.*.objective.kind" in told


def test_methods_says_which_package_an_objective_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OBJECTIVES, "package_of", lambda name: "their-package" if name == "rkd" else None)
    rows = [line for line in raydfkd("methods").splitlines() if "their-package" in line]
    assert len(rows) == 1
    assert "rkd" in rows[0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["schedule.roundz=3"], "unknown key schedule.roundz: did you mean 'rounds'"),
        (["schedule.rounds=many"], "schedule.rounds is 'many': it must be a valid integer"),
        (["sources.inversion.method=ssdk"], "unknown sources.inversion.method 'ssdk': did you mean 'ssdkd'"),
        (["nonsense"], "not of the form key.subkey=value"),
        (["teacher.checkpoint=gone.safetensors"], "gone.safetensors"),
        (["students.small.model=small_cn_8"], "did you mean 'small_cnn_8'"),
        (["task.num_classes=7"], "teacher.safetensors is for 10 classes, task.num_classes is 7"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(folder: Path, tmp_path: Path, overrides: list[str], expected: str) -> None:
    told = raydfkd("run", folder / "exp.yaml", *overrides, "--out", tmp_path / "run", rc=2)
    assert told.startswith("raydfkd: ")
    assert expected in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("arguments", [["run"], ["run", "x.yaml", "--no-such"], ["nonsense"], ["demo", "--seed", "x"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert "Traceback" not in raydfkd(*arguments, rc=2)


def test_the_demo_stops_before_training_where_a_setting_is_wrong(tmp_path: Path) -> None:
    assert "unknown key schedule.roundz" in raydfkd("demo", "schedule.roundz=1", "--out", tmp_path / "demo", rc=2)
    assert not (tmp_path / "demo").exists()


def test_the_demo_takes_a_new_folder_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def distill(path: Path, **settings: object) -> None:
        seen.append((settings["out"], load_experiment(path, settings["overrides"])))
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("raydfkd.api.distill", distill)
    monkeypatch.setattr(
        "raydfkd.cli.verbs.run_verb._train_teacher", lambda recipe, path, progress: path.write_text(str(recipe.seed))
    )
    for _ in range(2):
        raydfkd("demo", "--seed", "2", rc=130)
    assert [str(out) for out, _ in seen] == ["runs/demo-seed2", "runs/demo-seed2-2"]
    assert {experiment.runtime.seed for _, experiment in seen} == {2}
    assert seen[1][1].teacher.checkpoint == tmp_path / "runs" / "demo-seed2-2" / "teacher.safetensors"
    assert seen[1][1].teacher.checkpoint.read_text() == "2"


def test_the_demo_is_what_the_project_promises() -> None:
    demo = load_experiment(DEMO)
    assert (demo.runtime.runner, demo.schedule.mode, len(demo.generators), demo.student.num_workers) == (
        "ray",
        "decoupled",
        2,
        1,
    )
    assert read_yaml(DEMO_TEACHER) == read_yaml(ROOT / "experiments" / "teachers" / "digits.yaml")

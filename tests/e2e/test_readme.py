"""What the README tells a newcomer to type, typed in a folder that holds only what a checkout has there.

Commands that are to end are run through the command server of ``testing.command``; one that is killed is a process of its own.
The tests are in the order of the README, and some go on from one before: --dist=loadfile keeps them in one process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from real_data import real

from raydfkd.testing.command import run_command
from raydfkd.testing.waiting import wait_until

ROOT = Path(__file__).parents[2]
RAYDFKD = Path(sys.executable).with_name("raydfkd")

pytestmark = [pytest.mark.e2e, pytest.mark.ray]


def typed(command: str, folder: Path, data: str = "") -> str:
    """Runs a README command as it stands, where no data lie but those of its folder or of ``data``; its standard output."""
    done = run_command(command.split()[1:], folder, {"RAYDFKD_DATA": data}, timeout_s=900)
    assert done.code == 0, f"{command}: exit code {done.code}\n{done.out}\n{done.err}"
    return done.out


def killed(command: str, folder: Path, soon: Callable[[], bool]) -> None:
    """Runs a README command and kills it once ``soon`` says so."""
    log = folder / "killed.log"
    with log.open("w") as out:
        # A run of its own: nothing of the test session's Ray may reach it.
        outside = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
        run = subprocess.Popen(
            [str(RAYDFKD), *command.split()[1:]], cwd=folder, env=outside, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_until(lambda: soon() or run.poll() is not None, 600, lambda: f"{command} does not come so far\n{log.read_text()}")
        assert run.poll() is None, log.read_text()
    finally:
        run.kill()
        run.wait()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiments and the shipped YAML files at their places, and the teacher that the README trains first."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("*.safetensors", "results", "__pycache__")
    shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=ignored)
    (folder / "raydfkd" / "cli").mkdir(parents=True)
    for path in (ROOT / "raydfkd" / "cli").glob("*.yaml"):
        shutil.copy(path, folder / "raydfkd" / "cli")
    typed("raydfkd train-teacher experiments/teachers/digits.yaml --out experiments/teachers/digits.safetensors", folder)
    return folder


def test_train_teacher(checkout: Path) -> None:
    assert (checkout / "experiments/teachers/digits.safetensors").stat().st_size > 100_000


def test_doctor(checkout: Path) -> None:
    assert "no problem found" in typed("raydfkd doctor experiments/smoke/digits_ssdkd.yaml", checkout)


def test_run_is_killed_and_resumed(checkout: Path) -> None:
    """At a third of the steps: the demo is the whole of it."""
    run = checkout / "runs/digits"
    short = "schedule.rounds=20 runtime.checkpoint_period_rounds=5"
    command = f"raydfkd run experiments/smoke/digits_ssdkd.yaml --out runs/digits {short}"
    killed(command, checkout, (run / "checkpoints/latest.json").exists)
    assert json.loads((run / "manifest.json").read_text())["state"] == "running"
    typed("raydfkd run runs/digits --resume", checkout)
    result = json.loads((run / "result.json").read_text())
    assert result["student_steps"] == 400
    assert result["student"]["metric_last"] > 0.3


def test_evaluate(checkout: Path) -> None:
    assert "%" in typed("raydfkd evaluate runs/digits", checkout)


def test_export(checkout: Path) -> None:
    typed("raydfkd export runs/digits --format pt2 --out runs/digits/student.pt2", checkout)
    assert (checkout / "runs/digits/student.pt2").exists()


def test_report(checkout: Path) -> None:
    typed("raydfkd report runs/digits", checkout)
    page = (checkout / "runs/digits/report.html").read_text(encoding="utf-8")
    assert "resumed from" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_one_line(checkout: Path) -> None:
    """In a third of the time; what ``init`` writes is what ``distill`` runs, but for sizes, which are measured."""
    of_teacher = "experiments/teachers/digits.safetensors --evaluation digits/test --minutes 0.3"
    told = typed(f"raydfkd distill {of_teacher} --out runs/one-line", checkout)
    assert "method: ssdkd: the teacher has BatchNorm statistics and a gradient" in told
    result = json.loads((checkout / "runs/one-line/result.json").read_text())
    assert result["student"]["metric_last"] > 0.5
    assert result["student"]["params"] < result["teacher"]["params"]
    typed(f"raydfkd init --teacher {of_teacher} --out runs/one-line.yaml", checkout)
    ran, written = (
        yaml.safe_load((checkout / "runs" / name).read_text()) for name in ("one-line/experiment.yaml", "one-line.yaml")
    )
    for part in ("task", "teacher", "evaluation"):
        assert ran[part] == written[part]


@pytest.mark.slow
def test_two_students(checkout: Path) -> None:
    """At a sixth of the steps; each student is measured and exported by its name."""
    short = "schedule.rounds=10 runtime.checkpoint_period_rounds=10"
    told = typed(f"raydfkd run experiments/smoke/digits_two_students.yaml --out runs/two-students {short}", checkout)
    assert "student tiny" in told
    result = json.loads((checkout / "runs/two-students/result.json").read_text())
    assert {name: s["student_steps"] for name, s in result["students"].items()} == {"small": 200, "tiny": 200}
    assert min(student["metric_last"] for student in result["students"].values()) > 0.2
    page = (checkout / "runs/two-students/report.html").read_text(encoding="utf-8")
    assert "<td>tiny</td>" in page
    measured = typed("raydfkd evaluate runs/two-students --student tiny", checkout)
    assert "student_ema-tiny" in measured
    assert "student_ema " not in measured
    out = "runs/two-students/tiny.safetensors"
    assert "small_cnn_8" in typed(f"raydfkd export runs/two-students --student tiny --format safetensors --out {out}", checkout)


@pytest.mark.slow
def test_sweep(checkout: Path) -> None:
    """At a budget of seconds: three of the eight trials, a tenth of the steps."""
    short = "search.num_trials=3 scheduler.grace_period_steps=20 overrides.schedule.rounds=6 objective.num_images=100"
    short += " overrides.students.small.optimizer.warmup_steps=20 overrides.runtime.checkpoint_period_rounds=2"
    told = typed(f"raydfkd sweep experiments/sweeps/digits_asha.yaml --out runs/digits-sweep {short}", checkout)
    assert "best trial: " in told
    assert "100 held-out images without labels" in told
    result = json.loads((checkout / "runs/digits-sweep/result.json").read_text())
    assert result["num_finished"] + result["num_stopped"] == len(result["trials"]) == 3
    page = (checkout / "runs/digits-sweep/sweep.html").read_text(encoding="utf-8")
    assert "Learning curves" in page
    told = typed("raydfkd run runs/digits-sweep/best.yaml --out runs/digits-best", checkout)
    assert "student accuracy, last" in told


@pytest.mark.slow
def test_dataset(checkout: Path) -> None:
    """A fifth of the candidates; a kill, and the build goes on; the student then knows digits from noise alone."""
    short = "num_candidates=1500 selection.num_images=1000 runtime.part_size=200"
    build = f"raydfkd dataset build experiments/smoke/digits_build.yaml --out datasets/digits {short}"
    killed(build, checkout, (checkout / "datasets/digits/work/judged-00000.npz").exists)
    told = typed(f"{build} --resume", checkout)
    assert "data set: datasets/digits" in told
    assert json.loads((checkout / "datasets/digits/build.json").read_text())["num_images"] == 1000
    inspect = "raydfkd dataset inspect datasets/digits --teacher experiments/teachers/digits.safetensors"
    assert "No class is starved" in typed(inspect, checkout)
    small = "schedule.rounds=30 replay.pinned.capacity=1000"
    typed(f"raydfkd run experiments/smoke/digits_built.yaml --out runs/digits-built {small}", checkout)
    result = json.loads((checkout / "runs/digits-built/result.json").read_text())
    assert (result["method"], result["student_steps"]) == ("collected", 600)
    assert result["student"]["metric_last"] > 0.3


@pytest.mark.slow
def test_condense(checkout: Path) -> None:
    """At a budget of seconds; the student then learns from generated images that are aligned with the condensed ones."""
    made = "raydfkd condense digits/train --method dm --images-per-class 10"
    typed(f"{made} method.iterations=10 method.augmentation=[color,crop,scale,rotate]", checkout)
    few = "--epochs 20 --networks 2"
    measured = typed(f"raydfkd condense evaluate digits_dm_10 --dataset digits/test --real digits/train {few}", checkout)
    assert [line.split()[0] for line in measured.splitlines()[-2:]] == ["condensed", "random"]
    run = "raydfkd run experiments/smoke/digits_condensed.yaml --out runs/digits-condensed"
    named = "collected.dataset.kind=condensed collected.dataset.name=digits_dm_10"
    typed(f"{run} {named} schedule.rounds=10 students.small.optimizer.warmup_steps=20", checkout)
    result = json.loads((checkout / "runs/digits-condensed/result.json").read_text())
    assert result["student_steps"] == 200
    assert result["student"]["metric_last"] > 0.3
    manifest = json.loads((checkout / "runs/digits-condensed/manifest.json").read_text())
    assert any("digits_dm_10" in str(split) for split in manifest["data_splits_read"])


@pytest.mark.slow
def test_hidfd(checkout: Path) -> None:
    """At a budget of seconds; the student with its teacher's classifier is exported without the teacher."""
    short = "sources.gan.pretrain_steps=40 sources.gan.steps_per_batch=1 schedule.rounds=10"
    told = typed(f"raydfkd run experiments/smoke/digits_hidfd.yaml --out runs/digits-hidfd {short}", checkout)
    assert "144 collected images, rho 0.1" in told
    result = json.loads((checkout / "runs/digits-hidfd/result.json").read_text())
    assert (result["method"], result["student_steps"]) == ("hidfd", 200)
    assert result["student"]["metric_last"] > 0.5
    page = (checkout / "runs/digits-hidfd/report.html").read_text(encoding="utf-8")
    assert "Total variation distance" in page
    assert "probability of being real" in page
    typed("raydfkd export runs/digits-hidfd --format pt2 --out runs/digits-hidfd/student.pt2", checkout)


@pytest.mark.slow
def test_few_shot(checkout: Path) -> None:
    """As shown; the pruned student is exported without the teacher."""
    told = typed("raydfkd run experiments/smoke/digits_few_shot.yaml --out runs/digits-few-shot", checkout)
    assert "small_cnn_32 pruned by 50%" in told
    result = json.loads((checkout / "runs/digits-few-shot/result.json").read_text())
    assert (result["method"], result["student_steps"]) == ("collected", 0)
    assert result["student"]["metric_last"] > 0.5
    page = (checkout / "runs/digits-few-shot/report.html").read_text(encoding="utf-8")
    assert "error after its fit (FSKD)" in page
    typed("raydfkd export runs/digits-few-shot --format pt2 --out runs/digits-few-shot/student.pt2", checkout)


@pytest.mark.slow
def test_bench(checkout: Path) -> None:
    """By images, of which a fast machine and a slow one make as many."""
    words = "experiments/smoke/digits_ssdkd.yaml --methods ssdkd,nayer,procedural --images 12800 --out runs/bench"
    told = typed(f"raydfkd bench {words}", checkout)
    result = json.loads((checkout / "runs/bench/result.json").read_text())
    assert {method["method"]: method["end"] for method in result["methods"]} == dict.fromkeys(
        ("ssdkd", "nayer"), "finished"
    ) | {"procedural": "collapsed"}, told  # which needs more images than these to begin
    assert (checkout / "runs/bench/bench.html").exists()


@pytest.mark.slow
def test_classes_of_pixels(checkout: Path) -> None:
    """The teacher for a third of its epochs, the student for fewer steps."""
    teacher = "experiments/teachers/shapes.yaml --out experiments/teachers/shapes.safetensors"
    typed(f"raydfkd train-teacher {teacher} epochs=5 optimizer.warmup_steps=50", checkout)
    typed("raydfkd run experiments/smoke/shapes_ssdkd_local.yaml --out runs/shapes schedule.rounds=5", checkout)
    result = json.loads((checkout / "runs/shapes/result.json").read_text())
    assert result["metric_name"] == "miou"
    assert result["student"]["metric_last"] > 0.1


def test_papers(tmp_path: Path) -> None:
    assert "ssdkd: Small Scale Data-Free Knowledge Distillation" in typed("raydfkd reproduce", tmp_path)
    listed = typed("raydfkd reproduce ssdkd table4 --list", tmp_path)
    [row] = [line for line in listed.splitlines() if line.startswith("cifar10_resnet34_resnet18_all ")]
    assert "92.92" in row
    assert "teacher cifar10_resnet34, cifar10/test (accuracy)" in row


SMALL_BATCHES = (
    "--set sources.inversion.batch_size=32 --set sources.inversion.steps_per_batch=1 "
    "--set students.small.batch_size=32 --set replay.synthetic.capacity=64"
)


@pytest.mark.slow
def test_a_row_without_any_data(tmp_path: Path) -> None:
    """The same command again finds it finished."""
    command = f"raydfkd reproduce laptop cifar10 none --scale 0.01 {SMALL_BATCHES}"
    told = typed(command, tmp_path)
    assert "cifar10/test is not here, so agreement with the teacher is measured, not accuracy" in told
    [row] = json.loads((tmp_path / "reproduced/laptop/cifar10/table-scale-0.01.json").read_text())["rows"]
    assert (row["runs"], row["ours"]) == (1, None)
    assert row["agreement"] is not None
    assert "finished before" in typed(command, tmp_path)


@pytest.mark.slow
def test_a_row_with_data(tmp_path: Path) -> None:
    data = real("cifar10/test.parquet").parents[1]
    few = "--set evaluation.dataset.max_images=200 --set runtime.runner=local"
    typed(f"raydfkd reproduce laptop cifar10 none --scale 0.01 {SMALL_BATCHES} {few}", tmp_path, str(data))
    [row] = json.loads((tmp_path / "reproduced/laptop/cifar10/table-scale-0.01.json").read_text())["rows"]
    assert row["runs"] == 1
    assert row["gap"] == pytest.approx(row["teacher"] - row["ours"])
    assert row["teacher"] > 80


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    """At least 95% and within 3 points of the teacher, with at most a third of its parameters."""
    typed(f"raydfkd demo --seed 0 --out {tmp_path / 'demo'}", tmp_path)
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    teacher, student = result["teacher"], result["student"]
    assert teacher["metric"] >= 0.97
    assert student["metric_last"] >= 0.95
    assert teacher["metric"] - student["metric_last"] <= 0.03
    assert student["params"] * 3 <= teacher["params"]


@pytest.mark.parametrize(("target", "last"), [("demo", "bin/raydfkd demo"), ("test", "-m pytest")])
def test_make_targets_end_in_what_they_promise(target: str, last: str) -> None:
    """A dry run: the commands themselves are run by the tests above and by this very session."""
    # This test may itself run under make, whose variables would make this one talk about folders.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    planned = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=outside, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert last in planned.strip().splitlines()[-1]

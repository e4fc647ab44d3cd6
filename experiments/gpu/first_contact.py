"""The stages of ``first_contact.sh``, each a program of its own: ``first_contact.py STAGE OUT [--dry-run]``.

Writes OUT/STAGE.json, anew whenever a figure is added, so that a stage that is stopped leaves what it knew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

BEGAN = time.monotonic()
ROOT = Path(__file__).parents[2]
TEACHER_TARGET = 0.935
"""Accuracy of WRN-40-2 on CIFAR-10 from which on its file is worth keeping."""
TEACHER_RESERVE_S = 35.0
"""Of the teacher's stage, for imports, reading the images and evaluating."""
PAPER_LOSS = {"wrn40_2_wrn16_1": 0.068, "wrn40_2_wrn16_2": 0.0303}
"""SSD-KD Table 1, 5,000 samples on CIFAR-10: how far the student stays below its teacher."""
PAPER_HOURS = {"wrn40_2_wrn16_1": 0.77, "wrn40_2_wrn16_2": 0.78}
ROW_S = 90.0


class Report:
    """A stage's figures, on disk after every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._figures: dict[str, Any] = {"card": card(), "commit": commit()}

    def put(self, **figures: Any) -> None:
        self._figures |= figures
        self._figures["seconds"] = round(time.monotonic() - BEGAN, 1)
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(self._figures, indent=1) + "\n")
        partial.replace(self._path)
        print(json.dumps(figures)[-600:], flush=True)


def card() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"no GPU ({platform.processor() or 'CPU'})"


def commit() -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def left_s() -> float:
    """Seconds until this stage's limit."""
    return float(os.environ.get("STAGE_LIMIT_S", "1e9")) - (time.monotonic() - BEGAN)


def machine(report: Report, out: Path, dry: bool) -> None:
    """Versions, devices, and the two ceilings: a matrix product and a copy."""
    import step_speed

    packages = {}
    for name in ("torch", "numpy", "ray", "pyarrow", "pydantic", "triton"):
        try:
            packages[name] = __import__(name).__version__
        except Exception as error:
            packages[name] = f"{type(error).__name__}: {error}"
    report.put(python=platform.python_version(), packages=packages, cpus=os.cpu_count())
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        report.put(memory_gib=round(facts.total_memory / 2**30, 1), multiprocessors=facts.multi_processor_count)
    report.put(**step_speed.ceilings(step_speed.device(), dry))


def tests(report: Report, out: Path, dry: bool) -> None:
    """The tests that need a GPU; here, without one, they are skipped."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", "--durations=10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout[-400:])}
    report.put(status=done.returncode, counts=counts, end=done.stdout[-8000:].splitlines(), errors=done.stderr[-2000:])


def speed(report: Report, out: Path, dry: bool) -> None:
    """Student steps and synthesis, each with its share of the ceilings."""
    import step_speed

    ceilings = step_speed.ceilings(step_speed.device(), dry)
    report.put(ceilings=ceilings)
    step_speed.measure(lambda **figures: report.put(**figures), ceilings, dry, left_s)


def teacher(report: Report, out: Path, dry: bool) -> None:
    """A WRN-40-2 on CIFAR-10, in as many epochs as there is time for."""
    from raydfkd.data.datasets import load_dataset
    from raydfkd.pipeline.teacher import training
    from raydfkd.pipeline.teacher.config import TeacherTrainingConfig

    settings: dict[str, Any] = {
        "model": "wrn_40_2",
        "num_classes": 10,
        "image_shape": [3, 32, 32],
        "dataset": "cifar10/train",
        "evaluation": "cifar10/test",
        "batch_size": 256,
        "epochs": 200,
        "optimizer": {
            "lr": 0.2, "nesterov": True, "weight_decay": 5e-4, "schedule": "one_cycle", "warmup_steps": 975,
            "max_grad_norm": 5.0,
        },
    }  # fmt: skip
    if dry:
        digits = {"dataset": {"kind": "digits", "split": "train"}, "evaluation": {"kind": "digits", "split": "test"}}
        settings |= {"model": "small_cnn_8", "image_shape": [1, 8, 8], "epochs": 3, "batch_size": 64, **digits}
        settings["optimizer"] = {**settings["optimizer"], "warmup_steps": 10}
    config = TeacherTrainingConfig.model_validate(settings)
    device = training._device("auto")
    if not dry:
        images = load_dataset(config.dataset, config.image_shape, config.num_classes)
        report.put(read_s=round(time.monotonic() - BEGAN, 1))
        trial = training._Training(config, images, device)
        for _ in range(20):
            trial._step(trial.images[: trial.batch_size], trial.labels[: trial.batch_size])
        torch.cuda.synchronize()
        began = time.monotonic()
        for _ in range(100):
            trial._step(trial.images[: trial.batch_size], trial.labels[: trial.batch_size])
        torch.cuda.synchronize()
        epoch_s = (time.monotonic() - began) / 100 * trial.steps_per_epoch
        epochs = max(5, min(200, int((left_s() - TEACHER_RESERVE_S) / epoch_s)))
        report.put(epoch_s=epoch_s, images_per_s=trial.batch_size * trial.steps_per_epoch / epoch_s, epochs=epochs)
        optimizer = {**settings["optimizer"], "warmup_steps": min(975, epochs * trial.steps_per_epoch // 10)}
        config = TeacherTrainingConfig.model_validate({**settings, "epochs": epochs, "optimizer": optimizer})
        del trial
    path = teacher_path(out)
    result = training.train_teacher(config, path)
    accuracy = result.accuracy
    report.put(accuracy=accuracy, train_s=round(result.seconds, 1), file=path.name, good=(accuracy or 0) >= TEACHER_TARGET)


def ssdkd(report: Report, out: Path, dry: bool) -> None:
    """Rows of SSD-KD's Table 1 through the Ray runner, end to end; then the relaxed scale as far as time goes."""
    accuracy = json.loads((out / "teacher.json").read_text()).get("accuracy") if (out / "teacher.json").exists() else None
    report.put(teacher_accuracy=accuracy, rows={})
    rows: dict[str, Any] = {}
    for method, pair in (
        ("ssdkd", "wrn40_2_wrn16_1"), ("ssdkd", "wrn40_2_wrn16_2"), ("ssdkd_relaxed", "wrn40_2_wrn16_1"),
    ):  # fmt: skip
        if left_s() < 20:
            break
        with tempfile.TemporaryDirectory(prefix="fc") as folder:
            rows[f"{method} {pair}"] = run_row(method, pair, out, Path(folder), dry)
        report.put(rows=rows)


def run_row(method: str, pair: str, out: Path, folder: Path, dry: bool) -> dict[str, Any]:
    """One run of the command line and what it reports."""
    program = [sys.executable, "-m", "raydfkd"]
    printed = subprocess.run(
        [*program, "reproduce", "ssdkd", "table1" if method == "ssdkd" else "table2", f"cifar10_{method}_{pair}", "--print"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if printed.returncode:
        return {"status": printed.returncode, "error": printed.stderr[-500:]}
    file, run = folder / "row.yaml", folder / "run"
    file.write_text(printed.stdout)
    changes = [f"teacher.checkpoint={teacher_path(out)}", "runtime.runner=ray"]
    if dry:
        changes += [
            "task.image_shape=[1,8,8]", "teacher.model=small_cnn_8", "students.small.model=small_cnn_4",
            "evaluation.dataset={kind: digits, split: test}", "schedule.rounds=2", "schedule.warmup_batches=2",
            "schedule.student_steps_per_round=3", "sources.inversion.base_channels=4", "sources.inversion.latent_dim=8",
            "sources.inversion.batch_size=32", "students.small.batch_size=32", "replay.synthetic.capacity=128",
            "sources.inversion.resources={num_cpus: 1}", "students.small.resources={num_cpus: 1}",
        ]  # fmt: skip
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*program, "run", str(file), *changes, "--out", str(run)],
            capture_output=True, text=True, check=False, timeout=max(10.0, left_s() - 5),
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        end = (late.stdout or b"")[-1500:]
        return {"stopped_after_s": round(time.monotonic() - began, 1), "end": end.decode() if isinstance(end, bytes) else end}
    answer: dict[str, Any] = {"status": done.returncode, "wall_s": round(time.monotonic() - began, 1)}
    if done.returncode or not (run / "result.json").exists():
        return answer | {"error": done.stderr[-2000:], "end": done.stdout[-1000:]}
    result = json.loads((run / "result.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = (
        "end_to_end_s",
        "synthesis_s",
        "distillation_s",
        "student_wait_fraction",
        "generator_wait_fraction",
        "device",
        "restarts",
    )
    answer |= {name: result.get(name) for name in names}
    answer |= {
        "teacher": result["teacher"]["metric"],
        "student": result["student"]["metric_last"],
        "ema": result["student"]["metric_ema"],
    }
    answer["events"] = [record["message"] for record in records if record["kind"] == "event"]
    steps = [record["step_s"] for record in records if record["kind"] == "distillation"]
    answer["step_s"] = steps[-1] if steps else None
    if answer["teacher"] is not None and answer["student"] is not None:
        answer["loss_to_teacher"] = answer["teacher"] - answer["student"]
    if method == "ssdkd":
        answer |= {"paper_loss": PAPER_LOSS[pair], "paper_hours": PAPER_HOURS[pair], "within_s": answer["wall_s"] <= ROW_S}
    return answer


def teacher_path(out: Path) -> Path:
    return out / "cifar10_wrn_40_2.safetensors"


STAGES: dict[str, Callable[[Report, Path, bool], None]] = {
    "machine": machine, "tests": tests, "speed": speed, "teacher": teacher, "ssdkd": ssdkd,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    STAGES[given.stage](Report(given.out / f"{given.stage}.json"), given.out, given.dry_run)

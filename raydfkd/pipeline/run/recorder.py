"""Writes a run's records: metrics.jsonl, TensorBoard events, MLflow, images, and a live display."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.evaluation.collapse import CollapseWatch
from raydfkd.metrics import scalars
from raydfkd.ownership import require_owned
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.mlflow_log import MlflowLog
from raydfkd.run_dir import MetricsWriter, RunDir

GRID_ROWS, GRID_COLUMNS = 8, 16
STAGES = {
    "few_shot": "few-shot stage",
    "preparation": "preparing",
    "synthesis": "filling the buffer",
    "distillation": "distilling",
}
"""Stages by the kind of record that marks their beginning, in order."""
KEEPS_APART = {"class_weight": "raise", "bn_weight": "raise", "adversarial_weight": "lower", "generator_lr": "lower"}
"""What keeps the images of a source from becoming alike, most effective first."""


class Watcher:
    """Observer of a live run (the command line's table); this one does nothing."""

    def stage(self, name: str, detail: str = "") -> None: ...

    def update(self, record: dict[str, Any]) -> None: ...

    def finish(self, result: dict[str, Any]) -> None: ...


class Recorder:
    """The run directory's writer. One per run, in the driver process.

    Args:
        config: the experiment.
        run: its directory.
        watcher: receives every record.
        elapsed_s: time a resumed run had already taken.
    """

    def __init__(self, config: ExperimentConfig, run: RunDir, watcher: Watcher, elapsed_s: float = 0.0) -> None:
        self.config = config
        self.run = run
        self.watcher = watcher
        uri = config.runtime.mlflow_uri
        self._mlflow = None if uri is None else MlflowLog(uri, run, config.model_dump(mode="json"))
        self._writer = MetricsWriter(run, elapsed_s)
        self._tensorboard: Any = None
        self.finished = False
        """Set once the run has ended."""
        self._collapse = CollapseWatch(config.task.num_classes, config.schedule.total_steps, self._advice)
        self._coming = dict(STAGES)
        self._restarts = sum(bool(record.get("restart")) for record in run.metrics("event"))

    @property
    def elapsed_s(self) -> float:
        return self._writer.elapsed_s

    def emit(self, kind: str, step: int, *, wall_s: float | None = None, **values: Any) -> None:
        """One metrics record, see ``run_dir.py``; ``wall_s`` is the Unix time at which another process created it."""
        require_owned(self.run.path)
        self._announce(kind)
        late_s = 0.0 if wall_s is None else max(0.0, time.time() - wall_s)
        record = self._writer.write(kind, step, late_s=late_s, **values)
        self.watcher.update(record)
        self._restarts += kind == "event" and bool(values.get("restart"))
        self._to_tensorboard(record)
        for notice in self._collapse.notices(record):
            self.event(f"warning: {notice}")
        if self._mlflow is not None:
            self._mlflow.take(self._scalars(record), step)

    def _advice(self, source: str) -> str:
        """Which settings of a source keep its images apart, of those that its method has."""
        settings = self.config.sources[source]
        changes = [
            f"{change} sources.{source}.{name}"
            for name, change in KEEPS_APART.items()
            if getattr(settings, name, 0) or (change == "raise" and hasattr(settings, name))
        ]
        return " or ".join(changes[:2]) or f"see the pictures in {self.run.samples}"

    def event(self, message: str) -> None:
        """One line on a notable event: a restart, a resume, a warning."""
        self.emit("event", 0, message=message)

    def stage(self, name: str, detail: str = "") -> None:
        self.watcher.stage(name, detail)

    def _announce(self, kind: str) -> None:
        """The first record of a kind marks the beginning of a stage and the end of earlier ones."""
        if kind in self._coming:
            self.stage(self._coming[kind])
            later = list(self._coming)[list(self._coming).index(kind) + 1 :]
            self._coming = {name: self._coming[name] for name in later}

    def save_grid(self, images: np.ndarray, step: int) -> None:
        """Writes samples/round-*.png: up to 128 images [N,C,H,W] in a grid."""
        from PIL import Image

        number = step // self.config.schedule.student_steps_per_round
        grid = image_grid(images[: GRID_ROWS * GRID_COLUMNS], GRID_COLUMNS)
        Image.fromarray(grid).save(self.run.samples / f"round-{number:05d}.png")

    def _to_tensorboard(self, record: dict[str, Any]) -> None:
        values = list(self._scalars(record))
        if self._tensorboard is None and values:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.run.path / "tensorboard"))
        for name, value in values:
            self._tensorboard.add_scalar(name, value, record["step"])

    def _scalars(self, record: dict[str, Any]) -> Iterator[tuple[str, float]]:
        """(curve, value) of every number in a record, see ``metrics.scalars``; of events the restarts so far."""
        if record["kind"] == "event" and record.get("restart"):
            yield "event/restarts", self._restarts
        yield from scalars(record, by_student=len(self.config.students) > 1)

    def close(self) -> None:
        self._writer.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._mlflow is not None:
            self._mlflow.close(self.finished)


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images uint8 [N,C,H,W] side by side, row by row: [rows*H, columns*W] for one channel, otherwise [..., 3]."""
    num, channels, height, width = images.shape
    columns = min(columns, num)
    rows = -(-num // columns)
    canvas = np.zeros((rows * columns, channels, height, width), np.uint8)
    canvas[:num] = images
    grid = (
        canvas.reshape(rows, columns, channels, height, width)
        .transpose(0, 3, 1, 4, 2)
        .reshape(rows * height, columns * width, channels)
    )
    return grid[:, :, 0] if channels == 1 else grid[:, :, :3]


def describe_environment() -> dict[str, Any]:
    """Versions and hardware, for the manifest."""
    import torch

    packages = {}
    for name in ("raydfkd", "torch", "torchvision", "ray", "numpy", "pyarrow"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    hardware = {"machine": platform.machine(), "processor": _processor(), "cpus": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"python": sys.version.split()[0], "packages": packages, "hardware": hardware, "commit": _commit()}


def _commit() -> str | None:
    """The commit of the checkout that this program runs from, with ``+`` if files differ; None outside of a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ("git", "-C", str(root), *words)
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()

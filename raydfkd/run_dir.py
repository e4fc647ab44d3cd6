"""The run directory's format: the only contract between a run and everything that reads it (report, status, resume).

```
RUN/
  config.yaml            the resolved experiment; ``raydfkd run RUN/config.yaml`` repeats the run
  manifest.json          versions, hardware, seeds, teacher hash, every data split read and what for, state; while actors
                         live also how to reach them: ``actors`` (prefix of their names) and ``ray`` (address, namespace,
                         auth_mode); ``figures``: plots of the methods' own numbers for the report, a list of
                         ``{"title", "curves": {field of synthesis and preparation records: label}, "percent"}``
  metrics.jsonl          one record a line, see below
  checkpoints/latest.json names the newest complete checkpoint folder: checkpoints/step-00001200/
  collected.parquet      the collected images with the teacher's classes, where the experiment has any (replay/arrow.py)
  preparation/           states of generators that work before their first batch, until the first checkpoint
  samples/               synthetic images: round-00012.png (grid), by_class.npz (images uint8 [n,C,H,W],
                         teacher_class int32 [n], source [n])
  analysis/buffer.npz    final buffer: priorities, teacher_class, teacher_confidence, ages, source (all [n])
  analysis/features.npz  synthetic_features, synthetic_class, and where evaluation data exists real_features, real_class
  student.safetensors    the first student as it is at the end; student_ema.safetensors its moving average; those of the
                         others: student-NAME.safetensors, student_ema-NAME.safetensors
  result.json            the outcome; stable, other programs read it
  report.html
  tensorboard/
```

A metrics record has ``kind``, ``time_s`` (seconds since the run began, over all its starts), ``step`` (student optimizer
updates so far; the slowest student's where it is no student's record) and values by kind. The numbers of each kind, their
units and meanings are declared in ``metrics.py``; ``run_records.py`` reads the file. Records of a student (``distillation``,
``throughput``, ``evaluation``, ``held_out``) have its name in ``student``. Besides numbers there are:

* ``synthesis``: ``generator_id``, and the method's own numbers, such as its losses (``loss`` and ``*_loss``) and those that
  ``figures`` names.
* ``preparation``: ``generator_id``, and the means of the method's own numbers.
* ``distillation``, ``throughput``, ``held_out``: means or sums since the student's last record.
* ``evaluation``: ``split``, what it was measured on.
* ``replay``: ``class_counts`` (list), ``priority_histogram`` (``edges`` and ``counts``) and ``tables`` (sizes by name).
* ``generators``: ``source``, and ``generators``, a list of their ``name``, ``state`` (running, starting, pending or draining),
  ``pid`` and ``restarts``; on Ray, a record whenever something of it changes.
* ``event``: ``message``, one line (restarts, kills, resumes, warnings); ``restart``: true where an actor was restarted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import RunDirError
from raydfkd.run_records import Record, RecordReader

STATES = ("running", "failed", "stopped", "finished")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a kill in the middle, sees the old one or the new one and nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it is gone where all went well
            temporary.unlink()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot stand in JSON")


def generator_path(folder: Path, generator_id: str) -> Path:
    """Where a generator's state lies in a checkpoint folder, or in ``RunDir.preparation``."""
    return folder / "generators" / f"{generator_id}.pt"


class RunDir:
    """One run's folder. ``create`` starts a run, ``open`` continues or reads one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path) -> RunDir:
        """Makes an empty run directory.

        Raises:
            RunDirError: it holds a run already, or cannot be written.
        """
        run = cls(Path(path))
        if run._is_started():
            state = run.manifest().get("state", "unknown")
            advice = "continue it with --resume or choose another --out" if state != "finished" else "choose another --out"
            raise RunDirError(f"run directory {run.path} holds a {state} run already: {advice}")
        try:
            for folder in (run.path, run.checkpoints, run.samples, run.analysis):
                folder.mkdir(parents=True, exist_ok=True)
            probe = run.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RunDirError(f"run directory {run.path} cannot be written ({error.strerror}): choose another --out") from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """Opens an existing run.

        Raises:
            RunDirError: there is none, or it cannot be read.
        """
        run = cls(Path(path))
        if not run._is_started():
            raise RunDirError(f"{run.path} is no run directory (it has no manifest.json): name the --out of a started run")
        return run

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def student_path(self, name: str | None = None, ema: bool = False) -> Path:
        """Weights of a student; ``name`` None: of the first one."""
        which = "student_ema" if ema else "student"
        return self.path / (f"{which}.safetensors" if name is None else f"{which}-{name}.safetensors")

    def weights_of(self, student: str | None = None, ema: bool = False) -> Path:
        """The weights file of a finished run's student; None: the first one's.

        Raises:
            RunDirError: the run has not finished, or has no such student.
        """
        known = list(self.result().get("students") or {}) if student is not None else []
        if student is not None and student not in known:
            raise RunDirError(f"the run in {self.path} has no student {student!r}: it has {', '.join(known) or 'one, unnamed'}")
        path = self.student_path(None if student is None or student == known[0] else student, ema)
        if not path.exists():
            raise RunDirError(f"{self.path} holds no {path.name} yet: the run has not finished, continue it with run --resume")
        return path

    @property
    def collected_path(self) -> Path:
        return self.path / "collected.parquet"

    @property
    def preparation(self) -> Path:
        return self.path / "preparation"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def analysis(self) -> Path:
        return self.path / "analysis"

    def manifest(self) -> dict[str, Any]:
        return self._read_json(self.manifest_path)

    def update_manifest(self, **values: Any) -> None:
        """Merges ``values`` into manifest.json."""
        known = self.manifest() if self.manifest_path.exists() else {}
        known.update(values)
        write_atomically(self.manifest_path, json.dumps(known, indent=2, default=_plain) + "\n")

    def result(self) -> dict[str, Any]:
        if not self.result_path.exists():
            raise RunDirError(f"{self.path} has no result.json: the run has not finished")
        return self._read_json(self.result_path)

    def write_result(self, result: dict[str, Any]) -> None:
        write_atomically(self.result_path, json.dumps(result, indent=2, default=_plain) + "\n")

    def metrics(self, kind: str | None = None) -> Iterator[Record]:
        """The records so far, in order; a torn last line (a killed writer's) is left out.

        Raises:
            RunDirError: a line holds no record.
        """
        for record in RecordReader(self.metrics_path).read():
            if kind is None or record["kind"] == kind:
                yield record

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint folder, or None; if someone removed it, the one before."""
        pointer = self.checkpoints / "latest.json"
        if not pointer.exists():
            return None
        newest = str(self._read_json(pointer).get("folder"))
        complete = [p for p in self._checkpoint_folders() if p.name <= newest]
        return complete[-1] if complete else None

    def commit_checkpoint(self, folder: Path, keep: int = 2) -> None:
        """Names ``folder`` (inside ``checkpoints``, completely written) the newest, and removes all but ``keep``."""
        import shutil

        write_atomically(self.checkpoints / "latest.json", json.dumps({"folder": folder.name}) + "\n")
        older = [p for p in self._checkpoint_folders() if p != folder]
        for old in older[: max(0, len(older) - keep + 1)]:
            shutil.rmtree(old, ignore_errors=True)

    def _checkpoint_folders(self) -> list[Path]:
        return sorted(p for p in self.checkpoints.iterdir() if p.is_dir() and p.name.startswith("step-"))

    def _is_started(self) -> bool:
        try:
            return self.manifest_path.exists()
        except OSError as error:
            raise RunDirError(f"run directory {self.path} cannot be read ({error.strerror}): choose another --out") from error

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunDirError(f"{path} cannot be read ({error}): it is damaged or not a run's") from error
        if not isinstance(loaded, dict):
            raise RunDirError(f"{path} does not hold a JSON object: it is not a run's")
        return loaded


class MetricsWriter:
    """Appends records to metrics.jsonl, each flushed whole, so that a kill loses at most the line being written.

    ``elapsed_s`` is the time that a resumed run had taken before.
    """

    def __init__(self, run: RunDir, elapsed_s: float = 0.0) -> None:
        self._started = time.monotonic() - elapsed_s
        _drop_torn_line(run.metrics_path)
        self._file = run.metrics_path.open("a", encoding="utf-8")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def write(self, kind: str, step: int, *, late_s: float = 0.0, **values: Any) -> dict[str, Any]:
        """Appends a record of something that happened ``late_s`` seconds ago, and returns it."""
        record = {"kind": kind, "time_s": round(self.elapsed_s - late_s, 3), "step": step, **values}
        self._file.write(json.dumps(record, default=_plain) + "\n")
        self._file.flush()
        return record

    def close(self) -> None:
        self._file.close()


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])

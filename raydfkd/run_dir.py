"""The run directory's format: the only contract between a run and everything that reads it (report, status, resume).

```
RUN/
  config.yaml            the resolved experiment; ``raydfkd run RUN/config.yaml`` repeats the run; where a resume changed
                         settings, those since, and an event lists the changes
  manifest.json          versions, hardware, seeds, teacher hash, every data split read and its purpose, state, the command
                         line's ``overrides`` of the experiment's file, which a resume with that file keeps; while actors
                         are alive, also how to reach them: ``actors`` (prefix of their names) and ``ray`` (address, namespace,
                         auth_mode); ``figures``: plots of the methods' own numbers for the report, a list of
                         ``{"title", "curves": {field of synthesis and preparation records: label}, "percent"}``
  metrics.jsonl          one record per line, see below
  checkpoints/latest.json names the newest complete checkpoint folder: checkpoints/step-00001200/
  collected.parquet      the collected images with the teacher's classes, if the experiment has any (replay/arrow.py)
  preparation/           states of generators still preparing their first batch, and of students after their few-shot
                         training, until the first checkpoint
  samples/               synthetic images: round-00012.png (grid), by_class.npz (images uint8 [n,C,H,W],
                         teacher_class int32 [n], source [n]); of tasks with a class for each pixel masks.npz: network
                         (P names: teacher, student NAME), synthetic_images uint8 [n,C,H,W], synthetic_source [n],
                         synthetic_masks int16 [P,n,H,W], and, if evaluation data exists, real_images, real_masks and
                         real_truth int16 [m,H,W], -1 where a pixel does not count
  analysis/buffer.npz    final buffer: priorities, teacher_class, teacher_confidence, ages, source (all [n])
  analysis/features.npz  synthetic_features, synthetic_class, and, if evaluation data exists, real_features, real_class
  analysis/planes.npz    of the networks with two features, if any: network (P names: teacher, student NAME), their heads'
                         weight [P,K,2] and bias [P,K], synthetic_features [P,m,2], and, if evaluation data exists,
                         real_features [P,n,2] and real_class [n]
  analysis/alignment.npz of feature alignment, if a source has it: prototype_features and prototype_class of the collected
                         images, first_* and last_* of synthetic ones with first_batches and last_batches [2], the numbers of
                         the batches they are of; distances [3,2] of the three from prototypes and real images; shown_images
                         [P,C,H,W] and shown_class [P], some prototypes, with nearest_images [P,n,C,H,W]
  student.safetensors    the first student's final weights; student_ema.safetensors its moving average; for the
                         others student-NAME.safetensors, student_ema-NAME.safetensors
  result.json            the outcome; a stable format, read by other programs; of a finished run that was prolonged, the
                         outcomes before are in result-step-00001200.json
  report.html
  tensorboard/
```

A metrics record has ``kind``, ``time_s`` (seconds since the run began, over all its starts), ``step`` (student optimizer
updates so far; the slowest student's if the record belongs to no student) and values by kind. The numbers of each kind, their
units and meanings are declared in ``metrics.py``; ``run_records.py`` reads the file. Records of a student (``few_shot``,
``distillation``, ``throughput``, ``evaluation``, ``held_out``) have its name in ``student``. Fields besides numbers:

* ``synthesis``: ``generator_id``, and the method's own numbers, such as its losses (``loss`` and ``*_loss``) and those that
  ``figures`` names.
* ``preparation``: ``generator_id``, and the means of the method's own numbers.
* ``distillation``, ``throughput``, ``held_out``: means or sums since the student's last record.
* ``evaluation``: ``split``, the data it was measured on.
* ``replay``: ``class_counts`` (list), ``priority_histogram`` (``edges`` and ``counts``) and ``tables`` (sizes by name).
* ``generators``: ``source``, and ``generators``, a list of their ``name``, ``state`` (running, starting, pending or draining),
  ``pid`` and ``restarts``; on Ray, a record whenever one of these changes.
* ``event``: ``message``, one line (restarts, kills, resumes, warnings); ``restart``: true if an actor was restarted.
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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: readers see the old file or the new one, even if the writer is killed midway."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # already moved if all went well
            temporary.unlink()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def generator_path(folder: Path, generator_id: str) -> Path:
    """Path of a generator's state in a checkpoint folder, or in ``RunDir.preparation``."""
    return folder / "generators" / f"{generator_id}.pt"


class RunDir:
    """One run's folder. ``create`` starts a run, ``open`` continues or reads one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path) -> RunDir:
        """Makes an empty run directory.

        Raises:
            RunDirError: it already holds a run, or cannot be written.
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
            RunDirError: there is no run, or it cannot be read.
        """
        run = cls(Path(path))
        if not run._is_started():
            raise RunDirError(f"{run.path} is not a run directory (it has no manifest.json): give the --out of a started run")
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

    def earlier_result_path(self, step: int) -> Path:
        """Where the result of ``step`` student steps is kept, once the finished run is prolonged."""
        return self.path / f"result-step-{step:08d}.json"

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
        """The records so far, in order; an incomplete last line (of a killed writer) is left out.

        Raises:
            RunDirError: a line is not a record.
        """
        for record in RecordReader(self.metrics_path).read():
            if kind is None or record["kind"] == kind:
                yield record

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint folder, or None; if it was removed, the one before it."""
        pointer = self.checkpoints / "latest.json"
        if not pointer.exists():
            return None
        newest = str(self._read_json(pointer).get("folder"))
        complete = [p for p in self._checkpoint_folders() if p.name <= newest]
        return complete[-1] if complete else None

    def commit_checkpoint(self, folder: Path, keep: int = 2) -> None:
        """Marks ``folder`` (inside ``checkpoints``, completely written) as the newest, and removes all but ``keep``."""
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
            raise RunDirError(f"{path} cannot be read ({error}): it is damaged or not from a run") from error
        if not isinstance(loaded, dict):
            raise RunDirError(f"{path} does not hold a JSON object: it is not from a run")
        return loaded


class MetricsWriter:
    """Appends records to metrics.jsonl and flushes each, so that a kill loses at most the line being written.

    ``elapsed_s`` is the time that a resumed run took before.
    """

    def __init__(self, run: RunDir, elapsed_s: float = 0.0) -> None:
        self._started = time.monotonic() - elapsed_s
        _drop_torn_line(run.metrics_path)
        self._file = run.metrics_path.open("a", encoding="utf-8")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def write(self, kind: str, step: int, *, late_s: float = 0.0, **values: Any) -> dict[str, Any]:
        """Appends a record of an event ``late_s`` seconds ago, and returns it."""
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

"""How a run stands, read from its directory, which a live run keeps up to date. No terminal and no Ray in here."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from raydfkd.cli.progress_state import ProgressState, table_rows
from raydfkd.errors import RunDirError
from raydfkd.report.result_rows import format_percent, format_rate
from raydfkd.run_dir import RunDir

PHASES = ("running", "starting", "pending", "draining")
STALE_S = 60.0
"""A live run on Ray writes a record every few seconds."""
BATCHES_LOOKED_AT = 5
STRAGGLING = 3.0
"""So many times as long as the others takes a generator that is worth a word."""


class RunStatus:
    """Follows a run directory: :meth:`refresh` reads what was written since.

    Args:
        run: the run directory.
        clock: Unix time in seconds.
    """

    def __init__(self, run: RunDir, clock: Callable[[], float] = time.time) -> None:
        self.run = run
        self.manifest: dict[str, Any] = {}
        self._clock = clock
        self._settings = _settings(run.config_path)
        self._forget()

    @property
    def state(self) -> str:
        return str(self.manifest.get("state", "unknown"))

    @property
    def note(self) -> str | None:
        """What is odd about it, in one line."""
        if self.state != "running" or not self.run.metrics_path.exists():
            return None
        silent_s = self._clock() - self.run.metrics_path.stat().st_mtime
        if silent_s < STALE_S:
            return self._straggler()
        advice = f"if its process is gone, go on with raydfkd run {self.run.path} --resume"
        return f"nothing was recorded for {silent_s:.0f} s: {advice}"

    def _straggler(self) -> str | None:
        """The slowest generator, if it is far slower than the others of its source."""
        paces = {g["name"]: (g["source"], g["batch_s"]) for g in self.generators() if g["state"] == "running" and g["batch_s"]}
        for name, (source, batch_s) in sorted(paces.items(), key=lambda item: -item[1][1]):
            others = [pace for other, (of, pace) in paces.items() if of == source and other != name]
            if others and batch_s > STRAGGLING * median(others):
                usual = f"where the others of {source} take {median(others):.3g} s"
                return f"generator {name} takes {batch_s:.3g} s for a batch, {usual}"
        return None

    def refresh(self) -> None:
        """Reads the manifest, and the records that were added."""
        self.manifest = self.run.manifest()
        if not self.run.metrics_path.exists():
            return
        if self.run.metrics_path.stat().st_size < self._offset:
            self._forget()  # A run that was resumed took back what came after its checkpoint.
        with self.run.metrics_path.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._offset += len(line)
                self._take(self._record(line))

    def _record(self, line: bytes) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError as error:
            where = f"{self.run.metrics_path}, up to byte {self._offset},"
            raise RunDirError(f"{where} ends in a line that is no JSON ({error}): it is damaged, take that line out") from error
        return record

    def _forget(self) -> None:
        self._progress = ProgressState(total_steps=_total_steps(self._settings))
        self._delivered: Counter[str] = Counter()
        self._batches: dict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=BATCHES_LOOKED_AT))
        self._sources: dict[str, dict[str, Any]] = {}
        self._offset = 0

    def _take(self, record: dict[str, Any]) -> None:
        self._progress.take(record)
        if record["kind"] == "synthesis":
            self._delivered[record["generator_id"]] += record["num_images"]
            self._batches[record["generator_id"]].append(record)
        elif record["kind"] == "generators":
            self._sources[record["source"]] = record
        elif record["kind"] == "event" and str(record["message"]).startswith("resumed "):
            self._sources.clear()  # Its generators are other processes now, of which nothing was heard yet.

    def generators(self) -> list[dict[str, Any]]:
        """One entry a generator: ``name``, ``source``, ``state``, ``pid``, ``restarts``, ``images_made`` in all, ``batch_s``
        (what its last batches took it, waits aside) and ``silent_s`` (from its last batch to the newest record).

        ``state`` is running, starting, pending or draining, and ended of one that is not live now. A local run's generators,
        which have no process of their own, run as long as it does.
        """
        over = self.state != "running"
        known = {g["name"]: g for record in self._sources.values() for g in record["generators"]}
        found = []
        for name in sorted(known.keys() | self._delivered.keys(), key=_by_number):
            source = name.rpartition("-")[0]
            entry = known.get(name, {"state": "ended" if source in self._sources else "running", "pid": None, "restarts": 0})
            if over:
                entry = {**entry, "state": "ended", "pid": None}
            made = {"images_made": self._delivered[name], **self._pace(name)}
            found.append({**entry, "name": name, "source": source, **made})
        return found

    def _pace(self, name: str) -> dict[str, float | None]:
        batches = self._batches.get(name)
        if not batches:
            return {"batch_s": None, "silent_s": None}
        silent_s = max(0.0, (self._progress.time_s or 0.0) - batches[-1]["time_s"])
        return {"batch_s": sum(record.get("seconds", 0.0) for record in batches) / len(batches), "silent_s": silent_s}

    def sources(self) -> dict[str, dict[str, int]]:
        """``target`` and the number of generators in each state, by source; empty of a run that is not live."""
        names = ("target", *PHASES)
        live = self._sources if self.state == "running" else {}
        return {source: {name: record[name] for name in names} for source, record in live.items()}

    def students(self) -> list[dict[str, Any]]:
        """One entry a student, the first one's first: ``name``, ``step`` and what is known of it, null where nothing is."""
        named = [str(name) for name in self._settings.get("students") or {}]
        names = named or list(self._progress.students)
        figures = {
            "images_eaten": ("throughput", "images_distilled"),
            "images_eaten_per_s": ("throughput", "distilled_per_s"),
            "kd_loss": ("distillation", "kd_loss"),
            "metric_last": ("evaluation", "metric_last"),
            "metric_ema": ("evaluation", "metric_ema"),
        }
        found = {label: self._progress.of_students(kind, key) for label, (kind, key) in figures.items()}
        steps = self._progress.of_students("throughput", "step")
        return [
            {"name": name, "step": int(steps.get(name, 0)), **{label: of_all.get(name) for label, of_all in found.items()}}
            for name in names
        ]

    def _of_first(self, key: str) -> float | None:
        value: float | None = next((student[key] for student in self.students()), None)
        return value

    def as_json(self) -> dict[str, Any]:
        """Everything under names that stay; what is not known is null. Rates are per second, shares lie in [0,1]."""
        progress = self._progress
        size, capacity = progress.value("replay", "size"), progress.value("replay", "capacity")
        return {
            "run": str(self.run.path),
            "state": self.state,
            "error": self.manifest.get("error"),
            "note": self.note,
            "step": progress.step,
            "total_steps": progress.total_steps,
            "time_s": progress.time_s,
            "images_made": sum(self._delivered.values()),
            "images_made_per_s": progress.made_per_s,
            "images_eaten": progress.total("throughput", "images_distilled"),
            "images_eaten_per_s": progress.total("throughput", "distilled_per_s"),
            "buffer_images": size,
            "buffer_capacity": capacity,
            "buffer_fill": size / capacity if size is not None and capacity else None,
            "class_entropy": progress.value("replay", "class_entropy"),
            "wait_shares": progress.wait_shares,
            "restarts": progress.restarts,
            "metric_last": self._of_first("metric_last"),
            "metric_ema": self._of_first("metric_ema"),
            "last_event": progress.last_event or None,
            "sources": self.sources(),
            "students": self.students(),
            "generators": self.generators(),
        }

    def rows(self) -> list[tuple[str, str]]:
        """(label, value) for people; the rows are the same each time, so that nothing jumps."""
        told = self.as_json()
        rows = [("state", self.state + (f": {told['error']}" if told["error"] and self.state == "failed" else ""))]
        rows += [row for row in table_rows(self._progress) if row[0] not in ("stage", "last event", "losses")]
        rows.insert(4, ("images", f"{told['images_made']:,} made, {told['images_eaten'] or 0:,.0f} eaten"))
        entropy = told["class_entropy"]
        rows.append(("class entropy", "–" if entropy is None else format_percent(entropy, 1)))
        rows.append(("last event", self._progress.last_event or "–"))
        students = self.students()
        for student in students if len(students) > 1 else ():
            shown = "–" if student["kd_loss"] is None else f"{student['kd_loss']:.4g}"
            per_s = format_rate(student["images_eaten_per_s"])
            rows.append((f"student {student['name']}", f"step {student['step']:,}, kd_loss {shown}, {per_s} images/s"))
        for source, counts in self.sources().items():
            others = ", ".join(f"{counts[phase]} {phase}" for phase in PHASES[1:] if counts[phase])
            text = f"{counts['running']} of {counts['target']} run"
            rows.append((f"generators of {source}", f"{text}, {others}" if others else text))
        if self.note:
            rows.append(("note", self.note))
        return rows

    def generator_rows(self) -> list[tuple[str, ...]]:
        """Name, state, process id, images made, seconds a batch and restarts of each, as text."""

        def text(value: float | None, form: str) -> str:
            return "–" if value is None else format(value, form)

        return [
            (
                g["name"],
                g["state"],
                text(g["pid"], ""),
                text(g["images_made"], ","),
                text(g["batch_s"], ".3g"),
                str(g["restarts"]),
            )
            for g in self.generators()
        ]


def _by_number(name: str) -> tuple[str, int]:
    source, _, number = name.rpartition("-")
    return source, int(number) if number.isdigit() else 0


def _settings(path: Path) -> dict[str, Any]:
    from raydfkd.pipeline.experiment.yaml_files import read_yaml

    return read_yaml(path) if path.exists() else {}


def _total_steps(settings: dict[str, Any]) -> int | None:
    schedule = settings.get("schedule", {})
    rounds, steps = schedule.get("rounds"), schedule.get("student_steps_per_round")
    return rounds * steps if isinstance(rounds, int) and isinstance(steps, int) else None

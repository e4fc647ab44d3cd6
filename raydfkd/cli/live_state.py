"""The status of a run, read from its directory, which a live run keeps up to date. Uses neither a terminal nor Ray."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from raydfkd.cli.progress_state import ProgressState, table_rows
from raydfkd.metrics import find, in_status
from raydfkd.ownership import owner_of
from raydfkd.report.loading import scheduled_steps
from raydfkd.report.result_rows import format_percent, format_rate
from raydfkd.run_dir import RunDir
from raydfkd.run_records import Record, RecordReader

PHASES = ("running", "starting", "pending", "draining")
STALE_S = 60.0
"""A live run on Ray writes a record every few seconds."""
BATCHES_LOOKED_AT = 5
STRAGGLING = 3.0
"""A generator that takes this many times as long as the others of its source is named."""


class RunStatus:
    """Follows a run directory: :meth:`refresh` reads what was written since the last call.

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
        """What is wrong with a live run, in one line."""
        if self.state != "running" or not self.run.metrics_path.exists():
            return None
        found = owner_of(self.run.path)
        if found is not None and found.owner is not None and found.lives is False:
            gone = f"process {found.owner.process} on host {found.owner.host}"
            return f"{gone} has died: continue with raydfkd run {self.run.path} --resume"
        silent_s = self._clock() - self.run.metrics_path.stat().st_mtime
        if silent_s < STALE_S:
            return self._straggler()
        advice = f"if its process is gone, continue with raydfkd run {self.run.path} --resume"
        return f"nothing was recorded for {silent_s:.0f} s: {advice}"

    def _straggler(self) -> str | None:
        """The slowest generator, if it is far slower than the others of its source."""
        paces = {g["name"]: (g["source"], g["batch_s"]) for g in self.generators() if g["state"] == "running" and g["batch_s"]}
        for name, (source, batch_s) in sorted(paces.items(), key=lambda item: -item[1][1]):
            others = [pace for other, (of, pace) in paces.items() if of == source and other != name]
            if others and batch_s > STRAGGLING * median(others):
                usual = f"the others of {source} take {median(others):.3g} s"
                return f"generator {name} takes {batch_s:.3g} s per batch, {usual}"
        return None

    def refresh(self) -> None:
        """Reads the manifest and the new records."""
        self.manifest = self.run.manifest()
        if self._reader.is_rewound:
            self._forget()
        for record in self._reader.read():
            self._take(record)

    def _forget(self) -> None:
        self._progress = ProgressState(total_steps=scheduled_steps(self._settings))
        self._batches: dict[str, deque[Record]] = defaultdict(lambda: deque(maxlen=BATCHES_LOOKED_AT))
        self._sources: dict[str, Record] = {}
        self._reader = RecordReader(self.run.metrics_path)

    def _take(self, record: Record) -> None:
        self._progress.take(record)
        if record["kind"] == "synthesis":
            self._batches[record["generator_id"]].append(record)
        elif record["kind"] == "generators":
            self._sources[record["source"]] = record
        elif record["kind"] == "event" and str(record["message"]).startswith("resumed "):
            self._sources.clear()  # Its generators are new processes now, which have not reported yet.

    def generators(self) -> list[dict[str, Any]]:
        """One entry per generator: ``name``, ``source``, ``state``, ``pid``, ``restarts``, ``images_synthesized`` in all,
        ``batch_s`` (seconds per batch over its last ones, without waits) and ``silent_s`` (from its last batch to the newest
        record).

        ``state`` is running, starting, pending or draining; ended where the generator is not live now. A local run's
        generators have no process of their own and run as long as it does.
        """
        over = self.state != "running"
        known = {g["name"]: g for record in self._sources.values() for g in record["generators"]}
        found = []
        synthesized = self._progress.totals.images_by_generator
        for name in sorted(known.keys() | synthesized.keys(), key=_by_number):
            source = name.rpartition("-")[0]
            entry = known.get(name, {"state": "ended" if source in self._sources else "running", "pid": None, "restarts": 0})
            if over:
                entry = {**entry, "state": "ended", "pid": None}
            work = {"images_synthesized": synthesized[name], **self._pace(name)}
            found.append({**entry, "name": name, "source": source, **work})
        return found

    def _pace(self, name: str) -> dict[str, float | None]:
        batches = self._batches.get(name)
        if not batches:
            return {"batch_s": None, "silent_s": None}
        silent_s = max(0.0, (self._progress.time_s or 0.0) - batches[-1]["time_s"])
        return {"batch_s": sum(record.get("seconds", 0.0) for record in batches) / len(batches), "silent_s": silent_s}

    def sources(self) -> dict[str, dict[str, int]]:
        """``target`` and the number of generators in each state, by source; empty if the run is not live."""
        names = ("target", *PHASES)
        live = self._sources if self.state == "running" else {}
        return {source: {name: record[name] for name in names} for source, record in live.items()}

    def students(self) -> list[dict[str, Any]]:
        """One entry per student, the first student first: ``name``, ``step`` and its metrics, null where not known."""
        named = [str(name) for name in self._settings.get("students") or {}]
        names = named or list(self._progress.students)
        found = {m.status: self._progress.of_students(m.kind, m.key) for m in in_status(of_students=True)}
        steps = self._progress.of_students("throughput", "step")
        return [
            {"name": name, "step": int(steps.get(name, 0)), **{key: of_all.get(name) for key, of_all in found.items()}}
            for name in names
        ]

    def _of_first(self, key: str) -> float | None:
        value: float | None = next((student[key] for student in self.students()), None)
        return value

    def as_json(self) -> dict[str, Any]:
        """Everything under stable names; what is not known is null. Rates are per second, shares lie in [0,1].

        Of several students ``images_distilled`` and its rate are sums, ``metric_last`` and ``metric_ema`` the first student's.
        """
        progress = self._progress
        return {
            "run": str(self.run.path),
            "state": self.state,
            "error": self.manifest.get("error"),
            "note": self.note,
            "step": progress.step,
            "total_steps": progress.total_steps,
            "time_s": progress.time_s,
            "images_synthesized": progress.totals.images_synthesized,
            "images_synthesized_per_s": progress.synthesized_per_s,
            "images_distilled": progress.total("throughput", "images_distilled"),
            "images_distilled_per_s": progress.total("throughput", "distilled_per_s"),
            **{metric.status: progress.value(metric.kind, metric.key) for metric in in_status(of_students=False)},
            "wait_shares": progress.wait_shares,
            "restarts": progress.totals.restarts,
            "metric_last": self._of_first("metric_last"),
            "metric_ema": self._of_first("metric_ema"),
            "last_event": progress.last_event or None,
            "sources": self.sources(),
            "students": self.students(),
            "generators": self.generators(),
        }

    def rows(self) -> list[tuple[str, str]]:
        """(label, value) for people; the labels do not change, so that nothing jumps."""
        known = self.as_json()
        rows = [("state", self.state + (f": {known['error']}" if known["error"] and self.state == "failed" else ""))]
        rows += [row for row in table_rows(self._progress) if row[0] not in ("stage", "last event", "losses")]
        synthesized, distilled = known["images_synthesized"], known["images_distilled"] or 0
        rows.insert(4, ("images", f"{synthesized:,} synthesized, {distilled:,.0f} distilled"))
        entropy = known["class_entropy"]
        rows.append(("class entropy", "–" if entropy is None else format_percent(entropy, 1)))
        rows.append(("last event", self._progress.last_event or "–"))
        students = self.students()
        for student in students if len(students) > 1 else ():
            shown = "–" if student["kd_loss"] is None else f"{student['kd_loss']:.4g}"
            loss = f"{find('distillation', 'kd_loss').name} {shown}"
            per_s = format_rate(student["images_distilled_per_s"])
            rows.append((f"student {student['name']}", f"step {student['step']:,}, {loss}, {per_s} images/s"))
        for source, counts in self.sources().items():
            others = ", ".join(f"{counts[phase]} {phase}" for phase in PHASES[1:] if counts[phase])
            text = f"{counts['running']} of {counts['target']} running"
            rows.append((f"generators of {source}", f"{text}, {others}" if others else text))
        if self.note:
            rows.append(("note", self.note))
        return rows

    def generator_rows(self) -> list[tuple[str, ...]]:
        """Name, state, process id, images synthesized, seconds per batch and restarts of each, as text."""

        def text(value: float | None, form: str) -> str:
            return "–" if value is None else format(value, form)

        return [
            (
                g["name"],
                g["state"],
                text(g["pid"], ""),
                text(g["images_synthesized"], ","),
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

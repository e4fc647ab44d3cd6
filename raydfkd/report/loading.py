"""A run directory read into plain data, tolerantly: what is missing or damaged is noted, never fatal.

Of manifest.json the report uses, where they stand: ``state``, ``error``, ``name``, ``started_at``, ``seed``,
``teacher_sha256``, ``classes`` (their names), ``data_splits_read`` (a list of objects such as
``{"dataset", "split", "purpose"}``), ``python``, ``packages`` and ``hardware``. What an unfinished run's result.json would
name (method, networks, schedule) comes from config.yaml.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.run_dir import RunDir

Record = dict[str, Any]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class RunData:
    """What a report needs of one run.

    Attributes:
        path: the run directory.
        manifest: manifest.json, or empty.
        result: result.json, or None while the run has none.
        config: the text of config.yaml, or None.
        settings: what it says, empty where it cannot be parsed.
        records: metrics records by kind, in order.
        buffer: arrays of analysis/buffer.npz, all of one length; empty if missing.
        features: arrays of analysis/features.npz; empty if missing.
        samples: arrays of samples/by_class.npz (``images`` uint8 [n,C,H,W], ``teacher_class`` int32 [n],
            ``source`` str [n]); empty if missing.
        rounds: (round number, PNG bytes) of every samples/round-*.png, in order.
        problems: one line for each file that was there and could not be read.
    """

    path: Path
    manifest: dict[str, Any]
    result: dict[str, Any] | None
    config: str | None
    settings: dict[str, Any]
    records: dict[str, list[Record]]
    buffer: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    rounds: list[tuple[int, bytes]]
    problems: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Record]:
        return self.records.get(kind, [])

    def by_student(self, kind: str) -> dict[str, list[Record]]:
        """A kind's records by the student's name, the first student first; those that name none are that one's."""
        named = [str(name) for name in _mapping(self.settings.get("students"))]
        grouped: dict[str, list[Record]] = {name: [] for name in named or ["student"]}
        for record in self.of_kind(kind):
            grouped.setdefault(str(record.get("student", next(iter(grouped)))), []).append(record)
        return {name: records for name, records in grouped.items() if records}

    def of_first_student(self, kind: str) -> list[Record]:
        return next(iter(self.by_student(kind).values()), [])

    @property
    def outcome(self) -> dict[str, Any]:
        """result.json, or for a run without one what the manifest and the metrics say so far, under the same keys."""
        return self.result if self.result is not None else _outcome_so_far(self)

    @property
    def state(self) -> str:
        return str(self.manifest.get("state", "finished" if self.result is not None else "running"))

    @property
    def elapsed_s(self) -> float:
        """Seconds of the newest record, 0 without any."""
        return max((float(records[-1].get("time_s", 0.0)) for records in self.records.values() if records), default=0.0)

    @property
    def num_generators(self) -> int:
        """Generators that made a batch, at least 1."""
        return max(1, len({r.get("generator_id") for r in self.of_kind("synthesis")}))

    @property
    def total_steps(self) -> int | None:
        """Student steps that the whole run is to have, None if the configuration does not say."""
        schedule = _mapping(self.settings.get("schedule"))
        rounds, steps = schedule.get("rounds"), schedule.get("student_steps_per_round")
        return rounds * steps if isinstance(rounds, int) and isinstance(steps, int) else None

    def class_names(self, num_classes: int) -> list[str]:
        """The manifest's class names where it has enough of them, the class numbers otherwise."""
        names = self.manifest.get("classes")
        if isinstance(names, list) and len(names) >= num_classes:
            return [str(name) for name in names[:num_classes]]
        return [str(number) for number in range(num_classes)]


def load_run(path: str | Path) -> RunData:
    """Reads a run directory, finished or not.

    Raises:
        RunDirError: there is no run at ``path``.
    """
    run = RunDir.open(path)
    problems: list[str] = []
    config = _text_or_none(run.config_path, problems)
    return RunData(
        path=run.path,
        manifest=_json_or_none(run.manifest_path, problems) or {},
        result=_json_or_none(run.result_path, problems),
        config=config,
        settings=_settings(config),
        records=_records(run.metrics_path, problems),
        buffer=_same_length(_arrays(run.analysis / "buffer.npz", problems), "analysis/buffer.npz", problems),
        features=_features(_arrays(run.analysis / "features.npz", problems), problems),
        samples=_samples(_arrays(run.samples / "by_class.npz", problems), problems),
        rounds=_rounds(run.samples, problems),
        problems=problems,
    )


def series(records: list[Record], *keys: str) -> list[np.ndarray]:
    """Columns of the records that have every key as a number, float64 [n] each (``null`` becomes NaN when the key is there).

    The first key decides what is kept: records without it, or where it is null, are left out.
    """
    kept = [r for r in records if isinstance(r.get(keys[0]), int | float)]
    return [np.array([_number(r.get(key)) for r in kept], dtype=np.float64) for key in keys]


def latest(records: list[Record], key: str) -> Any:
    """The newest value of ``key`` that is not null, or None."""
    for record in reversed(records):
        if record.get(key) is not None:
            return record[key]
    return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _outcome_so_far(run: RunData) -> dict[str, Any]:
    manifest, settings, evaluations = run.manifest, run.settings, run.by_student("evaluation")
    schedule, runtime = _mapping(settings.get("schedule")), _mapping(settings.get("runtime"))
    sources = [_mapping(source) for source in _mapping(settings.get("sources")).values()]
    students = {
        str(name): {
            "model": _mapping(student).get("model"),
            **{key: latest(evaluations.get(str(name), []), key) for key in ("metric_last", "metric_ema", "agreement")},
        }
        for name, student in _mapping(settings.get("students")).items()
    }
    steps = max((int(_finite(r.get("step"))) for records in run.records.values() for r in records), default=None)
    return {
        "method": "+".join(sorted({str(source["method"]) for source in sources if "method" in source})) or None,
        "schedule": schedule.get("mode"),
        "runner": runtime.get("runner"),
        "seed": manifest.get("seed", runtime.get("seed")),
        "metric_name": "accuracy" if evaluations else None,
        "teacher": {"model": _mapping(settings.get("teacher")).get("model"), "sha256": manifest.get("teacher_sha256")},
        "student": next(iter(students.values()), {}),
        "students": students,
        "end_to_end_s": run.elapsed_s,
        "synthesis_s": sum(_finite(r.get("seconds")) for r in run.of_kind("synthesis")) or None,
        "distillation_s": sum(map(_distillation_s, run.by_student("distillation").values())) or None,
        "images_synthesized": sum(_finite(r.get("num_images")) for r in run.of_kind("synthesis")) or None,
        "images_distilled": _images_distilled(run),
        "student_steps": steps,
        "class_entropy": latest(run.of_kind("replay"), "class_entropy"),
    }


def _images_distilled(run: RunData) -> float | None:
    counts = [latest(records, "images_distilled") for records in run.by_student("throughput").values()]
    return sum(map(_finite, counts)) or None


def _distillation_s(records: list[Record]) -> float:
    """Seconds in student steps, from the mean ``step_s`` that each record gives for the steps since the one before."""
    total, step = 0.0, 0.0
    for record in records:
        reached = _finite(record.get("step"))
        total += _finite(record.get("step_s")) * max(0.0, reached - step)
        step = max(step, reached)
    return total


def _settings(config: str | None) -> dict[str, Any]:
    import yaml

    try:
        return _mapping(yaml.safe_load(config or ""))
    except yaml.YAMLError:
        return {}


def _finite(value: Any) -> float:
    number = _number(value)
    return number if np.isfinite(number) else 0.0


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json_or_none(path: Path, problems: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return None
    if not isinstance(loaded, dict):
        problems.append(f"{path.name} does not hold a JSON object")
        return None
    return loaded


def _text_or_none(path: Path, problems: list[str]) -> str | None:
    if not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return None


def _records(path: Path, problems: list[str]) -> dict[str, list[Record]]:
    by_kind: dict[str, list[Record]] = {}
    if not path.exists():
        return by_kind
    damaged = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.endswith("\n"):
                break  # a killed writer's torn last line
            try:
                record = json.loads(line)
                by_kind.setdefault(record["kind"], []).append(record | {"time_s": float(record["time_s"])})
            except (ValueError, KeyError, TypeError):
                damaged += 1
    for records in by_kind.values():
        records.sort(key=lambda record: record["time_s"])  # other processes' records are written some time after they arose
    if damaged:
        problems.append(f"metrics.jsonl has {damaged} damaged line{'s' if damaged > 1 else ''}, left out here")
    return by_kind


def _arrays(path: Path, problems: list[str]) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read ({error})")
        return {}


def _same_length(arrays: dict[str, np.ndarray], name: str, problems: list[str]) -> dict[str, np.ndarray]:
    if any(a.ndim != 1 for a in arrays.values()) or len({len(a) for a in arrays.values()}) > 1:
        problems.append(f"{name} holds arrays of different lengths")
        return {}
    return arrays if all(len(a) for a in arrays.values()) else {}


def _features(arrays: dict[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    """Keeps each complete (features [n,D], class [n]) pair."""
    kept: dict[str, np.ndarray] = {}
    for prefix in ("synthetic", "real"):
        features, classes = arrays.get(f"{prefix}_features"), arrays.get(f"{prefix}_class")
        if features is None or classes is None:
            continue
        if features.ndim != 2 or len(features) != len(classes):
            problems.append(f"analysis/features.npz has {prefix} features of shape {features.shape} for {len(classes)} classes")
        elif len(features):
            kept |= {f"{prefix}_features": features, f"{prefix}_class": classes}
    return kept


def _samples(arrays: dict[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    images, classes = arrays.get("images"), arrays.get("teacher_class")
    if images is None or classes is None or not len(images):
        return {}
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(classes):
        problems.append(f"samples/by_class.npz has images of shape {images.shape} ({images.dtype}) for {len(classes)} classes")
        return {}
    sources = arrays.get("source", np.full(len(classes), "synthetic"))
    return {"images": images, "teacher_class": classes, "source": sources.astype(str)}


def _rounds(folder: Path, problems: list[str]) -> list[tuple[int, bytes]]:
    rounds = []
    for path in sorted(folder.glob("round-*.png")):
        digits = path.stem.removeprefix("round-")
        content = path.read_bytes()
        if digits.isdigit() and content.startswith(_PNG_SIGNATURE):
            rounds.append((int(digits), content))
        else:
            problems.append(f"samples/{path.name} is not a PNG picture of a numbered round")
    return rounds

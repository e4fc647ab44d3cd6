"""A run directory read into plain data, tolerantly: what is missing or damaged is noted, never fatal.

Of manifest.json the report uses, where present: ``state``, ``error``, ``name``, ``started_at``, ``seed``,
``teacher_sha256``, ``classes`` (their names), ``data_splits_read`` (a list of objects such as
``{"dataset", "split", "purpose"}``), ``figures``, ``metric_name``, ``metric_label``, ``python``, ``packages`` and
``hardware``. What the result.json of an unfinished run would say (method, networks, schedule) comes from config.yaml and
the metrics records.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.metrics import Figure
from raydfkd.run_dir import RunDir
from raydfkd.run_records import Record, RecordReader, RunTotals, by_owner, number

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class RunData:
    """What a report needs of a run.

    Attributes:
        path: the run directory.
        manifest: manifest.json, or empty.
        result: result.json, or None while the run has none.
        config: the text of config.yaml, or None.
        settings: what it says, empty where it cannot be parsed.
        records: metrics records by kind, in order.
        buffer: arrays of analysis/buffer.npz, all of one length; empty if missing.
        features: arrays of analysis/features.npz; empty if missing.
        planes: arrays of analysis/planes.npz; empty if no network has two features.
        alignment: arrays of analysis/alignment.npz; empty if no source has feature alignment.
        samples: arrays of samples/by_class.npz (``images`` uint8 [n,C,H,W], ``teacher_class`` int32 [n],
            ``source`` str [n]); empty if missing.
        masks: arrays of samples/masks.npz; empty if images have one class each.
        rounds: (round number, PNG bytes) of every samples/round-*.png, in order.
        figures: plots of the methods' own numbers that manifest.json names.
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
    planes: dict[str, np.ndarray]
    alignment: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    rounds: list[tuple[int, bytes]]
    figures: list[Figure]
    problems: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Record]:
        return self.records.get(kind, [])

    def by_owner(self, kind: str) -> dict[str, list[Record]]:
        """A kind's records by student (the first one first; those that name none are its), generator or source."""
        return by_owner(self.of_kind(kind), kind, [str(name) for name in _mapping(self.settings.get("students"))])

    def of_first_student(self, kind: str) -> list[Record]:
        return next(iter(self.by_owner(kind).values()), [])

    @property
    def outcome(self) -> dict[str, Any]:
        """result.json, or for a run without one the figures so far from manifest and metrics records, under the same keys."""
        return self.result if self.result is not None else _outcome_so_far(self)

    @property
    def state(self) -> str:
        return str(self.manifest.get("state", "finished" if self.result is not None else "running"))

    @property
    def elapsed_s(self) -> float:
        """Seconds of the newest record, 0 without any."""
        return max((float(records[-1].get("time_s", 0.0)) for records in self.records.values() if records), default=0.0)

    @property
    def total_steps(self) -> int | None:
        """Student steps of the whole run, None if the configuration does not say."""
        return scheduled_steps(self.settings)

    def class_names(self, num_classes: int) -> list[str]:
        """The manifest's class names if it has enough of them, otherwise the class numbers."""
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
    manifest = _json_or_none(run.manifest_path, problems) or {}
    return RunData(
        path=run.path,
        manifest=manifest,
        result=_json_or_none(run.result_path, problems),
        config=config,
        settings=_settings(config),
        records=_records(run.metrics_path, problems),
        buffer=_same_length(_arrays(run.analysis / "buffer.npz", problems), "analysis/buffer.npz", problems),
        features=_features(_arrays(run.analysis / "features.npz", problems), problems),
        planes=_planes(_arrays(run.analysis / "planes.npz", problems), problems),
        alignment=_alignment(_arrays(run.analysis / "alignment.npz", problems), problems),
        samples=_samples(_arrays(run.samples / "by_class.npz", problems), problems),
        masks=_masks(_arrays(run.samples / "masks.npz", problems), problems),
        rounds=_rounds(run.samples, problems),
        figures=_figures(manifest, problems),
        problems=problems,
    )


def scheduled_steps(settings: dict[str, Any]) -> int | None:
    """Student steps that an experiment's settings ask for, None if they do not say."""
    schedule = _mapping(settings.get("schedule"))
    rounds, steps = schedule.get("rounds"), schedule.get("student_steps_per_round")
    return rounds * steps if isinstance(rounds, int) and isinstance(steps, int) else None


def series(records: list[Record], *keys: str) -> list[np.ndarray]:
    """Columns of the records that have every key as a number, float64 [n] each (``null`` becomes NaN when the key is there).

    The first key decides what is kept: records without it, or where it is null, are left out.
    """
    kept = [r for r in records if isinstance(r.get(keys[0]), int | float)]
    return [np.array([_or_nan(r.get(key)) for r in kept], dtype=np.float64) for key in keys]


def latest(records: list[Record], key: str) -> Any:
    """The newest value of ``key`` that is not null, or None."""
    for record in reversed(records):
        if record.get(key) is not None:
            return record[key]
    return None


def _or_nan(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _outcome_so_far(run: RunData) -> dict[str, Any]:
    manifest, settings, evaluations = run.manifest, run.settings, run.by_owner("evaluation")
    totals = RunTotals.of(record for records in run.records.values() for record in records)
    schedule, runtime = _mapping(settings.get("schedule")), _mapping(settings.get("runtime"))
    sources = [_mapping(source) for source in _mapping(settings.get("sources")).values()]
    students = {
        str(name): {
            "model": _mapping(student).get("model"),
            **{key: latest(evaluations.get(str(name), []), key) for key in ("metric_last", "metric_ema", "agreement")},
        }
        for name, student in _mapping(settings.get("students")).items()
    }
    steps = max((int(number(r.get("step"))) for records in run.records.values() for r in records), default=None)
    known = {key: value for key, value in totals.as_result().items() if value}
    return {
        "method": "+".join(sorted({str(source["method"]) for source in sources if "method" in source})) or None,
        "schedule": schedule.get("mode"),
        "runner": runtime.get("runner"),
        "seed": manifest.get("seed", runtime.get("seed")),
        **({key: manifest.get(key) for key in ("metric_name", "metric_label")} if evaluations else {}),
        "teacher": {"model": _mapping(settings.get("teacher")).get("model"), "sha256": manifest.get("teacher_sha256")},
        "student": next(iter(students.values()), {}),
        "students": students,
        "end_to_end_s": run.elapsed_s,
        **known,
        "images_synthesized": totals.images_synthesized or None,
        "images_distilled": totals.images_distilled or None,
        "student_steps": steps,
        "class_entropy": latest(run.of_kind("replay"), "class_entropy"),
    }


def _settings(config: str | None) -> dict[str, Any]:
    import yaml

    try:
        return _mapping(yaml.safe_load(config or ""))
    except yaml.YAMLError:
        return {}


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
    reader = RecordReader(path, tolerant=True)
    for record in reader.read():
        by_kind.setdefault(str(record["kind"]), []).append(record)
    for records in by_kind.values():
        records.sort(key=lambda record: record["time_s"])  # records of other processes are written some time after their time_s
    if reader.damaged:
        problems.append(f"metrics.jsonl has {reader.damaged} damaged line{'s' if reader.damaged > 1 else ''}, left out here")
    return by_kind


def _figures(manifest: dict[str, Any], problems: list[str]) -> list[Figure]:
    listed = manifest.get("figures") or []
    try:
        return [Figure.from_json(value) for value in listed]
    except (ValueError, TypeError) as error:
        problems.append(f"the figures that manifest.json names cannot be read ({error})")
        return []


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


def _planes(arrays: dict[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    """All arrays if they are complete and finite."""
    if not arrays:
        return {}
    needed = {"network", "weight", "bias", "synthetic_features"} | ({"real_features"} if "real_class" in arrays else set())
    if not needed <= arrays.keys() or not all(np.isfinite(arrays[name]).all() for name in needed - {"network"}):
        problems.append("analysis/planes.npz is not complete or not finite")
        return {}
    return arrays


def _alignment(arrays: dict[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    """All arrays if they are complete and the features finite."""
    if not arrays:
        return {}
    features = {f"{name}_features" for name in ("prototype", "first", "last")}
    needed = features | {name.replace("features", "class") for name in features}
    needed |= {"first_batches", "last_batches", "distances", "shown_class", "shown_images", "nearest_images"}
    if not needed <= arrays.keys() or not all(np.isfinite(arrays[name]).all() for name in features):
        problems.append("analysis/alignment.npz is not complete or not finite")
        return {}
    return arrays


def _samples(arrays: dict[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    images, classes = arrays.get("images"), arrays.get("teacher_class")
    if images is None or classes is None or not len(images):
        return {}
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(classes):
        problems.append(f"samples/by_class.npz has images of shape {images.shape} ({images.dtype}) for {len(classes)} classes")
        return {}
    sources = arrays.get("source", np.full(len(classes), "synthetic"))
    return {"images": images, "teacher_class": classes, "source": sources.astype(str)}


def _masks(arrays: dict[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    """All arrays if they are complete."""
    needed = {"network", "synthetic_images", "synthetic_masks"}
    needed |= {"real_truth", "real_masks"} if "real_images" in arrays else set()
    if arrays and not needed <= arrays.keys():
        problems.append("samples/masks.npz is not complete")
        return {}
    return arrays


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

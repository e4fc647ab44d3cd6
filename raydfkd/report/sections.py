"""What a report consists of: each section is built from the run's data, or says in one line why it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raydfkd.report import figures, pictures
from raydfkd.report.loading import Record, RunData, latest, series
from raydfkd.report.outcome import MISSING, format_duration, metric_label, outcome_rows, part

_IMAGES_A_CLASS = 10
_MOST_CLASSES = 100
_MOST_ROUNDS = 6
_MOST_EVENTS = 200
_MOST_FEATURES = 3000
_NOTHING_WAITED = 0.001


@dataclass(frozen=True)
class Table:
    """``headers`` is empty for a table of names and values."""

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    title: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of images in one picture: ``address`` is a PNG ``data:`` address, ``aspect`` its width over its height."""

    label: str
    address: str
    aspect: float = 1.0


@dataclass(frozen=True)
class Section:
    """A part of the page; every field that is not empty is shown, in this order."""

    lead: str = ""
    plots: list[str] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    gallery: list[Strip] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    code: str = ""
    notes: list[str] = field(default_factory=list)


class LeftOut(Exception):
    """A section cannot be made from this run; the message is the reason. Never leaves this room."""


@dataclass(frozen=True)
class Part:
    """A section's place on the page: its anchor and title, and the section or why there is none."""

    anchor: str
    title: str
    section: Section | None
    reason: str = ""


def build_parts(run: RunData) -> list[Part]:
    """Every part of the report in order, with or without its section."""
    parts = []
    for anchor, title, build in _BUILDERS:
        try:
            parts.append(Part(anchor, title, build(run)))
        except LeftOut as reason:
            parts.append(Part(anchor, title, None, str(reason)))
    return parts


def _outcome(run: RunData) -> Section:
    rows = outcome_rows(run.outcome)
    if not rows:
        raise LeftOut("neither result.json nor the metrics say anything yet")
    half = -(-len(rows) // 2)
    columns = [Table((), list(rows[:half])), Table((), list(rows[half:]))]
    lead = "" if run.result is not None else "The run has no result.json: these are its figures so far."
    return Section(lead=lead, tables=columns)


def _metric(run: RunData) -> Section:
    records = run.of_kind("evaluation")
    steps, last, ema, seconds = series(records, "step", "metric_last", "metric_ema", "time_s")
    if not np.isfinite(np.concatenate([last, ema])).any():
        raise LeftOut("there are no evaluation records: the run has no evaluation data, or has not evaluated yet")
    teacher, name = part(run.outcome, "teacher", "metric"), metric_label(run.outcome)
    time, time_label = figures.time_axis(seconds)
    plots = [
        _svg(figures.metric_curve(time, time_label, last, ema, teacher, name), "metric-time"),
        _svg(figures.metric_curve(steps, "student steps", last, ema, teacher, name), "metric-steps"),
    ]
    split = latest(records, "split")
    lead = f"Measured on {split}, which is read for nothing else." if split else ""
    notes = [] if teacher is not None else [f"The teacher's own {name} is not recorded, so it has no line."]
    return Section(lead=lead, plots=plots, notes=notes)


def _images(run: RunData) -> Section:
    if not run.samples:
        raise LeftOut("there is no samples/by_class.npz yet")
    images, classes = run.samples["images"], run.samples["teacher_class"]
    found = np.unique(classes)
    names = _names(run, int(classes.max(initial=0)) + 1)
    a_class = _IMAGES_A_CLASS if len(found) <= 20 else _IMAGES_A_CLASS // 2
    strips = []
    for number in found[:_MOST_CLASSES]:
        chosen = images[classes == number][:a_class]
        # A class with few images keeps their size, so that rows align.
        strips.append(Strip(names[number], pictures.png_address(pictures.strip_png(chosen)), len(chosen) / a_class))
    notes = [f"The first {_MOST_CLASSES} of {len(found)} classes are shown."] if len(found) > _MOST_CLASSES else []
    return Section(lead="Images of the buffer, in rows by the class that the teacher sees in them.", strips=strips, notes=notes)


def _evolution(run: RunData) -> Section:
    if not run.rounds:
        raise LeftOut("there are no samples/round-*.png yet")
    chosen = np.unique(np.linspace(0, len(run.rounds) - 1, min(_MOST_ROUNDS, len(run.rounds))).round().astype(int))
    gallery = [Strip(f"round {run.rounds[i][0]:,}", pictures.png_address(run.rounds[i][1])) for i in chosen]
    return Section(lead="What the generators made as the run went on.", gallery=gallery)


def _classes(run: RunData) -> Section:
    replay = run.of_kind("replay")
    plots, notes = [], []
    counts = _class_counts(run)
    if counts is not None and counts.sum() > 0:
        plots.append(_svg(figures.class_histogram(counts, _names(run, len(counts))), "class-histogram"))
    else:
        notes.append("No class counts of the buffer are recorded.")
    seconds, entropy = series(replay, "time_s", "class_entropy")
    if np.isfinite(entropy).sum() > 1:
        time, label = figures.time_axis(seconds)
        curve = {"relative entropy": (time, entropy)}
        plots.append(_svg(figures.lines(curve, "Relative class entropy (1: all classes alike)", label), "class-entropy"))
    if not plots:
        raise LeftOut("there are no replay records with class counts and no analysis/buffer.npz")
    return Section(lead="How evenly the buffer covers the classes.", plots=plots, notes=notes)


def _buffer(run: RunData) -> Section:
    if not run.buffer:
        raise LeftOut("there is no analysis/buffer.npz; it is written when a run ends")
    plots, notes = [], []
    for key, title, label, span in (
        ("teacher_confidence", "Difficulty", "1 − the teacher's confidence", (0.0, 1.0)),
        ("priorities", "Priority", "priority, before the exponent", None),
        ("ages", "Age", "batches inserted since the image was", None),
    ):
        values = run.buffer.get(key)
        if values is None or not np.isfinite(values.astype(np.float64)).any():
            notes.append(f"analysis/buffer.npz has no {key}.")
            continue
        values = values.astype(np.float64)
        shown = np.clip(1.0 - values, 0.0, 1.0) if key == "teacher_confidence" else values
        plots.append(_svg(figures.histogram(shown, title, label, span), f"buffer-{key}"))
    if not plots:
        raise LeftOut("analysis/buffer.npz has neither confidences, priorities nor ages")
    return Section(lead=_buffer_lead(run), plots=plots, notes=notes)


def _buffer_lead(run: RunData) -> str:
    total = len(next(iter(run.buffer.values())))
    lead = f"The {total:,} images that were in the buffer at the end"
    sources = run.buffer.get("source")
    if sources is None:
        return f"{lead}."
    names, counts = np.unique(sources.astype(str), return_counts=True)
    return lead + ": " + ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True)) + "."


def _losses(run: RunData) -> Section:
    distillation = run.of_kind("distillation")
    steps = "student steps"
    plots = []
    for key, title, log in (
        ("kd_loss", "Distillation: kd_loss", True),
        ("lr", "Distillation: learning rate", False),
        ("grad_norm", "Distillation: gradient norm", True),
        ("agreement", "Distillation: agreement with the teacher on training batches", False),
        ("importance_weight_mean", "Distillation: mean importance weight", False),
        ("item_age", "Distillation: age of drawn images, in batches", False),
    ):
        values, at = series(distillation, key, "step")
        if np.isfinite(values).any():
            plot = figures.lines({key: (at, values)}, title, steps, log=log, percent=key == "agreement")
            plots.append(_svg(plot, f"distillation-{key}"))
    plots += _synthesis_losses(run.of_kind("synthesis"))
    if not plots:
        raise LeftOut("there are no distillation or synthesis records yet")
    return Section(plots=plots)


def _synthesis_losses(records: list[Record]) -> list[str]:
    names = sorted({k for r in records for k, v in r.items() if (k == "loss" or k.endswith("_loss")) and isinstance(v, int | float)})
    generators = sorted({str(r.get("generator_id")) for r in records})
    plots = []
    for name in sorted(names, key=lambda n: (n != "loss", n)):
        curves = {}
        for generator in generators:
            values, seconds = series([r for r in records if str(r.get("generator_id")) == generator], name, "time_s")
            if np.isfinite(values).any():
                curves[generator] = (seconds, values)
        if curves:
            time_label = figures.time_axis(np.concatenate([x for x, _ in curves.values()]))[1]
            unit = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}[time_label.rsplit(" ", 1)[1]]
            scaled = {generator: (x / unit, y) for generator, (x, y) in curves.items()}
            plots.append(_svg(figures.lines(scaled, f"Synthesis: {name}", time_label), f"synthesis-{name}"))
    return plots


def _throughput(run: RunData) -> Section:
    records = run.of_kind("throughput")
    plots = []
    for key, title in (("synthesized_per_s", "Images/s made"), ("distilled_per_s", "Images/s eaten")):
        values, seconds = series(records, key, "time_s")
        if np.isfinite(values).any():
            time, label = figures.time_axis(seconds)
            plots.append(_svg(figures.lines({key: (time, values)}, title, label, from_zero=True), key))
    size, capacity, seconds = series(run.of_kind("replay"), "size", "capacity", "time_s")
    if len(size):
        time, label = figures.time_axis(seconds)
        limit = ("capacity", float(capacity[-1])) if np.isfinite(capacity[-1]) else None
        plots.append(_svg(figures.lines({"images": (time, size)}, "Images in the buffer", label, from_zero=True, limit=limit), "fill"))
    memory, seconds = series(records, "rss_bytes", "time_s")
    if len(memory):
        time, label = figures.time_axis(seconds)
        plots.append(_svg(figures.lines({"memory": (time, memory / 2**30)}, "Resident memory, GiB", label, from_zero=True), "memory"))
    if not plots:
        raise LeftOut("there are no throughput or replay records yet")
    return Section(plots=plots)


def _waits(run: RunData) -> Section:
    records = run.of_kind("throughput")
    (seconds,) = series(records, "time_s")
    intervals = np.diff(seconds, prepend=0.0)
    causes = sorted({k for r in records for k in r if "_wait_" in k and k.endswith("_s")})
    if len(records) < 2 or not causes:
        raise LeftOut("there are no throughput records with waits yet")
    plots, notes = [], []
    time, label = figures.time_axis(seconds)
    for who, workers in (("student", 1), ("generator", run.num_generators)):
        shares = {}
        for cause in (c for c in causes if c.startswith(f"{who}_wait_")):
            waited = np.array([float(r.get(cause) or 0.0) for r in records])
            share = np.clip(waited / np.maximum(intervals, 1e-9) / workers, 0.0, 1.0)
            shares[f"for {_CAUSES.get(cause, cause)}"] = share
        if sum(float(np.mean(s)) for s in shares.values()) < _NOTHING_WAITED:
            notes.append(f"The {who} waited for less than {100 * _NOTHING_WAITED:.1f}% of the time.")
        else:
            plots.append(_svg(figures.stacked_shares(time, shares, f"Share of time the {who} waits", label), f"waits-{who}"))
    return Section(plots=plots, notes=notes)


_CAUSES = {
    "student_wait_data_s": "data",
    "student_wait_limiter_s": "the rate limiter",
    "generator_wait_limiter_s": "the rate limiter",
    "generator_wait_weights_s": "student weights",
}


def _features(run: RunData) -> Section:
    if not run.features:
        raise LeftOut("there is no analysis/features.npz; it is written when a run ends")
    sets = {}
    for prefix in ("synthetic", "real"):
        if f"{prefix}_features" in run.features:
            vectors = run.features[f"{prefix}_features"].astype(np.float64)
            finite = np.flatnonzero(np.isfinite(vectors).all(axis=1))
            kept = finite[np.unique(np.linspace(0, len(finite) - 1, min(_MOST_FEATURES, len(finite))).astype(int))] if len(finite) else finite
            if len(kept):
                sets[prefix] = (vectors[kept], run.features[f"{prefix}_class"][kept].astype(np.int64))
    if not sets:
        raise LeftOut("analysis/features.npz has no finite features")
    centre, directions = figures.principal_axes(np.concatenate([vectors for vectors, _ in sets.values()]))
    flat = {prefix: ((vectors - centre) @ directions, classes) for prefix, (vectors, classes) in sets.items()}
    names = _names(run, max(int(classes.max(initial=0)) for _, classes in flat.values()) + 1)
    plots = []
    for prefix, other, marker in (("synthetic", "real", "o"), ("real", "synthetic", "x")):
        if prefix in flat:
            title = f"{prefix.capitalize()} images" + (f" ({other} ones in grey)" if other in flat else "")
            behind = flat[other][0] if other in flat else None
            plots.append(_svg(figures.feature_map(*flat[prefix], names, title, marker, behind), f"features-{prefix}"))
    both = "both sets of images" if len(flat) == 2 else f"the {next(iter(flat))} images"
    lead = f"The teacher's penultimate features on the first two principal components of {both}, coloured by class."
    notes = [] if "real" in flat else ["The run has no real images to compare with."]
    return Section(lead=lead, plots=plots, notes=notes)


def _events(run: RunData) -> Section:
    events = run.of_kind("event")
    if not events:
        raise LeftOut("nothing out of the ordinary was recorded")
    shown = events[-_MOST_EVENTS:]
    rows = [(format_duration(e.get("time_s")), f"{e.get('step', 0):,}", str(e.get("message", ""))) for e in shown]
    notes = [f"The last {_MOST_EVENTS} of {len(events):,} events are shown."] if len(events) > _MOST_EVENTS else []
    return Section(tables=[Table(("time", "step", "event"), rows)], notes=notes)


def _data(run: RunData) -> Section:
    read = run.manifest.get("data_read")
    if read is None:
        raise LeftOut("manifest.json does not list any data that was read")
    rows = read if isinstance(read, list) else [{"data": key, "purpose": value} for key, value in read.items()] if isinstance(read, dict) else [read]
    if not rows:
        return Section(lead="No data set was read at all.")
    lead = "Every data split that this run read, and what for. Nothing else was read from disk but the teacher's weights."
    return Section(lead=lead, tables=[_object_table(rows)])


def _config(run: RunData) -> Section:
    if not run.config:
        raise LeftOut("there is no config.yaml")
    return Section(code=run.config)


def _machine(run: RunData) -> Section:
    tables = [
        Table((), [(name, value) for name, value in _flat(run.manifest[key]) if value != ""], title)
        for key, title in (("versions", "versions"), ("hardware", "hardware"), ("seeds", "seeds"))
        if run.manifest.get(key)
    ]
    if not tables:
        raise LeftOut("manifest.json names neither versions nor hardware")
    return Section(tables=tables)


_BUILDERS: tuple[tuple[str, str, Callable[[RunData], Section]], ...] = (
    ("outcome", "Outcome", _outcome),
    ("metric", "Student against teacher", _metric),
    ("images", "Synthetic images by class", _images),
    ("evolution", "Synthetic images over the run", _evolution),
    ("classes", "Classes in the buffer", _classes),
    ("buffer", "Difficulty, priority and age", _buffer),
    ("features", "Teacher features", _features),
    ("losses", "Losses", _losses),
    ("throughput", "Throughput and buffer", _throughput),
    ("waits", "Waits by cause", _waits),
    ("events", "Events", _events),
    ("data", "Data that was read", _data),
    ("machine", "Versions and hardware", _machine),
    ("config", "Configuration", _config),
)


def _svg(figure: Any, name: str) -> str:
    return pictures.figure_svg(figure, name)


def _names(run: RunData, num_classes: int) -> list[str]:
    return run.class_names(num_classes)


def _class_counts(run: RunData) -> np.ndarray | None:
    """Images by class [K] in the final buffer, else in the newest replay record."""
    recorded = latest(run.of_kind("replay"), "class_counts")
    classes = run.buffer.get("teacher_class")
    if classes is not None:
        known = classes[classes >= 0].astype(np.int64)
        return np.bincount(known, minlength=len(recorded) if recorded is not None else 0)
    return None if recorded is None else np.array(recorded, dtype=np.float64)


def _object_table(rows: Sequence[Any]) -> Table:
    objects = [row if isinstance(row, dict) else {"data": row} for row in rows]
    headers = tuple(dict.fromkeys(key for row in objects for key in row))
    return Table(tuple(h.replace("_", " ") for h in headers), [tuple(_cell(row.get(h)) for h in headers) for row in objects])


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix or "value", _cell(value))]


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(_cell(inner) for inner in value)
    return str(value)

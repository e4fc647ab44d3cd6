"""The sections that show how the run went: the students' metric, losses, throughput and waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raydfkd.report import figures, style
from raydfkd.report.loading import Record, RunData, latest, series
from raydfkd.report.page_parts import LeftOut, Section
from raydfkd.report.pictures import figure_svg
from raydfkd.report.result_rows import format_duration, metric_label, part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOTHING_WAITED = 0.001


def metric(run: RunData) -> Section:
    found = {name: series(of_one, *_MEASURED) for name, of_one in run.by_student("evaluation").items()}
    found = {name: curves for name, curves in found.items() if np.isfinite(np.concatenate(curves[1:3])).any()}
    if not found:
        raise LeftOut("there are no evaluation records: the run has no evaluation data, or has not evaluated yet")
    teacher, name = part(run.outcome, "teacher", "metric"), metric_label(run.outcome)
    _, time_label = figures.time_axis(max((seconds for *_, seconds in found.values()), key=lambda seconds: seconds[-1]))
    plots = [
        figure_svg(_metric_figure(found, 3, time_label, teacher, name), "metric-time"),
        figure_svg(_metric_figure(found, 0, "student steps", teacher, name), "metric-steps"),
    ]
    split = latest(run.of_kind("evaluation"), "split")
    lead = f"Measured on {split}." if split else ""
    notes = [] if teacher is not None else [f"The teacher's own {name} is not recorded, so it has no line."]
    return Section(lead=lead, plots=plots, notes=notes)


_MEASURED = ("step", "metric_last", "metric_ema", "time_s")


def _metric_figure(found: dict[str, list[np.ndarray]], column: int, x_label: str, teacher: float | None, metric: str) -> Figure:
    """Of one student its last and its averaged weights; of several one line each, of their last weights."""
    over = {
        name: curves[column] if column == 0 else figures.in_unit_of(x_label, curves[column]) for name, curves in found.items()
    }
    if len(found) == 1:
        [(_, last, ema, _)] = found.values()
        return figures.metric_curve(next(iter(over.values())), x_label, last, ema, teacher, metric)
    title = f"{metric} over {'steps' if column == 0 else 'time'} (last weights of each student)"
    curves = {name: figures.Curve.of(over[name], last[None]) for name, (_, last, _, _) in found.items()}
    return figures.overlay(curves, title[0].upper() + title[1:], x_label, teacher)


_PALE = "Pale lines are the records, strong ones their running mean."


def distillation(run: RunData) -> Section:
    by_student = run.by_student("distillation")
    plots: list[str] = []
    for key, title, log in (
        ("kd_loss", "kd_loss", True),
        ("lr", "Learning rate", False),
        ("grad_norm", "Gradient norm", True),
        ("agreement", "Agreement with the teacher on training batches", False),
        ("importance_weight_mean", "Mean importance weight", False),
        ("item_age", "Age of drawn images, in batches inserted since", False),
    ):
        curves = {}
        for name, records in by_student.items():
            values, steps = series(records, key, "step")
            if np.isfinite(values).any():
                curves[key if len(by_student) == 1 else name] = (steps, values)
        if curves:
            plot = figures.lines(curves, title, "student steps", log=log, percent=key == "agreement", smooth=key != "lr")
            plots.append(figure_svg(plot, f"distillation-{key}"))
    if not plots:
        raise LeftOut("there are no distillation records yet")
    return Section(lead=_PALE if len(by_student) == 1 else f"One line a student. {_PALE}", plots=plots)


def synthesis(run: RunData) -> Section:
    records = sorted(run.of_kind("preparation") + run.of_kind("synthesis"), key=lambda r: float(r["time_s"]))
    names = {k for r in records for k, v in r.items() if (k == "loss" or k.endswith("_loss")) and isinstance(v, int | float)}
    titles = {name: name for name in sorted(names, key=lambda n: (n != "loss", n))} | {"seconds": "seconds a batch"}
    plots: list[str] = []
    for name, title in titles.items():
        curves = _by_generator(records, name)
        if curves:
            longest = max((x for x, _ in curves.values()), key=lambda x: x[-1])
            label = figures.time_axis(longest)[1]
            inner = {generator: (figures.in_unit_of(label, x), y) for generator, (x, y) in curves.items()}
            plots.append(
                figure_svg(figures.lines(inner, title, label, smooth=True, from_zero=name == "seconds"), f"synthesis-{name}")
            )
    plots += _gan_figures(records)
    behind, seconds = series(run.of_kind("replay"), "staleness_rounds", "time_s")
    if plots and np.isfinite(behind).any():
        time, label = figures.time_axis(seconds)
        title = "Rounds by which the generators' student is behind"
        plots.append(
            figure_svg(figures.lines({"rounds": (time, behind)}, title, label, from_zero=True, smooth=True), "staleness")
        )
    if not plots:
        raise LeftOut("there are no synthesis records yet")
    return Section(lead=f"One line a generator. {_PALE}", plots=plots)


def _gan_figures(records: list[Record]) -> list[str]:
    """How well a GAN's discriminator tells real from synthetic images (too well: it knows them by heart), and its classes."""
    plots = []
    for name, title, keys in (
        ("confidence", "Discriminator: probability of being real", ("real_confidence", "synthetic_confidence")),
        ("classes", "Generator: classes", ("class_hit_rate", "class_evenness")),
    ):
        curves = {}
        for key in keys:
            for generator, curve in _by_generator(records, key).items():
                curves[f"{_GAN_NAMES[key]}, {generator}"] = curve
        if curves:
            label = figures.time_axis(max((x for x, _ in curves.values()), key=lambda x: x[-1]))[1]
            inner = {curve: (figures.in_unit_of(label, x), y) for curve, (x, y) in curves.items()}
            plots.append(figure_svg(figures.lines(inner, title, label, percent=True), f"gan-{name}"))
    return plots


_GAN_NAMES = {
    "real_confidence": "real images",
    "synthetic_confidence": "synthetic images",
    "class_hit_rate": "teacher sees the class asked for",
    "class_evenness": "evenness of classes (100%: alike)",
}


def _by_generator(records: list[Record], key: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(seconds, values) of ``key`` for each generator that has any."""
    curves = {}
    for generator in sorted({str(r.get("generator_id")) for r in records}):
        values, seconds = series([r for r in records if str(r.get("generator_id")) == generator], key, "time_s")
        if np.isfinite(values).any():
            curves[generator] = (seconds, values)
    return curves


def throughput(run: RunData) -> Section:
    plots: list[str] = []
    for title, curves in {
        "Images/s made": {"images/s made": _made_per_s(run)},
        "Images/s eaten": _by_student(run, "distilled_per_s", "images/s eaten"),
        "Images in the buffer": {"images in the buffer": _over_time(run.of_kind("replay"), "size")},
        "Resident memory, GiB": _by_student(run, "rss_bytes", "resident memory, GiB", 2.0**-30),
    }.items():
        known = {name: curve for name, curve in curves.items() if np.isfinite(curve[1]).any()}
        if known:
            label = figures.time_axis(max((seconds for seconds, _ in known.values()), key=lambda x: x[-1]))[1]
            known = {name: (figures.in_unit_of(label, seconds), values) for name, (seconds, values) in known.items()}
            capacity = latest(run.of_kind("replay"), "capacity") if "buffer" in title else None
            limit = ("capacity", float(capacity)) if capacity is not None else None
            plot = figures.lines(known, title, label, from_zero=True, smooth="/s" in title, limit=limit)
            plots.append(figure_svg(plot, f"throughput-{len(plots)}"))
    if not plots:
        raise LeftOut("there are no throughput or replay records yet")
    return Section(plots=plots)


def _by_student(run: RunData, key: str, alone: str, scale: float = 1.0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A curve of the throughput records for each student, by its name; one that is ``alone`` is called that."""
    grouped = run.by_student("throughput")
    return {alone if len(grouped) == 1 else name: _over_time(of_one, key, scale) for name, of_one in grouped.items()}


def _over_time(records: list[Record], key: str, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    values, seconds = series(records, key, "time_s")
    return seconds, values * scale


def _made_per_s(run: RunData) -> tuple[np.ndarray, np.ndarray]:
    """Images made a second as the throughput records say, or else counted from the synthesis records in equal spans."""
    seconds, values = _over_time(run.of_kind("throughput"), "synthesized_per_s")
    if len(values):
        return seconds, values
    images, made_at = series(run.of_kind("synthesis"), "num_images", "time_s")
    starts, ends = _groups(made_at)
    made = np.add.reduceat(images, starts) if len(starts) else np.empty(0)
    spans = np.diff(ends, prepend=0.0)
    return ends, np.divide(made, spans, out=np.full(len(ends), np.nan), where=spans > 0)


def _groups(seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Up to 80 groups of about four consecutive records: where each starts, and the time of its last record."""
    num = min(80, max(len(seconds) // 4, min(len(seconds), 4)))
    starts = np.linspace(0, len(seconds), num, endpoint=False).astype(np.int64)
    return starts, seconds[np.append(starts[1:], len(seconds)) - 1] if num else np.empty(0)


Waited = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]
"""Ends of intervals in seconds [n], the time in each that could have been waited [n], and the waits by cause, [n] each."""


def waits(run: RunData) -> Section:
    plots: list[str] = []
    notes: list[str] = []
    known = False
    by_student = run.by_student("throughput")
    called = {name: "student" if len(by_student) == 1 else f"student {name}" for name in by_student}
    waiters = [(called[name], *_student_waits(of_one)) for name, of_one in by_student.items()]
    for who, waited, early in (*waiters, ("generator", _generator_waits(run), 0.0)):
        seconds, intervals, causes = waited
        if early > 0:
            notes.append(
                f"Up to the first record of its steps the {who} waited for {format_duration(early)}; the plot leaves that out."
            )
        if not intervals.sum() > 0 or not causes:
            continue
        known = True
        if sum(float(each.sum()) for each in causes.values()) < _NOTHING_WAITED * intervals.sum():
            notes.append(f"{_called(who)} waited for less than {100 * _NOTHING_WAITED:.1f}% of the time.")
        else:
            plots.append(_wait_plot(who, seconds, intervals, causes))
    if not known:
        raise LeftOut("there are too few records with waits yet")
    return Section(plots=plots, notes=notes)


def _causes(records: list[Record], who: str) -> list[str]:
    return sorted({key for record in records for key in record if key.startswith(f"{who}_wait_") and key.endswith("_s")})


def _student_waits(records: list[Record]) -> tuple[Waited, float]:
    """A student's waits once it has begun, and the seconds it waited until then."""
    waited = _throughput_waits(records, "student", 1)
    steps = np.array([float(r["step"]) for r in records])
    begun = np.concatenate([[False], steps[:-1] > 0])[: len(steps)]
    seconds, intervals, causes = waited
    early = sum(float(each[~begun].sum()) for each in causes.values())
    return (seconds[begun], intervals[begun], {cause: each[begun] for cause, each in causes.items()}), early


def _generator_waits(run: RunData) -> Waited:
    """From the throughput records, where the waits are of all generators together, or else from each synthesis record's own."""
    if _causes(run.of_kind("throughput"), "generator"):
        return _throughput_waits(run.of_kind("throughput"), "generator", run.num_generators)
    records = run.of_kind("synthesis")
    worked, at = series(records, "seconds", "time_s")
    starts, ends = _groups(at)
    if not len(starts):
        return np.empty(0), np.empty(0), {}
    known = [record for record in records if isinstance(record.get("seconds"), int | float)]
    waited = {cause: np.array([float(r.get(cause) or 0.0) for r in known]) for cause in _causes(records, "generator")}
    causes = {cause: np.add.reduceat(each, starts) for cause, each in waited.items()}
    return ends, np.add.reduceat(worked, starts) + sum(causes.values()), causes


def _throughput_waits(records: list[Record], who: str, workers: int) -> Waited:
    seconds = np.array([float(r["time_s"]) for r in records])
    causes = {cause: np.array([float(r.get(cause) or 0.0) / workers for r in records]) for cause in _causes(records, who)}
    return seconds, np.diff(seconds, prepend=0.0), causes


def _wait_plot(who: str, seconds: np.ndarray, intervals: np.ndarray, waited: dict[str, np.ndarray]) -> str:
    shares, colours = {}, []
    for cause, each in waited.items():
        name, colour = _CAUSES.get(cause, (f"for {cause}", style.PURPLE))
        shares[f"{name}, {100 * each.sum() / intervals.sum():.1f}% of all time"] = np.clip(
            each / np.maximum(intervals, 1e-9), 0, 1
        )
        colours.append(colour)
    time, label = figures.time_axis(seconds)
    title = f"{_called(who)}: share of time spent waiting"
    return figure_svg(figures.stacked_shares(time, shares, colours, title, label), f"waits-{who.replace(' ', '-')}")


def _called(who: str) -> str:
    """At a sentence's beginning."""
    return {"student": "The student", "generator": "A generator"}.get(who, who.capitalize())


_CAUSES = {
    "student_wait_data_s": ("for data", style.BLUE),
    "student_wait_limiter_s": ("for the rate limiter", style.ORANGE),
    "student_wait_students_s": ("for other students, at a checkpoint", style.GREEN),
    "generator_wait_limiter_s": ("for the rate limiter", style.ORANGE),
    "generator_wait_weights_s": ("for student weights", style.GREEN),
}

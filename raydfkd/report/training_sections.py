"""The sections that show how the run went: the student's metric, losses, throughput and waits."""

from __future__ import annotations

import numpy as np

from raydfkd.report import figures, style
from raydfkd.report.loading import Record, RunData, latest, series
from raydfkd.report.outcome import format_duration, metric_label, part
from raydfkd.report.page_parts import LeftOut, Section
from raydfkd.report.pictures import figure_svg

_NOTHING_WAITED = 0.001


def metric(run: RunData) -> Section:
    records = run.of_kind("evaluation")
    steps, last, ema, seconds = series(records, "step", "metric_last", "metric_ema", "time_s")
    if not np.isfinite(np.concatenate([last, ema])).any():
        raise LeftOut("there are no evaluation records: the run has no evaluation data, or has not evaluated yet")
    teacher, name = part(run.outcome, "teacher", "metric"), metric_label(run.outcome)
    time, time_label = figures.time_axis(seconds)
    plots = [
        figure_svg(figures.metric_curve(time, time_label, last, ema, teacher, name), "metric-time"),
        figure_svg(figures.metric_curve(steps, "student steps", last, ema, teacher, name), "metric-steps"),
    ]
    split = latest(records, "split")
    lead = f"Measured on {split}, which is read for nothing else." if split else ""
    notes = [] if teacher is not None else [f"The teacher's own {name} is not recorded, so it has no line."]
    return Section(lead=lead, plots=plots, notes=notes)


_PALE = "Pale lines are the records, strong ones their running mean."


def distillation(run: RunData) -> Section:
    records = run.of_kind("distillation")
    plots = []
    for key, title, log in (
        ("kd_loss", "kd_loss", True),
        ("lr", "Learning rate", False),
        ("grad_norm", "Gradient norm", True),
        ("agreement", "Agreement with the teacher on training batches", False),
        ("importance_weight_mean", "Mean importance weight", False),
        ("item_age", "Age of drawn images, in batches inserted since", False),
    ):
        values, steps = series(records, key, "step")
        if np.isfinite(values).any():
            curves = {key: (steps, values)}
            plot = figures.lines(curves, title, "student steps", log=log, percent=key == "agreement", smooth=key != "lr")
            plots.append(figure_svg(plot, f"distillation-{key}"))
    if not plots:
        raise LeftOut("there are no distillation records yet")
    return Section(lead=_PALE, plots=plots)


def synthesis(run: RunData) -> Section:
    records = run.of_kind("synthesis")
    names = {k for r in records for k, v in r.items() if (k == "loss" or k.endswith("_loss")) and isinstance(v, int | float)}
    titles = {name: name for name in sorted(names, key=lambda n: (n != "loss", n))} | {"seconds": "seconds a batch"}
    plots = []
    for name, title in titles.items():
        curves = _by_generator(records, name)
        if curves:
            longest = max((x for x, _ in curves.values()), key=lambda x: x[-1])
            label = figures.time_axis(longest)[1]
            inner = {generator: (figures.in_unit_of(label, x), y) for generator, (x, y) in curves.items()}
            plots.append(
                figure_svg(figures.lines(inner, title, label, smooth=True, from_zero=name == "seconds"), f"synthesis-{name}")
            )
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


def _by_generator(records: list[Record], key: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(seconds, values) of ``key`` for each generator that has any."""
    curves = {}
    for generator in sorted({str(r.get("generator_id")) for r in records}):
        values, seconds = series([r for r in records if str(r.get("generator_id")) == generator], key, "time_s")
        if np.isfinite(values).any():
            curves[generator] = (seconds, values)
    return curves


def throughput(run: RunData) -> Section:
    plots = []
    for kind, key, title, scale in (
        ("throughput", "synthesized_per_s", "Images/s made", 1.0),
        ("throughput", "distilled_per_s", "Images/s eaten", 1.0),
        ("replay", "size", "Images in the buffer", 1.0),
        ("throughput", "rss_bytes", "Resident memory, GiB", 2.0**-30),
    ):
        values, seconds = series(run.of_kind(kind), key, "time_s")
        if np.isfinite(values).any():
            time, label = figures.time_axis(seconds)
            capacity = latest(run.of_kind("replay"), "capacity") if key == "size" else None
            limit = ("capacity", float(capacity)) if capacity is not None else None
            curves = {title.lower(): (time, values * scale)}
            plot = figures.lines(curves, title, label, from_zero=True, smooth=key.endswith("_per_s"), limit=limit)
            plots.append(figure_svg(plot, f"throughput-{key}"))
    if not plots:
        raise LeftOut("there are no throughput or replay records yet")
    return Section(plots=plots)


def waits(run: RunData) -> Section:
    records = run.of_kind("throughput")
    seconds, steps = series(records, "time_s", "step")
    intervals = np.diff(seconds, prepend=0.0)
    causes = sorted({key for record in records for key in record if "_wait_" in key and key.endswith("_s")})
    if len(records) < 2 or not causes:
        raise LeftOut("there are fewer than two throughput records with waits yet")
    plots, notes = [], []
    begun = np.concatenate([[False], steps[:-1] > 0])
    for who, workers, shown in (("student", 1, begun), ("generator", run.num_generators, np.ones(len(records), dtype=bool))):
        mine = [cause for cause in causes if cause.startswith(f"{who}_wait_")]
        waited = {cause: np.array([float(r.get(cause) or 0.0) / workers for r in records]) for cause in mine}
        before = sum(float(w[~shown].sum()) for w in waited.values())
        if before > 0:
            notes.append(f"Before its first steps the {who} waited for {format_duration(before)}, which the plot leaves out.")
        total_s = float(intervals[shown].sum())
        if total_s <= 0 or sum(float(w[shown].sum()) for w in waited.values()) < _NOTHING_WAITED * total_s:
            notes.append(f"{_WAITERS[who]} waited for less than {100 * _NOTHING_WAITED:.1f}% of the time.")
        else:
            inner = {cause: w[shown] for cause, w in waited.items()}
            plots.append(_wait_plot(who, seconds[shown], intervals[shown], inner))
    return Section(plots=plots, notes=notes)


def _wait_plot(who: str, seconds: np.ndarray, intervals: np.ndarray, waited: dict[str, np.ndarray]) -> str:
    shares, colours = {}, []
    for cause, each in waited.items():
        name, colour = _CAUSES.get(cause, (f"for {cause}", style.PURPLE))
        shares[f"{name}, {100 * each.sum() / intervals.sum():.1f}% of all time"] = np.clip(
            each / np.maximum(intervals, 1e-9), 0, 1
        )
        colours.append(colour)
    time, label = figures.time_axis(seconds)
    title = f"{_WAITERS[who]}: share of time spent waiting"
    return figure_svg(figures.stacked_shares(time, shares, colours, title, label), f"waits-{who}")


_WAITERS = {"student": "The student", "generator": "A generator"}
_CAUSES = {
    "student_wait_data_s": ("for data", style.BLUE),
    "student_wait_limiter_s": ("for the rate limiter", style.ORANGE),
    "generator_wait_limiter_s": ("for the rate limiter", style.ORANGE),
    "generator_wait_weights_s": ("for student weights", style.GREEN),
}

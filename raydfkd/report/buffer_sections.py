"""The sections that show the synthetic images and the buffer: images, classes, difficulty and priorities."""

from __future__ import annotations

import numpy as np

from raydfkd.report import figures
from raydfkd.report.loading import RunData, latest
from raydfkd.report.metric_plots import plots_of
from raydfkd.report.page_parts import LeftOut, Section, Strip, Table
from raydfkd.report.pictures import figure_svg, png_address, strip_png

_IMAGES_A_CLASS = 10
_MOST_CLASSES = 100
_MOST_ROUNDS = 6


def images(run: RunData) -> Section:
    if not run.samples:
        raise LeftOut("there is no samples/by_class.npz yet")
    images, classes, sources = (run.samples[name] for name in ("images", "teacher_class", "source"))
    found = np.unique(classes[classes >= 0])
    if not len(found):
        raise LeftOut("samples/by_class.npz has no class for any of its images")
    names = run.class_names(int(classes.max(initial=0)) + 1)
    kinds = np.unique(sources)
    a_class = _IMAGES_A_CLASS if len(found) <= 20 else _IMAGES_A_CLASS // 2
    strips = []
    for number in found[:_MOST_CLASSES]:
        for kind in kinds:
            chosen = images[(classes == number) & (sources == kind)][:a_class]
            if len(chosen):
                label = names[number] if len(kinds) == 1 else f"{names[number]}, {kind}"
                # A class with few images keeps their size, so that rows align.
                strips.append(Strip(label, png_address(strip_png(chosen)), len(chosen) / a_class))
    notes = [f"The first {_MOST_CLASSES} of {len(found)} classes are shown."] if len(found) > _MOST_CLASSES else []
    return Section(lead="Images of the buffer, in rows by the class that the teacher predicts.", strips=strips, notes=notes)


def evolution(run: RunData) -> Section:
    if not run.rounds:
        raise LeftOut("there are no samples/round-*.png yet")
    chosen = np.unique(np.linspace(0, len(run.rounds) - 1, min(_MOST_ROUNDS, len(run.rounds))).round().astype(int))
    gallery = [Strip(f"round {run.rounds[i][0]:,}", png_address(run.rounds[i][1])) for i in chosen]
    return Section(lead="Synthetic images in the course of the run.", gallery=gallery)


def classes(run: RunData) -> Section:
    plots, notes = [], []
    counts = _class_counts(run)
    if counts is not None and counts.sum() > 0:
        what = "pixels" if _counts_pixels(run) else "images"
        title = f"Buffer {what} by the teacher's class"
        plots.append(figure_svg(figures.class_histogram(counts, run.class_names(len(counts)), title), "class-histogram"))
    else:
        notes.append("No class counts of the buffer are recorded.")
    plots += [*plots_of(run, "classes"), *_classes_over_time(run)]
    if not plots:
        raise LeftOut("there are no replay records with class counts and no analysis/buffer.npz")
    lead = "How evenly the buffer covers the classes; with a relative entropy of 1 all are equally frequent."
    return Section(lead=lead, plots=plots, tables=_total_variation(run), notes=notes)


def _classes_over_time(run: RunData) -> list[str]:
    """The share of each class; with more than eight classes, the mean and the range."""
    records = [r for r in run.of_kind("replay") if r.get("class_counts") and sum(r["class_counts"]) > 0]
    if len(records) < 2:
        return []
    shares = np.array([np.array(r["class_counts"]) / sum(r["class_counts"]) for r in records])
    time, label = figures.time_axis(np.array([r["time_s"] for r in records]))
    names = run.class_names(shares.shape[1])
    curves = {name: (time, shares[:, number]) for number, name in enumerate(names)}
    return [figure_svg(figures.lines(curves, "Share of each class in the buffer", label, from_zero=True), "class-shares")]


def _total_variation(run: RunData) -> list[Table]:
    """How far the classes of collected and synthetic images, and of the mix drawn, are from one another and from balance.

    (1/2) sum_c |p_c - q_c| between the teacher's predictions: HiDFD's Eq. 5 as far as classes show it, since the density of
    images is not known. Of a mix a P + (1-a) Q the distance from any R is at most a d(P,R) + (1-a) d(Q,R).
    """
    sources, classes = run.buffer.get("source"), run.buffer.get("teacher_class")
    if sources is None or classes is None or len(np.unique(sources)) < 2:
        return []
    num_classes = int(classes.max(initial=0)) + 1
    real = sources.astype(str) == "collected"
    shares = [np.bincount(classes[which], minlength=num_classes) / which.sum() for which in (real, ~real) if which.any()]
    fraction = latest(run.of_kind("replay"), "pinned_fraction")
    if len(shares) < 2 or fraction is None:
        return []
    collected, synthetic = shares
    mix = fraction * collected + (1 - fraction) * synthetic
    balanced = np.full(num_classes, 1 / num_classes)
    named = {"collected": collected, "synthetic": synthetic, f"mix ({100 * fraction:.0f}% collected)": mix}
    rows: list[tuple[str, ...]] = [
        (name, f"{_distance(p, balanced):.3f}", f"{_distance(p, collected):.3f}", f"{_distance(p, synthetic):.3f}")
        for name, p in named.items()
    ]
    columns = ("images", "from equal classes", "from collected", "from synthetic")
    return [Table(columns, rows, "Total variation distance of the teacher's predicted classes")]


def _distance(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


def buffer(run: RunData) -> Section:
    if not run.buffer:
        raise LeftOut("there is no analysis/buffer.npz; it is written at the end of a run")
    plots, notes = [], []
    for key, title, label, span in (
        ("teacher_confidence", "Difficulty", "1 − the teacher's confidence", (0.0, 1.0)),
        ("priorities", "Priority", "priority, before the exponent", None),
        ("ages", "Age", "batches inserted since the image", None),
    ):
        values = run.buffer.get(key)
        if values is None or not np.isfinite(values.astype(np.float64)).any():
            notes.append(f"analysis/buffer.npz has no {key}.")
            continue
        values = values.astype(np.float64)
        shown = np.clip(1.0 - values, 0.0, 1.0) if key == "teacher_confidence" else values
        plots.append(figure_svg(figures.histogram(shown, title, label, span), f"buffer-{key}"))
    if {"teacher_confidence", "teacher_class"} <= run.buffer.keys():
        plots.insert(1, _difficulty_by_class(run))
    if not plots:
        raise LeftOut("analysis/buffer.npz has neither confidences, priorities nor ages")
    return Section(lead=_buffer_lead(run), plots=plots, notes=notes)


def _difficulty_by_class(run: RunData) -> str:
    classes = run.buffer["teacher_class"].astype(np.int64)
    difficulty = 1.0 - run.buffer["teacher_confidence"].astype(np.float64)
    known = (classes >= 0) & np.isfinite(difficulty)
    counts = np.bincount(classes[known])
    sums = np.bincount(classes[known], weights=difficulty[known])
    means = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    names = run.class_names(len(means))
    return figure_svg(figures.class_bars(means, names, "Mean difficulty by class", "1 − confidence"), "buffer-difficulty-class")


def _buffer_lead(run: RunData) -> str:
    total = len(next(iter(run.buffer.values())))
    lead = f"The {total:,} images in the buffer at the end of the run"
    sources = run.buffer.get("source")
    if sources is None:
        return f"{lead}."
    names, counts = np.unique(sources.astype(str), return_counts=True)
    return lead + ": " + ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True)) + "."


def _class_counts(run: RunData) -> np.ndarray | None:
    """Images by class [K] in the final buffer, else in the newest replay record; where it counts pixels, these."""
    recorded = latest(run.of_kind("replay"), "class_counts")
    classes = run.buffer.get("teacher_class")
    if classes is not None and not _counts_pixels(run):
        known = classes[classes >= 0].astype(np.int64)
        return np.bincount(known, minlength=len(recorded) if recorded is not None else 0)
    return None if recorded is None else np.array(recorded, dtype=np.float64)


def _counts_pixels(run: RunData) -> bool:
    """Whether the classes that replay records count are those of pixels, of which an image has many."""
    record = next((r for r in reversed(run.of_kind("replay")) if r.get("class_counts") and r.get("size")), None)
    return record is not None and sum(record["class_counts"]) > record["size"]

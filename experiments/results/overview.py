"""The README's picture from a finished run: ``python experiments/results/overview.py RUN OUT.png``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

from raydfkd.run_dir import RunDir

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PER_CLASS = 8


def main(run_path: str, out: str) -> None:
    run = RunDir.open(run_path)
    stored = np.load(run.samples / "by_class.npz")
    classes = [k for k in np.unique(stored["teacher_class"]) if (stored["teacher_class"] == k).any()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), gridspec_kw={"width_ratios": [1, 1.35]})
    left.imshow(_grid(stored["images"], stored["teacher_class"], classes), cmap="gray", interpolation="nearest")
    side = stored["images"].shape[2] + 1
    left.set_xticks([(i + 0.5) * side for i in range(len(classes))], [str(k) for k in classes])
    left.set_yticks([])
    left.set_title("made without data, by the teacher's class", fontsize=10)
    result = run.result()
    records = list(run.metrics("evaluation"))
    seconds = [r["time_s"] for r in records]
    right.plot(seconds, [100 * r["metric_last"] for r in records], label="student", color="#0072B2")
    right.plot(seconds, [100 * r["metric_ema"] for r in records], label="student, moving average", color="#D55E00", ls="--")
    teacher = 100 * result["teacher"]["metric"]
    right.axhline(teacher, color="black", lw=1, ls=":", label=f"teacher {teacher:.1f}%")
    right.set(xlabel="seconds since the start", ylabel="accuracy on real images (%)")
    right.set_title(f"{result['student']['params']:,} of {result['teacher']['params']:,} parameters", fontsize=10)
    right.legend(frameon=False, loc="lower right")
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def _grid(images: np.ndarray, labels: np.ndarray, classes: list[int]) -> np.ndarray:
    """One column a class, newest images on top."""
    _, channels, height, width = images.shape
    canvas = np.full((PER_CLASS * (height + 1), len(classes) * (width + 1), channels), 255, np.uint8)
    for column, k in enumerate(classes):
        for row, image in enumerate(images[labels == k][::-1][:PER_CLASS]):
            top, start = row * (height + 1), column * (width + 1)
            canvas[top : top + height, start : start + width] = image.transpose(1, 2, 0)
    return canvas[:, :, 0] if channels == 1 else canvas[:, :, :3]


if __name__ == "__main__":
    Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
    main(sys.argv[1], sys.argv[2])

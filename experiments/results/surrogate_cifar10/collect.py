"""Tables, curves and picture sheets of this folder, from finished runs of the tables surrogate and augmentation of laptop.

RUNS is a folder of run directories with the names below: ``noise`` is ``raydfkd reproduce laptop surrogate noise_plain``,
``shaders_none`` its row ``shaders_unaugmented``; ``few_shaders_none`` is ``raydfkd reproduce laptop augmentation
shaders_none``, ``few_shaders`` its row ``shaders_high_mixup`` and ``few_cifar10`` its row ``cifar10_standard_mixup``. Then:

    for run in RUNS/*; do raydfkd dataset inspect $run --out $run/inspection; done
    python experiments/results/surrogate_cifar10/collect.py RUNS

Writes runs.json, curves.json, curves.png and sheet.jpg beside this file and prints the tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from raydfkd.pipeline.run.recorder import image_grid
from raydfkd.run_dir import RunDir

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
SOURCES = {
    "noise": "pixel noise",
    "leaves": "dead leaves",
    "photograph": "two photographs, crops",
    "shaders": "shaders",
    "camvid": "CamVid, crops",
    "cifar10": "CIFAR-10",
}
VARIANTS = ("noise_attack", "shaders_attack", "shaders_unbalanced", "leaves_unbalanced", "camvid_unbalanced")
SEEN_OFTEN = {
    "none": "few_shaders_none",
    "none, mixup": "few_shaders_none_mixup",
    "standard": "few_shaders_standard",
    "standard, mixup": "few_shaders_standard_mixup",
    "high": "few_shaders_high",
    "high, mixup": "few_shaders",
    "extreme": "few_shaders_extreme",
    "extreme, mixup": "few_shaders_extreme_mixup",
    "CIFAR-10, none": "few_cifar10_none",
    "CIFAR-10, standard, mixup": "few_cifar10",
}
"""Runs on a thousand images; shaders where nothing else is said."""
SEEN_RARELY = {"shaders of 10,000, none": "shaders_none", "CIFAR-10 of 10,000, none": "cifar10_none"}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_CLASS = 6


def read(run: RunDir) -> dict[str, Any]:
    """A run's result, with what ``raydfkd dataset inspect`` found in its buffer."""
    figures = run.path / "inspection" / "figures.json"
    return {**run.result(), "inspection": json.loads(figures.read_text()) if figures.exists() else {}}


def row(label: str, result: dict[str, Any]) -> str:
    student, inspected = result["student"], result["inspection"]
    cells = [
        label,
        *(f"{100 * student[name]:.1f}" for name in ("metric_last", "metric_ema", "agreement")),
        f"{inspected['relative class entropy']:.3f}",
        str(inspected["classes without images"]),
        f"{inspected['mean confidence of the teacher']:.2f}",
        f"{inspected['mean cosine distance of features']:.2f}",
        f"{inspected['median distance to the decision boundary']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def sheet(runs: dict[str, RunDir], out: Path) -> None:
    """One panel a source: a row a class of the teacher's, empty where it sees the class in no image."""
    figure, axes = plt.subplots(2, 4, figsize=(12, 8.6))
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, run) in zip(axes.flat, runs.items(), strict=False):
        stored = np.load(run.samples / "by_class.npz")
        shape = stored["images"].shape[1:]
        rows = []
        for k in range(len(CLASSES)):
            images = stored["images"][stored["teacher_class"] == k][-PER_CLASS:]
            blank = np.full((PER_CLASS - len(images), *shape), 255, np.uint8)
            rows += [images, blank]
        axis.imshow(image_grid(np.concatenate(rows), PER_CLASS), interpolation="nearest")
        axis.set_title(SOURCES.get(name, name.replace("_", ", ")), fontsize=11)
        axis.axis("on")
        axis.set_xticks([])
        axis.set_yticks([(k + 0.5) * shape[1] for k in range(len(CLASSES))], CLASSES, fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=75, pil_kwargs={"quality": 88})


def draw(curves: dict[str, list[dict[str, float]]], out: Path) -> None:
    groups = (
        ("images", {label: name for name, label in SOURCES.items()}),
        ("attack and balancing", {name.replace("_", ", "): name for name in ("noise", "shaders", *VARIANTS)}),
        ("a thousand images: augmentation", SEEN_OFTEN),
    )
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), sharey=True)
    for axis, (title, names) in zip(axes, groups, strict=True):
        for label, name in names.items():
            if name in curves:
                steps = [record["step"] for record in curves[name]]
                axis.plot(steps, [100 * record["metric_last"] for record in curves[name]], marker="o", ms=3, label=label)
        axis.set(title=title, xlabel="student steps of 128")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy of the student, %")
    figure.tight_layout()
    figure.savefig(out, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    folder = parser.parse_args().runs
    names = [*SOURCES, *VARIANTS, *SEEN_OFTEN.values(), *SEEN_RARELY.values()]
    runs = {name: RunDir.open(folder / name) for name in names if (folder / name / "result.json").exists()}
    results = {name: read(run) for name, run in runs.items()}
    curves = {
        name: [{k: r[k] for k in ("step", "metric_last", "metric_ema")} for r in run.metrics("evaluation")]
        for name, run in runs.items()
    }
    (HERE / "runs.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "curves.json").write_text(json.dumps(curves) + "\n")
    draw(curves, HERE / "curves.png")
    sheet({name: run for name, run in runs.items() if name in SOURCES or name.endswith("attack")}, HERE / "sheet.jpg")
    for name in (*SOURCES, *VARIANTS):
        if name in results:
            print(row(SOURCES.get(name, name), results[name]))
    for label, name in (SEEN_OFTEN | SEEN_RARELY).items():
        if name in results:
            cells = (f"{100 * results[name]['student'][key]:.1f}" for key in ("metric_last", "metric_ema", "agreement"))
            print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

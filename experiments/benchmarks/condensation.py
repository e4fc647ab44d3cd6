"""Cost of condensed data: condensing, locally and by one and two Ray workers, and aligning generated images with its result.

    python experiments/benchmarks/condensation.py [--quick] [--images-per-class 50]

CIFAR-size noise stands for the real images. ``step_s`` and ``peak_mib`` are of one iteration (dm), one match with the training
after it (dsa) and one iteration (mtt) with published batches; ``workers`` times the same dm iterations by one and by two actors
of one thread each. ``alignment`` times batches of FastDFKD with and without feature alignment, taking turns. Prints readable
lines and, last, one JSON object of the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rig import IMAGE_SHAPE, NUM_CLASSES

from raydfkd.data.condensation import CONDENSERS
from raydfkd.data.condensation.condenser import RealImages, Setup, Work, initial_images
from raydfkd.data.datasets import ImageDataset
from raydfkd.pipeline.condensation.condense import LocalPool, Material, Pool
from raydfkd.pipeline.condensation.config import CondenseConfig
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.runtime.condensation_on_ray import open_ray_pool
from raydfkd.types import BufferSummary, SyntheticBatch

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def material(images_per_class: int, per_class: int, network: str) -> Material:
    """Noise, ``per_class`` images of each class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(NUM_CLASSES), per_class)
    images = random.integers(0, 256, (len(labels), *IMAGE_SHAPE), dtype=np.uint8)
    data = ImageDataset(images, labels, tuple(map(str, range(NUM_CLASSES))), "noise", "train", "noise")
    return Material(data, MEAN, STD, Setup(NUM_CLASSES, IMAGE_SHAPE, images_per_class, network, 0))


def settings(kind: str, images_per_class: int, method: dict[str, Any], **runtime: Any) -> CondenseConfig:
    tree = {"dataset": "cifar10/train", "images_per_class": images_per_class, "method": {"kind": kind, **method}}
    return CondenseConfig.model_validate({**tree, "runtime": runtime})


def of_a_step(kind: str, images_per_class: int, noise: Material, method: dict[str, Any]) -> dict[str, float]:
    """Seconds and memory of one step of the images by one worker in this process."""
    config = settings(kind, images_per_class, method)
    start = torch.randn(len(noise.setup.labels), *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, LocalPool(config, noise) as pool:
        condenser = CONDENSERS.get(kind).condenser(config.method, noise.setup, start, Path(folder))
        trials = condenser.trials()
        pool([trials[0].work])
        done = [pool([trial.work])[0] for trial in trials]
        steps = condenser.progress[1] if kind != "mtt" else config.method.iterations  # type: ignore[attr-defined]
        trained = [(trial, one) for trial, one in zip(trials, done, strict=True) if trial.work.name != "expert"]
        seconds = sum(trial.seconds * one.seconds for trial, one in trained) / steps
        peak = sum(trial.bytes * one.peak_bytes for trial, one in trained) / sum(trial.bytes for trial, _ in trained)
    figures = {"step_s": seconds, "peak_mib": peak / 2**20, "image_steps_per_s": len(start) / seconds}
    print(f"{kind}: {seconds:.2f} s a step of {len(start)} images, {figures['peak_mib']:,.0f} MiB")
    return figures


def of_workers(images_per_class: int, noise: Material, real_batch_size: int, iterations: int) -> dict[str, float]:
    """Seconds of the same dm iterations by one and by two actors, and what the second saves."""
    seconds = {}
    for number in (1, 2):
        config = settings(
            "dm", images_per_class, {"real_batch_size": real_batch_size, "iterations_per_round": iterations},
            runner="ray", num_workers=number, num_cpus=4, resources={"num_cpus": 1, "num_threads": 1}, device="cpu",
        )  # fmt: skip
        start = initial_images(noise.setup, _real(noise), "noise")
        with open_ray_pool(config, noise) as pool, tempfile.TemporaryDirectory() as folder:
            condenser = CONDENSERS.get("dm").condenser(config.method, noise.setup, start, Path(folder))
            _rounds(pool, condenser.tasks(number))  # the first is slower
            seconds[number] = _rounds(pool, condenser.tasks(number))
            print(f"dm by {number} worker(s): {seconds[number]:.1f} s for {iterations} iterations")
    return {"one_s": seconds[1], "two_s": seconds[2], "speedup": seconds[1] / seconds[2]}


def _real(noise: Material) -> RealImages:
    return RealImages(noise.data.images, noise.data.labels, noise.mean, noise.std, torch.device("cpu"))


def _rounds(pool: Pool, tasks: list[Work]) -> float:
    began = time.perf_counter()
    pool(tasks)
    return time.perf_counter() - began


def experiment(model: str, batch_size: int, **alignment: Any) -> ExperimentConfig:
    source = {"method": "fast", "batch_size": batch_size, "steps_per_batch": 2, "adversarial_weight": 1.0}
    return build_experiment(
        {
            "task": {"num_classes": NUM_CLASSES, "image_shape": list(IMAGE_SHAPE)},
            "teacher": {"model": model, "normalization": {"mean": MEAN, "std": STD}},
            "collected": {"dataset": "cifar10/test"},
            "sources": {"fast": {**source, **alignment}},
            "replay": {"synthetic": {"capacity": 100_000}, "pinned": {"capacity": 500}, "inflation": 1},
            "students": {"student": {"model": model, "batch_size": batch_size}},
            "schedule": {"warmup_batches": 1},
            "runtime": {"runner": "local"},
        }
    )


def of_alignment(model: str, batch_size: int, turns: int) -> dict[str, float]:
    """Seconds of a batch with and without, in turn."""
    random = np.random.default_rng(0)
    count = 50 * NUM_CLASSES
    classes = np.arange(count) % NUM_CLASSES
    prototypes = SyntheticBatch(
        images=random.integers(0, 256, (count, *IMAGE_SHAPE), dtype=np.uint8),
        targets=classes,
        teacher_class=classes.astype(np.int32),
        teacher_confidence=np.ones(count, np.float32),
        source="collected",
        generator_id="collected",
        student_version=0,
    )
    device = torch.device("cpu")
    made = {
        name: builder.build_synthesizer(experiment(model, batch_size, **alignment), "fast", 0, device, prototypes)
        for name, alignment in (
            ("plain", {}),
            ("aligned", {"feature_alignment": {}}),
            ("aligned_half", {"feature_alignment": {"share": 0.5}}),
        )
    }
    summary = BufferSummary(0, np.zeros(NUM_CLASSES, np.int64), num_batches=100)  # after the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(turns + 1):
        for name, synthesizer in made.items():
            began = time.perf_counter()
            synthesizer.step(summary)
            if turn:  # the first is slower
                seconds[name].append(time.perf_counter() - began)
    medians = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
    ratios = {
        f"{name}_ratio": statistics.median(b / a for a, b in zip(seconds["plain"], seconds[name], strict=True))
        for name in ("aligned", "aligned_half")
    }
    print(f"fast: {medians['plain_s']:.2f} s a batch; aligned {ratios['aligned_ratio']:.2f} times as long")
    return {**medians, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small networks and batches: only to see that it runs")
    parser.add_argument("--images-per-class", type=int, default=50)
    arguments = parser.parse_args()
    images_per_class = 1 if arguments.quick else arguments.images_per_class
    noise = material(images_per_class, 8 if arguments.quick else 500, "conv_net_1" if arguments.quick else "conv_net_3")
    batch = {"real_batch_size": 4 if arguments.quick else 256}
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "images_per_class": images_per_class}
    figures["dm"] = of_a_step("dm", images_per_class, noise, batch)
    figures["dsa"] = of_a_step("dsa", images_per_class, noise, batch)
    figures["mtt"] = of_a_step("mtt", images_per_class, noise, {**batch, "expert_epochs": 2 if arguments.quick else 50})
    model, batch_size, turns = ("small_cnn_4", 8, 1) if arguments.quick else ("wrn_16_2", 64, 5)
    figures["alignment"] = of_alignment(model, batch_size, turns)
    figures["workers"] = of_workers(images_per_class, noise, batch["real_batch_size"], 2 if arguments.quick else 4)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

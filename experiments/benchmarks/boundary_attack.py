"""Speed of the boundary attack: images a second of a batch at once, against a loop over its images.

    python experiments/benchmarks/boundary_attack.py [--quick] [--teacher FILE.safetensors]

Both do the same to the same images, from the same targets, and take turns in one process, so that their ratio holds however
loaded the machine is. Without ``--teacher`` the network is a random one made decided, and the images are noise. Prints
readable lines and, last, one JSON object of the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from raydfkd.data.catalogue import CATALOGUE
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.weights import load_weights
from raydfkd.synthesis.boundary import AttackSettings, BoundaryAttackConfig, BoundaryPairs, attack_settings, boundary_attack

NUM_CLASSES = 10
MODEL = "wrn_16_2"
CIFAR_STATISTICS = (CATALOGUE["cifar10"].mean, CATALOGUE["cifar10"].std)
HEAD_SCALE = 8.0
"""A random network's logits hardly differ; times this, some probabilities are above the threshold."""


def build(model: str, side: int, weights: Path | None) -> FrozenTeacher:
    torch.manual_seed(0)
    network = build_classifier(model, NUM_CLASSES, (3, side, side))
    if weights is None:
        with torch.no_grad():
            network.fc.weight.mul_(HEAD_SCALE)
    else:
        load_weights(network, weights)
    teacher = FrozenTeacher(network, NUM_CLASSES, (3, side, side), *CIFAR_STATISTICS)
    return teacher.to(memory_format=torch.channels_last)


def at_once(teacher: FrozenTeacher, images: Tensor, targets: Tensor, settings: AttackSettings) -> list[BoundaryPairs]:
    return [boundary_attack(teacher, images, targets, settings)]


def in_a_loop(teacher: FrozenTeacher, images: Tensor, targets: Tensor, settings: AttackSettings) -> list[BoundaryPairs]:
    return [boundary_attack(teacher, images[i : i + 1], targets[i : i + 1], settings) for i in range(len(images))]


def timed(work: Callable[[], list[BoundaryPairs]]) -> tuple[float, int, int]:
    """Seconds, pairs found, steps tried on all images together."""
    started = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - started
    return seconds, sum(len(part.origins_M) for part in made), sum(int(part.num_steps_N.sum()) for part in made)


def measure(teacher: FrozenTeacher, side: int, num_images: int, num_turns: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(num_images, 3, side, side, generator=generator)
    with torch.no_grad():
        shifts = torch.randint(1, NUM_CLASSES, (num_images,), generator=generator)
        targets = (teacher(images).argmax(1) + shifts) % NUM_CLASSES
    settings = attack_settings(BoundaryAttackConfig(norm="l2"), NUM_CLASSES, images[0].numel())
    at_once(teacher, images[:2], targets[:2], settings)  # the first pass of a network is slower
    batched, looped = [], []
    for _ in range(num_turns):
        batched.append(timed(lambda: at_once(teacher, images, targets, settings)))
        looped.append(timed(lambda: in_a_loop(teacher, images, targets, settings)))
    seconds, loop_seconds = ([turn[0] for turn in turns] for turns in (batched, looped))
    return {
        "num_images": num_images,
        "num_turns": num_turns,
        "images_per_s": num_images / statistics.median(seconds),
        "loop_images_per_s": num_images / statistics.median(loop_seconds),
        "ratio_median_of_turns": statistics.median(b / a for a, b in zip(seconds, loop_seconds, strict=True)),
        "pairs_fraction": batched[0][1] / num_images,
        "loop_pairs_fraction": looped[0][1] / num_images,
        "steps_per_image": batched[0][2] / num_images,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small network and few images: only to see that it runs")
    parser.add_argument("--teacher", type=Path, help=f"trained weights of {MODEL} for 10 classes")
    parser.add_argument("--images", type=int, default=64, help="in the batch")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.quick:
        figures = measure(build("small_cnn_4", 8, None), 8, 4, 1)
    else:
        figures = measure(build(MODEL, 32, arguments.teacher), 32, arguments.images, arguments.turns)
    print(f"at once: {figures['images_per_s']:.1f} images/s; pairs of {figures['pairs_fraction']:.0%} of the images")
    print(f"one at a time: {figures['loop_images_per_s']:.1f} images/s; ratio {figures['ratio_median_of_turns']:.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

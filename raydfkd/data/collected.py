"""Collected images: a few real or condensed ones from any source, labelled by the teacher (HiDFD's D_c) or their data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raydfkd.data.config import CollectedConfig
from raydfkd.data.datasets import ImageDataset, load_dataset, load_unlabelled
from raydfkd.data.selection import most_confident, select_balanced
from raydfkd.errors import DataError
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.replay.arrow import from_parquet
from raydfkd.tasks.task import Task
from raydfkd.types import Judgement, SyntheticBatch

CHUNK = 500
"""Images per forward pass of the teacher."""


@dataclass(frozen=True)
class CollectedImages:
    """Collected images and their statistics.

    Attributes:
        batch: the images; ``teacher_class`` is the teacher's, ``targets`` the class in force, their source is ``collected``.
        num_classes: K.
        num_skipped: images that could not be decoded.
        original_size: number of images the teacher was trained on, None if unknown.
    """

    batch: SyntheticBatch
    num_classes: int
    num_skipped: int
    original_size: int | None

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def class_counts(self) -> np.ndarray:
        """int64 [K]."""
        return np.bincount(self.batch.teacher_class, minlength=self.num_classes)

    @property
    def rho(self) -> float | None:
        """|collected| / |original|, None if the latter is unknown."""
        return None if self.original_size is None else len(self) / self.original_size

    def describe(self) -> str:
        """One line: number of images, rho, class counts and imbalance."""
        counts = self.class_counts
        rho = "" if self.rho is None else f", rho {self.rho:.3g}"
        skipped = f", {self.num_skipped} could not be read" if self.num_skipped else ""
        present = counts[counts > 0]
        spread = f"imbalance {present.max() / present.min():.3g}"
        return f"{len(self)} collected images{rho}{skipped}; by class {_shortened(counts)}, {spread}"

    @property
    def missing_classes(self) -> list[int]:
        """Classes to which the teacher assigns no image."""
        return np.flatnonzero(self.class_counts == 0).tolist()


def collect(
    config: CollectedConfig, task: Task, teacher: FrozenTeacher, seed: int, device: torch.device, bf16: bool
) -> CollectedImages:
    """Reads, labels and selects the collected images; deterministic for a given seed.

    Raises:
        DataError: there is nothing to read, the images' channels differ from the teacher's, or fewer than two are left; with
            the data set's own labels also if it has none, or others than the task's classes.
    """
    labelled = config.labels == "dataset"
    if labelled:
        everything = load_dataset(config.dataset, teacher.image_shape, teacher.num_classes)
    else:
        everything = load_unlabelled(config.dataset, teacher.image_shape)
    found = _left_over(everything, config.exclude)

    def judged(images: np.ndarray) -> Judgement:
        return task.judge_all(teacher.to(device), images, device, bf16, CHUNK)

    by_class = config.balanced or config.imbalance is not None
    # Otherwise only the chosen ones need the teacher.
    everyone = judged(found.images) if config.confident or (by_class and not labelled) else None
    classes = found.labels if labelled or everyone is None else everyone.classes
    if config.confident:
        assert everyone is not None
        assert config.num_images is not None
        chosen = most_confident(everyone.confidences, config.num_images)
    else:
        chosen = _chosen(config, classes, teacher.num_classes, seed)
    if len(chosen) < 2:
        raise DataError(
            f"{found.source} gives {len(chosen)} image to train on: collect at least two, ideally some of every class"
        )
    judgement = judged(found.images[chosen]) if everyone is None else everyone.take(chosen)
    batch = SyntheticBatch.of_judgement(
        judgement,
        images=found.images[chosen],
        targets=(classes[chosen] if labelled else judgement.classes).astype(np.int64),
        source="collected",
        generator_id="collected",
    )
    return CollectedImages(batch, teacher.num_classes, found.num_skipped, config.original_size)


def _chosen(config: CollectedConfig, classes: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Row numbers, int64; ``classes`` [N] counts only where the choice is by class."""
    rng = np.random.default_rng(seed)
    if config.num_images is None:
        return np.arange(len(classes))
    if config.balanced:
        return select_balanced(classes, num_classes, config.num_images, seed)
    if config.imbalance is None:
        return np.sort(rng.permutation(len(classes))[: config.num_images])
    return _long_tail(classes, num_classes, config.num_images, config.imbalance, rng)


def _left_over(found: ImageDataset, exclude: Path | None) -> ImageDataset:
    """``found`` without the images that the file ``exclude`` holds, bit for bit.

    Raises:
        DataError: there is no such file, or raydfkd did not write it.
    """
    if exclude is None:
        return found
    kept_out = {image.tobytes() for image in read_images(exclude, "collected.exclude").images}
    rows = np.array([image.tobytes() not in kept_out for image in found.images])
    return dataclasses.replace(found, images=found.images[rows], labels=found.labels[rows])


def read_images(path: Path, setting: str) -> SyntheticBatch:
    """The images of a Parquet file that raydfkd wrote; ``setting`` is the setting that names it.

    Raises:
        DataError: there is no such file, or raydfkd did not write it.
    """
    if not path.is_file():
        raise DataError(f"{setting} {path} does not exist: give a Parquet file of images that raydfkd wrote")
    try:
        return from_parquet(path.read_bytes())
    except DataError as error:
        raise DataError(f"{setting} {path}: {error}") from error


def long_tailed_counts(available: Sequence[int] | np.ndarray, num_images: int, imbalance: float) -> np.ndarray:
    """How many images of each class to take so that class sizes shrink exponentially.

    n_c is in proportion to imbalance^(-c / (K-1)), the usual long tail (Cui et al. 2019), at least one for a non-empty class.
    A class's shortfall is distributed over the others in the same proportions.

    Args:
        available: int [K], how many there are.
        num_images: how many to take in all; fewer if there are fewer.

    Returns:
        int64 [K].
    """
    room = np.asarray(available, dtype=np.int64)
    shares = imbalance ** (-np.arange(len(room)) / max(1, len(room) - 1))
    target = min(num_images, int(room.sum()))
    counts = np.minimum(room, 1)
    if counts.sum() >= target:
        return np.where(np.cumsum(counts) <= target, counts, 0)
    while (left := target - int(counts.sum())) > 0:
        open_shares = np.where(counts < room, shares, 0.0)
        wanted = open_shares * (counts[counts < room].sum() + left) / open_shares.sum()
        counts = np.minimum(room, counts + _apportioned(np.maximum(0.0, wanted - counts), left))
    return counts


def _apportioned(quotas: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to ``quotas`` that add up to ``total`` (largest remainders)."""
    exact = quotas * (total / quotas.sum())
    whole = np.floor(exact).astype(np.int64)
    most = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[most] += 1
    return whole


def _long_tail(
    classes: np.ndarray, num_classes: int, num_images: int, imbalance: float, rng: np.random.Generator
) -> np.ndarray:
    counts = long_tailed_counts(np.bincount(classes, minlength=num_classes), num_images, imbalance)
    members = [rng.permutation(np.flatnonzero(classes == k))[: counts[k]] for k in range(num_classes)]
    return np.sort(np.concatenate(members))


def _shortened(counts: np.ndarray) -> str:
    if len(counts) <= 20:
        return "/".join(map(str, counts))
    return f"{counts.min()} to {counts.max()} (median {int(np.median(counts))})"

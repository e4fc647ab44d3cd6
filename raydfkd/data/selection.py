"""Selecting candidates for a transfer set: the surrogate-dataset study's rule, on the teacher's classes, and DFND's."""

from __future__ import annotations

import numpy as np

MAX_IMAGES = 50_000
"""The study's cap on every transfer set."""


def class_quotas(counts_K: np.ndarray, total: int) -> np.ndarray:
    """Target number of images per class: ``total`` split equally over the classes that occur.

    The remainder goes, one each, to the classes with the most candidates, lower class numbers first.

    Args:
        counts_K: int [K], candidates of each class.
        total: N.

    Returns:
        int64 [K], 0 for a class without candidates; its sum is N, or 0 without candidates.
    """
    counts = np.asarray(counts_K, dtype=np.int64)
    present = np.flatnonzero(counts)
    quotas = np.zeros(len(counts), dtype=np.int64)
    if len(present) == 0:
        return quotas
    quotas[present] = total // len(present)
    quotas[present[np.argsort(-counts[present], kind="stable")[: total % len(present)]]] += 1
    return quotas


def select_balanced(classes_N: np.ndarray, num_classes: int, total: int = MAX_IMAGES, seed: int = 0) -> np.ndarray:
    """Candidates to use, balanced over the teacher's classes.

    A class with at least its quota gives a random subset; one with fewer is repeated until it has it, each candidate
    equally often or once more; one with none is skipped, and its quota shared by the rest.

    Args:
        classes_N: int [N] in [0, K), the teacher's class of each candidate.
        num_classes: K.
        total: images wanted.
        seed: of the subsets; the same seed gives the same choice.

    Returns:
        int64 [total], indices into the candidates in ascending order, with repeats; empty without candidates.

    Raises:
        ValueError: a class outside [0, K), or a negative total.
    """
    classes = np.asarray(classes_N)
    if total < 0 or (len(classes) and not (classes.min() >= 0 and classes.max() < num_classes)):
        raise ValueError(f"classes must be in [0, {num_classes}) and the total at least 0, got {total}")
    quotas = class_quotas(np.bincount(classes, minlength=num_classes), total)
    rng = np.random.default_rng(seed)
    by_class = np.argsort(classes, kind="stable")
    ends = np.searchsorted(classes[by_class], np.arange(num_classes + 1))
    chosen = [_repeated(rng.permutation(by_class[ends[k] : ends[k + 1]]), quotas[k]) for k in np.flatnonzero(quotas)]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))


def select_transfer_set(
    classes_N: np.ndarray, num_classes: int, total: int = MAX_IMAGES, seed: int = 0, keep_small: bool = False
) -> np.ndarray:
    """As :func:`select_balanced`; with ``keep_small``, all candidates unchanged if there are at most ``total``
    (how the study uses natural data sets)."""
    if keep_small and len(classes_N) <= total:
        return np.arange(len(classes_N), dtype=np.int64)
    return select_balanced(classes_N, num_classes, total, seed)


def most_confident(confidences_N: np.ndarray, total: int) -> np.ndarray:
    """The ``total`` candidates of whose class the teacher is surest (DFND, Chen et al., CVPR 2021).

    DFND ranks by the cross-entropy of the teacher's logits to their argmax, -log of this confidence: the order is the same.

    Args:
        confidences_N: float [N], the teacher's largest probability.
        total: how many; all, if there are fewer. Of equals the first ones are taken.

    Returns:
        int64, ascending indices.
    """
    return np.sort(np.argsort(-confidences_N, kind="stable")[:total])


def _repeated(members: np.ndarray, quota: int) -> np.ndarray:
    """``quota`` of the members, each equally often or once more, earlier ones first."""
    return np.resize(members, quota).astype(np.int64)

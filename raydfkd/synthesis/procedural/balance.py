"""How many images of each class to add, so that the buffer becomes as even as possible. Pure numpy."""

from __future__ import annotations

import numpy as np


def even_shares(held_K: np.ndarray, available_K: np.ndarray, total: int) -> np.ndarray:
    """Images to add of each class, int64 [K]: the smallest classes are raised first, all to one level, as far as available.

    Among all choices of ``min(total, sum available)`` images it makes the sorted counts of ``held + added`` largest from the
    smallest class on. A remainder that cannot raise all classes further goes to the first ones.

    Args:
        held_K: images of each class that are there already.
        available_K: how many could be added.
    """
    held, available = held_K.astype(np.int64), available_K.astype(np.int64)
    total = min(total, int(available.sum()))
    low, high = 0, int((held + available).max(initial=0)) + 1
    while high - low > 1:  # the highest level that all classes can be raised to, as far as available
        level = (low + high) // 2
        if int(np.clip(level - held, 0, available).sum()) <= total:
            low = level
        else:
            high = level
    added = np.clip(low - held, 0, available)
    more = np.flatnonzero((held + added == low) & (added < available))[: total - int(added.sum())]
    added[more] += 1
    return added


def choose_even(classes_N: np.ndarray, held_K: np.ndarray, total: int) -> np.ndarray:
    """The images to add, int64 ascending: the first of each class, as many as :func:`even_shares` gives it.

    Args:
        classes_N: class of each image that could be added, the ones to prefer first.
        held_K, total: see :func:`even_shares`.
    """
    counts = np.bincount(classes_N, minlength=len(held_K))
    shares = even_shares(held_K, counts, total)
    by_class = classes_N.argsort(kind="stable")
    sorted_classes = classes_N[by_class]
    rank = np.arange(len(classes_N)) - (np.cumsum(counts) - counts)[sorted_classes]
    return np.sort(by_class[rank < shares[sorted_classes]])

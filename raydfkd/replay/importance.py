"""Importance weights of prioritized draws: closed forms, no state."""

from __future__ import annotations

import numpy as np

from raydfkd.replay.config import SelectorConfig


def importance_exponent(config: SelectorConfig, student_step: int, total_steps: int) -> float:
    """Beta at ``student_step``: ``importance_exponent`` at step 0, ``importance_exponent_final`` at the last of ``total_steps``
    and after it, linear between; constant where the final one is None (Schaul et al. 2016, section 3.4).
    """
    start, final = config.importance_exponent, config.importance_exponent_final
    if final is None:
        return start
    return start + (final - start) * min(1.0, student_step / max(1, total_steps - 1))


def importance_weights(probabilities: np.ndarray, table_size: int, exponent: float) -> np.ndarray:
    """w_i = (N P_i)^-beta (SSD-KD Eq. 5), in the shape of ``probabilities``; N = ``table_size``."""
    return np.exp(-exponent * np.log(table_size * probabilities))


def divide_by_largest(weights: np.ndarray) -> np.ndarray:
    """Each row of ``weights`` [S,B] by its maximum (Schaul et al. 2016; not in SSD-KD's Eq. 5); rows of zeros stay."""
    largest = weights.max(axis=1, keepdims=True)
    divided: np.ndarray = weights / np.where(largest > 0, largest, 1.0)
    return divided

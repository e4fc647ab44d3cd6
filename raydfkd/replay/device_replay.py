"""Prioritized draws on a student's device for one round: nothing waits for the host until the round's priorities leave.

The buffer stays the authority: it hands over its priorities when a round begins and gets the new ones when it is over. Draws
have the distribution of ``selectors.Prioritized`` and other random numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raydfkd.replay.config import SelectorConfig


class DeviceReplay:
    """P(i) = (|d_i| + epsilon)^alpha / sum, with replacement, and weights (N P)^-beta (SSD-KD Eqs 5 and 6).

    Args:
        config: of the sampler ``prioritized``.
        device: where all of it lies.
    """

    def __init__(self, config: SelectorConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._values = torch.empty(0, dtype=torch.float64, device=device)
        self._last = 0
        self._num_items = 0

    def load(self, values: np.ndarray) -> None:
        """A round begins with these (|d| + epsilon)^alpha, float64 [capacity], 0 in an empty slot.

        Raises:
            ValueError: all slots are empty.
        """
        held = np.flatnonzero(values)
        if not len(held):
            raise ValueError("there is nothing to draw: every slot is empty")
        self._last, self._num_items = int(held[-1]), len(held)
        # One more, which takes what must not be stored.
        padded = torch.from_numpy(np.append(values, 0.0))
        self._values = padded.to(self._device, non_blocking=True)

    def draw(self, uniforms_B: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
        """Slots int64 [B], and importance weights float32 [B].

        Args:
            uniforms_B: float64 in [0, 1), on the device.
            exponent: beta.
        """
        below = self._values.cumsum(0)
        # To the right of equal sums, so that an empty slot, which adds nothing, is never drawn.
        slots_B = torch.searchsorted(below, uniforms_B * below[-1], right=True).clamp_(max=self._last)
        probabilities_B = self._values[slots_B] / below[-1]
        weights_B = torch.exp(-exponent * torch.log(self._num_items * probabilities_B))
        if self._config.normalize_importance == "batch":
            weights_B = weights_B / weights_B.amax()
        return slots_B, weights_B.float()

    def update(self, slots_B: Tensor, priorities_B: Tensor) -> None:
        """New raw priorities of drawn items; of a repeated slot the last finite one stays."""
        config, nowhere = self._config, len(self._values) - 1
        values_B = (priorities_B.double().abs() + config.priority_epsilon) ** config.priority_exponent
        places_B = torch.where(priorities_B.isfinite(), torch.arange(len(slots_B), device=self._device), -1)
        last = torch.full_like(self._values, -1, dtype=torch.long)
        last.scatter_reduce_(0, slots_B, places_B, "amax")
        stored_B = (last[slots_B] == places_B) & (places_B >= 0)
        self._values[torch.where(stored_B, slots_B, nowhere)] = values_B
        self._values[nowhere:].zero_()

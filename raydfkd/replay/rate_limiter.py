"""How far inserting and sampling may run ahead of each other. Pure arithmetic; never blocks.

The ratio rule is Reverb's ``SampleToInsertRatio`` (Cassirer et al. 2021); lockstep is the alternation of the papers' loops.
Everything is counted in items (images), with exact fractions, so that rounding cannot close both gates at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from raydfkd.errors import RateLimiterError


class _Rule(Protocol):
    def most_inserts(self, samples: int) -> float:
        """Items that may have been inserted once ``samples`` were drawn."""
        ...

    def most_samples(self, inserts: int) -> float:
        """Items that may have been drawn once ``inserts`` are in."""
        ...


@dataclass(frozen=True)
class _MinSize:
    min_size: int

    def most_inserts(self, samples: int) -> float:
        return math.inf

    def most_samples(self, inserts: int) -> float:
        return math.inf if inserts >= self.min_size else 0


@dataclass(frozen=True)
class _Ratio:
    """Keeps ``inserts * ratio - samples`` within ``buffer`` of its value at the first sample."""

    ratio: Fraction
    min_size: int
    buffer: Fraction

    def most_inserts(self, samples: int) -> float:
        return max(self.min_size, math.floor((self.ratio * self.min_size + self.buffer + samples) / self.ratio))

    def most_samples(self, inserts: int) -> float:
        if inserts < self.min_size:
            return 0
        return math.floor(self.ratio * (inserts - self.min_size) + self.buffer)


@dataclass(frozen=True)
class _Lockstep:
    items_before: int
    items_per_round: int
    samples_per_round: int

    def most_inserts(self, samples: int) -> float:
        return self.items_before + (samples // self.samples_per_round + 1) * self.items_per_round

    def most_samples(self, inserts: int) -> float:
        if self.items_per_round == 0:  # a pool filled once, then drawn from without limit
            return math.inf if inserts >= self.items_before else 0
        return max(0, (inserts - self.items_before) // self.items_per_round) * self.samples_per_round


class RateLimiter:
    """Decides whether n more items may be inserted or sampled.

    Args:
        samples_per_insert: average draws per inserted item; None: no ratio.
        min_size_to_sample: items that must have been inserted before the first draw.
        error_buffer: allowed deviation from the ratio, in samples, in either direction. Not used without a ratio.
        insert_chunk: most items inserted by one call.
        sample_chunk: most items drawn by one call.

    With a ratio r, inserts I, samples S, minimum m and buffer e, an insert of n needs ``I + n <= m`` or
    ``(I + n) r - S <= m r + e``; a sample of n needs ``I >= m`` and ``I r - S - n >= m r - e``. Both gates are closed at
    once only if ``2 e < r * insert_chunk + sample_chunk`` or if the chunk that reaches m is itself too large, so smaller
    buffers are rejected.

    Raises:
        RateLimiterError: inserting and sampling could block each other.
    """

    def __init__(
        self,
        samples_per_insert: float | None,
        min_size_to_sample: int,
        error_buffer: float | None,
        *,
        insert_chunk: int,
        sample_chunk: int,
    ) -> None:
        _require_positive("min_size_to_sample", min_size_to_sample)
        _require_positive("insert_chunk", insert_chunk)
        _require_positive("sample_chunk", sample_chunk)
        if samples_per_insert is None:
            if error_buffer is not None:
                raise RateLimiterError("error_buffer is set without samples_per_insert and would have no effect: leave it out")
            self._rule: _Rule = _MinSize(min_size_to_sample)
        else:
            self._rule = _build_ratio(samples_per_insert, min_size_to_sample, error_buffer, insert_chunk, sample_chunk)
        self._inserts = 0
        self._samples = 0

    @classmethod
    def lockstep(
        cls, batches_before: int, batches_per_round: int, batch_size: int, steps_per_round: int, sample_size: int
    ) -> RateLimiter:
        """Rounds that alternate strictly: all inserts of round r, then all its samples, then the inserts of round r+1.

        Args:
            batches_before: batches of ``batch_size`` items that only fill the buffer, before round 0.
            batches_per_round: batches inserted in each round; 0: none but those before, which are then drawn from freely.
            steps_per_round: training batches of ``sample_size`` items drawn in each round.

        Raises:
            RateLimiterError: a number is negative, or nothing would ever be drawn.
        """
        for name, value in (("batches_before", batches_before), ("batches_per_round", batches_per_round)):
            if value < 0:
                raise RateLimiterError(f"lockstep got {name}={value}: use 0 or more")
        _require_positive("batch_size", batch_size)
        _require_positive("steps_per_round", steps_per_round)
        _require_positive("sample_size", sample_size)
        limiter = cls(None, 1, None, insert_chunk=batch_size, sample_chunk=sample_size)
        limiter._rule = _Lockstep(batches_before * batch_size, batches_per_round * batch_size, steps_per_round * sample_size)
        return limiter

    def can_insert(self, n: int) -> bool:
        return self._inserts + n <= self._rule.most_inserts(self._samples)

    def can_sample(self, n: int) -> bool:
        return self._samples + n <= self._rule.most_samples(self._inserts)

    def record_insert(self, n: int) -> None:
        self._inserts += n

    def record_sample(self, n: int) -> None:
        self._samples += n

    def set_samples(self, num_samples: int) -> None:
        """Sets the number of samples drawn so far: a student that restarts from a checkpoint repeats its later draws."""
        self._samples = num_samples

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"inserts": np.array(self._inserts), "samples": np.array(self._samples)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._inserts = int(state["inserts"])
        self._samples = int(state["samples"])


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise RateLimiterError(f"{name} is {value}, so nothing would ever be drawn or inserted: use 1 or more")


def _build_ratio(ratio: float, min_size: int, error_buffer: float | None, insert_chunk: int, sample_chunk: int) -> _Ratio:
    if not (math.isfinite(ratio) and ratio > 0):
        raise RateLimiterError(f"samples_per_insert is {ratio}: use a number above 0, or leave it out for no ratio")
    if error_buffer is None or not math.isfinite(error_buffer):
        raise RateLimiterError("samples_per_insert needs an error_buffer: set the allowed deviation in samples")
    exact = Fraction(ratio).limit_denominator(10**6)
    buffer = Fraction(error_buffer).limit_denominator(10**6)
    if exact <= 0:
        raise RateLimiterError(f"samples_per_insert is {ratio}: use 0.000001 or more")
    per_insert = exact * insert_chunk
    needed = max(per_insert, (per_insert + sample_chunk) / 2)
    if buffer < needed:
        raise RateLimiterError(
            f"error_buffer {error_buffer:g} would let inserting and sampling block each other: with "
            f"{insert_chunk} items an insert, {sample_chunk} a sample and samples_per_insert {ratio:g}, use at least "
            f"{math.ceil(needed)}"
        )
    return _Ratio(exact, min_size, buffer)

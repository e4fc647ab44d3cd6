"""What people read while a teacher is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LINE_PERIOD_S = 5.0


class EpochLines:
    """One line per epoch, but at most one every ``LINE_PERIOD_S`` seconds; always one for the last epoch.

    Args:
        say: takes a line.
        clock: in seconds.
    """

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._next_at = clock()

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes the record of an epoch, as ``train_teacher`` gives it."""
        now = self._clock()
        if now < self._next_at and record["epoch"] < record["epochs"]:
            return
        self._next_at = now + LINE_PERIOD_S
        left_s = record["elapsed_s"] / record["epoch"] * (record["epochs"] - record["epoch"])
        self._say(
            f"epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}  "
            f"training accuracy {record['train_accuracy']:.1%}  lr {record['lr']:.4g}  "
            f"{record['images_per_s']:,.0f} images/s  {left_s:.0f} s left"
        )

"""Where the students of a run end once a stop is asked for. Plain, without Ray and without torch."""

from __future__ import annotations


class StopAgreement:
    """All students end before the same round, the first that none of them has begun: a checkpoint holds all at one step.

    The students ask before each round. One that is behind goes on until there.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether a stop was asked for."""
        self._begun: dict[str, int] = {}
        self._end: int | None = None

    def ends_before(self, student: str, number: int) -> bool:
        """Whether a student ends before round ``number``; otherwise it begins that round."""
        others = [begun for name, begun in self._begun.items() if name != student]
        if self.asked and self._end is None and number > max(others, default=-1):
            self._end = number  # It stays so: one that is restarted meanwhile comes this far again.
        if self._end is not None and number >= self._end:
            return True
        self._begun[student] = number
        return False

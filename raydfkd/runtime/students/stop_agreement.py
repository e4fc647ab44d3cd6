"""At which round the students of a run end once a stop is requested. Plain, without Ray and torch."""

from __future__ import annotations


class StopAgreement:
    """All students end before the same round, the first that none has started, because a checkpoint holds all at one step.

    The students ask before each round. One that is behind continues to that round.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether a stop was requested."""
        self._begun: dict[str, int] = {}
        self._end: int | None = None

    def ends_before(self, student: str, number: int) -> bool:
        """Whether a student ends before round ``number``; otherwise it starts that round."""
        others = [begun for name, begun in self._begun.items() if name != student]
        if self.asked and self._end is None and number > max(others, default=-1):
            self._end = number  # This is final: a restarted student reaches this round again.
        if self._end is not None and number >= self._end:
            return True
        self._begun[student] = number
        return False

"""A named table of factories that refuses duplicates and helps with misspelt names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from raydfkd.errors import UnknownNameError

T = TypeVar("T")


def nearest(name: str, known: list[str], most: int = 3) -> str:
    """A clause naming the known names nearest to ``name``: ``"did you mean 'a' or 'b'?"`` or all that is known."""
    close = get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known are " + ", ".join(sorted(known))


class Registry(Generic[T]):
    """Maps names to entries of one kind ("method", "model", ...).

    Raises:
        ValueError: a name is registered twice (a bug of ours).
        UnknownNameError: a name is looked up that nobody registered (the user's mistake).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda entry: self.add(name, entry)

    def get(self, name: str) -> T:
        if name not in self._entries:
            raise UnknownNameError(f"unknown {self.kind} {name!r}: {nearest(name, self.names())}")
        return self._entries[name]

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

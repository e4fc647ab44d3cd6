"""Named tables of what can be chosen by name: methods, objectives, kinds of data sets, networks.

An entry is an object, or the place where it is found (``"package.module:ATTRIBUTE"``), which is imported when the entry is
first needed. A registry with an entry-point group also has the entries of other installed packages: a package adds one by

    [project.entry-points."raydfkd.methods"]
    my_method = "my_package.my_module:METHOD"
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from raydfkd.errors import ConfigError, UnknownNameError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def nearest(name: str, known: list[str], most: int = 3) -> str:
    """A clause naming the known names nearest to ``name``: ``"did you mean 'a' or 'b'?"`` or all that is known."""
    close = get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known are " + ", ".join(sorted(known))


class Registry(Generic[T]):
    """Maps names to entries of one kind ("method", "model", ...), in the order in which they were added.

    Args:
        kind: what an entry is, for messages.
        entry_type: what entries are instances of; None: anything.
        group: entry-point group by which other packages add entries; None: they cannot.

    Raises:
        ValueError: a name is registered twice (a bug of ours).
        UnknownNameError: a name is looked up that is not registered (the user's mistake).
        ConfigError: it is looked up and belongs to another package's entry, which cannot be loaded.
    """

    def __init__(self, kind: str, entry_type: type[T] | None = None, group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._entry_type = entry_type
        self._entries: dict[str, T | str] = {}
        self._plug_ins: dict[str, EntryPoint] | None = None
        self._broken: dict[str, str] = {}

    def add(self, name: str, entry: T | str) -> None:
        """Registers an entry, or the place ``"module:ATTRIBUTE"`` where it is found."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""

        def added(entry: T) -> T:
            self.add(name, entry)
            return entry

        return added

    def get(self, name: str) -> T:
        self._discover()
        if name in self._broken:
            raise ConfigError(self._broken[name])
        if name not in self._entries:
            raise UnknownNameError(f"unknown {self.kind} {name!r}: {nearest(name, self.names())}")
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = self._load(entry)
        return entry

    def names(self) -> list[str]:
        """Of all entries, in alphabetical order."""
        return sorted(self)

    def package_of(self, name: str) -> str | None:
        """The package that added an entry by an entry point; None for one of our own."""
        self._discover()
        plug_in = (self._plug_ins or {}).get(name)
        return None if plug_in is None else _package(plug_in)

    def union(self, tag: str) -> Any:
        """The type of settings of any entry: a union of the entries' ``config`` classes, told apart by the field ``tag``.

        Another package's entry that cannot be used is left out, with a warning.

        Raises:
            ValueError: an entry's settings are not tagged with its name (a bug of ours).
        """
        from pydantic import Field

        self._discover()
        models = []
        for name in list(self._entries):
            try:
                model = self.get(name).config  # type: ignore[attr-defined]
                tags = get_args(model.model_fields[tag].annotation)
                if get_origin(model.model_fields[tag].annotation) is not Literal or tags != (name,):
                    raise ValueError(f"{model.__name__}.{tag} must be Literal[{name!r}]")
            except Exception as error:
                if (plug_in := (self._plug_ins or {}).get(name)) is None:
                    raise
                self._leave_out(plug_in, error)
                continue
            models.append(model)
        return models[0] if len(models) == 1 else Annotated[Union[tuple(models)], Field(discriminator=tag)]  # noqa: UP007

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(list(self._entries))

    def _load(self, place: str) -> T:
        module, _, attribute = place.partition(":")
        found = getattr(import_module(module), attribute)
        if self._entry_type is not None and not isinstance(found, self._entry_type):
            raise TypeError(f"{place} is a {type(found).__name__}, not a {self._entry_type.__name__}")
        entry: T = found
        return entry

    def _discover(self) -> None:
        if self._plug_ins is not None or self.group is None:
            return
        self._plug_ins = {}
        for plug_in in entry_points(group=self.group):
            if plug_in.name in self._entries:
                taken = self.package_of(plug_in.name)
                if taken != _package(plug_in):
                    logger.warning(
                        "package %s adds a %s %r, a name that %s has already: it is left out",
                        _package(plug_in), self.kind, plug_in.name, taken or "raydfkd",
                    )  # fmt: skip
                continue
            self._plug_ins[plug_in.name] = plug_in
            self._entries[plug_in.name] = plug_in.value

    def _leave_out(self, plug_in: EntryPoint, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._broken[plug_in.name] = (
            f"{self.kind} {plug_in.name!r} of package {_package(plug_in)} cannot be used ({reason}): repair or uninstall it"
        )
        logger.warning("%s", self._broken[plug_in.name])
        del self._entries[plug_in.name]


def _package(plug_in: EntryPoint) -> str:
    return plug_in.dist.name if plug_in.dist is not None else plug_in.value.partition(".")[0]

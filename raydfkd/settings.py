"""What all classes of settings share: frozen, no unknown keys, and one way to refuse a setting that would do nothing.

Imports neither torch nor ray nor numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every class of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def refuse_idle(self, because: str, *names: str, otherwise: str = "") -> None:
        """Refuses settings that would do nothing. For validators.

        Only what differs from its default counts as set, and not what was written: a saved experiment holds every setting,
        and must run again.

        Args:
            because: what makes them idle, as the beginning of the message: ``"lockstep"``, ``"adversarial_weight 0"``.
            names: settings of this class.
            otherwise: another way out than leaving them out: ``"choose mode decoupled"``.

        Raises:
            ValueError: one of them is set.
        """
        fields = type(self).model_fields
        idle = [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]
        if idle:
            advice = f"leave {'it' if len(idle) == 1 else 'them'} out" + (f" or {otherwise}" if otherwise else "")
            raise ValueError(f"{because} does not use {', '.join(idle)}: {advice}")

    def scaled(self, share: float) -> Self:
        """These settings with every count marked ``Budget``, here and below, times ``share``: 0 stays 0, others are at least 1.

        Raises:
            ValidationError: they do not fit together any more.
        """

        def counts(settings: Settings) -> dict[str, Any]:
            marked = [
                name
                for name, field in type(settings).model_fields.items()
                if any(isinstance(mark, Budget) for mark in field.metadata)
            ]
            whole = {name: getattr(settings, name) for name in marked}
            return {name: max(1, round(count * share)) for name, count in whole.items() if count}

        return type(self).model_validate(rewritten(self, counts).model_dump())


def rewritten(value: Any, updates: Callable[[Settings], Mapping[str, Any]]) -> Any:
    """A copy of settings in which each part, here and below, has the values that ``updates`` gives for it; not validated."""
    if isinstance(value, Settings):
        below = {name: rewritten(getattr(value, name), updates) for name in type(value).model_fields}
        return value.model_copy(update={**below, **updates(value)})
    if isinstance(value, dict):
        return {key: rewritten(inner, updates) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rewritten(inner, updates) for inner in value)
    return value


@dataclass(frozen=True)
class Budget:
    """Marks a setting that counts what a run spends (steps, rounds, epochs), or that counts in these: a run at a share of its
    budget has that share of it."""


_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def require_file_names(what: str, names: Iterable[str], *, dots: bool = False) -> None:
    """Refuses names that cannot be part of a file's name on every system, or that lead to another folder.

    Args:
        what: of what they are the names, for the message.
        dots: allow them but at the beginning; a name that is part of a dotted key has none.

    Raises:
        ValueError: one of them cannot be used.
    """
    for name in names:
        if _FILE_NAME.fullmatch(name) is None or (not dots and "." in name):
            allowed = "letters, digits, - and _" + (", and dots after the first character," if dots else "")
            raise ValueError(f"{what} {name!r} cannot be used in file names: use up to 100 {allowed} in {what} names")


@dataclass(frozen=True)
class InputFile:
    """Marks a setting that names a file or folder to read. A relative path is made absolute when the file of settings is read
    (see ``pipeline.experiment.input_paths``), and a submitted job takes the file along.

    Attributes:
        suffix: only a value that ends in this is a path.
        prefix: a value that begins with this has a path behind it if what follows begins with ``.``, ``/`` or ``~``. Where
            either is given, every other value is none.
        or_name: a single word without a suffix is no path but the name of something below the data root.
    """

    suffix: str | None = None
    prefix: str | None = None
    or_name: bool = False

    def prefix_of(self, value: object) -> str:
        """What stands before the path in a value, usually nothing."""
        found = self.prefix is not None and str(value).startswith(self.prefix)
        return self.prefix or "" if found else ""

    def is_path(self, value: object) -> bool:
        text = str(value)
        if self.or_name and "/" not in text and not Path(text).suffix:
            return False
        if prefix := self.prefix_of(value):
            return text.removeprefix(prefix).startswith((".", "/", "~"))
        return text.endswith(self.suffix) if self.suffix is not None else self.prefix is None


InputPath = Annotated[Path, InputFile()]
"""A file or folder to read."""

"""What all classes of settings share: frozen, no unknown keys, and one way to refuse a setting that would do nothing.

Imports neither torch nor ray nor numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
        return type(self).model_validate(_scaled(self, share).model_dump())


def _scaled(value: Any, share: float) -> Any:
    if isinstance(value, Settings):
        updates = {}
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            counted = any(isinstance(mark, Budget) for mark in field.metadata) and isinstance(inner, int)
            updates[name] = (inner and max(1, round(inner * share))) if counted else _scaled(inner, share)
        return value.model_copy(update=updates)
    if isinstance(value, dict):
        return {key: _scaled(inner, share) for key, inner in value.items()}
    return value


@dataclass(frozen=True)
class Budget:
    """Marks a setting that counts what a run spends (steps, rounds, epochs), or that counts in these: a run at a share of its
    budget has that share of it."""


_FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


def require_file_names(what: str, names: Iterable[str]) -> None:
    """Refuses names that cannot be part of a file's name on every system, or that lead to another folder.

    Raises:
        ValueError: one of them; ``what`` says of what it is the name.
    """
    for name in names:
        if _FILE_NAME.fullmatch(name) is None:
            raise ValueError(
                f"{what} {name!r} cannot be used in file names: use up to 100 letters, digits, - and _ in {what} names"
            )


@dataclass(frozen=True)
class InputFile:
    """Marks a setting that names a file or folder to read. A relative path is made absolute when the file of settings is read
    (see ``pipeline.experiment.input_paths``), and a submitted job takes the file along.

    Attributes:
        suffix: only a value that ends in this is a path; None: every value is.
        or_name: a single word without a suffix is no path but the name of something below the data root.
    """

    suffix: str | None = None
    or_name: bool = False

    def is_path(self, value: object) -> bool:
        text = str(value)
        if self.or_name and "/" not in text and not Path(text).suffix:
            return False
        return self.suffix is None or text.endswith(self.suffix)


InputPath = Annotated[Path, InputFile()]
"""A file or folder to read."""

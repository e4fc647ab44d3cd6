"""What a page is made of, as plain data that the templates show."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """``headers`` is empty for a table of names and values."""

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    title: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of images in one picture: ``address`` is a PNG ``data:`` address, ``aspect`` its width over its height."""

    label: str
    address: str
    aspect: float = 1.0


@dataclass(frozen=True)
class Section:
    """A part of the page; every field that is not empty is shown, in this order."""

    lead: str = ""
    wide: list[str] = field(default_factory=list)
    """Plots as wide as the page."""
    plots: list[str] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    gallery: list[Strip] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    code: str = ""
    notes: list[str] = field(default_factory=list)


class LeftOut(Exception):
    """A section cannot be made from this run; the message is the reason. Never leaves this room."""


@dataclass(frozen=True)
class Part:
    """A section's place on the page: its anchor and title, and the section or why there is none."""

    anchor: str
    title: str
    section: Section | None
    reason: str = ""

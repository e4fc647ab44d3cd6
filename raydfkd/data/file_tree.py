"""The files of a folder and of all below it, behind symbolic links too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_SYSTEM = ("__MACOSX", "@eaDir")
"""Folders that macOS and network storage put beside a user's own, with copies in them."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's data: ``.ipynb_checkpoints``, ``._9.png``, ``__MACOSX``, ..."""
    return name.startswith(".") or name in _SYSTEM


def files_below(
    folder: Path, suffixes: tuple[str, ...] | None = None, is_left_out: Callable[[str], bool] = is_hidden
) -> list[Path]:
    """All files below ``folder``, sorted by their paths.

    Links are followed, and what can be reached in several ways is there once, under a path without links where there is one.
    A link to a folder above ``folder`` is not followed: it leads to what is beside it, such as the other classes. A link to
    nothing is in the list: whoever reads it says so.

    Args:
        folder: an existing folder; its own path is not asked about.
        suffixes: of the files' names, in lower case; None: all files.
        is_left_out: whether a file or folder of a name, and all below it, is left out.
    """
    tree = _Tree(suffixes, is_left_out)
    tree.walk(folder)
    return sorted([*tree.files, *tree.linked_files()])


class _Tree:
    def __init__(self, suffixes: tuple[str, ...] | None, is_left_out: Callable[[str], bool]) -> None:
        self._suffixes, self._is_left_out = suffixes, is_left_out
        self.files: list[Path] = []
        self._walked: set[str] = set()
        self._links: list[Path] = []

    def walk(self, top: Path) -> None:
        """Folders without links first, then those behind links, in their order."""
        behind_links: list[Path] = []
        top_real = os.path.realpath(top)
        folders = [(top, top_real)]
        while folders or behind_links:
            if not folders:
                behind_links.sort(reverse=True)
                link = behind_links.pop()
                folders.append((link, os.path.realpath(link)))
            place, real = folders.pop()
            if real in self._walked:
                continue
            self._walked.add(real)
            for entry in _entries(place):
                path = place / entry.name
                if self._is_left_out(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((path, os.path.join(real, entry.name)))
                elif entry.is_symlink() and os.path.isdir(path):
                    if not _contains(os.path.realpath(path), top_real):
                        behind_links.append(path)
                elif entry.is_symlink() and self._is_wanted(entry.name):
                    self._links.append(path)
                elif self._is_wanted(entry.name) and entry.is_file():
                    self.files.append(path)

    def linked_files(self) -> list[Path]:
        """Links to files that were not found without them."""
        found: dict[str, Path] = {}
        for link in sorted(self._links):
            real = os.path.realpath(link)
            folder, name = os.path.split(real)
            is_found = folder in self._walked and not self._is_left_out(name) and self._is_wanted(name)
            if real not in found and not (is_found and os.path.isfile(real)):
                found[real] = link
        return list(found.values())

    def _is_wanted(self, name: str) -> bool:
        return self._suffixes is None or os.path.splitext(name)[1].lower() in self._suffixes


def _contains(folder: str, other: str) -> bool:
    return os.path.commonpath([folder, other]) == folder


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # such as lost+found, which is nobody's data
        return []

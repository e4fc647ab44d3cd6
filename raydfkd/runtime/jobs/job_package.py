"""The files sent with a job: the working directory as one archive. Plain files, independent of Ray.

From a git checkout, these are the files that git would commit, its submodules' and those of other checkouts in it; from another
folder, all files; never those that tools create (``LEFT_OUT``). An archive cannot hold links: what they lead to is there under
each of its paths. Files that the experiment names are always included, because a teacher's weights are rarely in git.
"""

from __future__ import annotations

import logging
import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from raydfkd.errors import ConfigError

LEFT_OUT = (".git", ".venv", "venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "runs")
"""Names of files and folders that are never included unless the experiment names them."""
MAX_BYTES = 100 * 1024**2
"""The largest upload that Ray's dashboard accepts."""
MIB = 1024**2
_DATE = (1980, 1, 1, 0, 0, 0)
_PIECE_BYTES = 1 << 20

logger = logging.getLogger(__name__)


def pack(folder: Path, target: Path, excludes: Iterable[str] = (), named: Iterable[Path] = ()) -> int:
    """Writes ``folder`` into the zip archive ``target``; equal contents give equal bytes, so that Ray uploads them once.

    Args:
        excludes: patterns (``*.bin``, ``data``) of names or of paths below ``folder`` to leave out.
        named: files and folders to include regardless of the patterns; those outside ``folder`` are ignored.

    Returns:
        The number of files in it.

    Raises:
        ConfigError: ``folder`` is not a folder, a file cannot be read, or the archive is larger than Ray accepts.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"--working-dir {folder} is not a folder: give one, or the address of an archive that the cluster can read"
        )
    files = listed(folder, tuple(excludes), named)
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                if not _add(archive, file, _name_of(file.relative_to(folder))):
                    raise ConfigError(_too_large(folder, files))
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder} cannot be read ({error.strerror}): leave it out with --exclude"
        ) from error
    if target.stat().st_size > MAX_BYTES:  # with its list of contents
        raise ConfigError(_too_large(folder, files))
    return len(files)


def _add(archive: zipfile.ZipFile, file: Path, name: str) -> bool:
    """Adds a file a piece at a time; False as soon as the archive is too large."""
    assert archive.fp is not None
    state = file.stat()
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = (state.st_mode & 0o777) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.file_size = state.st_size
    with file.open("rb") as source, archive.open(entry, "w") as packed:
        while piece := source.read(_PIECE_BYTES):
            packed.write(piece)
            if archive.fp.tell() > MAX_BYTES:
                return False
    return True


def _name_of(path: Path) -> str:
    """The name in the archive. One that is not UTF-8, which no archive can hold, is taken as Latin-1, which all bytes are."""
    name = path.as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("latin-1")
        logger.warning("a file's name is not UTF-8: the job gets it as %s", name)
    return name


def listed(folder: Path, excludes: tuple[str, ...], named: Iterable[Path] = ()) -> list[Path]:
    """The files of ``folder`` to send with a job, sorted; those of submodules, of checkouts in it and behind links too."""
    kept = set(_files(folder, folder, (*LEFT_OUT, *excludes), _tracked(folder)))
    for path in named:
        if path.is_relative_to(folder):
            kept |= {path} if path.is_file() else set(_files(path, folder, (), None)) if path.is_dir() else set()
    return sorted(kept)


def _files(
    place: Path, folder: Path, patterns: tuple[str, ...], tracked: list[Path] | None, above: tuple[str, ...] = ()
) -> Iterator[Path]:
    """The files of ``place``, which is ``folder`` or below it.

    Args:
        tracked: what git lists of it, which names a submodule or another checkout as one folder; None: there is no git.
        above: the real paths of the folders above it: a link to one of these leads in a circle.
    """
    above = (*above, os.path.realpath(place))
    for path in sorted(place.iterdir()) if tracked is None else tracked:
        if _matches(path.relative_to(folder), patterns):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and os.path.realpath(path) not in above:
            is_checkout = tracked is not None and (path / ".git").exists()
            yield from _files(path, folder, patterns, _tracked(path) if is_checkout else None, above)


def _tracked(folder: Path) -> list[Path] | None:
    """What git would commit of a folder; None if it is in no checkout, or ignored as a whole."""
    asked = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(asked, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):  # git is not available
        return None
    names = os.fsdecode(answer.stdout).split("\0") if answer.returncode == 0 else []
    return [folder / name for name in dict.fromkeys(names) if name] or None


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    whole = path.as_posix()
    return any(fnmatch(whole, pattern.rstrip("/")) or any(fnmatch(part, pattern.rstrip("/")) for part in path.parts)
               for pattern in patterns)  # fmt: skip


def _too_large(folder: Path, files: list[Path]) -> str:
    by_top: dict[str, int] = {}
    for file in files:
        top = file.relative_to(folder).parts[0]
        by_top[top] = by_top.get(top, 0) + file.stat().st_size
    largest = sorted(by_top, key=lambda top: -by_top[top])[:3]
    shown = ", ".join(f"{top} {by_top[top] / MIB:.0f} MiB" for top in largest)
    return (
        f"working directory {folder} as an archive exceeds the {MAX_BYTES // MIB} MiB that Ray accepts (largest: {shown}): "
        "leave parts out with --exclude, put data on the cluster's storage, or give --working-dir"
    )

"""The files sent with a job: the working directory as one archive. Plain files, independent of Ray.

From a git checkout, these are the files that git would commit; from another folder, all files; never those that tools create
(``LEFT_OUT``). Files that the experiment names are always included, because a teacher's weights are rarely in git.
"""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from raydfkd.errors import ConfigError

LEFT_OUT = (".git", ".venv", "venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "runs")
"""Names of files and folders that are never included unless the experiment names them."""
MAX_BYTES = 100 * 1024**2
"""The largest upload that Ray's dashboard accepts."""
MIB = 1024**2
_DATE = (1980, 1, 1, 0, 0, 0)


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
                entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _DATE)
                entry.external_attr = (file.stat().st_mode & 0o777) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
                if target.stat().st_size > MAX_BYTES:
                    break
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder} cannot be read ({error.strerror}): leave it out with --exclude"
        ) from error
    if target.stat().st_size > MAX_BYTES:
        raise ConfigError(_too_large(folder, files))
    return len(files)


def listed(folder: Path, excludes: tuple[str, ...], named: Iterable[Path] = ()) -> list[Path]:
    """The files of ``folder`` to send with a job, sorted."""
    patterns = (*LEFT_OUT, *excludes)
    kept = {file for file in _candidates(folder) if not _matches(file.relative_to(folder), patterns)}
    for path in named:
        if path.is_relative_to(folder):
            kept |= {file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    return sorted(kept)


def _candidates(folder: Path) -> list[Path]:
    asked = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(asked, capture_output=True, check=False, timeout=60)
        names = answer.stdout.decode(errors="surrogateescape").split("\0") if answer.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):  # git is not available
        names = []
    paths = [folder / name for name in names if name] or list(folder.rglob("*"))
    return [path for path in paths if path.is_file()]


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

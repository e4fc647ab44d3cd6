"""What a local Ray needs of the machine it starts on: a short path for its sockets, a home directory, shared memory."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydfkd.errors import ResourceError

logger = logging.getLogger(__name__)

SOCKET_BYTES = 103
"""Longest path of a socket, on macOS; Linux allows 107."""
SOCKET = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""The longest one of Ray's, below its folder of temporary files."""
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
STORE_SHARE = 0.3
"""Share of the memory that Ray reserves for its object store."""


@contextmanager
def temporary_folder() -> Iterator[str | None]:
    """A folder for Ray's sockets, logs and spilled objects, which lasts as long as the block; None: Ray's own will do.

    Ray's own is below TMPDIR, which batch systems set to long paths, or which another user made and keeps for himself.

    Raises:
        ResourceError: none can be made.
    """
    place = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    if _fits(place) and _can_write(place):
        yield None
        return
    folder = _made_elsewhere(place)
    logger.info("Ray's temporary files are in %s, because %s cannot hold its sockets", folder, place)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fits(place: Path) -> bool:
    return len(os.fsencode(place.absolute() / SOCKET)) <= SOCKET_BYTES


def _can_write(place: Path) -> bool:
    folder = place / "ray"
    return os.access(folder if folder.exists() else place, os.W_OK | os.X_OK)


def _made_elsewhere(place: Path) -> Path:
    for other in SHORT_PLACES:
        try:
            return Path(tempfile.mkdtemp(prefix="ray-", dir=other))
        except OSError:
            continue
    raise ResourceError(
        f"Ray cannot keep its sockets in {place} (the path is too long, or it cannot be written), nor in "
        f"{', '.join(SHORT_PLACES)}: set RAY_TMPDIR to a folder of at most {SOCKET_BYTES - len(SOCKET) - 1} characters, or use "
        "runtime.runner local"
    )


def ensure_home() -> None:
    """A user without a home directory (as in many containers) gets the one of temporary files: Ray needs one."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = tempfile.gettempdir()


def warn_of_little_shared_memory() -> None:
    """Ray then keeps its objects on disk, without a word that reaches the user."""
    try:
        free = shutil.disk_usage("/dev/shm").free
        wanted = STORE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):  # not Linux
        return
    if free < min(wanted, 1 << 30):
        logger.warning(
            "/dev/shm has %.0f MB, so that Ray keeps images and weights on disk, which is slower: give it more (docker run "
            "--shm-size=2g; in Kubernetes an emptyDir with medium: Memory at /dev/shm)", free / 1e6,
        )  # fmt: skip

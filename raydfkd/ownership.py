"""One process at a time writes into a run directory, a sweep's, a data set's or to a weights file, on shared storage too.

The owner is the process whose ``.owner-N`` (of a file: ``.NAME.owner-N``) has the highest number. Creating a file that must not
exist is atomic on every file system, shared ones included, where locks of files often are not. A thread renews the file's time
every ``HEARTBEAT_S``. An owner has died if its process is gone (on its own machine) or if nothing renewed the file for
``STALE_S``; whoever comes next creates the file of the next number, which only one can. An owner that was only suspended finds
that file when it wakes, and ends. Ages are compared between files of the same storage, so that no two clocks have to agree.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from raydfkd.errors import RunDirError, RunInUseError, RunTakenOverError

logger = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
STALE_S = 60.0
POLL_S = 0.2


@dataclass(frozen=True)
class Owner:
    """What an owner's file says.

    Attributes:
        process: its number.
        host: its machine's name.
        since: when it began, as text.
        machine: identifies the machine's start and the process's namespace; empty where the system does not tell.
        started: when the process began, in the kernel's own unit; tells apart processes that had the same number.
        token: of this ownership alone.
        place: the folder, resolved; empty before the file is made.
        inode: of the owner's file.
    """

    process: int
    host: str
    since: str
    machine: str
    started: str
    token: str
    place: str = ""
    inode: int = 0

    @classmethod
    def this_process(cls) -> Owner:
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(os.getpid(), socket.gethostname(), now, _machine(), _started(os.getpid()) or "", uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host} since {self.since}"

    @property
    def lives(self) -> bool | None:
        """Whether the process lives; None if this machine cannot tell."""
        ours = _machine()
        if self.machine != ours or (not ours and self.host != socket.gethostname()):
            return None
        if ours:
            return _started(self.process) == self.started
        try:
            os.kill(self.process, 0)
        except OSError as error:
            return not isinstance(error, ProcessLookupError)
        return True


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process of this machine began; None: it has ended, or the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Found:
    """An owner's file as it was found.

    Attributes:
        owner: None while it is still being written.
        renewed: the time of its last sign of life, by the storage's clock.
        lives: whether the process lives; None if this machine cannot tell.
    """

    owner: Owner | None
    renewed: float
    lives: bool | None


def is_owner_file(path: Path) -> bool:
    """Whether this is a file of a folder's owners, and none of what the folder holds."""
    return path.name.startswith(".owner-")


class _Files:
    """The owners' files of a folder, or of the file ``name`` in it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._prefix = f".{name}.owner-" if name else ".owner-"

    def path(self, number: int) -> Path:
        return self.folder / f"{self._prefix}{number}"

    def numbers(self) -> list[int]:
        ends = (p.name.removeprefix(self._prefix) for p in self.folder.iterdir() if p.name.startswith(self._prefix))
        return sorted(int(end) for end in ends if end.isdecimal())

    def read(self, number: int) -> Found | None:
        """None: the file has gone."""
        try:
            with self.path(number).open("rb") as file:  # opening a file makes shared storage look at it again
                content, status = file.read(), os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        try:
            owner = Owner(**json.loads(content))
        except (ValueError, TypeError):
            return Found(None, status.st_mtime, None)
        lives = owner.lives
        if lives and owner.inode != status.st_ino and owner.place != str(self.folder.resolve()):
            lives = False  # the file was copied, with its folder
        return Found(owner, status.st_mtime, lives)

    def create(self, number: int, owner: Owner) -> bool:
        """Whether the file is ours: of all that try, one succeeds."""
        path = self.path(number)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            here = replace(owner, place=str(self.folder.resolve()), inode=os.fstat(handle).st_ino)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(asdict(here)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        if self.numbers()[-1] == number:
            return True
        path.unlink(missing_ok=True)  # a later owner is there: this number was free because its file was cleared away
        return False

    def now(self, token: str) -> float:
        """The storage's own time."""
        probe = self.folder / f"{self._prefix}clock-{token}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            with suppress(OSError):
                probe.unlink()


class _Held:
    """A folder or file that this process owns; its thread renews the sign of life."""

    def __init__(self, files: _Files, number: int, owner: Owner, what: str, heartbeat_s: float) -> None:
        self.files, self.number, self.owner, self.what = files, number, owner, what
        self.thread, self.depth = threading.get_ident(), 1
        self.taken_by: str | None = None
        self._ending = threading.Event()
        self._heart = threading.Thread(target=self._beat, args=(heartbeat_s,), name="owner", daemon=True)
        self._heart.start()

    def require(self) -> None:
        if self.taken_by is not None:
            raise RunTakenOverError(
                f"{self.what} was taken over by {self.taken_by}, because this process gave no sign of life for long: "
                "this process ends, the other goes on"
            )

    def _beat(self, heartbeat_s: float) -> None:
        while not self._ending.wait(heartbeat_s):
            with suppress(OSError):  # storage that does not answer now may answer at the next beat
                newest = (self.files.numbers() or [0])[-1]
                if newest < self.number:  # somebody removed our file
                    self.files.create(self.number, self.owner)
                    continue
                found = self.files.read(newest)
                if found is not None and (found.owner is None or found.owner.token != self.owner.token):
                    self.taken_by = str(found.owner or "another process")
                    return
                os.utime(self.files.path(self.number))

    def release(self) -> None:
        self._ending.set()
        self._heart.join()
        if self.taken_by is not None:
            return
        with suppress(OSError):
            for number in self.files.numbers():  # ours goes last: nobody else may own a lower number meanwhile
                if number <= self.number:
                    self.files.path(number).unlink(missing_ok=True)


_HELD: dict[tuple[Path, str], _Held] = {}
_HELD_LOCK = threading.Lock()


@contextmanager
def owned(
    folder: str | Path,
    name: str = "",
    *,
    what: str,
    advice: str = "choose another --out, or end that process first",
    wait_s: float = 0.0,
    waiting: Callable[[], None] = lambda: None,
    heartbeat_s: float = HEARTBEAT_S,
    stale_s: float = STALE_S,
) -> Iterator[None]:
    """This process owns a folder, or the file ``name`` in it, inside the block. The thread that owns it may enter again.

    The folder is made if it is missing; if it is empty in the end, it is removed again.

    Args:
        what: how messages call it.
        advice: what a user can do while another process owns it.
        wait_s: how long to wait for a living owner to end.
        waiting: called again and again while waiting; may raise to give up.
        heartbeat_s: see the module.
        stale_s: see the module.

    Raises:
        RunInUseError: a living process owns it.
        RunDirError: the folder cannot be written.
        RunTakenOverError: at the end, if another process took over because this one seemed dead.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    if folder.is_file():
        raise RunDirError(f"{what} cannot be written, it is a file: choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = (folder.resolve(), name)
        with _HELD_LOCK:
            held = _HELD.get(key)
        if held is not None and held.thread == threading.get_ident():
            held.depth += 1
        else:
            files, owner = _Files(folder.absolute(), name), Owner.this_process()
            number = _acquire(files, owner, what, advice, wait_s, waiting, stale_s)
            held = _Held(files, number, owner, what, heartbeat_s)
            with _HELD_LOCK:
                _HELD[key] = held
    except OSError as error:
        raise RunDirError(f"{what} cannot be written ({error.strerror}): choose another --out") from error
    try:
        yield
        held.require()
    finally:
        held.depth -= 1
        if held.depth == 0:
            with _HELD_LOCK:
                del _HELD[key]
            held.release()
            if is_new:
                with suppress(OSError):
                    folder.rmdir()


def require_owned(folder: Path) -> None:
    """Raises RunTakenOverError if this process owned the folder and another has taken it over meanwhile."""
    if _HELD and (held := _HELD.get((folder.resolve(), ""))) is not None:
        held.require()


def owner_of(folder: Path) -> Found | None:
    """The owner's file, if there is one."""
    files = _Files(folder, "")
    try:
        newest = files.numbers()[-1:]
        return files.read(newest[0]) if newest else None
    except OSError:
        return None


def _acquire(
    files: _Files, owner: Owner, what: str, advice: str, wait_s: float, waiting: Callable[[], None], stale_s: float
) -> int:
    """The number that this process owns from now on."""
    deadline = time.monotonic() + wait_s
    first_seen: dict[tuple[int, str], float] = {}
    while True:
        newest = (files.numbers() or [0])[-1]
        found = files.read(newest) if newest else None
        if found is None:
            if files.create(newest + 1, owner):
                return newest + 1
            continue
        other, renewed, lives = found.owner, found.renewed, found.lives
        seen = (newest, other.token if other is not None else "")
        if lives is None and seen not in first_seen:
            first_seen[seen] = renewed
            if other is not None:
                logger.warning("%s was owned by %s: looking whether it lives, at most %.0f s", what, other, stale_s)
        if lives is None:
            lives = True if renewed != first_seen[seen] else False if files.now(owner.token) - renewed > stale_s else None
        if lives is False:
            if files.create(newest + 1, owner):
                return newest + 1
            continue
        if lives and time.monotonic() >= deadline:
            raise RunInUseError(f"{what} is in use by {other or 'another process'}: {advice}")
        waiting()
        time.sleep(POLL_S)

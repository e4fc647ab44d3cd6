"""Downloads one file: resumed where it was cut off, checked, and never half there under its final name."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from raydfkd.data.checksums import digest
from raydfkd.errors import DataError, DownloadError

ATTEMPTS = 5
"""Attempts in a row that bring no new byte, before a download is given up."""
TIMEOUT_S = 30.0
"""Longest wait for a connection and for each read."""
PAUSE_S = 2.0
"""Wait before the second attempt in a row; before each one after that, twice as long as before the last."""
MIRROR = "RAYDFKD_DATA_MIRROR"
"""Environment variable with a URL that stands in for the scheme and host of every address."""
_CHUNK_BYTES = 1 << 16
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
"""HTTP codes of refusals that may be for a while only."""

Tell = Callable[[str, int, int], None]
"""Gets what is under way, how much of it is done, and the total (0: not known)."""


class _Refused(Exception):
    """The server will not give the file, however often it is asked."""


def download(
    url: str,
    path: Path,
    checksum: str | None,
    tell: Tell = lambda name, done, total: None,
    mirror: str | None = None,
    attempts: int = ATTEMPTS,
    timeout_s: float = TIMEOUT_S,
    pause_s: float = PAUSE_S,
) -> None:
    """Downloads a file, unless it is there.

    The bytes go to ``NAME.part`` beside it. A connection that breaks, now or in an earlier process, is resumed from there if
    the server can send parts of a file, and the download begins anew if it cannot.

    Args:
        url: of http or https.
        path: its final name; what is there under this name was checked before.
        checksum: ``md5:HEX`` or ``sha256:HEX``; None: only the length that the server names is checked.
        tell: told of progress, in bytes.
        mirror: as ``$RAYDFKD_DATA_MIRROR``, before which it goes.
        attempts: see ``ATTEMPTS``.
        timeout_s: see ``TIMEOUT_S``.
        pause_s: see ``PAUSE_S``.

    Raises:
        DownloadError: no network, the server refuses, or the bytes are not the published ones.
        DataError: the file cannot be written.
    """
    if path.exists():
        return
    url = mirrored(url, mirror)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    fruitless = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, path.name, tell, timeout_s)
            break
        except _Refused as error:
            raise DownloadError(f"{url} cannot be downloaded ({error}): correct the mirror, or try again later") from error
        except (OSError, http.client.HTTPException) as error:
            fruitless = 1 if _size(part) > before else fruitless + 1
            if fruitless >= attempts:
                raise DownloadError(
                    f"{url} cannot be downloaded, {attempts} attempts in a row brought nothing ({_reason(error)}): "
                    "check the network, then run the same command to go on"
                ) from error
            time.sleep(pause_s * 2 ** (fruitless - 1))
    _check(url, part, checksum, tell)
    os.replace(part, path)


def mirrored(url: str, mirror: str | None = None) -> str:
    """``url`` with scheme and host of the mirror, if one is given or ``$RAYDFKD_DATA_MIRROR`` names one."""
    mirror = mirror or os.environ.get(MIRROR) or None
    if mirror is None:
        return url
    if urlsplit(mirror).scheme not in ("http", "https"):
        raise DataError(f"mirror {mirror!r} is not an address: it must begin with http:// or https://")
    parts = urlsplit(url)
    return mirror.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


def _continue(url: str, part: Path, name: str, tell: Tell, timeout_s: float) -> None:
    """Downloads what is missing of ``part``; returns when it is whole. OSError or HTTPException: the connection broke."""
    have = _size(part)
    headers = {"User-Agent": "raydfkd", "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            _after_the_end(part, have, error)
            return
        if error.code in _TRY_AGAIN:
            raise
        raise _Refused(f"HTTP {error.code} {error.reason}") from error
    with response:
        begin, total = _extent(response, have)
        with _opened(part, begin) as file:
            done = _copy(response, file, part, lambda done: tell(name, begin + done, total))
    if total and begin + done < total:
        raise ConnectionError(f"the connection was cut after {begin + done:,} of {total:,} bytes")


def _opened(part: Path, begin: int) -> IO[bytes]:
    """The file, to be written from byte ``begin`` on; what it has behind is dropped."""
    try:
        file = part.open("r+b" if begin else "wb")
        file.seek(begin)
        file.truncate()
    except OSError as error:
        raise _cannot_write(part, error) from error
    return file


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """At which byte of the file the answer begins, and the file's length (0: not known)."""
    length = int(response.headers.get("Content-Length") or 0)
    if response.status != 206:
        return 0, length
    unit, _, rest = (response.headers.get("Content-Range") or "").partition(" ")
    first, _, total = rest.partition("/")
    if unit != "bytes" or first.partition("-")[0] != str(have):
        raise _Refused(f"it answers with bytes {first or 'of nowhere'} when asked for those from {have} on")
    return have, int(total) if total.isdecimal() else have + length


def _after_the_end(part: Path, have: int, error: urllib.error.HTTPError) -> None:
    """The server says that nothing lies behind the bytes that are there: the file is whole, or it is another one."""
    if (error.headers.get("Content-Range") or "") != f"bytes */{have}":
        part.unlink()
        raise ConnectionError(f"the {have:,} bytes of an earlier attempt are not of this file") from error


def _copy(response: IO[bytes], file: IO[bytes], part: Path, tell: Callable[[int], None]) -> int:
    """Appends the answer to the file; returns the number of bytes."""
    done = 0
    while chunk := response.read(_CHUNK_BYTES):
        try:
            file.write(chunk)
        except OSError as error:
            raise _cannot_write(part, error) from error
        done += len(chunk)
        tell(done)
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(part, error) from error
    return done


def _cannot_write(part: Path, error: OSError) -> DataError:
    return DataError(f"{part} cannot be written ({error.strerror}): free some space, or choose another folder by --out")


def _check(url: str, part: Path, checksum: str | None, tell: Tell) -> None:
    if checksum is None:
        return
    algorithm, _, wanted = checksum.partition(":")
    size = _size(part)
    got = digest(part, algorithm, lambda done: tell(f"checking {part.stem}", done, size))
    if got != wanted:
        with suppress(OSError):
            part.unlink()
        raise DownloadError(
            f"{url} has {algorithm} {got}, not the published {wanted}: it was damaged or replaced on the way, "
            "run the same command again or use another mirror"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(reason).strip().rstrip(".") or type(error).__name__

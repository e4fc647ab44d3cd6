"""A web server on the loopback interface that breaks connections as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server does, and what it was asked.

    Attributes:
        files: path to content.
        ranges: whether it sends parts of files.
        cut_after: of the next answers, the bytes after which each is cut off.
        refuse: of the next answers, their error codes.
        asked: (path, Range header) of every request.
    """

    files: dict[str, bytes]
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(files: dict[str, bytes], ranges: bool = True) -> Iterator[Served]:
    served = Served(files, ranges)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, served)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, served: Served) -> None:
    wanted = request.headers.get("Range")
    served.asked.append((request.path, wanted))
    content = served.files.get(request.path)
    if content is None or served.refuse:
        request.send_error(404 if content is None else served.refuse.pop(0))
        return
    begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and served.ranges else 0
    if begin >= len(content) > 0:
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{len(content)}")
        request.end_headers()
        return
    request.send_response(206 if begin else 200)
    if begin:
        request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - begin))
    request.end_headers()
    rest = content[begin:]
    request.wfile.write(rest[: served.cut_after.pop(0)] if served.cut_after else rest)

"""Downloads from a server on this machine: whole, cut off and resumed, refused, and never half there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import file_server
import numpy as np
import pytest
from file_server import Served

from raydfkd.data.fetching import downloader
from raydfkd.errors import DataError, DownloadError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
MD5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"

download = partial(downloader.download, pause_s=0.001, timeout_s=10)


@pytest.fixture
def served() -> Iterator[Served]:
    with file_server.serving({"/a/file.bin": CONTENT}) as served:
        yield served


def test_a_whole_file(served: Served, tmp_path: Path) -> None:
    path, told = tmp_path / "below" / "file.bin", []
    download(f"{served.url}/a/file.bin", path, SHA256, lambda *one: told.append(one))
    assert path.read_bytes() == CONTENT
    assert [one.name for one in path.parent.iterdir()] == ["file.bin"]
    assert ("file.bin", len(CONTENT), len(CONTENT)) in told
    assert told[-1] == ("checking file.bin", len(CONTENT), len(CONTENT))
    download(f"{served.url}/a/file.bin", path, SHA256)
    assert served.asked == [("/a/file.bin", None)], "what is there is not asked for again"


def test_a_connection_that_is_cut_is_resumed_where_it_was(served: Served, tmp_path: Path) -> None:
    served.cut_after = [100_000, 50_000]
    download(f"{served.url}/a/file.bin", tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in served.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_an_earlier_process_s_part_is_resumed(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    download(f"{served.url}/a/file.bin", tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert served.asked[0][1] == "bytes=1000-"


@pytest.mark.parametrize(("there", "requests"), [(CONTENT, 1), (CONTENT + b"more", 2)])
def test_a_part_that_is_whole_or_longer_than_the_file(served: Served, tmp_path: Path, there: bytes, requests: int) -> None:
    (tmp_path / "file.bin.part").write_bytes(there)
    download(f"{served.url}/a/file.bin", tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(served.asked) == requests


def test_a_server_that_sends_no_parts_begins_anew(served: Served, tmp_path: Path) -> None:
    served.ranges = False
    served.cut_after = [200_000, 100_000]
    download(f"{served.url}/a/file.bin", tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(served.asked) == 3


def test_a_server_that_is_busy_is_asked_again(served: Served, tmp_path: Path) -> None:
    served.refuse = [503, 429]
    download(f"{served.url}/a/file.bin", tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_another_file_than_the_published_one(served: Served, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=f"file.bin has {MD5[:3]} {MD5[4:]}, not the published 0123: .*run the same"
    ) as refused:
        download(f"{served.url}/a/file.bin", tmp_path / "file.bin", "md5:0123")
    assert refused.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_server_does_not_have_is_asked_for_once(served: Served, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"gone.bin cannot be downloaded \(HTTP 404 Not Found\): "):
        download(f"{served.url}/gone.bin", tmp_path / "gone.bin", None)
    assert len(served.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_attempts_that_bring_nothing_are_given_up_and_the_part_stays(served: Served, tmp_path: Path) -> None:
    served.cut_after = [70_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"3 attempts in a row brought nothing \(the connection was cut after 70,000 of"):
        download(f"{served.url}/a/file.bin", tmp_path / "file.bin", MD5, attempts=3)
    assert len(served.asked) == 3
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file.bin.part", CONTENT[:70_000])]


def test_no_server_at_all(tmp_path: Path) -> None:
    with file_server.serving({}) as gone:
        pass
    with pytest.raises(DownloadError, match=r"cannot be downloaded, 2 attempts in a row brought nothing .*check the network"):
        download(f"{gone.url}/a/file.bin", tmp_path / "file.bin", None, attempts=2)


def test_a_silent_server_is_not_waited_for_for_ever(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    over = threading.Event()
    monkeypatch.setattr(file_server, "answer", lambda *_: over.wait(30))
    with pytest.raises(DownloadError, match="timed out"):
        download(f"{served.url}/a/file.bin", tmp_path / "file.bin", None, attempts=1, timeout_s=0.1)
    over.set()


def test_a_folder_that_cannot_be_written(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        download(f"{served.url}/a/file.bin", tmp_path / "file" / "file.bin", None)
    assert served.asked == []


def test_a_mirror_stands_in_for_scheme_and_host(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download("https://data.example.org/a/file.bin", tmp_path / "one", MD5, mirror=served.url + "/")
    monkeypatch.setenv(downloader.MIRROR, served.url)
    download("https://data.example.org/a/file.bin", tmp_path / "two", MD5)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == CONTENT
    assert downloader.mirrored("http://x.example.org/a?b=1", "https://y.example.org/z") == "https://y.example.org/z/a?b=1"
    with pytest.raises(DataError, match="mirror 'file:///tmp' is not an address: it must begin with http"):
        downloader.mirrored("http://x.example.org/a", "file:///tmp")

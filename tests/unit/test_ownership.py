"""A run directory has one owner: a second is refused while the first lives, and takes over once it has died."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from raydfkd import ownership
from raydfkd.errors import RunDirError, RunInUseError, RunTakenOverError
from raydfkd.ownership import Owner, owned, owner_of, require_owned

ENDLESS = """
import sys, time
from raydfkd.ownership import owned
with owned(sys.argv[1], what="run"):
    print("owned", flush=True)
    time.sleep(600)
"""


def owner_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(".owner"))


def elsewhere(folder: Path, age_s: float = 0.0, number: int = 1) -> Path:
    """The file of an owner on another machine, last renewed ``age_s`` ago."""
    folder.mkdir(exist_ok=True)
    path = folder / f".owner-{number}"
    path.write_text(json.dumps(asdict(replace(Owner.this_process(), host="other", machine="another boot", token="t"))))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def in_a_thread(call) -> BaseException | None:
    """What ``call`` raised there."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def own(folder: Path, **settings) -> None:
    with owned(folder, what="run directory", **settings):
        pass


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with owned(tmp_path / "run", what="run directory run"):
        error = in_a_thread(lambda: own(tmp_path / "run", advice="wait"))
    assert isinstance(error, RunInUseError)
    assert f"is in use by process {os.getpid()} on host " in str(error)
    assert " since 20" in str(error)
    assert str(error).endswith(": wait")
    assert not (tmp_path / "run").exists(), "an empty folder that it made itself"
    own(tmp_path / "run")


def test_the_owning_thread_may_enter_again(tmp_path: Path) -> None:
    with owned(tmp_path, what="run"):
        with owned(tmp_path, what="run"):
            pass
        assert isinstance(in_a_thread(lambda: own(tmp_path)), RunInUseError)
    assert owner_files(tmp_path) == []


def test_two_files_of_a_folder_have_their_own_owners(tmp_path: Path) -> None:
    with owned(tmp_path, "a.safetensors", what="a"):
        assert in_a_thread(lambda: own(tmp_path)) is None
        assert isinstance(in_a_thread(lambda: owned(tmp_path, "a.safetensors", what="a").__enter__()), RunInUseError)


def test_a_process_that_was_killed_is_taken_over_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    with pytest.raises(RunInUseError, match=f"process {process.pid} "):
        own(tmp_path)
    process.kill()
    process.wait()
    found = owner_of(tmp_path)
    assert found is not None
    assert found.lives is False
    began = time.monotonic()
    own(tmp_path)
    assert time.monotonic() - began < 1
    assert owner_files(tmp_path) == []


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    """The kernel gives numbers again."""
    (tmp_path / ".owner-1").write_text(json.dumps(asdict(replace(Owner.this_process(), started="1"))))
    own(tmp_path)


def test_a_copy_of_an_owned_folder_is_free_and_a_moved_folder_is_not(tmp_path: Path) -> None:
    with owned(tmp_path / "run", what="run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert in_a_thread(lambda: own(tmp_path / "copy")) is None
        (tmp_path / "run").rename(tmp_path / "moved")
        assert isinstance(in_a_thread(lambda: own(tmp_path / "moved")), RunInUseError)


def test_an_owner_elsewhere_that_renews_its_file_is_refused_although_its_clock_is_wrong(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, age_s=3000)
    stop = threading.Event()

    def beat() -> None:
        n = 0
        while not stop.wait(0.02):
            n += 1
            os.utime(path, (time.time() - 3000 + n,) * 2)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RunInUseError, match="on host other since"):
            own(tmp_path, stale_s=4000)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("content", [None, ""])
def test_an_owner_elsewhere_without_a_sign_of_life_is_taken_over(tmp_path: Path, content: str | None) -> None:
    path = elsewhere(tmp_path)
    if content is not None:  # it died while it wrote the file
        path.write_text(content)
    began = time.monotonic()
    own(tmp_path, stale_s=0.5)
    assert 0.4 < time.monotonic() - began < 3
    assert owner_files(tmp_path) == []


def test_an_owner_that_had_died_long_ago_is_taken_over_at_once(tmp_path: Path) -> None:
    elsewhere(tmp_path, age_s=3600)
    began = time.monotonic()
    own(tmp_path)
    assert time.monotonic() - began < 1


def test_of_many_that_take_over_at_once_one_succeeds(tmp_path: Path) -> None:
    elsewhere(tmp_path, age_s=3600)
    start, done, inside = threading.Barrier(8), threading.Barrier(8), []

    def work() -> None:
        start.wait()
        try:
            with owned(tmp_path, what="run"):
                inside.append(threading.get_ident())
                done.wait()
        except RunInUseError:
            done.wait()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 1


def test_an_owner_that_slept_too_long_ends_and_leaves_the_other_alone(tmp_path: Path) -> None:
    def suspended() -> None:
        with owned(tmp_path, what="run directory run", heartbeat_s=0.02):
            elsewhere(tmp_path, number=2)
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                require_owned(tmp_path)
                time.sleep(0.01)

    error = in_a_thread(suspended)
    assert isinstance(error, RunTakenOverError)
    assert "taken over by process" in str(error)
    assert ".owner-2" in owner_files(tmp_path)


def test_a_living_owner_may_be_waited_for(tmp_path: Path) -> None:
    entered = threading.Event()

    def first() -> None:
        with owned(tmp_path, what="run"):
            entered.set()
            time.sleep(0.5)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    own(tmp_path, wait_s=10)
    thread.join()


def test_the_sign_of_life_is_renewed(tmp_path: Path) -> None:
    with owned(tmp_path, what="run", heartbeat_s=0.02):
        path = tmp_path / ".owner-1"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
        path.unlink()  # somebody tidied up
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match=r"cannot be written .*: choose another --out"):
        own(tmp_path / "file" / "run")


def test_without_proc_the_hosts_name_and_the_number_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_machine", lambda: "")
    mine = Owner.this_process()
    assert mine.lives
    assert replace(mine, process=2**22 + 1).lives is False
    assert replace(mine, host="other").lives is None

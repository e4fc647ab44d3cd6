"""What a local Ray needs of the machine: sockets on a path that is short enough, a home directory, shared memory."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from raydfkd.errors import ResourceError
from raydfkd.pipeline.experiment.config import RuntimeConfig
from raydfkd.runtime import local_ray, ray_session
from raydfkd.runtime.local_ray import ensure_home, temporary_folder, warn_of_little_shared_memory


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands for /tmp: the tests' own folders are too long."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(local_ray, "SHORT_PLACES", (str(tmp_path / "missing"), str(place)))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    yield place
    shutil.rmtree(place)


def test_ray_keeps_its_own_folder_where_its_sockets_fit(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    with temporary_folder() as folder:
        assert folder is None


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_batch_systems_long_path_is_replaced_by_a_short_one_for_as_long_as_ray_lives(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    long = tmp_path / ("job" * 20)
    long.mkdir()
    monkeypatch.setenv(variable, str(long))
    with temporary_folder() as folder:
        assert folder is not None
        assert Path(folder).parent == short
        assert len(os.path.join(folder, local_ray.SOCKET)) <= local_ray.SOCKET_BYTES
    assert not Path(folder).exists()


def test_a_folder_that_another_user_made_or_that_is_missing_is_replaced_too(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(short / "none"))
    with temporary_folder() as folder:
        assert folder is not None
    (short / "ray").mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != short / "ray" and real(path, mode))
    with temporary_folder() as folder:
        assert folder is not None


def test_without_any_place_the_user_is_told_how_long_it_may_be(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short / ("job" * 30)))
    monkeypatch.setattr(local_ray, "SHORT_PLACES", (str(short / "none"),))
    with pytest.raises(ResourceError, match=r"set RAY_TMPDIR to a folder of at most 35 characters, or use runtime\.runner"):
        temporary_folder().__enter__()


def test_a_user_without_a_home_directory_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ["HOME"]
    ensure_home()
    assert os.environ["HOME"] == before

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    ensure_home()
    assert Path.home() == Path(tempfile.gettempdir())


@pytest.mark.parametrize(("free", "told"), [(64e6, ["/dev/shm has 64 MB"]), (12e9, [])])
def test_little_shared_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: float, told: list[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free)))
    with caplog.at_level(logging.WARNING):
        warn_of_little_shared_memory()
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == told


def test_auto_without_a_cluster_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str, **options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_session.ray, "init", init)
    monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: False)
    config = SimpleNamespace(runtime=RuntimeConfig(address="auto"))
    with pytest.raises(ResourceError, match=r"^no Ray cluster runs on this machine, .*: start it with ray start --head, give"):
        ray_session.session(config).__enter__()

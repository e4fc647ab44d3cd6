"""What of a working directory a job takes along."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from raydfkd.errors import ConfigError
from raydfkd.runtime.jobs import job_package
from raydfkd.runtime.jobs.job_package import listed, pack


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def names_of(folder: Path, *excludes: str, named: tuple[Path, ...] = ()) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in listed(folder, excludes, named)}


def test_a_plain_folder_without_what_tools_make(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "b/c.yaml", ".venv/lib/x.py", "b/__pycache__/c.pyc", ".mypy_cache/x", "runs/r/student.safetensors")
    assert names_of(tmp_path) == {"a.py", "b/c.yaml"}
    assert names_of(tmp_path, "*.yaml") == {"a.py"}
    assert names_of(tmp_path, "b/") == {"a.py"}
    assert names_of(tmp_path, "b/*.yaml") == {"a.py"}


def test_of_a_git_checkout_what_git_would_commit_and_what_is_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.py",
        "new.py",
        "gone.py",
        "weights/t.safetensors",
        "weights/other.safetensors",
        "runs/r/x.bin",
        "data/1/i.png",
    )
    (tmp_path / ".gitignore").write_text("*.safetensors\n/data\n")
    for words in (["init", "-q"], ["add", "a.py", "gone.py"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    (tmp_path / "gone.py").unlink()
    assert names_of(tmp_path) == {".gitignore", "a.py", "new.py"}
    named = (tmp_path / "weights/t.safetensors", tmp_path / "data", tmp_path.parent, Path("/elsewhere"))
    assert names_of(tmp_path, named=named) == {".gitignore", "a.py", "new.py", "weights/t.safetensors", "data/1/i.png"}


def test_equal_contents_make_equal_bytes_and_keep_modes(tmp_path: Path) -> None:
    folder = write(tmp_path / "project", "a.py", "b/run.sh")
    (folder / "b/run.sh").chmod(0o755)
    assert pack(folder, tmp_path / "one.zip") == 2
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    pack(folder, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.read("b/run.sh") == b"b/run.sh"
        assert archive.getinfo("b/run.sh").external_attr >> 16 == 0o755


def test_too_large_names_the_largest_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "project", "a.py")
    (folder / "data").mkdir()
    (folder / "data/noise.bin").write_bytes(os.urandom(3 * 2**20))
    monkeypatch.setattr(job_package, "MAX_BYTES", 2**20)
    with pytest.raises(
        ConfigError, match=r"exceeds the 1 MiB that Ray accepts \(largest: data 3 MiB, a.py 0 MiB\): leave parts"
    ):
        pack(folder, tmp_path / "one.zip")
    assert pack(folder, tmp_path / "two.zip", ["*.bin"]) == 1


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        pack(tmp_path / "gone", tmp_path / "one.zip")

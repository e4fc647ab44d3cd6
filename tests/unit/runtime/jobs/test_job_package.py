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


def git(folder: Path, *words: str) -> None:
    settings = ["-c", "protocol.file.allow=always", "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run(["git", *settings, "-C", str(folder), *words], check=True, capture_output=True)


def checkout(folder: Path, *names: str) -> Path:
    write(folder, *names)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "all")
    return folder


def test_submodules_and_other_checkouts_in_it_come_along(tmp_path: Path) -> None:
    library = checkout(tmp_path / "library", "lib.py")
    inner = checkout(tmp_path / "inner", "inner.py")
    git(library, "submodule", "add", "-q", str(inner), "inner")
    git(library, "commit", "-qm", "inner")
    project = checkout(tmp_path / "project", "a.py")
    git(project, "submodule", "add", "-q", str(library), "third_party/library")
    git(project, "submodule", "update", "-q", "--init", "--recursive")
    nested = checkout(project / "nested", "n.py", "cache/big.bin")
    (nested / ".gitignore").write_text("cache2\n")
    write(nested, "cache2/x.bin")
    assert names_of(project) == {
        ".gitmodules", "a.py", "third_party/library/.gitmodules", "third_party/library/lib.py",
        "third_party/library/inner/inner.py", "nested/.gitignore", "nested/n.py", "nested/cache/big.bin",
    }  # fmt: skip
    assert "nested/n.py" not in names_of(project, "nested")


@pytest.mark.parametrize("in_git", [False, True])
def test_what_links_lead_to_is_there_under_each_path_and_circles_end(tmp_path: Path, in_git: bool) -> None:
    outside = write(tmp_path / "outside", "data/1.png", "one.yaml")
    folder = write(tmp_path / "project", "configs/v2/a.yaml")
    (folder / "configs/current").symlink_to("v2")
    (folder / "configs/v2/up").symlink_to("..")
    (folder / "data").symlink_to(outside / "data")
    (folder / "one.yaml").symlink_to(outside / "one.yaml")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    if in_git:
        git(folder, "init", "-q")
    found = names_of(folder)
    assert {"configs/v2/a.yaml", "configs/current/a.yaml", "data/1.png", "one.yaml"} <= found
    assert len(found) < 10
    pack(folder, tmp_path / "one.zip")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.read("data/1.png") == b"data/1.png"


def test_a_named_folder_is_sent_with_what_is_behind_its_links(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", "1.png")
    folder = write(tmp_path / "project", "a.py")
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("/data\n")
    (folder / "data").mkdir()
    (folder / "data/zero").symlink_to(outside)
    assert "data/zero/1.png" in names_of(folder, named=(folder / "data",))


@pytest.mark.parametrize("in_git", [False, True])
def test_names_of_any_encoding_are_sent(tmp_path: Path, in_git: bool, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "project", "é ü.txt", "line\nbreak.txt")
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt"))).write_text("latin")
    if in_git:
        git(folder, "init", "-q")
    assert pack(folder, tmp_path / "one.zip") == 3
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert set(archive.namelist()) == {"é ü.txt", "line\nbreak.txt", "café.txt"}
        assert archive.read("café.txt") == b"latin"
    assert "not UTF-8" in caplog.text


def test_a_file_that_is_too_large_is_not_read_to_its_end_nor_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "project", "a.py")
    (folder / "noise.bin").write_bytes(os.urandom(8 * 2**20))
    monkeypatch.setattr(job_package, "MAX_BYTES", 2**20)
    read: list[int] = []
    whole = job_package.Path.open

    def counted(self: Path, *arguments: object, **options: object):
        file = whole(self, *arguments, **options)
        if self.name == "noise.bin":
            original = file.read
            monkeypatch.setattr(job_package, "_PIECE_BYTES", 2**16)

            class Counting:
                def __enter__(self) -> object:
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

                def read(self, size: int) -> bytes:
                    assert 0 < size <= 2**20
                    piece = original(size)
                    read.append(len(piece))
                    return piece

            return Counting()
        return file

    monkeypatch.setattr(job_package.Path, "open", counted)
    with pytest.raises(ConfigError, match="exceeds the 1 MiB"):
        pack(folder, tmp_path / "one.zip")
    assert sum(read) < 2 * 2**20

"""A .pt2 archive that asks torch to unpickle something is refused before torch reads it."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydfkd.errors import CheckpointError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.export import export_model
from raydfkd.models.exported import load_exported


class Malicious:
    """Its pickle creates the file ``marker`` when it is loaded without restriction."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.marker), "w")


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def torch_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "plain.pt2"
    export_model(build_classifier("small_cnn_2", 2, (1, 8, 8)), (1, 8, 8), path, "pt2", (0.5,), (0.5,))
    return path


def with_pickled_weight(plain: Path, folder: Path, key: str, marker: Path) -> Path:
    def change(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            first = next(iter(config["config"].values()))
            first[key] = True if key == "use_pickle" else "opaque_obj_0"
            return json.dumps(config).encode()
        return torch_pickle(Malicious(marker)) if name.endswith("weight_0") else content

    return rewritten(plain, folder / "bad.pt2", change)


def test_the_attack_is_real_without_our_check(plain: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with contextlib.suppress(Exception):
        torch.export.load(with_pickled_weight(plain, tmp_path, "use_pickle", marker))
    assert marker.exists()


@pytest.mark.parametrize("key", ["use_pickle", "path_name"])
def test_pickled_weights_are_refused(plain: Path, tmp_path: Path, key: str) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(CheckpointError, match="rejected and nothing in it was run"):
        load_exported(with_pickled_weight(plain, tmp_path, key, marker))
    assert not marker.exists()


def test_a_malicious_sample_input_is_refused(plain: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    bad = rewritten(plain, tmp_path / "bad.pt2", lambda n, c: torch_pickle(Malicious(marker)) if n.endswith(".pt") else c)
    with pytest.raises(CheckpointError, match="rejected and nothing in it was run"):
        load_exported(bad)
    assert not marker.exists()


def test_the_old_format_and_compiled_code_are_refused(plain: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "8.2")
        archive.writestr("serialized_state_dict.pt", b"")
    with pytest.raises(CheckpointError, match=r"torch 2\.7 or older"):
        load_exported(tmp_path / "old.pt2")
    native = rewritten(plain, tmp_path / "native.pt2", lambda name, content: content)
    with zipfile.ZipFile(native, "a") as archive:
        archive.writestr("native/data/aotinductor/model/code.so", b"\x7fELF")
    with pytest.raises(CheckpointError, match="compiled code"):
        load_exported(native)

"""Teachers that are programs: ``torch.export`` files (.pt2), a graph and its weights without the Python code, and TorchScript.

A .pt2 file is a program: use only files from sources whose code you would run. Obvious risks are rejected: torch unpickles
some parts of such archives without restriction, and files that have such parts are rejected before torch reads them.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydfkd.errors import CheckpointError

CONFIG_FOLDERS = ("data/weights/", "data/constants/")
PICKLED_OBJECT_PREFIXES = ("custom_obj_", "opaque_obj_")
NATIVE_CODE_FOLDER = "data/aotinductor/"
ROOT_PARTS = 1
"""Archive names start with the archive's own name, one part."""


class ExportedClassifier(nn.Module):
    """A loaded program as a module: forward only, always as it was exported; its layers are not accessible."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.program(images)

    def train(self, mode: bool = True) -> ExportedClassifier:
        """Does nothing: an exported graph keeps the mode in which it was exported, and raises on a change."""
        return self


class ScriptedClassifier(nn.Module):
    """A TorchScript program as a module, in evaluation mode for good; what it executes are no layers that can be seen."""

    def __init__(self, program: torch.jit.ScriptModule) -> None:
        super().__init__()
        with suppress(AttributeError, RuntimeError):  # torch.jit.freeze has removed the mode
            program.eval()
        self.program = program

    def forward(self, images: torch.Tensor) -> Any:
        return self.program(images)

    def train(self, mode: bool = True) -> ScriptedClassifier:
        """Does nothing."""
        return self


def load_exported(path: str | Path) -> ExportedClassifier:
    """Loads a program saved with ``torch.export.save``.

    Raises:
        CheckpointError: the file is missing, damaged, of an outdated format, or holds pickled objects or native code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no exported program {path}: correct the path, or create the file first")
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_code(archive, path)
        with _silent_loader():
            return ExportedClassifier(torch.export.load(path))
    except (zipfile.BadZipFile, RuntimeError, ValueError, KeyError, AssertionError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"{path} is not a complete torch.export file ({reason}); export it again with this torch"
        ) from error


@contextmanager
def _silent_loader() -> Iterator[None]:
    """torch logs problems with a damaged file to stderr before it raises the error that we report."""
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _refuse_code(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises CheckpointError if torch would unpickle something unrestricted, or load compiled code, from this archive."""
    for full_name in archive.namelist():
        name = "/".join(full_name.split("/")[ROOT_PARTS:])
        if not name:
            raise CheckpointError(f"{path} has the format of torch 2.7 or older, which is unsafe to load; export it again")
        if name.startswith(NATIVE_CODE_FOLDER):
            raise CheckpointError(f"{path} holds compiled code ({name}); use one made by torch.export.save")
        if name.endswith(".pt"):
            _require_plain_tensors(archive.read(full_name), name, path)
        if name.startswith(CONFIG_FOLDERS) and name.endswith(".json"):
            payloads = json.loads(archive.read(full_name)).get("config", {}).values()
            for payload in payloads:
                if payload.get("use_pickle") or str(payload.get("path_name", "")).startswith(PICKLED_OBJECT_PREFIXES):
                    raise _refusal(path, str(payload.get("path_name")))


def _require_plain_tensors(content: bytes, name: str, path: Path) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, name) from error


def _refusal(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path} holds Python objects and not only tensors ({name}), so loading it could run code; it was rejected and nothing "
        "in it was run"
    )

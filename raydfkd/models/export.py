"""Exports a finished student for other programs, as a file or a folder, and verifies it by loading it again."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from raydfkd.errors import ConfigError, RunFailedError
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.exported import load_exported
from raydfkd.models.hugging_face.hub_models import require_library, write_folder
from raydfkd.models.teachers.frozen_teacher import Normalization
from raydfkd.models.weights import load_weights, save_weights

EXPORT_FORMATS = ("pt2", "onnx", "safetensors")
FOLDER_FORMATS = ("transformers", "timm")
MAX_ABS_DIFFERENCE = 1e-4
"""Allowed difference between the logits of the exported file and the source model."""
TRACED_BATCH_SIZE = 2
CHECKED_BATCH_SIZE = 3
"""Differs from the traced size, to detect a batch size baked in by mistake."""

Rerun = Callable[[torch.Tensor], torch.Tensor]
"""Images [B,C,H,W] in [0,1] to logits, through the exported file."""


def export_model(
    model: nn.Module,
    image_shape: ImageShape,
    path: str | Path,
    format: str,
    mean: Sequence[float],
    std: Sequence[float],
    metadata: dict[str, str] | None = None,
) -> float:
    """Writes ``model`` to ``path`` and returns the largest absolute difference of its logits after loading it again.

    ``pt2`` and ``onnx`` take float32 images [B,C,H,W] in [0,1] with any B, and normalise them inside. ``safetensors`` holds
    only the weights; mean and std, and ``metadata`` if given, are in its header. The model itself is not changed.

    Raises:
        ConfigError: the format is unknown, its libraries are not installed, or ``path`` cannot be written.
        RunFailedError: the file's logits differ from the model's by more than ``MAX_ABS_DIFFERENCE``.
    """
    path = Path(path)
    if format not in EXPORT_FORMATS:
        raise ConfigError(f"unknown export format {format!r}; known are {', '.join(EXPORT_FORMATS)}")
    _require_writable(path)
    network = copy.deepcopy(model).cpu().float().requires_grad_(False)
    whole = nn.Sequential(Normalization(mean, std), network).eval()
    if format == "pt2":
        rerun = _export_pt2(whole, image_shape, path)
    elif format == "onnx":
        rerun = _export_onnx(whole, image_shape, path)
    else:
        header = {"mean": json.dumps(list(mean)), "std": json.dumps(list(std)), **(metadata or {})}
        rerun = _export_safetensors(whole, path, header)
    return _largest_difference(whole, rerun, image_shape, path)


def export_folder(
    network: nn.Module,
    model: str,
    image_shape: ImageShape,
    folder: str | Path,
    format: str,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] | None = None,
) -> float:
    """Writes a network of transformers or timm as a folder that the library loads, and returns the largest absolute difference
    of its logits after loading it again. The folder's settings say how to normalise; the network takes normalised images.

    Args:
        model: what the network was built from, ``hf:...`` or ``timm:NAME``.
        classes: their names, in the order of the logits.

    Raises:
        ConfigError: the network is not of that library, or the folder cannot be written or holds something.
        RunFailedError: as :func:`export_model`.
    """
    folder = Path(folder)
    require_library(format, model)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} holds something already: give the name of a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}): choose another path") from error
    own = copy.deepcopy(network).cpu().float().requires_grad_(False)
    loaded = write_folder(own, format, folder, image_shape, mean, std, classes)
    whole, rerun = (nn.Sequential(Normalization(mean, std), one).eval() for one in (own, loaded))
    return _largest_difference(whole, rerun, image_shape, folder)


def _require_writable(path: Path) -> None:
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written: {path.parent} is not a writable folder, choose another path")
    if path.is_dir():
        raise ConfigError(f"{path} cannot be written: it is a folder, give the name of a file in it")


def _export_pt2(whole: nn.Sequential, image_shape: ImageShape, path: Path) -> Rerun:
    if path.suffix != ".pt2":
        raise ConfigError(f"{path}: a pt2 export must end in .pt2, because torch.export checks the suffix")
    example = torch.zeros(TRACED_BATCH_SIZE, *image_shape)
    program = torch.export.export(whole, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return load_exported(path)


def _export_onnx(whole: nn.Sequential, image_shape: ImageShape, path: Path) -> Rerun:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {', '.join(missing)}, not installed: pip install 'raydfkd[onnx]'")
    import onnxruntime

    example = torch.zeros(TRACED_BATCH_SIZE, *image_shape)
    torch.onnx.export(
        whole,
        (example,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def rerun(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return rerun


def _export_safetensors(whole: nn.Sequential, path: Path, header: dict[str, str]) -> Rerun:
    save_weights(whole[1], path, header)
    reloaded = copy.deepcopy(whole)
    with torch.no_grad():
        for parameter in reloaded[1].parameters():
            parameter.zero_()  # so that tensors missing from the file show up in the difference
    load_weights(reloaded[1], path)
    return reloaded


@torch.no_grad()
def _largest_difference(whole: nn.Sequential, rerun: Rerun, image_shape: ImageShape, path: Path) -> float:
    images = torch.rand(CHECKED_BATCH_SIZE, *image_shape, generator=torch.Generator().manual_seed(0))
    difference = float((rerun(images) - whole(images)).abs().max())
    if not difference <= MAX_ABS_DIFFERENCE:  # also true for NaN
        raise RunFailedError(
            f"{path} was written, but its logits differ from the model's by {difference:.3g} (allowed {MAX_ABS_DIFFERENCE:g}); "
            "do not use it"
        )
    return difference

"""Condensed sets of others: torch files of images in a stated normalisation, as the published code of DC, DSA, DM and MTT saves
them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.data.checksums import digest
from raydfkd.data.condensation.condensed_set import CondensedSet, to_bytes
from raydfkd.deferred import deferred
from raydfkd.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")

MOST_OUTSIDE = 0.2
"""Share of values outside of black and white from which on the stated normalisation must be wrong."""


def import_torch_set(
    path: Path,
    labels_path: Path | None,
    number: int,
    mean: Sequence[float],
    std: Sequence[float],
    classes: tuple[str, ...] | None,
) -> CondensedSet:
    """Reads images and labels of another program.

    Args:
        path: a tensor [N,C,H,W]; or a mapping with ``data``, a list of pairs of images and labels, one for each experiment.
        labels_path: of a tensor's labels, int [N], or probabilities or logits [N,K].
        number: which experiment's pair, from 0.
        mean, std: how the images are normalised: (pixel in [0,1] - mean) / std.
        classes: their names; None: numbers.

    Raises:
        DataError: a file is missing or holds something else, or the normalisation cannot be that of the images.
    """
    images, labels = _pair(path, labels_path, number)
    if not (images.ndim == 4 and images.is_floating_point() and len(images) == len(labels) > 0):
        raise DataError(
            f"{path} has images {list(images.shape)} of {images.dtype} and {len(labels)} labels: it needs float images "
            "[N,C,H,W] and a label of each"
        )
    if images.shape[1] not in (1, 3) or len(mean) != images.shape[1]:
        raise DataError(
            f"{path} has images of {images.shape[1]} channels and the normalisation {len(mean)}: give a mean and a std for "
            "each of 1 or 3 channels"
        )
    soft = _probabilities(labels.float()).numpy() if labels.ndim == 2 else None
    hard = labels.argmax(1) if labels.ndim == 2 else labels.long()
    count = labels.shape[1] if labels.ndim == 2 else int(hard.max()) + 1
    if classes is not None and len(classes) != count:
        raise DataError(
            f"{path} has labels of {count} classes and the data set {len(classes)}: name the data set it stands for"
        )
    pixels = images.detach().float().numpy()
    _require_range(pixels, mean, std, path)
    names = tuple(str(k) for k in range(count)) if classes is None else classes
    about = {"imported_from": path.name, "sha256": digest(path, "sha256"), "mean": list(mean), "std": list(std)}
    return CondensedSet(to_bytes(pixels, tuple(mean), tuple(std)), hard.numpy().astype(np.int64), names, soft, about)


def _probabilities(labels_NK: Tensor) -> Tensor:
    """The labels, or their softmax where they are logits."""
    are = bool((labels_NK >= 0).all()) and bool(((labels_NK.sum(1) - 1).abs() < 1e-3).all())
    return labels_NK if are else labels_NK.softmax(1)


def _pair(path: Path, labels_path: Path | None, number: int) -> tuple[Tensor, Tensor]:
    found = _loaded(path)
    if isinstance(found, dict) and "data" in found:
        pairs = found["data"]
        if not 0 <= number < len(pairs):
            raise DataError(f"{path} holds {len(pairs)} sets: choose --number from 0 to {len(pairs) - 1}")
        images, labels = pairs[number]
        return torch.as_tensor(images), torch.as_tensor(labels)
    if not isinstance(found, torch.Tensor):
        raise DataError(
            f"{path} holds a {type(found).__name__}: give a tensor of images, or a mapping with a list of pairs, data"
        )
    if labels_path is None:
        raise DataError(f"{path} holds images alone: name the file of their labels with --labels")
    labels = _loaded(labels_path)
    if not isinstance(labels, torch.Tensor):
        raise DataError(f"{labels_path} holds a {type(labels).__name__}: give a tensor of labels")
    return found, labels


def _loaded(path: Path) -> Any:
    """What a torch file holds; figures of numpy beside the tensors are allowed, as others save their accuracies there."""
    if not path.is_file():
        raise DataError(f"{path} does not exist: correct its path")
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    names = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    kinds: list[Any] = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    try:
        with torch.serialization.safe_globals([*names, *kinds]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a torch file of tensors ({str(error).strip().splitlines()[0]}): save plain tensors with "
            "torch.save"
        ) from error


def _require_range(images: np.ndarray, mean: Sequence[float], std: Sequence[float], path: Path) -> None:
    shape = (1, -1, 1, 1)
    plain = images * np.asarray(std, np.float32).reshape(shape) + np.asarray(mean, np.float32).reshape(shape)
    outside = float(((plain < -0.5 / 255) | (plain > 1 + 0.5 / 255)).mean())
    if outside > MOST_OUTSIDE:
        raise DataError(
            f"{outside:.0%} of the values of {path} lie outside of black and white with mean {list(mean)} and std {list(std)}: "
            "state the normalisation that its images have; whitened (ZCA) images cannot be imported"
        )

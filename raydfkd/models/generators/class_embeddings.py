"""Vectors that stand for classes: from a file, from a text encoder of transformers, or drawn."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raydfkd.errors import ConfigError, first_line
from raydfkd.models.hugging_face.hub_folder import PREFIX
from raydfkd.models.hugging_face.hub_models import import_transformers

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz", ".npy")
PROMPT = "a image of {}"
"""NAYER's, as its code has it."""


def read_embeddings(path: Path, num_classes: int) -> Tensor:
    """float32 [K,D] of a file: its only array with a row for each of ``num_classes`` = K classes.

    Raises:
        ConfigError: there is no such file, it cannot be read without running code, or it has no such array or several.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path} of class embeddings: correct the path")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"class embeddings {path} end in {path.suffix!r}; allowed are {', '.join(SUFFIXES)}")
    try:
        arrays = _arrays_of(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"class embeddings {path} cannot be read ({first_line(error)}): write one array of numbers [classes,width]"
        ) from error
    fitting = [array for array in arrays.values() if array.ndim == 2 and len(array) == num_classes and array.shape[1] > 0]
    if len(fitting) != 1:
        held = ", ".join(f"{list(array.shape)}" for array in arrays.values()) or "nothing"
        raise ConfigError(
            f"class embeddings {path} hold {held}: give one array [{num_classes},width], a row for each class of the task"
        )
    return fitting[0].float()


def _arrays_of(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npy":
        return {"": torch.from_numpy(np.load(path, allow_pickle=False))}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file}
    content = torch.load(path, map_location="cpu", weights_only=True)
    parts: Mapping[str, Any] = content if isinstance(content, Mapping) else {"": content}
    return {str(name): part for name, part in parts.items() if isinstance(part, Tensor)}


def encode_names(reference: str, names: Sequence[str]) -> Tensor:
    """float32 [K,D]: the projected text features that a CLIP model of transformers gives for the classes' names.

    As in NAYER's code the text is "a image of NAME", - and _ read as spaces, and the features are not scaled.

    Args:
        reference: ``hf:FOLDER`` or ``hf:ORG/NAME`` (its local copy, or downloaded).

    Raises:
        ConfigError: transformers is not installed, or there is no such model.
    """
    transformers = import_transformers(reference)
    texts = [PROMPT.format(name.replace("_", " ").replace("-", " ")) for name in names]
    place = reference.removeprefix(PREFIX)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        encoder = transformers.CLIPTextModelWithProjection.from_pretrained(place).eval()
        with torch.no_grad():
            embeddings: Tensor = encoder(**tokenizer(texts, padding=True, return_tensors="pt")).text_embeds
    except Exception as error:  # of many libraries
        raise ConfigError(
            f"text_encoder {reference!r} cannot encode the class names ({first_line(error)}): give a CLIP model of "
            "transformers, or write the embeddings to a file and name it in class_embeddings"
        ) from error
    return embeddings.float()


def random_codes(num_classes: int, width: int, generator: torch.Generator) -> Tensor:
    """float32 [K,D] of unit variance, orthogonal to one another where D >= K: ours, for where no text is at hand.

    ``generator`` is a CPU generator.
    """
    codes: Tensor = nn.init.orthogonal_(torch.empty(num_classes, width), generator=generator)
    return codes * max(num_classes, width) ** 0.5

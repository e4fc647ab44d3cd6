"""What a folder says of its image classifier: its library, classes, image size and normalisation. Imports no library.

The folder is one that transformers' ``save_pretrained`` or timm's ``save_for_hf`` wrote, or the local copy of such a one from
the hub: ``hf:FOLDER`` or ``hf:ORG/NAME``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raydfkd.errors import ConfigError, first_line

PREFIX = "hf:"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
NEEDED_FILES = (CONFIG, PROCESSOR, "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")
HUB_TIMEOUT_S = 10.0
_ON_THE_HUB = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


@dataclass(frozen=True)
class HubFolder:
    """The folder of one classifier.

    Attributes:
        path: where it lies.
        config: what its config.json holds.
        processor: what its preprocessor_config.json holds; empty without one.
    """

    path: Path
    config: dict[str, Any]
    processor: dict[str, Any]

    @property
    def library(self) -> Literal["transformers", "timm"]:
        return "timm" if "architecture" in self.config else "transformers"

    @property
    def num_classes(self) -> int | None:
        if self.library == "timm":
            return self.config.get("num_classes", self._timm.get("num_classes"))
        labels = self.config.get("id2label")
        return len(labels) if labels else self.config.get("num_labels", 2)  # transformers writes no labels where there are 2

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names in the order of the logits; None where it has numbers alone."""
        if self.library == "timm":
            names = self.config.get("label_names", self._timm.get("label_names"))
        else:
            labels = self.config.get("id2label") or {}
            names = [labels[key] for key in sorted(labels, key=int)]
        if not names or all(str(name) == f"LABEL_{number}" for number, name in enumerate(names)):
            return None
        return tuple(str(name) for name in names)

    @property
    def channels(self) -> int | None:
        return self._input_size[0] if self._input_size else self.config.get("num_channels")

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) of the images it was trained on."""
        if self._input_size:
            return self._input_size[1], self._input_size[2]
        given = self.processor.get("size")
        if self.processor.get("do_center_crop") and self.processor.get("crop_size"):
            given = self.processor["crop_size"]
        return _size_of(given) or _size_of(self.config.get("image_size"))

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) of each channel for images in [0,1].

        A processor gives (255 r x + o - m) / s for such images x, with the factor r by which it rescales pixels (1 if it does
        not), its offset o, mean m and std s: mean (m - o) / 255 r and std s / 255 r.
        """
        mean, std = self._timm.get("mean"), self._timm.get("std")
        if mean and std:
            return tuple(mean), tuple(std)
        if not self.processor:
            return None
        if not self.processor.get("do_normalize", True):
            mean, std = [0.0] * (self.channels or 3), [1.0] * (self.channels or 3)
        else:
            mean, std = self.processor.get("image_mean"), self.processor.get("image_std")
        if not mean or not std:
            return None
        factor = self.processor.get("rescale_factor", 1 / 255) if self.processor.get("do_rescale", True) else 1.0
        offset = -1.0 if self.processor.get("rescale_offset") else 0.0
        scale = 255 * factor
        return tuple((m - offset) / scale for m in mean), tuple(s / scale for s in std)

    @property
    def _timm(self) -> dict[str, Any]:
        return self.config.get("pretrained_cfg") or {} if "architecture" in self.config else {}

    @property
    def _input_size(self) -> tuple[int, int, int] | None:
        given = self._timm.get("input_size")
        return None if given is None else (int(given[0]), int(given[1]), int(given[2]))


def open_hub_folder(reference: str) -> HubFolder:
    """The folder of ``hf:FOLDER`` or ``hf:ORG/NAME``; of the latter the local copy, which is downloaded if there is none.

    Raises:
        ConfigError: there is no such folder, it cannot be downloaded, or it holds no image classifier's config.json.
    """
    name = reference.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name)
    config = _read(folder / CONFIG, reference)
    if not config:
        raise ConfigError(f"model {reference!r}: {folder} holds no {CONFIG}: give a folder that transformers or timm wrote")
    if "architecture" not in config and "model_type" not in config:
        raise ConfigError(
            f"model {reference!r}: {folder / CONFIG} names neither a model_type (transformers) nor an architecture (timm)"
        )
    return HubFolder(folder.absolute(), config, _read(folder / PROCESSOR, reference))


def is_hub_folder(path: Path) -> bool:
    """Whether the path is a folder of this kind."""
    return (path / CONFIG).is_file()


def _read(path: Path, reference: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {reference!r}: {path} is not a JSON file ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"model {reference!r}: {path} holds no JSON object: copy it again")
    return content


def _size_of(given: Any) -> tuple[int, int] | None:
    """(H, W) of a size as processors and configs write it: a number, a pair, or a mapping."""
    if isinstance(given, int):
        return given, given
    if isinstance(given, list | tuple) and len(given) == 2:
        return int(given[0]), int(given[1])
    if isinstance(given, Mapping):
        if "height" in given and "width" in given:
            return int(given["height"]), int(given["width"])
        if isinstance(given.get("shortest_edge"), int):
            return given["shortest_edge"], given["shortest_edge"]
    return None


def _from_hub(name: str) -> Path:
    """The local copy of a repository of the hub."""
    if _ON_THE_HUB.fullmatch(name) is None:
        raise ConfigError(f"model 'hf:{name}': there is no folder {name}: correct its path, or give hf:ORG/NAME")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"model 'hf:{name}': there is no folder {name}, and the hub needs huggingface_hub, which is not installed: "
            "pip install 'raydfkd[transformers]'"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(NEEDED_FILES), local_files_only=True))
    except Exception:  # no local copy, or not a whole one
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=list(NEEDED_FILES), etag_timeout=HUB_TIMEOUT_S))
    except Exception as error:  # of many libraries
        raise ConfigError(
            f"model 'hf:{name}': there is no folder {name}, no local copy from the hub, and the hub cannot be asked or "
            f"has none ({first_line(error)}): correct the name, or download it where there is a network and give its folder"
        ) from error

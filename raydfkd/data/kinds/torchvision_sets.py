"""Data sets that torchvision reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, DatasetKind, Source, evenly_spaced, numbered, read_whole, slices
from raydfkd.data.decoding import opened
from raydfkd.data.kinds.torchvision_masks import open_torchvision_masks
from raydfkd.errors import DataError, UnknownNameError
from raydfkd.registry import nearest
from raydfkd.settings import InputFile

if TYPE_CHECKING:
    from PIL.Image import Image


class TorchvisionConfig(DatasetConfig):
    """A data set that torchvision reads. Nothing is downloaded: the files must be there."""

    kind: Literal["torchvision"] = "torchvision"

    name: str
    """Class name in ``torchvision.datasets``, such as CIFAR10."""

    root: Annotated[str, InputFile()]
    """Folder that holds its files, as torchvision lays them out."""

    split: str = "test"
    """``train`` or ``test``; or a value of the data set's own ``split`` argument."""

    @property
    def location(self) -> str:
        return self.name


def open_torchvision(config: TorchvisionConfig, labelled: bool) -> Source:
    dataset = torchvision_dataset(config, labelled)
    labels_of = getattr(dataset, "targets", getattr(dataset, "labels", None))
    chosen = evenly_spaced(len(dataset), config.max_images)

    def chunks() -> Iterator[Chunk]:
        for part in slices(chosen):
            labels = [-1] * len(part)
            if labelled:
                labels = [int(labels_of[i]) if labels_of is not None else int(dataset[int(i)][1]) for i in part]
            name = numbered(f"image {{}} of {config.name}", part.tolist())
            yield Chunk(part.tolist(), np.array(labels, dtype=np.int64), name)

    classes = getattr(dataset, "classes", None)
    return Source(
        config.name,
        f"torchvision {config.name} in {config.root}",
        len(chosen),
        None if classes is None else tuple(str(name) for name in classes),
        lambda i: _torchvision_image(config, dataset, int(i)),
        chunks(),
    )


def _torchvision_image(config: TorchvisionConfig, dataset: Any, i: int) -> Image:
    from PIL import Image

    found = opened(lambda: dataset[i][0])
    if not isinstance(found, Image.Image):
        raise DataError(f"torchvision {config.name} has {type(found).__name__} in place of an image: use another data set")
    return found


def torchvision_dataset(config: TorchvisionConfig, labelled: bool, loader: Callable[[Any], Any] | None = None) -> Any:
    """torchvision's own reader of the data set.

    Args:
        labelled: whether labels will be read; without, data sets without a split are read too.
        loader: what it makes of an image file's path, where it has files and takes such a function; None: a PIL image.

    Raises:
        UnknownNameError: torchvision has no such data set.
        DataError: its files are not there, or it has no such split.
    """
    from torchvision import datasets

    known = [name for name in datasets.__all__ if name not in ("VisionDataset", "FakeData", "DatasetFolder", "ImageFolder")]
    if config.name not in known:
        raise UnknownNameError(f"unknown torchvision data set {config.name!r}: {nearest(config.name, known)}")
    factory = getattr(datasets, config.name)
    accepted = inspect.signature(factory).parameters
    arguments: dict[str, Any] = {"download": False} if "download" in accepted else {}
    if loader is not None and "loader" in accepted:
        arguments["loader"] = loader
    if "train" in accepted:
        if config.split not in ("train", "test"):
            raise DataError(f"torchvision {config.name} has splits train and test, not {config.split!r}: change split")
        arguments["train"] = config.split == "train"
    elif "split" in accepted:
        arguments["split"] = config.split
    elif labelled:
        raise DataError(f"torchvision {config.name} has no train or test split to read: use an image_folder instead")
    elif needed := [name for name, one in accepted.items() if one.default is one.empty and name != "root"]:
        raise DataError(f"torchvision {config.name} needs {', '.join(needed)} besides root: use an image_folder instead")
    try:
        return factory(str(Path(config.root).expanduser()), **arguments)
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"torchvision {config.name} ({config.split}) cannot be read in {config.root} ({reason}): "
            "put its files there, nothing is downloaded"
        ) from error


DATASET = DatasetKind(
    config=TorchvisionConfig,
    title="a data set that torchvision reads",
    open=open_torchvision,
    rows=read_whole(open_torchvision),
    open_masks=lambda config: open_torchvision_masks(config.name, config.root, config.split, config.max_images),
)

"""The kinds of data sets by name. A new one is a file and a line here, or an entry point ``raydfkd.datasets`` elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from raydfkd.data.catalogue import split_short_form
from raydfkd.data.dataset_kind import DatasetConfig, DatasetKind, RowReader, Source
from raydfkd.errors import DataError
from raydfkd.registry import Registry

DATASETS: Registry[DatasetKind] = Registry("data set kind", DatasetKind, "raydfkd.datasets")
DATASETS.add("digits", "raydfkd.data.kinds.digits:DATASET")
DATASETS.add("parquet", "raydfkd.data.kinds.parquet:DATASET")
DATASETS.add("image_folder", "raydfkd.data.kinds.image_folder:DATASET")
DATASETS.add("torchvision", "raydfkd.data.kinds.torchvision_sets:DATASET")
DATASETS.add("named", "raydfkd.data.kinds.named:DATASET")
DATASETS.add("condensed", "raydfkd.data.kinds.condensed:DATASET")
DATASETS.add("shapes", "raydfkd.data.kinds.drawn_shapes:DATASET")
DATASETS.add("mask_folders", "raydfkd.data.kinds.mask_folders:DATASET")


def _written_short(value: Any) -> Any:
    """``NAME/SPLIT`` is short for a named data set."""
    return split_short_form(value) if isinstance(value, str) else value


if TYPE_CHECKING:
    AnyDataset = DatasetConfig
else:
    AnyDataset = Annotated[DATASETS.union("kind"), BeforeValidator(_written_short)]
    """Settings of any data set, distinguished by ``kind``; or ``NAME/SPLIT``, short for a named one."""


def open_source(config: DatasetConfig, labelled: bool = True) -> Source:
    """The stream of images that a config describes.

    Args:
        labelled: False reads no labels, and needs none: a folder may hold images alone, a Parquet file an image column.

    Raises:
        DataError: it is not there or not readable as what it should be.
    """
    return DATASETS.get(config.kind).open(config, labelled)


def open_masks(config: DatasetConfig) -> Source:
    """As :func:`open_source`, with a mask of classes for each image in place of a label.

    Raises:
        DataError: as there; also if data sets of this kind have no masks.
    """
    opened = DATASETS.get(config.kind).open_masks
    if opened is None:
        having = ", ".join(name for name in DATASETS.names() if DATASETS.get(name).open_masks is not None)
        raise DataError(f"a data set of kind {config.kind!r} has no masks: give one of kind {having}")
    return opened(config)


def open_rows(config: DatasetConfig) -> RowReader:
    """The reader of rows at random, for pipelines whose workers read a part each; ``max_images`` evenly spaced rows of it
    where the settings say so. It is small, can be sent to another process, and reads there only what it is asked for.

    Raises:
        DataError: it is not there, not readable as what it should be, empty, or of a kind that cannot be read so.
    """
    rows = DATASETS.get(config.kind).rows
    if rows is None:
        raise DataError(f"a data set of kind {config.kind!r} cannot be read in parts: convert it to Parquet files")
    reader = rows(config)
    if reader.total == 0:
        raise DataError(f"data set {reader.description} is empty: it holds no image")
    return reader

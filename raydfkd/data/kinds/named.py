"""Data sets of the catalogue, wherever below the data root and in whichever format they lie there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from raydfkd.data.catalogue import CATALOGUE, how_to_get, named_dataset, split_short_form
from raydfkd.data.data_root import VARIABLE, data_root
from raydfkd.data.dataset_kind import DatasetConfig, DatasetKind, RowReader, Source
from raydfkd.data.file_tree import is_hidden
from raydfkd.data.kinds import image_folder, parquet, torchvision_sets
from raydfkd.errors import ConfigError, DataError, UnknownNameError
from raydfkd.registry import nearest


class NamedConfig(DatasetConfig):
    """A data set known by name, looked for below the data root ($RAYDFKD_DATA, otherwise data/ in the working directory)."""

    kind: Literal["named"] = "named"

    name: str
    """Name of the data set; ``raydfkd dataset fetch`` lists all. ``cifar10/test`` is short for name cifar10 and split test."""

    split: str = "test"
    """One of its splits, such as train or test."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            splits = list(named_dataset(self.name).splits)
        except UnknownNameError as error:
            raise ValueError(str(error)) from error
        if self.split not in splits:
            raise ValueError(f"data set {self.name} has no split {self.split!r}: {nearest(self.split, splits)}")
        return self

    @property
    def location(self) -> str:
        return f"{self.name}/{self.split}"


def resolve(config: NamedConfig) -> tuple[DatasetKind, DatasetConfig]:
    """The kind as which the data set lies below the data root, and its settings there: Parquet before folders of images
    before torchvision's layout.

    Raises:
        DataError: it is in none of the places.
    """
    shared: dict[str, Any] = {"split": config.split, "max_images": config.max_images, "convert": config.convert}
    looked_for = []
    for kind, path, settings in _places(config):
        if path.exists():
            return kind, kind.config.model_validate({**settings, **shared})
        looked_for.append(str(path))
    raise DataError(
        f"data set {config.location} is not below the data root, none of {', '.join(dict.fromkeys(looked_for))} exists: "
        f"{how_to_get(config.name)}, or set {VARIABLE} to the folder that holds it"
    )


def _places(config: NamedConfig) -> Iterator[tuple[DatasetKind, Path, dict[str, str]]]:
    """(kind, what exists if the data set lies there as this kind, settings) of all places, the first ones first."""
    root, entry = data_root(), CATALOGUE[config.name]
    folder = root / config.name / config.split
    file = folder.with_name(f"{config.split}.parquet")
    yield parquet.DATASET, file, {"path": str(file)}
    if any(not is_hidden(path.name) for path in folder.glob("*.parquet")):
        yield parquet.DATASET, folder, {"path": str(folder)}
    yield image_folder.DATASET, folder, {"path": str(folder)}
    if entry.torchvision is not None and entry.marker is not None:
        for one in (root, root / config.name):
            place = one / entry.marker.format(split=config.split)
            yield torchvision_sets.DATASET, place, {"name": entry.torchvision, "root": str(one)}


def open_named(config: NamedConfig, labelled: bool) -> Source:
    kind, settings = resolve(config)
    return replace(kind.open(settings, labelled), name=config.name)


def open_named_masks(config: NamedConfig) -> Source:
    kind, settings = resolve(config)
    if kind.open_masks is None:
        raise DataError(f"data set {config.location} lies below the data root without masks: {how_to_get(config.name)}")
    return replace(kind.open_masks(settings), name=config.name)


def open_named_rows(config: NamedConfig) -> RowReader:
    kind, settings = resolve(config)
    assert kind.rows is not None, "all kinds that data sets can lie as are read at random"
    return kind.rows(settings)


def from_short_form(text: str) -> NamedConfig:
    """The data set that ``NAME/SPLIT`` means. Raises ConfigError if it is something else."""
    try:
        return NamedConfig.model_validate(split_short_form(text))
    except ValidationError as error:
        raise ConfigError(str(error.errors()[0]["ctx"]["error"])) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _claimed(path: Path) -> NamedConfig | None:
    """``NAME/SPLIT`` of a known name, unless a file or folder is called so."""
    is_short = len(path.parts) == 2 and path.parts[0] in CATALOGUE and not path.exists()
    return from_short_form(path.as_posix()) if is_short else None


def _files(config: NamedConfig) -> list[Path] | None:
    kind, settings = resolve(config)
    return None if kind.files is None else kind.files(settings)


DATASET = DatasetKind(
    config=NamedConfig,
    title="a data set known by name, below the data root",
    open=open_named,
    rows=open_named_rows,
    claims=_claimed,
    files=_files,
    open_masks=open_named_masks,
)

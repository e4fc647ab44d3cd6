"""Condensed sets below the data root, by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from raydfkd.data.data_root import VARIABLE, data_root
from raydfkd.data.dataset_kind import DatasetConfig, DatasetKind, RowReader, Source
from raydfkd.data.kinds import parquet
from raydfkd.errors import ConfigError, DataError
from raydfkd.settings import require_file_names

FOLDER = "condensed"
_NAME = re.compile(r"(?P<dataset>.+)_(?P<method>[a-z]+)_(?P<number>\d+)")


class CondensedConfig(DatasetConfig):
    """A few labelled images that stand for a data set: ``condensed/NAME.parquet`` below the data root, or another place."""

    kind: Literal["condensed"] = "condensed"

    name: str
    """Its name: as ``raydfkd condense`` chooses it, data set, method and images a class, such as cifar10_dm_50."""

    split: str = "condensed"
    """Name of this data in the manifest."""

    @model_validator(mode="after")
    def _file_name(self) -> Self:
        require_file_names("condensed set", [self.name])
        return self

    @property
    def location(self) -> str:
        return f"{FOLDER}/{self.name}"


def condensed_path(name: str) -> Path:
    """Where the set of this name lies."""
    return data_root() / FOLDER / f"{name}.parquet"


def condensed_place(name: str | None, out: Path | None) -> Path:
    """Where a set is to be written: below the data root, or the file ``out``.

    Raises:
        ConfigError: both are given, or neither, or the name cannot be a file's.
    """
    if (name is None) == (out is None):
        given = "both" if out is not None else "neither"
        raise ConfigError(f"--name and --out each say where a condensed set lies, and {given} is given: give one")
    if out is not None:
        return out
    assert name is not None
    try:
        require_file_names("condensed set", [name])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return condensed_path(name)


def _file(config: CondensedConfig) -> parquet.ParquetConfig:
    path = condensed_path(config.name)
    if not path.is_file():
        parts = _NAME.fullmatch(config.name)
        command = "raydfkd condense DATA"
        if parts is not None:
            command = (
                f"raydfkd condense {parts['dataset']}/train --method {parts['method']} --images-per-class {parts['number']}"
            )
        raise DataError(
            f"condensed set {config.name} is not below the data root, {path} does not exist: make it with {command}, or set "
            f"{VARIABLE} to the folder that holds {FOLDER}/"
        )
    shared: dict[str, Any] = {"split": config.split, "max_images": config.max_images, "convert": config.convert}
    return parquet.ParquetConfig(path=str(path), **shared)


def open_condensed(config: CondensedConfig, labelled: bool) -> Source:
    return replace(parquet.DATASET.open(_file(config), labelled), name=config.name)


def open_condensed_rows(config: CondensedConfig) -> RowReader:
    assert parquet.DATASET.rows is not None, "Parquet files are read at random"
    return parquet.DATASET.rows(_file(config))


DATASET = DatasetKind(
    config=CondensedConfig,
    title="a condensed set, below the data root",
    open=open_condensed,
    rows=open_condensed_rows,
    files=lambda config: [Path(str(_file(config).path))],
)

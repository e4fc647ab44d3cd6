"""Which images to read. No torch here: the experiment's config tree includes these classes.

A data set is only a description until :func:`raydfkd.data.load_dataset` reads it. ``split`` is always named, because the
run's manifest records every split that was read and what for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Dataset(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    max_images: int | None = Field(default=None, ge=1)
    """Read at most this many, evenly spaced over the data set; null reads all."""

    convert: bool = False
    """Allow grey <-> colour conversion to the task's channels; otherwise other channels are refused."""

    def resolve(self, base: Path) -> Self:
        """The same data set with its relative paths made absolute.

        A relative path is looked for in ``base`` (the experiment file's folder) first and in the working directory second;
        where neither has it, ``base`` is what the later "does not exist" names.
        """
        return self


def _resolved(path: str, base: Path) -> str:
    given = Path(path).expanduser()
    if given.is_absolute():
        return str(given)
    beside, here = base / given, Path.cwd() / given
    return str((here if here.exists() and not beside.exists() else beside).resolve())


class DigitsConfig(_Dataset):
    """Real handwriting, 1,797 grey digits of 8x8 pixels, inside scikit-learn: needs no file and no network."""

    kind: Literal["digits"] = "digits"

    split: Literal["train", "test"] = "test"
    """A fixed stratified split: 80% of each class is ``train``, the rest ``test``."""


class ParquetConfig(_Dataset):
    """Encoded images in Parquet files."""

    kind: Literal["parquet"] = "parquet"

    path: str | list[str]
    """A file, a folder of ``*.parquet`` files, or a list of files."""

    image_column: str = "image"
    """Column of encoded bytes, or of Hugging Face's ``struct<bytes, path>``."""

    label_column: str = "label"
    """Column of integer classes."""

    split: str = "test"
    """What the manifest calls this data; nothing is selected by it."""

    def resolve(self, base: Path) -> Self:
        path = _resolved(self.path, base) if isinstance(self.path, str) else [_resolved(one, base) for one in self.path]
        return self.model_copy(update={"path": path})


class ImageFolderConfig(_Dataset):
    """A folder with one folder of image files per class."""

    kind: Literal["image_folder"] = "image_folder"

    path: str
    """Its sub-folders, sorted by name, are classes 0, 1, ..."""

    split: str = "test"
    """What the manifest calls this data; nothing is selected by it."""

    def resolve(self, base: Path) -> Self:
        return self.model_copy(update={"path": _resolved(self.path, base)})


class TorchvisionConfig(_Dataset):
    """A data set that torchvision reads. Nothing is downloaded: the files must be there."""

    kind: Literal["torchvision"] = "torchvision"

    name: str
    """Class name in ``torchvision.datasets``, such as CIFAR10."""

    root: str
    """Folder that holds its files, as torchvision lays them out."""

    split: str = "test"
    """``train`` or ``test``; or what the data set's own ``split`` argument takes."""

    def resolve(self, base: Path) -> Self:
        return self.model_copy(update={"root": _resolved(self.root, base)})


DatasetConfig = Annotated[
    DigitsConfig | ParquetConfig | ImageFolderConfig | TorchvisionConfig,
    Field(discriminator="kind"),
]
"""Any data set, told apart by ``kind``."""


class CollectedConfig(BaseModel):
    """A few real images from anywhere, to train on. Their labels, if any, are not read: the teacher says what they show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetConfig
    """Where they are."""
    num_images: int | None = Field(default=None, ge=2)
    """How many to choose at random; null: all."""
    imbalance: float | None = Field(default=None, ge=1)
    """Choose a long tail: the first class's images over the last one's, shrinking exponentially between; null: as they come."""
    balanced: bool = False
    """Choose as many of every class that the teacher sees at all, repeating images where it sees too few."""
    original_size: int | None = Field(default=None, ge=1)
    """Images that the teacher was trained on, of which rho = collected / original is reported; null: not known."""

    @model_validator(mode="after")
    def _choice_fits_together(self) -> Self:
        if self.imbalance is not None and self.num_images is None:
            raise ValueError("imbalance needs num_images: how many images the long tail shall have")
        if self.balanced and self.imbalance is not None:
            raise ValueError("balanced and imbalance exclude each other: leave one of them out")
        if self.balanced and self.num_images is None:
            raise ValueError("balanced needs num_images: how many images all classes together shall have")
        return self

    def resolve(self, base: Path) -> Self:
        """The same with absolute paths, see :meth:`_Dataset.resolve`."""
        return self.model_copy(update={"dataset": self.dataset.resolve(base)})

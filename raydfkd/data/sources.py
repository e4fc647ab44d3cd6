"""Where images come from: each kind of data set as a stream of chunks of undecoded items."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.data.config import DigitsConfig, ImageFolderConfig, ParquetConfig, TorchvisionConfig
from raydfkd.data.decoding import open_encoded, open_file, opened
from raydfkd.errors import DataError, UnknownNameError
from raydfkd.registry import nearest

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 4096
_BUFFER_BYTES = 1 << 20
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Chunk:
    """Undecoded images: ``items`` for the source's opener, ``labels`` int64 [n] (-1: not read), ``name(i)`` for messages."""

    items: Sequence[Any]
    labels: np.ndarray
    name: Callable[[int], str]


@dataclass(frozen=True)
class Source:
    """A data set before decoding.

    Attributes:
        name: short, for messages and the manifest.
        description: where it lies.
        total: how many images the chunks hold together.
        classes: their names, or None if the data set does not say.
        opener: gives the PIL image of an item.
        chunks: the images, in order.
    """

    name: str
    description: str
    total: int
    classes: tuple[str, ...] | None
    opener: Callable[[Any], Image]
    chunks: Iterator[Chunk]


def open_source(config: DigitsConfig | ParquetConfig | ImageFolderConfig | TorchvisionConfig, labelled: bool = True) -> Source:
    """The source that a config describes.

    Args:
        labelled: False reads no labels, and needs none: a folder may hold images alone, a Parquet file an image column.

    Raises:
        DataError: it is not there or not readable as what it should be.
    """
    if isinstance(config, DigitsConfig):
        return _digits(config)
    if isinstance(config, ParquetConfig):
        return _parquet(config, labelled)
    if isinstance(config, ImageFolderConfig):
        return _image_folder(config, labelled)
    return _torchvision(config, labelled)


def evenly_spaced(total: int, max_images: int | None) -> np.ndarray:
    """Which of ``total`` images to read: all, or evenly spaced ones, so that data sorted by class keeps its balance."""
    if max_images is None or max_images >= total:
        return np.arange(total)
    return np.arange(max_images) * total // max_images


def _slices(chosen: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(chosen), _CHUNK):
        yield chosen[start : start + _CHUNK]


def _numbered(template: str, rows: Sequence[Any]) -> Callable[[int], str]:
    return lambda i: template.format(rows[i])


def digits_split(labels: np.ndarray, split: str) -> np.ndarray:
    """Row numbers of one part of the fixed digits split, int64, ascending: of each class 80% ``train``, 20% ``test``."""
    # RandomState, because NumPy promises never to change its stream.
    random = np.random.RandomState(0)
    rows = []
    for label in np.unique(labels):
        shuffled = random.permutation(np.flatnonzero(labels == label))
        held_out = round(len(shuffled) * 0.2)
        rows.append(shuffled[:held_out] if split == "test" else shuffled[held_out:])
    return np.sort(np.concatenate(rows))


def _digits(config: DigitsConfig) -> Source:
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rows = digits_split(bunch.target, config.split)
    rows = rows[evenly_spaced(len(rows), config.max_images)]
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)

    def chunks() -> Iterator[Chunk]:
        for part in _slices(rows):
            yield Chunk(part.tolist(), bunch.target[part].astype(np.int64), _numbered("digit {}", part.tolist()))

    classes = tuple(str(name) for name in bunch.target_names)
    return Source("digits", "scikit-learn's digits", len(rows), classes, lambda row: Image.fromarray(pixels[row]), chunks())


def parquet_files(path: str | list[str]) -> list[Path]:
    """The files that ``ParquetConfig.path`` names, those of a folder in the order of their names. Raises DataError if none."""
    files: list[Path] = []
    for one in [path] if isinstance(path, str) else path:
        place = Path(one).expanduser()
        if not place.exists():
            raise DataError(f"data set {place} does not exist: correct its path")
        files += sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise DataError(f"data set {path} holds no *.parquet file: correct its path")
    return files


def _parquet(config: ParquetConfig, labelled: bool) -> Source:
    import pyarrow as pa

    files = parquet_files(config.path)
    readers: list[Any] = []
    for path in files:
        try:
            readers.append(open_parquet(path))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        check_columns(path, readers[-1].schema_arrow, config, labelled)
    description = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    total = sum(reader.metadata.num_rows for reader in readers)
    chosen = evenly_spaced(total, config.max_images)
    classes = _parquet_classes(readers[0].schema_arrow.metadata or {}, config.label_column)
    chunks = _parquet_chunks(files, readers, chosen, config, labelled)
    opener = parquet_opener(readers[0].schema_arrow.field(config.image_column).type)
    return Source(files[0].stem, description, len(chosen), classes, opener, chunks)


def open_parquet(path: Path) -> Any:
    """The ``ParquetFile`` of a path, which streams a row group's pages: by default, all of a column's would be read at once."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def damaged(path: Path, error: Exception) -> DataError:
    """The refusal of a file that Arrow cannot read."""
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    return DataError(f"{path} cannot be read as Parquet ({reason}): it is damaged, incomplete or another format")


def check_columns(path: Path, schema: Any, config: ParquetConfig, labelled: bool) -> None:
    """Raises DataError if a column that will be read is missing or holds something else."""
    import pyarrow as pa

    for setting in ("image_column", "label_column") if labelled else ("image_column",):
        column = getattr(config, setting)
        if column not in schema.names:
            raise DataError(f"{path} has no column {column!r} (it has {', '.join(schema.names)}): correct {setting}")
    image = schema.field(config.image_column).type
    if labelled and not pa.types.is_integer(label := schema.field(config.label_column).type):
        raise DataError(f"{path} column {config.label_column!r} holds {label}, not integer classes: correct label_column")
    if pa.types.is_struct(image):
        image = image.field("bytes").type if image.get_field_index("bytes") >= 0 else image
    if holds_pixels(image):
        return
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise DataError(f"{path} column {config.image_column!r} holds {image}, not encoded image bytes: correct image_column")


def holds_pixels(column_type: Any) -> bool:
    """Whether a column holds decoded images, uint8 tensors [C,H,W], as raydfkd writes them."""
    import pyarrow as pa

    if not isinstance(column_type, pa.FixedShapeTensorType):
        return False
    return column_type.value_type == pa.uint8() and len(column_type.shape) == 3


def parquet_opener(column_type: Any) -> Callable[[Any], Image]:
    """What makes a PIL image of an item of :func:`encoded_images`."""
    return _open_pixels if holds_pixels(column_type) else open_encoded


def encoded_images(column: Any) -> list[Any]:
    """The images of an Arrow array: encoded bytes, or uint8 arrays [C,H,W] where it holds pixels."""
    import pyarrow as pa

    if holds_pixels(column.type):
        return list(column.to_numpy_ndarray()) if len(column) else []
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    found: list[Any] = column.to_pylist()
    return found


def _open_pixels(pixels_CHW: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(pixels_CHW[0] if len(pixels_CHW) == 1 else np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))


def _parquet_classes(metadata: dict[bytes, bytes], label_column: str) -> tuple[str, ...] | None:
    """Class names from our own ``classes`` key or from Hugging Face's description of the label column."""
    try:
        if b"classes" in metadata:
            return tuple(str(name) for name in json.loads(metadata[b"classes"]))
        if b"huggingface" in metadata:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][label_column].get("names")
            return None if names is None else tuple(str(name) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Names are a courtesy: a foreign or odd description is as good as none.
        return None
    return None


def _parquet_chunks(
    files: list[Path], readers: list[Any], chosen: np.ndarray, config: ParquetConfig, labelled: bool
) -> Iterator[Chunk]:
    import pyarrow as pa

    first_row = 0
    columns = [config.image_column, config.label_column] if labelled else [config.image_column]
    for path, reader in zip(files, readers, strict=True):
        file_row = 0
        try:
            for batch in reader.iter_batches(batch_size=_CHUNK, columns=columns):
                start = first_row + file_row
                low, high = np.searchsorted(chosen, [start, start + len(batch)])
                rows = chosen[low:high] - start
                yield _parquet_chunk(path, batch, rows, file_row, config)
                file_row += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        finally:
            reader.close()
        first_row += file_row


def _parquet_chunk(path: Path, batch: Any, rows: np.ndarray, file_row: int, config: ParquetConfig) -> Chunk:
    import pyarrow as pa

    labels = np.full(len(rows), -1, dtype=np.int64)
    if config.label_column in batch.schema.names:
        column = batch.column(config.label_column).take(pa.array(rows))
        if column.null_count:
            raise DataError(f"{path} has rows without a label in column {config.label_column!r}: remove or label them")
        labels = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return Chunk(
        encoded_images(batch.column(config.image_column).take(pa.array(rows))),
        labels,
        lambda i: f"image {file_row + int(rows[i])} of {path}",
    )


def _image_folder(config: ImageFolderConfig, labelled: bool) -> Source:
    root = _folder(config)
    folders = sorted(place for place in root.iterdir() if place.is_dir() and not place.name.startswith("."))
    if labelled and not folders:
        raise DataError(f"data set {root} has no folders: it needs one folder of images per class")
    if labelled:
        found = [(path, label) for label, folder in enumerate(folders) for path in _image_files(folder)]
    else:
        found = [(path, -1) for path in _image_files(root)]
    chosen = evenly_spaced(len(found), config.max_images)

    def chunks() -> Iterator[Chunk]:
        for part in _slices(chosen):
            paths = [found[i][0] for i in part]
            labels = np.array([found[i][1] for i in part], dtype=np.int64)
            yield Chunk(paths, labels, _numbered("{}", paths))

    classes = tuple(folder.name for folder in folders) if labelled else None
    return Source(root.name, str(root), len(chosen), classes, open_file, chunks())


def image_files(config: ImageFolderConfig) -> list[Path]:
    """Every image file of the folder and those in it, in the order of their paths. Raises DataError if there is no folder."""
    return _image_files(_folder(config))


def _folder(config: ImageFolderConfig) -> Path:
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"data set {root} {'is not a folder' if root.exists() else 'does not exist'}: correct its path")
    return root


def _image_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES]


def _torchvision(config: TorchvisionConfig, labelled: bool) -> Source:
    dataset = _torchvision_dataset(config, labelled)
    labels_of = getattr(dataset, "targets", getattr(dataset, "labels", None))
    chosen = evenly_spaced(len(dataset), config.max_images)

    def chunks() -> Iterator[Chunk]:
        for part in _slices(chosen):
            labels = [-1] * len(part)
            if labelled:
                labels = [int(labels_of[i]) if labels_of is not None else int(dataset[int(i)][1]) for i in part]
            name = _numbered(f"image {{}} of {config.name}", part.tolist())
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


def _torchvision_dataset(config: TorchvisionConfig, labelled: bool) -> Any:
    from torchvision import datasets

    known = [name for name in datasets.__all__ if name not in ("VisionDataset", "FakeData", "DatasetFolder", "ImageFolder")]
    if config.name not in known:
        raise UnknownNameError(f"unknown torchvision data set {config.name!r}: {nearest(config.name, known)}")
    factory = getattr(datasets, config.name)
    accepted = inspect.signature(factory).parameters
    arguments: dict[str, Any] = {"download": False} if "download" in accepted else {}
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

"""Gets a named data set: from its public home, or from a local copy, to one Parquet file a split."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from raydfkd.data.catalogue import NamedDataset, how_to_get, named_dataset
from raydfkd.data.checksums import record_checksum, recorded_checksums, sha256_of
from raydfkd.data.data_root import data_root
from raydfkd.data.fetching.archives import unpack
from raydfkd.data.fetching.conversion import write_split
from raydfkd.data.fetching.downloader import Tell, download
from raydfkd.data.fetching.layouts import find_split
from raydfkd.errors import DataError
from raydfkd.ownership import owned


@dataclass(frozen=True)
class FetchedSplit:
    """A split that is there now.

    Attributes:
        split: its name.
        path: its Parquet file.
        images: how many it holds; None: not known, because fetch did not write it.
        published: how many there are in the published data set.
        sha256: of the file.
        kept: whether it was there before.
        left_out: images that could not be read, each with the reason.
    """

    split: str
    path: Path
    images: int | None
    published: int
    sha256: str
    kept: bool
    left_out: tuple[str, ...] = ()


def fetch(
    name: str,
    out: Path | None = None,
    local: Path | None = None,
    mirror: str | None = None,
    tell: Tell = lambda what, done, total: None,
) -> list[FetchedSplit]:
    """Writes ``OUT/NAME/SPLIT.parquet`` of every split that is not there yet, and records their checksums beside them.

    What was downloaded is kept until all splits are written, so that the same call goes on where it was stopped.

    Args:
        name: of the catalogue.
        out: folder to write below; None: the data root.
        local: a copy to convert, instead of a download; splits that it lacks are left out.
        mirror: a URL in place of scheme and host of every address; None: ``$RAYDFKD_DATA_MIRROR``, if set.
        tell: told of progress, in bytes or images.

    Returns:
        the splits, in the catalogue's order.

    Raises:
        UnknownNameError: the catalogue has no such data set.
        DownloadError: a file cannot be downloaded.
        DataError: the data set cannot be downloaded, the local copy has another layout, or nothing can be written.
    """
    entry = named_dataset(name)
    folder = (data_root() if out is None else out.expanduser().absolute()) / name
    if all((folder / f"{split}.parquet").is_file() for split in entry.splits):
        return _fetch(name, entry, folder, local, mirror, tell)
    advice = "wait until that process has fetched it, or choose another --out"
    with owned(folder, what=f"data set folder {folder}", advice=advice):
        return _fetch(name, entry, folder, local, mirror, tell)


def _fetch(
    name: str, entry: NamedDataset, folder: Path, local: Path | None, mirror: str | None, tell: Tell
) -> list[FetchedSplit]:
    kept = {split: path for split in entry.splits if (path := folder / f"{split}.parquet").is_file()}
    work = folder / ".fetching"
    found = {split: _kept(entry, split, path) for split, path in kept.items()}
    missing = [split for split in entry.splits if split not in kept]
    if missing:
        root = _downloaded(name, entry, work, mirror, tell) if local is None else _local(local)
        found |= _converted(name, entry, root, missing, folder, tell)
        if local is None and len(found) < len(entry.splits):
            raise DataError(
                f"the files of {name} do not hold {', '.join(split for split in entry.splits if split not in found)} as they "
                f"did when raydfkd was written: get them from {entry.page}, then run raydfkd dataset fetch {name} --from PATH"
            )
        if not found:
            raise DataError(
                f"{local} does not hold {name} as raydfkd knows it: it needs folders {' and '.join(entry.splits)} with a "
                f"folder of images for each class in them, or the layout of the published files (see {entry.page})"
            )
    if len(found) == len(entry.splits):
        shutil.rmtree(work, ignore_errors=True)
    return [found[split] for split in entry.splits if split in found]


def _kept(entry: NamedDataset, split: str, path: Path) -> FetchedSplit:
    images = recorded_checksums(path.parent).get(path.name, {}).get("images")
    return FetchedSplit(split, path, images, entry.splits[split], sha256_of(path), kept=True)


def _local(local: Path) -> Path:
    local = local.expanduser()
    if not local.is_dir():
        raise DataError(f"{local} is not a folder: name the folder that holds the data set")
    return local


def _downloaded(name: str, entry: NamedDataset, work: Path, mirror: str | None, tell: Tell) -> Path:
    """The folder that holds the data set's unpacked files."""
    if not entry.downloads:
        raise DataError(f"{entry.title} cannot be downloaded: {how_to_get(name)} (see {entry.page})")
    unpacked = work / "unpacked"
    for one in entry.downloads:
        archive = work / Path(urlsplit(one.url).path).name
        download(one.url, archive, one.checksum, tell, mirror)
        unpack(archive, unpacked / one.folder)
    return unpacked


def _converted(
    name: str, entry: NamedDataset, root: Path, splits: list[str], folder: Path, tell: Tell
) -> dict[str, FetchedSplit]:
    written = {}
    for split in splits:
        images = find_split(entry, root, split)
        if images is None:
            continue
        path = folder / f"{split}.parquet"
        number, left_out = write_split(images, entry.channels, entry.ignore_index, path, tell)
        checksum = record_checksum(path, number)
        written[split] = FetchedSplit(split, path, number, entry.splits[split], checksum, False, tuple(left_out))
    return written

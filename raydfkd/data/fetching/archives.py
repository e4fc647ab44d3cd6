"""Unpacking downloaded archives."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from raydfkd.errors import DataError

_TAR = (".tar.gz", ".tgz")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive into a folder, once: a mark beside the archive says that it is done. Another file is moved there.

    Archives cannot write outside of the folder.

    Raises:
        DataError: it is damaged, and then removed, it tries to write outside, or the disk is full.
    """
    mark = archive.with_name(f"{archive.name}.unpacked")
    if mark.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.endswith(_TAR):
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(folder, filter="data")
        elif archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        elif archive.suffix == ".gz":
            with gzip.open(archive) as source, (folder / archive.stem).open("wb") as target:
                shutil.copyfileobj(source, target)
        else:
            shutil.copyfile(archive, folder / archive.name)
        mark.touch()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
        archive.unlink()
        raise DataError(f"{archive} could not be unpacked ({error}) and is removed: run the same command again") from error
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}): free some space, or choose another folder by --out") from error

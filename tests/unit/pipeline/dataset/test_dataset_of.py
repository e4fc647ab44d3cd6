"""Which data set a bare path means: each kind is asked, in the order of the registry."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydfkd.data.dataset_kind import DatasetConfig, DatasetKind
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.errors import DataError
from raydfkd.pipeline.dataset import inspection
from raydfkd.pipeline.dataset.inspection import dataset_of
from raydfkd.registry import Registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("photos", "tables"):
        (tmp_path / name).mkdir()
    for name in ("tables/a.parquet", "table.pq"):
        pq.write_table(pa.table({"image": [b""]}), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no data set")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("photos", ImageFolderConfig),
        ("tables", ParquetConfig),
        ("tables/a.parquet", ParquetConfig),
        ("table.pq", ParquetConfig),
        ("gone.parquet", ParquetConfig),  # what is wrong with it is said where it is read
    ],
)
def test_a_path_is_of_the_kind_that_claims_it(folder: Path, name: str, kind: type[DatasetConfig]) -> None:
    assert dataset_of(folder / name) == kind.model_validate({"path": str(folder / name)})


def test_a_path_that_no_kind_claims(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"notes\.txt is not a known data set"):
        dataset_of(folder / "notes.txt")
    with pytest.raises(DataError, match="gone does not exist: correct its path"):
        dataset_of(folder / "gone")

    def claims(path: Path) -> ImageFolderConfig | None:
        return ImageFolderConfig(path="claimed") if path.suffix == ".txt" else None

    def unread(*_: object) -> None:
        pytest.fail("a path is only claimed")

    registry: Registry[DatasetKind] = Registry("data set kind", DatasetKind)
    registry.add("silent", DatasetKind(config=DatasetConfig, title="", open=unread, rows=None))
    registry.add("toy", DatasetKind(config=ImageFolderConfig, title="", open=unread, rows=None, claims=claims))
    monkeypatch.setattr(inspection, "DATASETS", registry)
    assert dataset_of(folder / "notes.txt") == ImageFolderConfig(path="claimed")

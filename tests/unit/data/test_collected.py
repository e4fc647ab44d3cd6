"""Collected images: chosen long-tailed, labelled by the teacher, whatever their own labels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from raydfkd.data.collected import CollectedImages, collect, long_tailed_counts
from raydfkd.data.config import CollectedConfig
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.errors import DataError
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.tasks import build_task
from raydfkd.tasks.classification import ClassificationConfig

CPU = torch.device("cpu")
TASK = build_task(ClassificationConfig(num_classes=4, image_shape=(1, 8, 8)))


class Brightness(nn.Module):
    """Class 0..3 by the image's mean, in quarters of the range."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centres = torch.tensor([0.125, 0.375, 0.625, 0.875])
        return -50 * (x.mean(dim=(1, 2, 3))[:, None] - centres).square()


def teacher(channels: int = 1) -> FrozenTeacher:
    return FrozenTeacher(Brightness(), 4, (channels, 8, 8), [0.0] * channels, [1.0] * channels)


def write_images(folder, greys) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, grey in enumerate(greys):
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(folder / f"{number:04d}.png")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=12), st.integers(1, 400), st.floats(1, 100))
def test_a_long_tail_takes_what_there_is_and_no_more(available: list[int], wanted: int, imbalance: float) -> None:
    counts = long_tailed_counts(available, wanted, imbalance)
    assert (counts <= np.array(available)).all()
    assert counts.sum() == min(wanted, sum(available))


def test_a_long_tail_shrinks_exponentially() -> None:
    counts = long_tailed_counts([10**6] * 10, 5000, 10)
    assert counts.sum() == 5000
    assert counts[0] / counts[-1] == pytest.approx(10, rel=0.02)
    ratios = counts[1:] / counts[:-1]
    assert np.abs(ratios - 10 ** (-1 / 9)).max() < 0.01


def test_what_a_class_lacks_is_shared_out_among_the_others() -> None:
    counts = long_tailed_counts([1000, 3, 1000, 1000], 400, 1)
    assert counts.tolist() == [133, 3, 132, 132] or (counts[1] == 3 and counts.sum() == 400 and np.ptp(counts[[0, 2, 3]]) <= 1)


def test_every_class_that_exists_keeps_an_image() -> None:
    assert long_tailed_counts([100, 100, 100, 0], 10, 1000).tolist()[1:] == [1, 1, 0]


def test_the_teacher_labels_images_of_a_folder_without_classes(tmp_path) -> None:
    write_images(tmp_path / "anything", [10, 90, 95, 250, 250, 250])
    found = collect(CollectedConfig(dataset=ImageFolderConfig(path=str(tmp_path))), TASK, teacher(), 0, CPU, bf16=False)
    assert found.class_counts.tolist() == [1, 2, 0, 3]
    assert found.missing_classes == [2]
    assert found.batch.source == "collected"
    assert found.rho is None
    assert found.describe() == "6 collected images; by class 1/2/0/3, imbalance 3"


def test_unreadable_images_are_counted_and_left_out(tmp_path) -> None:
    write_images(tmp_path, [10, 90, 95])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    config = CollectedConfig(dataset=ImageFolderConfig(path=str(tmp_path)), original_size=30)
    found = collect(config, TASK, teacher(), 0, CPU, bf16=False)
    assert (len(found), found.num_skipped) == (3, 1)
    assert found.describe() == "3 collected images, rho 0.1, 1 could not be read; by class 1/2/0/0, imbalance 2"


def test_a_parquet_file_needs_no_labels(tmp_path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = []
    for grey in (10, 200, 250):
        packed = io.BytesIO()
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(packed, "PNG")
        encoded.append(packed.getvalue())
    pq.write_table(pa.table({"image": encoded}), tmp_path / "some.parquet")
    config = CollectedConfig(dataset=ParquetConfig(path=str(tmp_path / "some.parquet")))
    assert collect(config, TASK, teacher(), 0, CPU, bf16=False).class_counts.tolist() == [1, 0, 0, 2]


def test_the_choice_is_long_tailed_and_fixed_by_the_seed(tmp_path) -> None:
    rng = np.random.default_rng(0)
    write_images(tmp_path, rng.integers(0, 256, 200))
    config = CollectedConfig(dataset=ImageFolderConfig(path=str(tmp_path)), num_images=40, imbalance=8)

    def chosen(seed: int) -> CollectedImages:
        return collect(config, TASK, teacher(), seed, CPU, bf16=False)

    first = chosen(0)
    counts = first.class_counts
    assert counts.sum() == 40
    assert counts[0] / counts[-1] == pytest.approx(8, rel=0.35)
    np.testing.assert_array_equal(first.batch.images, chosen(0).batch.images)
    assert (first.batch.images != chosen(1).batch.images).any()


@pytest.mark.parametrize(
    ("greys", "channels", "message"), [([10], 1, "gives 1 image to train on"), ([10, 20], 3, "has 1 channel but")]
)
def test_what_cannot_be_used_is_refused(tmp_path, greys: list[int], channels: int, message: str) -> None:
    write_images(tmp_path, greys)
    with pytest.raises(DataError, match=message):
        collect(CollectedConfig(dataset=ImageFolderConfig(path=str(tmp_path))), TASK, teacher(channels), 0, CPU, bf16=False)


def test_a_tail_needs_a_number() -> None:
    with pytest.raises(ValueError, match="imbalance needs num_images"):
        CollectedConfig(dataset=DigitsConfig(), imbalance=10)


def test_a_balanced_choice_repeats_what_is_rare_and_skips_what_is_not_there(tmp_path) -> None:
    write_images(tmp_path, [10] * 9 + [80, 81] + [250] * 30)  # 9, 2, none and 30
    config = CollectedConfig(dataset=ImageFolderConfig(path=str(tmp_path)), num_images=21, balanced=True)
    found = collect(config, TASK, teacher(), 0, CPU, bf16=False)
    assert found.class_counts.tolist() == [7, 7, 0, 7]
    greys, times = np.unique(found.batch.images[found.batch.teacher_class == 1][:, 0, 0, 0], return_counts=True)
    assert greys.tolist() == [80, 81]
    assert sorted(times.tolist()) == [3, 4]


def test_a_confident_choice_is_of_the_images_that_the_teacher_is_surest_of(tmp_path) -> None:
    """The teacher is the less sure the nearer a grey is to the border of two quarters."""
    greys = [95, 60, 32, 70, 96, 150, 110, 223]
    write_images(tmp_path, greys)
    config = CollectedConfig(dataset=ImageFolderConfig(path=str(tmp_path)), num_images=4, confident=True)
    found = collect(config, TASK, teacher(), 0, CPU, bf16=False).batch
    assert sorted(found.images[:, 0, 0, 0].tolist()) == [32, 95, 96, 223]
    everyone = collect(config.model_copy(update={"num_images": 8}), TASK, teacher(), 0, CPU, bf16=False).batch
    assert found.teacher_confidence.min() >= np.sort(everyone.teacher_confidence)[-4]


@pytest.mark.parametrize(("extra", "message"), [({"balanced": True}, "exclude each other"), ({}, "confident needs num_images")])
def test_a_confident_choice_needs_a_number_and_no_other_rule(extra: dict, message: str) -> None:
    settings_ = {"dataset": DigitsConfig(), "confident": True, **({"num_images": 5} if extra else {}), **extra}
    with pytest.raises(ValueError, match=message):
        CollectedConfig(**settings_)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [({"num_images": 9, "imbalance": 2}, "exclude each other"), ({}, "balanced needs num_images")],
)
def test_a_balanced_choice_needs_a_number_and_no_tail(settings_: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollectedConfig(dataset=DigitsConfig(), balanced=True, **settings_)


def test_the_data_sets_own_labels_are_read_where_they_are_asked_for(tmp_path) -> None:
    """The teacher still judges the images, by which the buffer counts them."""
    for label, greys in enumerate(([250, 250], [10], [10, 90, 90], [200])):
        write_images(tmp_path / str(label), greys)
    dataset = ImageFolderConfig(path=str(tmp_path))
    found = collect(CollectedConfig(dataset=dataset, labels="dataset"), TASK, teacher(), 0, CPU, bf16=False).batch
    assert np.bincount(found.targets).tolist() == [2, 1, 3, 1]
    assert np.bincount(found.teacher_class, minlength=4).tolist() == [2, 2, 0, 3]
    own = collect(CollectedConfig(dataset=dataset), TASK, teacher(), 0, CPU, bf16=False).batch
    np.testing.assert_array_equal(own.targets, own.teacher_class)
    chosen = CollectedConfig(dataset=dataset, labels="dataset", num_images=8, balanced=True)
    assert np.bincount(collect(chosen, TASK, teacher(), 0, CPU, bf16=False).batch.targets).tolist() == [2, 2, 2, 2]


def test_labels_of_other_classes_than_the_tasks_are_refused(tmp_path) -> None:
    for label in range(5):
        write_images(tmp_path / str(label), [250, 250])
    config = CollectedConfig(dataset=ImageFolderConfig(path=str(tmp_path)), labels="dataset")
    with pytest.raises(DataError, match="has 5 classes but the task has num_classes 4"):
        collect(config, TASK, teacher(), 0, CPU, bf16=False)

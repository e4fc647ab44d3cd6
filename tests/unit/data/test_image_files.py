from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from image_samples import coloured, encoded
from PIL import Image

from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.errors import DataError

SHAPE = (3, 8, 8)


def write_folder(root: Path, images: dict[str, bytes]) -> ImageFolderConfig:
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return ImageFolderConfig(path=str(root))


def one_image(root: Path, image: Image.Image) -> ImageFolderConfig:
    (root / "only").mkdir(parents=True)
    image.save(root / "only" / "image.png" if image.mode not in ("CMYK", "YCbCr") else root / "only" / "image.jpg")
    return ImageFolderConfig(path=str(root))


def test_sorted_folders_are_classes(tmp_path: Path) -> None:
    config = write_folder(
        tmp_path / "pets",
        {
            "dog/b.png": encoded(coloured(1)),
            "cat/deeper/a.PNG": encoded(coloured(2)),
            "cat/z.jpg": encoded(coloured(3), "JPEG"),
            "cat/notes.txt": b"not an image",
            ".cache/x.png": encoded(coloured(4)),
        },
    )
    dataset = load_dataset(config, SHAPE, 2)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.name == "pets"
    np.testing.assert_array_equal(dataset.images[0], coloured(2).transpose(2, 0, 1))
    np.testing.assert_array_equal(dataset.images[2], coloured(1).transpose(2, 0, 1))


def test_max_images_keeps_the_balance_of_sorted_classes(tmp_path: Path) -> None:
    config = write_folder(tmp_path, {f"{k}/{i}.png": encoded(coloured(i)) for k in "abc" for i in range(4)})
    dataset = load_dataset(config.model_copy(update={"max_images": 6}), SHAPE, 3)
    assert np.bincount(dataset.labels).tolist() == [2, 2, 2]


def test_missing_empty_and_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(ImageFolderConfig(path=str(tmp_path / "gone")), SHAPE, 2)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset(ImageFolderConfig(path=str(tmp_path / "file")), SHAPE, 2)
    with pytest.raises(DataError, match="needs one folder of images per class"):
        load_dataset(ImageFolderConfig(path=str(tmp_path)), SHAPE, 2)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="is empty"):
        load_dataset(ImageFolderConfig(path=str(tmp_path)), SHAPE, 1)


def test_wrong_channels_are_refused_unless_conversion_is_asked_for(tmp_path: Path) -> None:
    grey = coloured(0)[:, :, 0]
    config = one_image(tmp_path, Image.fromarray(grey))
    with pytest.raises(DataError, match=r"image\.png has 1 channel but the task's image_shape has 3: .*convert: true"):
        load_dataset(config, SHAPE, 1)
    converted = load_dataset(config.model_copy(update={"convert": True}), SHAPE, 1)
    np.testing.assert_array_equal(converted.images[0], np.stack([grey] * 3))
    np.testing.assert_array_equal(load_dataset(config, (1, 8, 8), 1).images[0, 0], grey)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "LA"])
def test_other_pixel_modes_need_conversion(tmp_path: Path, mode: str) -> None:
    config = one_image(tmp_path, Image.fromarray(coloured(0)).convert(mode))
    with pytest.raises(DataError, match=f"has pixel mode {mode}"):
        load_dataset(config, SHAPE, 1)
    assert load_dataset(config.model_copy(update={"convert": True}), SHAPE, 1).images.shape == (1, *SHAPE)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_grey_is_scaled_to_eight_where_conversion_is_asked_for(tmp_path: Path, channels: int) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    config = one_image(tmp_path, Image.fromarray(pixels))
    with pytest.raises(DataError, match=r"pixel mode I;16 but the task's image_shape has .: .*convert: true"):
        load_dataset(config, (channels, 8, 8), 1)
    found = load_dataset(config.model_copy(update={"convert": True}), (channels, 8, 8), 1).images[0]
    assert np.array_equal(found, np.stack([pixels // 256] * channels))


def test_images_of_other_pixels_are_left_out_like_damaged_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_folder(tmp_path, {"only/a.png": encoded(coloured(0, size=4))})
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "only" / "b.tif")
    assert load_dataset(config, (3, 4, 4), 1).num_skipped == 1
    assert "b.tif (pixel mode F cannot be read)" in caplog.text
    caplog.clear()
    (tmp_path / "only" / "b.tif").unlink()
    (tmp_path / "only" / "huge.png").write_bytes(encoded(coloured(0, size=8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert load_dataset(config, (3, 4, 4), 1).num_skipped == 1
    assert "huge.png (Image size (64 pixels) exceeds limit" in caplog.text


def test_palette_images_are_colour(tmp_path: Path) -> None:
    config = one_image(tmp_path, Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4))
    assert load_dataset(config, SHAPE, 1).images[0, :, 0, 0].tolist() == [10, 200, 30]


def test_another_size_is_scaled_and_centre_cut_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.zeros((8, 16), dtype=np.uint8)
    pixels[:, 4:12] = 255
    config = one_image(tmp_path, Image.fromarray(pixels))
    with caplog.at_level(logging.INFO):
        dataset = load_dataset(config, (1, 8, 8), 1)
    assert (dataset.images == 255).all(), "only the middle of a wide image is kept"
    assert "8x16" in caplog.text
    assert "8x8" in caplog.text
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (16, 1)))
    halved = load_dataset(one_image(tmp_path / "ramp", ramp), (1, 8, 8), 1).images[0, 0, 0].astype(float)
    assert np.all(np.diff(halved) > 0)
    np.testing.assert_allclose(halved.mean(), 127.5, atol=1.0)


def test_image_files_have_one_or_three_channels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 channels"):
        load_dataset(ImageFolderConfig(path=str(tmp_path)), (4, 8, 8), 2)


ANIMALS = ("ant", "bee", "polar bear")


@pytest.mark.parametrize(
    ("folders", "order", "labels", "classes"),
    [
        (("ant", "bee", "polar bear"), None, [0, 1, 2], ANIMALS),
        (("ant", "bee", "polar bear"), ("polar bear", "ant", "bee"), [1, 2, 0], ("polar bear", "ant", "bee")),
        (("Ant", "bee", "polar_bear"), ANIMALS, [0, 1, 2], ANIMALS),
        (("bee", "polar-bear"), ANIMALS, [1, 2], ANIMALS),
        (("ant", "bee", "cat"), ANIMALS, [0, 1, 2], ("ant", "bee", "cat")),
        (("1", "10", "2"), ("1", "2", "10"), [0, 2, 1], ("1", "2", "10")),
        (("ant", "Ant", "bee"), ANIMALS, [0, 1, 2], ("Ant", "ant", "bee")),
    ],
)
def test_classes_of_the_same_names_are_taken_in_the_tasks_order(
    tmp_path: Path, folders: tuple[str, ...], order: tuple[str, ...] | None, labels: list[int], classes: tuple[str, ...]
) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name / "x.png")
    loaded = load_dataset(ImageFolderConfig(path=str(tmp_path)), (1, 8, 8), 3, order)
    assert (list(loaded.labels), loaded.classes) == (labels, classes)


def test_a_class_that_lacks_is_refused_where_names_say_nothing(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="has 2 classes but the task has num_classes 3"):
        load_dataset(ImageFolderConfig(path=str(tmp_path)), (1, 8, 8), 3, ANIMALS)

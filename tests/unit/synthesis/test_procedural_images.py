"""Noise, spectra, dead leaves, crops of a photograph, and the filters of pictures that are worth nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.errors import ConfigError, DataError
from raydfkd.models.teachers.frozen_teacher import Normalization
from raydfkd.synthesis.procedural import leaves, picture_crops
from raydfkd.synthesis.procedural.dataset_crops import DatasetCrops, read_pictures
from raydfkd.synthesis.procedural.filters import filter_images, has_two_colours, is_constant, is_duplicate, thumbnail_hashes
from raydfkd.synthesis.procedural.images import ImageSource, in_channels, require_grey_or_colour, to_uint8
from raydfkd.synthesis.procedural.leaves import DeadLeaves, radius_probabilities
from raydfkd.synthesis.procedural.photograph import PhotographCrops
from raydfkd.synthesis.procedural.picture_crops import hue_rotation
from raydfkd.synthesis.procedural.pixel_noise import PixelNoise
from raydfkd.synthesis.procedural.shader_images import ShaderImages
from raydfkd.synthesis.procedural.spectral_noise import SpectralNoise, spectral_amplitudes

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, int, int]) -> PixelNoise:
    return PixelNoise(Normalization([0.4] * shape[0], [0.1] * shape[0]), shape, CPU)


SOURCES = {
    "noise": noise,
    "spectral": lambda shape: SpectralNoise(shape, CPU),
    "leaves": lambda shape: DeadLeaves(shape, CPU),
    "textured leaves": lambda shape: DeadLeaves(shape, CPU, textured=True),
    "photograph": lambda shape: PhotographCrops(None, shape, CPU),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("shape", [(3, 12, 16), (1, 8, 8)])
def test_any_shape_within_the_unit_interval_and_the_same_for_a_seed(kind: str, shape: tuple[int, int, int]) -> None:
    source: ImageSource = SOURCES[kind](shape)
    first, again, other = (source.render(5, generator(seed)) for seed in (4, 4, 5))
    assert first.shape == (5, *shape)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1
    assert (first.flatten(2).std(2).amax(1) > 0.01).all()


def test_pixel_noise_has_the_teacher_s_statistics_and_is_clipped() -> None:
    images = PixelNoise(Normalization([0.3, 0.5, 0.9], [0.05, 0.1, 0.2]), (3, 16, 16), CPU).render(40, generator())
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    assert mean[:2].tolist() == pytest.approx([0.3, 0.5], abs=0.005)
    assert std[:2].tolist() == pytest.approx([0.05, 0.1], rel=0.05)
    assert images[:, 2].max() == 1.0


def test_spectral_amplitudes_by_hand() -> None:
    amplitudes = spectral_amplitudes(torch.tensor([[2.0, 1.0]]), 4, 6)[0]
    assert amplitudes.shape == (4, 4)
    assert amplitudes[0, 0] == 0
    assert amplitudes[1, 2] == pytest.approx(1 / (2**2 + 1))
    assert amplitudes[3, 1] == pytest.approx(1 / (1 + 1))  # frequency -1
    assert amplitudes[2, 0] == pytest.approx(1 / 2)


def test_larger_exponents_make_smoother_pictures() -> None:
    rough, smooth = (SpectralNoise((1, 32, 32), CPU, a, a).render(8, generator()) for a in (0.5, 3.5))
    assert smooth.diff(dim=3).abs().mean() < 0.3 * rough.diff(dim=3).abs().mean()


def test_radii_follow_the_published_law() -> None:
    radii, probabilities = radius_probabilities()
    assert (len(radii), float(radii[0]), float(radii[-1])) == (200, pytest.approx(0.03), 1.0)
    assert probabilities[-1] == 0
    expected = (float(radii[10]) ** -3 - 1) / (float(radii[40]) ** -3 - 1)
    assert float(probabilities[10] / probabilities[40]) == pytest.approx(expected)
    assert float(probabilities.sum()) == pytest.approx(1.0)


def one_leaf(kind: int, **settings: float) -> Tensor:
    """Which pixels of an 81 x 81 grid around it a leaf of radius 30 covers."""
    axis = torch.arange(-40.0, 41.0)
    leaf = {
        "radius": torch.tensor([30.0]),
        "kind": torch.tensor([float(kind)]),
        "angle": torch.tensor([settings.get("angle", 0.0)]),
        "corner": torch.tensor([settings.get("corner", 0.5)]),
        "turns": torch.tensor([[0.3, 1.9, 3.4, 5.0]]),
    }
    return leaves._covers(axis.view(1, 1, -1), axis.view(1, -1, 1), leaf)[0]


def polygon_area(turns: list[float], radius: float) -> float:
    gaps = [b - a for a, b in zip(turns, [*turns[1:], turns[0] + 2 * math.pi], strict=True)]
    return radius**2 / 2 * sum(math.sin(gap) for gap in gaps)


@pytest.mark.parametrize(
    ("kind", "area"),
    [
        (0, math.pi * 900),
        (1, 2 * 900),
        (2, 2 * 900),
        (3, 4 * 900 * math.cos(0.5) * math.sin(0.5)),
        (4, polygon_area([0.3, 1.9, 3.4], 30)),
        (5, polygon_area([0.3, 1.9, 3.4, 5.0], 30)),
    ],
)
def test_each_shape_has_its_area_and_its_corners_on_the_circle(kind: int, area: float) -> None:
    covered = one_leaf(kind, angle=0.4)
    assert int(covered.sum()) == pytest.approx(area, rel=0.05)
    axis = torch.arange(-40.0, 41.0)
    assert (axis[None] ** 2 + axis[:, None] ** 2)[covered].max() <= 30.5**2


def test_leaves_in_front_cover_those_behind_as_in_a_loop_over_all() -> None:
    source = DeadLeaves((3, 10, 14), CPU, supersampling=1)
    drawn = source._draw(2, generator(5))
    owner = source._owners(drawn).view(2, 10, 14)
    x, y = torch.arange(14) + 0.5, torch.arange(10) + 0.5
    for image in range(2):
        expected = torch.full((10, 14), leaves.LEAVES_PER_ROUND)
        for number in reversed(range(leaves.LEAVES_PER_ROUND)):
            leaf = {name: value[image, number : number + 1] for name, value in drawn.items()}
            dx, dy = (x - leaf["x"]).view(1, 1, -1), (y - leaf["y"]).view(1, -1, 1)
            expected[leaves._covers(dx, dy, leaf)[0]] = number
        assert torch.equal(owner[image], expected)


def test_leaves_leave_no_ground_and_have_plain_colours() -> None:
    images = DeadLeaves((3, 24, 24), CPU, supersampling=1).render(4, generator())
    assert (images.sum(1) > 0).all()
    assert all(len(image.flatten(1).unique(dim=1).T) < 24 * 24 for image in images)


def write_picture(path: Path, height: int, width: int) -> Path:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    Image.fromarray(pixels).save(path)
    return path


def test_crops_lie_where_they_were_drawn(tmp_path: Path) -> None:
    """Without turning and jitter, a crop of a picture of coordinates shows where it comes from."""
    source = PhotographCrops(write_picture(tmp_path / "p.png", 200, 200), (3, 8, 8), CPU)
    unit = torch.full((3, 12), 0.5)
    unit[:, 0] = torch.tensor([0.0, 0.3, 1.0])
    unit[1, 2] = 0.0  # the left half
    places, footprint = source._places(unit, torch.full((3,), 200.0), torch.full((3,), 200.0))
    assert places[:, :, :, 0].mean((1, 2)).tolist() == pytest.approx([0, -0.5, 0], abs=1e-5)
    spans = places[:, 0, -1, 0] - places[:, 0, 0, 0]
    sides = [math.sqrt(share) / 2 for share in (1 / 500, 1 / 500 + 0.3 * (1 - 1 / 500), 1.0)]
    assert spans.tolist() == pytest.approx([side * 2 / math.sqrt(2) * 7 / 8 for side in sides], rel=1e-4)
    assert footprint.tolist() == pytest.approx([side * 200 / 8 / math.sqrt(2) for side in sides], rel=1e-4)


def test_crops_of_a_data_set_are_of_its_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two pictures of one colour each: every crop is of one of them, and both are cut from; a damaged file is left out."""
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        Image.fromarray(np.full((20, 30, 3), colour, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    dataset = ImageFolderConfig(path=str(tmp_path))
    source = DatasetCrops(dataset, 10, (3, 8, 8), CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_crops, "jittered", lambda images, unit: images)
        images = source.render(40, generator())
    red, blue = images[:, 0], images[:, 2]
    assert torch.allclose(torch.maximum(red, blue), torch.ones(40, 8, 8), atol=1e-5)
    assert torch.minimum(red, blue).max() < 1e-5
    assert 5 < int(red.mean((1, 2)).round().sum()) < 35
    assert "1 of 3 pictures cannot be read" in caplog.text
    assert len(read_pictures(dataset, 2)) == 2
    for name in "ab":
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"holds no picture to crop from \(the first rejected: .*c\.png"):
        DatasetCrops(dataset, 10, (3, 8, 8), CPU)


def test_crops_of_every_size_show_the_picture_s_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_crops, "jittered", lambda images, unit: images)
    source = PhotographCrops(write_picture(tmp_path / "p.png", 64, 96), (3, 8, 8), CPU)
    images = source.render(64, generator())
    assert images[:, 2].max() < 0.01  # nothing blue in it
    assert images[:, 0].mean() == pytest.approx(0.5, abs=0.08)
    assert images[:, 1].mean() == pytest.approx(0.5, abs=0.08)


def test_half_of_the_crops_are_jittered() -> None:
    images, unit = torch.rand(40, 3, 4, 4, generator=generator()), torch.rand(40, 5, generator=generator(1))
    same = (picture_crops.jittered(images, unit) == images).flatten(1).all(1)
    assert torch.equal(same, unit[:, 4] >= 0.5)


def test_where_a_crop_lies_and_how_its_colours_change_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []
    places, jittered = picture_crops.PictureCrops._places, picture_crops.jittered

    def spied_places(self: picture_crops.PictureCrops, unit: torch.Tensor, *sizes: torch.Tensor) -> object:
        drawn.append(unit)
        return places(self, unit, *sizes)

    def spied_jitter(images: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        drawn.append(unit)
        return jittered(images, unit)

    monkeypatch.setattr(picture_crops.PictureCrops, "_places", spied_places)
    monkeypatch.setattr(picture_crops, "jittered", spied_jitter)
    PhotographCrops(None, (3, 4, 4), CPU).render(500, generator())
    correlations = torch.corrcoef(torch.cat(drawn, 1).T)
    assert (correlations - torch.eye(len(correlations))).abs().max() < 0.2


def test_hue_rotation_keeps_grey_and_turns_red_to_green() -> None:
    turn = hue_rotation(torch.tensor([2 * math.pi / 3]))[0]
    assert (turn @ torch.ones(3)).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert (turn @ torch.tensor([1.0, 0, 0])).tolist() == pytest.approx([0, 1, 0], abs=1e-6)


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no picture .*: correct images\.path"):
        PhotographCrops(tmp_path / "none.png", (3, 8, 8), CPU)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        PhotographCrops(tmp_path / "damaged.png", (3, 8, 8), CPU)
    with pytest.raises(DataError, match="needs at least 16 x 16"):
        PhotographCrops(write_picture(tmp_path / "small.png", 8, 30), (3, 8, 8), CPU)


def test_grey_is_the_luma_and_other_channels_are_refused() -> None:
    assert in_channels(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), 1).item() == pytest.approx(0.299)
    with pytest.raises(ConfigError, match=r"1 channel or 3, task\.image_shape has 4"):
        require_grey_or_colour(4)


def striped(values: list[int], channels: int = 3, size: int = 16) -> Tensor:
    """A picture of equally many columns of each value."""
    row = torch.tensor(values, dtype=torch.uint8).repeat_interleave(size // len(values))
    return row.expand(channels, size, size)


def test_the_filters_take_what_they_name() -> None:
    rich = to_uint8(torch.rand(3, 16, 16, generator=generator()))
    one_spot = torch.zeros(3, 16, 16, dtype=torch.uint8)
    one_spot[:, :3, :3] = torch.randint(0, 256, (3, 3, 3), generator=generator()).to(torch.uint8)  # 9 of 256 pixels
    images = torch.stack(
        [striped([100]), rich, striped([20, 200]), striped([20, 90, 160, 230]), one_spot, rich, striped([100])]
    )
    found = filter_images(images)
    assert found.constant.tolist() == [True, False, False, False, False, False, True]
    assert found.two_colours.tolist() == [False, False, True, False, True, False, False]
    assert found.duplicate.tolist() == [False, False, False, False, False, True, False]
    assert found.kept.tolist() == [False, True, False, True, False, False, False]
    assert found.counts() == {"constant": 2, "two_colours": 2, "duplicate": 1}


def test_where_the_filters_thresholds_lie() -> None:
    checker = torch.tensor([100.0, 100.0]).repeat(128).view(1, 1, 16, 16)
    sign = torch.tensor([-1.0, 1.0]).repeat(128).view(1, 1, 16, 16)
    assert is_constant((checker + 3 * sign).to(torch.uint8)).item()
    assert not is_constant((checker + 4 * sign).to(torch.uint8)).item()
    spots = torch.zeros(2, 1, 10, 20, dtype=torch.uint8)
    spots[0].view(-1)[:9] = torch.arange(50, 140, 10)
    spots[1].view(-1)[:10] = torch.arange(50, 150, 10)  # 5% of the pixels differ
    assert has_two_colours(spots).tolist() == [True, False]


def test_two_colours_with_soft_edges_are_two_and_a_gradient_or_a_third_colour_is_more() -> None:
    """What is rendered twice as large and reduced has mixtures along its edges."""
    checkers = to_uint8(ShaderImages((3, 32, 32), CPU, ("checkerboard",), images_per_family=40).render(40, generator()))
    colours = [len(image.flatten(1).unique(dim=1)[0]) for image in checkers]
    assert min(colours) > 2
    assert has_two_colours(checkers).float().mean() > 0.9
    ramp = torch.linspace(0, 255, 32).expand(3, 32, 32)
    spotted = checkers.clone()
    spotted[:, :, 4:8, 4:8] = torch.tensor([7, 250, 90], dtype=torch.uint8).view(3, 1, 1)
    assert not has_two_colours(torch.cat([ramp.to(torch.uint8)[None], spotted])).any()


def test_a_picture_in_other_colours_is_no_duplicate() -> None:
    image = to_uint8(torch.rand(3, 16, 16, generator=generator()))
    images = torch.stack([image, image.flip(0), image])
    assert is_duplicate(images).tolist() == [False, False, True]
    hashes = thumbnail_hashes(images)
    assert hashes[0] == hashes[2] != hashes[1]
    assert thumbnail_hashes(images[2:]).tolist() == hashes[2:].tolist()

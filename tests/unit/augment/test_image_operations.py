"""Every batched operation against torchvision, one image at a time; what a strength of nothing does; samples' independence."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from raydfkd.augment import color, geometry
from raydfkd.augment.randaugment import OPERATIONS, apply_operations, rand_augment

BILINEAR = v2.InterpolationMode.BILINEAR


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def byte_images(channels: int = 3, num: int = 5, height: int = 12, width: int = 17, seed: int = 3) -> Tensor:
    """Whole bytes in [0,1], darker and narrower in range from image to image."""
    images = torch.randint(0, 256, (num, channels, height, width), generator=rng(seed)).float()
    return (images * torch.linspace(1, 0.3, num).view(-1, 1, 1, 1)).round() / 255


def each(images: Tensor, amounts: Tensor, operation: Callable[[Tensor, float], Tensor]) -> Tensor:
    return torch.stack([operation(image, amount) for image, amount in zip(images, amounts.tolist(), strict=True)])


def as_bytes(operation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda image: operation((image * 255).round().byte()).float() / 255


AMOUNTS = torch.tensor([0.1, 0.6, 1.0, 1.4, 1.9])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (color.brightness, reference.adjust_brightness),
        (color.saturation, reference.adjust_saturation),
        (color.contrast, reference.adjust_contrast),
        (color.sharpness, reference.adjust_sharpness),
        (lambda images, a: color.solarize(images, a / 2), lambda image, a: reference.solarize(image, a / 2)),
        (lambda images, a: color.autocontrast(images), lambda image, a: reference.autocontrast(image)),
        (lambda images, a: color.invert(images), lambda image, a: reference.invert(image)),
    ],
)
def test_colour_operations_are_torchvisions(
    operation: Callable[[Tensor, Tensor], Tensor], expected: Callable[[Tensor, float], Tensor], channels: int
) -> None:
    images = byte_images(channels)
    torch.testing.assert_close(operation(images, AMOUNTS), each(images, AMOUNTS, expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_byte_operations_are_torchvisions_exactly(channels: int) -> None:
    images, bits = byte_images(channels), torch.tensor([1.0, 3, 4, 7, 8])
    posterized = each(images, bits, lambda image, b: as_bytes(lambda x: reference.posterize(x, int(b)))(image))
    assert torch.equal(color.posterize(images, bits), posterized)
    images[0] = images[0, :, :1, :1]  # of one value
    images[1] = (images[1] > 0.4).float()
    images[2, :, :, 3:] = 1.0  # the step is 0: too few pixels are darker than the brightest
    assert torch.equal(color.equalize(images), each(images, bits, lambda image, _: as_bytes(reference.equalize)(image)))


WARPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "rotate": (
        lambda a: geometry.rotate(a * 30),
        lambda image, a: reference.rotate(image, a * 30, interpolation=BILINEAR),
    ),
    "shear_x": (lambda a: geometry.shear_x(a, 12), lambda image, a: sheared(image, [math.degrees(math.atan(a)), 0.0])),
    "shear_y": (lambda a: geometry.shear_y(a, 17), lambda image, a: sheared(image, [0.0, math.degrees(math.atan(a))])),
    "translate": (
        lambda a: geometry.translate((a * 4).round(), (-a * 3).round()),
        lambda image, a: reference.affine(image, 0.0, [round(a * 4), round(-a * 3)], 1.0, [0.0, 0.0], interpolation=BILINEAR),
    ),
}


def sheared(image: Tensor, degrees: list[float]) -> Tensor:
    return reference.affine(image, 0.0, [0, 0], 1.0, degrees, interpolation=BILINEAR, center=[0.0, 0.0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", WARPS)
def test_warps_are_torchvisions(name: str, channels: int) -> None:
    images, amounts = byte_images(channels), torch.tensor([-0.9, -0.3, 0.0, 0.2, 1.0])
    matrices, expected = WARPS[name]
    warped = geometry.affine(images, matrices(amounts))
    torch.testing.assert_close(warped, each(images, amounts, expected), rtol=0, atol=5e-6)
    torch.testing.assert_close(warped[2], images[2], rtol=0, atol=5e-6)  # the amount of nothing


def test_elastic_deformation_is_torchvisions() -> None:
    images, fields = byte_images(), 3 * torch.randn(5, 2, 12, 17, generator=rng(1))
    grids = (fields / torch.tensor([17 / 2, 12 / 2]).view(1, 2, 1, 1)).permute(0, 2, 3, 1)
    expected = torch.stack([reference.elastic(i, g[None], interpolation=BILINEAR) for i, g in zip(images, grids, strict=True)])
    torch.testing.assert_close(geometry.elastic(images, fields), expected, rtol=0, atol=5e-6)


def test_displacements_are_smoothed_uniform_noise() -> None:
    """Against torchvision's blur away from the edges, and the spread that smoothing leaves: s^2 = 1/3 * 1 / (4 pi sigma^2)."""
    planes = torch.rand(3, 1, 40, 48, generator=rng())
    blurred = reference.gaussian_blur(planes, [17, 17], [2.0, 2.0])
    torch.testing.assert_close(geometry.smooth(planes, 2.0)[..., 9:-9, 9:-9], blurred[..., 9:-9, 9:-9], rtol=0, atol=2e-4)
    fields = geometry.elastic_displacements(60, (64, 64), 10.0, 3.0, rng(), torch.device("cpu"))
    inner = fields[..., 12:-12, 12:-12]
    expected = 10 / 2 * math.sqrt(1 / 3 / (4 * math.pi * 9))
    assert float(inner.std()) == pytest.approx(expected, rel=0.05)
    assert abs(float(inner.mean())) < 0.05 * expected
    assert fields.shape == (60, 2, 64, 64)


@pytest.mark.parametrize(("side", "alpha", "sigma"), [(32, 12.0, 3.0), (224, 50.0, 5.0), (128, 31.0, 4.0)])
def test_a_size_has_its_own_elastic_strength(side: int, alpha: float, sigma: float) -> None:
    made = [
        geometry.elastic_displacements(1, (side, side), a, s, rng(4), torch.device("cpu"))
        for a, s in ((None, None), (alpha, sigma), (alpha * 2, sigma))
    ]
    torch.testing.assert_close(made[0], made[1])
    torch.testing.assert_close(made[0] * 2, made[2])


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 8)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    images = torch.rand(14, 2, *size, generator=rng())
    changed = apply_operations(images, torch.arange(14), torch.ones(14), 30)
    assert changed.isfinite().all()
    fields = geometry.elastic_displacements(14, size, None, None, rng(), torch.device("cpu"))
    assert geometry.elastic(images, fields).isfinite().all()


def test_magnitude_0_changes_nothing_that_has_a_magnitude() -> None:
    images = byte_images(num=14)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0.0, 1.0
    changed = apply_operations(images, torch.arange(14), torch.ones(14), 0)
    without = [i for i, name in enumerate(OPERATIONS) if name not in ("autocontrast", "equalize")]
    torch.testing.assert_close(changed[without], images[without], rtol=0, atol=5e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("magnitude", "shear", "pixels", "degrees", "blend", "bits"), [(14, 0.14, 3, 14.0, 0.42, 6), (30, 0.3, 7, 30.0, 0.9, 4)]
)
def test_each_operation_has_its_published_range(
    magnitude: int, shear: float, pixels: int, degrees: float, blend: float, bits: int, sign: float
) -> None:
    """The strengths of torchvision's RandAugment with 31 magnitudes, for images of 16 pixels, through its own functions."""
    images = byte_images(num=14, height=16, width=16)
    changed = apply_operations(images, torch.arange(14), torch.full((14,), sign), magnitude)
    angle, shift = math.degrees(math.atan(sign * shear)), int(sign * pixels)
    expected: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": lambda image: image,
        "shear_x": lambda image: sheared(image, [angle, 0.0]),
        "shear_y": lambda image: sheared(image, [0.0, angle]),
        "translate_x": lambda image: reference.affine(image, 0.0, [shift, 0], 1.0, [0.0, 0.0], interpolation=BILINEAR),
        "translate_y": lambda image: reference.affine(image, 0.0, [0, shift], 1.0, [0.0, 0.0], interpolation=BILINEAR),
        "rotate": lambda image: reference.rotate(image, sign * degrees, interpolation=BILINEAR),
        "brightness": lambda image: reference.adjust_brightness(image, 1 + sign * blend),
        "saturation": lambda image: reference.adjust_saturation(image, 1 + sign * blend),
        "contrast": lambda image: reference.adjust_contrast(image, 1 + sign * blend),
        "sharpness": lambda image: reference.adjust_sharpness(image, 1 + sign * blend),
        "posterize": as_bytes(lambda image: reference.posterize(image, bits)),
        "solarize": lambda image: reference.solarize(image, 256 / 255 * (1 - magnitude / 30)),
        "autocontrast": reference.autocontrast,
        "equalize": as_bytes(reference.equalize),
    }
    assert tuple(expected) == OPERATIONS
    for image, found, (name, operation) in zip(images, changed, expected.items(), strict=True):
        torch.testing.assert_close(found, operation(image), rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_an_image_does_not_see_its_neighbours() -> None:
    images, operations = byte_images(num=14), torch.arange(14)
    signs = torch.ones(14)
    together = apply_operations(images, operations, signs, 20)
    for i in range(14):
        alone = apply_operations(images[i : i + 1], operations[i : i + 1], signs[i : i + 1], 20)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)


def test_randaugment_is_its_operations_one_after_another() -> None:
    images, generator = byte_images(num=40), rng(5)
    expected = images
    for _ in range(3):
        operations = torch.randint(14, (40,), generator=generator)
        signs = torch.randint(2, (40,), generator=generator) * 2.0 - 1
        expected = apply_operations(expected, operations, signs, 14)
    assert torch.equal(rand_augment(images, 3, 14, rng(5)), expected)

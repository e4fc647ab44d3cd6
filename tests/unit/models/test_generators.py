"""G-std and G-large: sizes from the reference table, range, gradients, the first-layer reset."""

import pytest
import torch

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.models.generators import build_generator
from raydfkd.models.generators.memory_networks import MemoryEncoder, NormalizedGenerator


@pytest.mark.parametrize(
    ("name", "size", "latent_dim", "expected"),
    [
        ("standard", 32, 256, 2_328_899),
        ("standard", 32, 512, 4_426_051),
        ("standard", 64, 256, 8_644_931),
        ("large", 32, 256, 4_581_955),
        ("large", 32, 512, 8_776_259),
        ("transposed", 128, 256, 11_243_203),
    ],
)
def test_parameter_counts(name: str, size: int, latent_dim: int, expected: int) -> None:
    with torch.device("meta"):
        generator = build_generator(name, (3, size, size), latent_dim, 64)
    assert sum(p.numel() for p in generator.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        *((name, shape) for name in ("standard", "large") for shape in ((1, 8, 8), (3, 12, 20), (5, 4, 28))),
        *(("transposed", shape) for shape in ((1, 16, 16), (3, 48, 64))),
    ],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_images_are_float32_in_the_unit_interval(name: str, image_shape: tuple[int, int, int], autocast: bool) -> None:
    torch.manual_seed(0)
    generator = build_generator(name, image_shape, 6, 4).to(memory_format=torch.channels_last)
    latents = torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        images = generator(latents)
    assert images.shape == (3, *image_shape)
    assert images.dtype == torch.float32
    assert 0 <= float(images.detach().min()) < float(images.detach().max()) <= 1
    images.square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is not None for p in generator.parameters())


def test_reset_redraws_the_first_layer_only_and_repeatably() -> None:
    generator = build_generator("standard", (3, 16, 16), 64, 32)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    generator.reset_first_layer(generator=torch.Generator().manual_seed(5))
    after = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"first_linear.weight", "first_linear.bias", "first_norm.weight"}
    assert float(after["first_linear.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(after["first_linear.weight"].mean()) == pytest.approx(0.0, abs=1e-3)
    assert not after["first_linear.bias"].any()
    assert float(after["first_norm.weight"].mean()) == pytest.approx(0.0, abs=0.01)
    assert 0.01 < float(after["first_norm.weight"].std()) < 0.03
    generator.reset_first_layer(bn_weight_mean=1.0, generator=torch.Generator().manual_seed(5))
    assert torch.equal(generator.first_linear.weight, after["first_linear.weight"])
    assert float(generator.first_norm.weight.detach().mean()) == pytest.approx(1.0, abs=0.01)
    assert generator.first_linear.weight.requires_grad


@pytest.mark.parametrize("image_shape", [(3, 30, 32), (3, 32, 2), (0, 32, 32)])
def test_impossible_sizes(image_shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="multiples of 4"):
        build_generator("standard", image_shape, 8, 8)


def test_impossible_widths() -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0, 8"):
        build_generator("standard", (3, 8, 8), 0, 8)


def test_unknown_generator() -> None:
    with pytest.raises(UnknownNameError, match="'standard'"):
        build_generator("standart", (3, 8, 8), 8, 8)


def test_reset_redraws_every_layer_as_cmi_does() -> None:
    generator = build_generator("standard", (3, 16, 16), 64, 32)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(float("nan"))
    generator.reset(torch.Generator().manual_seed(5))
    for name, parameter in generator.named_parameters():
        weights = parameter.detach()
        norm = name in ("first_norm.weight", "half_scale.2.weight", "full_scale.2.weight")
        if name.endswith("bias"):
            assert not weights.any()
        else:
            assert weights.mean().item() == pytest.approx(float(norm), abs=0.02)
            assert weights.std().item() == pytest.approx(0.02, rel=0.3)


MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


@pytest.mark.parametrize("spectral", [True, False])
def test_the_memorys_generator_has_the_teachers_statistics_and_dafls_layers(spectral: bool) -> None:
    torch.manual_seed(0)
    generator = NormalizedGenerator((3, 32, 32), 100, 64, MEAN, STD, spectral=spectral)
    # DAFL's: linear to 128x8x8, BN, two convolutions with bias and BN, one to the image.
    convolutions = sum(9 * i * o + o for i, o in ((128, 128), (128, 64), (64, 3)))
    assert sum(p.numel() for p in generator.parameters()) == 101 * 8192 + 2 * (128 + 128 + 64) + convolutions
    assert [layer.eps for layer in generator.modules() if isinstance(layer, torch.nn.BatchNorm2d)] == [1e-5, 0.8, 0.8, 1e-5]
    images = generator(torch.randn(64, 100))
    assert images.shape == (64, 3, 32, 32)
    assert images.min().item() >= 0
    assert images.max().item() <= 1
    # Little is cut, so the statistics are nearly those asked for.
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor(MEAN), rtol=0, atol=0.03)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.tensor(STD), rtol=0.15, atol=0)


def test_the_encoder_has_the_published_shape_and_does_not_see_brightness() -> None:
    torch.manual_seed(0)
    encoder = MemoryEncoder((3, 32, 32), 1000, 64).eval()
    assert encoder.to_mean.in_features == 2048
    images = torch.randn(2, 3, 32, 32)
    mean, log_variance = encoder(images)
    assert mean.shape == log_variance.shape == (2, 1000)
    for found, expected in zip(encoder(3 * images), (mean, log_variance), strict=True):
        torch.testing.assert_close(found, expected)


def test_sizes_that_the_memory_cannot_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="height and width must be multiples of 4"):
        NormalizedGenerator((3, 30, 32), 4, 4, MEAN, STD, spectral=True)
    with pytest.raises(ConfigError, match="height and width must be multiples of 8"):
        MemoryEncoder((3, 36, 32), 4, 4)


def test_images_are_decoded_from_each_hidden_map() -> None:
    torch.manual_seed(0)
    generator = build_generator("standard", (3, 12, 20), 6, 4).eval()
    latents = torch.randn(2, 6)
    maps = generator.maps(latents)
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 3, 5), (8, 6, 10), (4, 12, 20)]
    for index, hidden in enumerate(maps):
        assert torch.equal(generator.decode(hidden, index), generator(latents))

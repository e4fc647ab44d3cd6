"""The residual GAN's networks: published sizes, shapes, range, conditioning, spectral norms, copies, bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.models.discriminators import build_discriminator
from raydfkd.models.discriminators.residual_discriminator import DownBlock, FeatureProjector, ResidualDiscriminator
from raydfkd.models.generators import build_conditional_generator
from raydfkd.models.generators.residual_generator import ConditionalBatchNorm2d, ResidualGenerator, UpBlock
from raydfkd.models.residual_layout import RESIDUAL_LAYOUTS, Conditioning

CONDITIONINGS: tuple[Conditioning, ...] = ("per_layer", "shared", "hierarchical")


def num_parameters(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def tiny_generator(side: int = 8, channels: int = 1, conditioning: Conditioning = "per_layer") -> ResidualGenerator:
    torch.manual_seed(0)
    latent_dim = 2 * (RESIDUAL_LAYOUTS[side].num_blocks + 1)
    return build_conditional_generator("residual", (channels, side, side), 3, latent_dim, 2, conditioning)


def tiny_discriminator(side: int = 8, channels: int = 1) -> ResidualDiscriminator:
    torch.manual_seed(1)
    return build_discriminator("residual", (channels, side, side), 3, 2)


def inputs(generator: ResidualGenerator, num: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    latents = torch.randn(num, generator.latent_dim, generator=rng)
    return latents, torch.randint(generator.num_classes, (num,), generator=rng)


@pytest.mark.parametrize(
    ("side", "num_classes", "latent_dim", "conditioning", "expected"),
    [
        (32, 10, 128, "per_layer", 4_304_387),
        (32, 100, 128, "per_layer", 4_580_867),
        (64, 200, 128, "per_layer", 33_918_211),  # published as 33.9 M
        (64, 200, 125, "hierarchical", 31_811_075),  # 31.8 M
        (128, 1000, 126, "hierarchical", 31_984_387),  # 31.98 M
        (256, 7, 128, "per_layer", 37_206_531),  # 37.2 M
    ],
)
def test_generators_have_the_published_size(
    side: int, num_classes: int, latent_dim: int, conditioning: Conditioning, expected: int
) -> None:
    with torch.device("meta"):
        generator = build_conditional_generator("residual", (3, side, side), num_classes, latent_dim, conditioning=conditioning)
    assert num_parameters(generator) == expected


@pytest.mark.parametrize(
    ("side", "num_classes", "expected"),
    [(32, 10, 4_997_909), (32, 100, 5_044_169), (64, 200, 22_347_946), (128, 1000, 46_143_562), (256, 7, 45_019_877)],
)
def test_discriminators_with_their_projector_have_the_published_size(side: int, num_classes: int, expected: int) -> None:
    """At 32 px the published count without unused heads; above, 22.35, 46.1 and 45.0 M, which count three unused heads."""
    with torch.device("meta"):
        discriminator = build_discriminator("residual", (3, side, side), num_classes)
        projector = FeatureProjector(discriminator.feature_dim, 512)
    width = discriminator.feature_dim
    unused = num_classes * width + num_classes * (width + 1) + 2 * num_classes * (width + 1) + width + 1
    assert num_parameters(discriminator, projector) + (unused if side > 32 else 0) == expected


def test_the_unused_heads_account_for_the_rest_of_the_published_count_at_32_px() -> None:
    assert 5_008_436 - 4_997_909 == 10 * (256 + 257 + 514) + 257
    assert 5_147_126 - 5_044_169 == 100 * (256 + 257 + 514) + 257


def test_widths_follow_base_channels() -> None:
    with torch.device("meta"):
        wide, narrow = (build_conditional_generator("residual", (1, 16, 16), 2, 8, base) for base in (64, 4))
        assert build_discriminator("residual", (1, 28, 28), 10, 4).feature_dim == 16
    assert wide.blocks[0].conv1.weight.shape == (256, 256, 3, 3)
    assert narrow.blocks[0].conv1.weight.shape == (16, 16, 3, 3)


@pytest.mark.parametrize(
    ("side", "channels"),
    [*((side, channels) for side in (8, 16, 28, 32, 64) for channels in (1, 3, 5)), (128, 3), (256, 3)],
)
def test_every_size_and_number_of_channels(side: int, channels: int) -> None:
    for conditioning in CONDITIONINGS if channels == 3 and side <= 32 else ("hierarchical",):
        generator, discriminator = tiny_generator(side, channels, conditioning), tiny_discriminator(side, channels)
        images = generator(*inputs(generator, 2))
        assert images.shape == (2, channels, side, side)
        assert images.dtype == torch.float32
        assert 0 <= float(images.detach().min()) < float(images.detach().max()) <= 1
        output = discriminator(images)
        assert output.adversarial.shape == (2,)
        assert output.class_logits.shape == (2, 6)
        assert output.features.shape == (2, discriminator.feature_dim)
        (output.adversarial.sum() + output.class_logits.sum()).backward()
        silent = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert silent == []
        assert all(p.grad is not None for p in discriminator.parameters())


def test_blocks_are_those_of_the_paper() -> None:
    """Against the published order of operations, in which shortcuts convolve after enlarging and before pooling."""
    torch.manual_seed(0)
    x, classes = torch.randn(2, 4, 6, 6), torch.tensor([2, 0])
    up = UpBlock(4, 3, 3, None).eval()
    relu, conv = nn.functional.relu, nn.functional.conv2d

    def enlarge(maps: Tensor) -> Tensor:
        return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def norm(maps: Tensor, layer: ConditionalBatchNorm2d) -> Tensor:
        rows = [table.weight[classes][:, :, None, None] for table in (layer.gain, layer.bias)]
        return maps / (1 + 1e-5) ** 0.5 * (1 + rows[0]) + rows[1]  # running mean 0 and variance 1

    hidden = conv(enlarge(relu(norm(x, up.norm1))), up.conv1.weight, padding=1)
    hidden = conv(relu(norm(hidden, up.norm2)), up.conv2.weight, padding=1)
    torch.testing.assert_close(up(x, classes), hidden + conv(enlarge(x), up.shortcut.weight), rtol=1e-4, atol=1e-5)
    for first, halve, out_width in ((True, True, 3), (False, True, 4), (False, False, 3), (False, False, 4)):
        down = DownBlock(4, out_width, first=first, halve=halve).eval()
        hidden = conv(relu(conv(x if first else relu(x), down.conv1.weight, padding=1)), down.conv2.weight, padding=1)
        learned = halve or out_width != 4
        maps = hidden + (conv(x, down.shortcut.weight) if learned else x)
        if halve:
            maps = maps.unflatten(3, (3, 2)).unflatten(2, (3, 2)).mean((3, 5))
        torch.testing.assert_close(down(x), maps, rtol=1e-4, atol=1e-5)


def test_discriminator_maps_halve_as_the_layout_says() -> None:
    sides = {}
    for side in (8, 16, 28, 32, 64):
        maps = tiny_discriminator(side).blocks(torch.zeros(1, 1, side, side))
        sides[side] = maps.shape[2]
    assert sides == {8: 4, 16: 4, 28: 7, 32: 8, 64: 4}


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_class_matters_and_the_latent_too(conditioning: Conditioning) -> None:
    generator = tiny_generator(conditioning=conditioning).eval()
    latents, _ = inputs(generator, 1)
    with torch.no_grad():
        first, second = generator(latents.expand(2, -1), torch.tensor([0, 1]))
        other = generator(-latents, torch.tensor([0]))[0]
        again = generator(latents, torch.tensor([0]))[0]
    assert not torch.allclose(first, second, atol=1e-6)
    assert not torch.allclose(first, other, atol=1e-6)
    torch.testing.assert_close(first, again, rtol=0, atol=1e-6)


def test_each_block_reads_its_own_part_of_a_hierarchical_latent() -> None:
    """The class embedding and the seed are held: only the parts after the first change, and each changes the image."""
    generator = tiny_generator(16, conditioning="hierarchical").eval()
    latents, classes = inputs(generator, 1)
    with torch.no_grad():
        before = generator(latents, classes)
        for part in range(3):
            moved = latents.clone()
            moved[:, part * 2 : part * 2 + 2] += 3
            assert not torch.allclose(generator(moved, classes), before, atol=1e-6), f"part {part} is not read"


def test_the_discriminator_sees_images_centred_at_zero() -> None:
    """With mid-grey input and zero biases every map is 0, so the logits are those of the biases alone."""
    discriminator = tiny_discriminator()
    output = discriminator(torch.full((2, 1, 8, 8), 0.5))
    assert not output.features.any()
    assert not output.adversarial.any()
    assert discriminator(torch.zeros(2, 1, 8, 8)).features.any()


def test_features_are_sums_over_positions() -> None:
    discriminator = tiny_discriminator()
    images = torch.rand(2, 1, 8, 8)
    discriminator.eval()
    with torch.no_grad():
        maps = discriminator.blocks(2 * images - 1).relu()
        torch.testing.assert_close(discriminator(images).features, maps.mean((2, 3)) * 16)


@pytest.mark.parametrize("build", [tiny_generator, tiny_discriminator])
def test_every_weight_matrix_has_spectral_norm_one(build: type) -> None:
    network = build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(7)
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for layer in layers:
            for _ in range(300):  # each access is one power iteration in training mode
                _ = layer.weight
    network.eval()
    norms = torch.stack([torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2) for layer in layers])
    assert len(norms) >= 8
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=0.01)


def test_evaluation_does_not_move_the_singular_vectors() -> None:
    discriminator = tiny_discriminator().eval()
    before = copy.deepcopy(discriminator.state_dict())
    discriminator(torch.rand(2, 1, 8, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in discriminator.state_dict().items())


def train_generator(generator: ResidualGenerator, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    generator(*inputs(generator)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_state_dict_goes_on_where_it_was_saved(conditioning: Conditioning) -> None:
    generator = tiny_generator(conditioning=conditioning)
    train_generator(generator, torch.optim.Adam(generator.parameters(), 1e-2))
    torch.manual_seed(9)
    other = build_conditional_generator("residual", (1, 8, 8), 3, generator.latent_dim, 2, conditioning)
    other.load_state_dict(generator.state_dict())
    for network in (generator, other):
        train_generator(network, torch.optim.SGD(network.parameters(), 0.1))
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_discriminators_state_dict_loads_back() -> None:
    discriminator = tiny_discriminator()
    images = torch.rand(2, 1, 8, 8)
    discriminator(images)
    torch.manual_seed(9)
    other = build_discriminator("residual", (1, 8, 8), 3, 2)
    other.load_state_dict(discriminator.state_dict())
    assert torch.equal(other(images).class_logits, discriminator(images).class_logits)


def test_a_deep_copy_is_a_generator_of_its_own() -> None:
    generator = tiny_generator()
    average = copy.deepcopy(generator).eval()
    before = average(*inputs(generator)).detach()
    train_generator(generator, torch.optim.Adam(generator.parameters(), 1e-2))
    assert torch.equal(average(*inputs(generator)), before), "training the original moved the copy"
    generator.eval()
    assert not torch.equal(generator(*inputs(generator)), before)
    average.load_state_dict(generator.state_dict())
    assert torch.equal(average(*inputs(generator)), generator(*inputs(generator)))
    assert not {id(p) for p in average.parameters()} & {id(p) for p in generator.parameters()}


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_bfloat16_autocast_forward_and_backward(conditioning: Conditioning) -> None:
    generator = tiny_generator(16, conditioning=conditioning).to(memory_format=torch.channels_last)
    discriminator = tiny_discriminator(16).to(memory_format=torch.channels_last)
    projector = FeatureProjector(discriminator.feature_dim, 5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(*inputs(generator))
        output = discriminator(images)
        projected = projector(output.features)
        assert generator.first_linear(torch.randn(2, generator.chunk)).dtype == torch.bfloat16
    assert images.dtype == output.adversarial.dtype == output.class_logits.dtype == output.features.dtype == torch.float32
    assert projected.shape == (3, 5)
    (output.adversarial.sum() + output.class_logits.sum() + projected.float().sum()).backward()
    for network in (generator, discriminator, projector):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    for name, tensor in [*generator.state_dict().items(), *discriminator.state_dict().items()]:
        assert tensor.isfinite().all(), name
        assert tensor.dtype in (torch.float32, torch.int64), name


def test_weights_are_normalised_outside_autocast() -> None:
    """A CPU's autocast leaves the power iteration alone and CUDA's does not, so this asks for its state and not its result."""
    generator, discriminator = tiny_generator(conditioning="shared"), tiny_discriminator()
    seen = []
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, _SpectralNorm):
                module.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        discriminator(generator(*inputs(generator)))
    assert seen == [False] * (1 + 2 * (3 + 4) + 1 + 4 * 2 + 1 + 2), "first, two blocks with two norms, last; four blocks, heads"


def test_projector_is_linear() -> None:
    projector = FeatureProjector(4, 3, 8)
    a, b = torch.randn(2, 2, 4)
    zero = projector(torch.zeros(2, 4))
    torch.testing.assert_close(projector(a + b) + zero, projector(a) + projector(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_shape", [(3, 48, 48), (3, 32, 64), (0, 32, 32), (1, 224, 224)])
def test_sizes_without_a_layout(image_shape: tuple[int, int, int]) -> None:
    message = "8, 16, 28, 32, 64, 128 or 256 px .* made at the next larger one of these and resized"
    with pytest.raises(ConfigError, match=message):
        build_conditional_generator("residual", image_shape, 10)
    with pytest.raises(ConfigError, match=message):
        build_discriminator("residual", image_shape, 10)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"latent_dim 128 does not split into the 5 equal parts .* take 125 or 130"):
        build_conditional_generator("residual", (3, 64, 64), 200, 128, conditioning="hierarchical")
    with pytest.raises(ConfigError, match="take 3 or 6"):
        build_conditional_generator("residual", (3, 8, 8), 10, 2, conditioning="hierarchical")
    with pytest.raises(ConfigError, match="unknown conditioning 'deep': known are per_layer, shared, hierarchical"):
        build_conditional_generator("residual", (3, 8, 8), 10, conditioning="deep")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1, got 10, 0, 64"):
        build_conditional_generator("residual", (3, 8, 8), 10, 0)
    with pytest.raises(ConfigError, match="at least 1, got 0, 64"):
        build_discriminator("residual", (3, 8, 8), 0)
    with pytest.raises(UnknownNameError, match="'residual'"):
        build_conditional_generator("residuel", (3, 8, 8), 10)
    with pytest.raises(UnknownNameError, match="'residual'"):
        build_discriminator("residuel", (3, 8, 8), 10)

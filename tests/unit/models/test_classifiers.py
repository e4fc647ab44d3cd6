"""The acceptance numbers of the catalog: parameters, BatchNorm layers and channels, penultimate width."""

import pytest
import torch
from torch import nn

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.models.catalog import CLASSIFIERS, build_classifier
from raydfkd.models.teachers.bn_statistics import batch_norm_layers

INVENTORY = {
    # name: (parameters for 10 classes, for 100 classes, BatchNorm layers, their channels, penultimate width)
    "resnet18": (11_173_962, 11_220_132, 20, 4800, 512),
    "resnet34": (21_282_122, 21_328_292, 36, 8512, 512),
    "resnet50": (23_520_842, 23_705_252, 53, 26560, 2048),
    "wrn_16_1": (175_066, 180_916, 13, 464, 64),
    "wrn_16_2": (691_674, 703_284, 13, 912, 128),
    "wrn_40_1": (563_930, 569_780, 37, 1360, 64),
    "wrn_40_2": (2_243_546, 2_255_156, 37, 2704, 128),
    "planar_cnn_16": (70_126, 70_396, 5, 208, 2),
    "planar_cnn_32": (278_462, 278_732, 5, 416, 2),
    "vgg8_bn": (3_918_858, 3_965_028, 5, None, 512),
    "vgg11_bn": (9_231_114, 9_277_284, 8, 2752, 512),
    "vgg13_bn": (9_416_010, 9_462_180, 10, 2944, 512),
    "vgg16_bn": (14_728_266, 14_774_436, 13, 4224, 512),
    "resnet32x4": (7_410_730, 7_433_860, 34, None, 256),
    "resnet110": (1_730_714, 1_736_564, 111, None, 64),
    "resnet110x2": (6_899_610, 6_911_220, 112, None, 128),
    "resnet116": (1_827_930, 1_833_780, 117, None, 64),
    "shufflenet_v1": (862_768, 949_258, None, None, 960),
    "shufflenet_v2": (1_263_278, 1_355_528, None, None, 1024),
    "mobilenet_v2_half": (697_546, 812_836, None, None, 1280),
    "mobilenet_v2_crd": (2_237_770, 2_353_060, None, None, 1280),
    "mobilenet_v2": (2_236_682, 2_351_972, 52, None, 1280),
    "mobilenet_v2_stride1": (2_236_682, 2_351_972, 52, None, 1280),
}


def num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", INVENTORY)
def test_inventory(name: str) -> None:
    ten, hundred, num_layers, channels, feature_dim = INVENTORY[name]
    with torch.device("meta"):
        model = build_classifier(name, 10, (3, 32, 32))
        assert num_params(build_classifier(name, 100, (3, 32, 32))) == hundred
    assert num_params(model) == ten
    layers = batch_norm_layers(model).values()
    if num_layers is not None:
        assert len(layers) == num_layers
    if channels is not None:
        assert sum(layer.num_features for layer in layers) == channels
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    assert (head.in_features, head.out_features) == (feature_dim, 10)


def final_map_size(name: str, size: int) -> int:
    """Side of the map that enters the global average pool, of ``size`` pixel images, from the last BatchNorm's input."""
    model = build_classifier(name, 2, (3, size, size)).eval()
    seen: list[int] = []
    for layer in batch_norm_layers(model).values():
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return seen[-1]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 32, 4),
        ("resnet18", 64, 8),
        ("wrn_16_1", 32, 8),
        ("vgg8_bn", 32, 4),
        ("vgg8_bn", 64, 4),
        ("resnet20", 32, 8),
        ("mobilenet_v2", 32, 1),
        ("mobilenet_v2_stride1", 32, 2),
        ("mobilenet_v2_half", 32, 2),
        ("shufflenet_v1", 32, 4),
        ("shufflenet_v2", 32, 4),
    ],
)
def test_resolution_of_the_last_map(name: str, size: int, expected: int) -> None:
    assert final_map_size(name, size) == expected


OF_PIXELS = {name for name in CLASSIFIERS if name.startswith(("deeplabv3_", "small_unet_"))}
SAME_CODE_AS_A_SMALLER_ONE = {
    *("planar_cnn_32", "resnet34", "resnet110", "resnet110x2", "resnet116", "vgg16_bn", "small_unet_16", "small_unet_32"),
}


@pytest.mark.parametrize("name", sorted(set(CLASSIFIERS) - SAME_CODE_AS_A_SMALLER_ONE))
def test_every_name_takes_any_channels_and_sizes_and_gives_gradients(name: str) -> None:
    torch.manual_seed(0)
    model = build_classifier(name, 7, (2, 16, 24)).to(memory_format=torch.channels_last)
    images = torch.rand(2, 2, 16, 24, requires_grad=True)
    logits = model(images)
    assert logits.shape == ((2, 7, 16, 24) if name in OF_PIXELS else (2, 7))
    logits.square().sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["wrn_16_1", "resnet20", "shufflenet_v1", "shufflenet_v2", "mobilenet_v2_half", "vgg8_bn"])
def test_bfloat16_channels_last_agrees_with_float32(name: str) -> None:
    torch.manual_seed(0)
    model = build_classifier(name, 5, (3, 16, 16)).eval()
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            fast = model(images.contiguous(memory_format=torch.channels_last))
    assert (fast.float() - plain).abs().max() <= 0.1 * plain.abs().max() + 0.02


def test_identity_skip_takes_the_raw_input_and_projection_the_activated_one() -> None:
    from raydfkd.models.classifiers.wide_resnet import PreActivationBlock

    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for block in (PreActivationBlock(4, 4, 1), PreActivationBlock(4, 8, 2)):
        block.eval()
        nn.init.zeros_(block.conv2.weight)
        expected = x if block.convShortcut is None else block.convShortcut(torch.relu(block.bn1(x)))
        torch.testing.assert_close(block(x), expected)


def test_two_features_reach_all_sides_of_the_origin() -> None:
    torch.manual_seed(0)
    model = build_classifier("planar_cnn_4", 10, (1, 28, 28)).eval()
    last_map = model.forward_maps(torch.randn(64, 1, 28, 28))[-1]
    assert last_map.shape == (64, 2, 7, 7)
    assert last_map.min() < 0 < last_map.max()


def test_shuffle_channels_is_the_papers_transpose() -> None:
    from raydfkd.models.classifiers.shufflenet import shuffle_channels

    x = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 2, 2)
    assert shuffle_channels(x, 2)[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle_channels(x, 3)[0, :, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_initialisation_spreads_as_stated() -> None:
    torch.manual_seed(0)
    vgg = build_classifier("vgg8_bn", 100, (3, 32, 32))
    head = vgg.get_submodule("classifier")
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    conv = vgg.get_submodule("block3.0")
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "expected"), [("mobilenet_v2", [8, 4, 2]), ("mobilenet_v2_stride1", [16, 8, 4]), ("mobilenet_v2_crd", [16, 8, 4])]
)
def test_where_the_mobilenets_lose_resolution(name: str, expected: list[int]) -> None:
    model = build_classifier(name, 2, (3, 32, 32)).eval()
    sizes: list[int] = []
    for last_block_of_stage in ("features.3", "features.6", "features.10"):  # 24, 32 and 64 channels
        model.get_submodule(last_block_of_stage).register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[-1]))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert sizes == expected


def test_mobilenet_has_torchvisions_names() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2(num_classes=10).state_dict()
        ours = build_classifier("mobilenet_v2", 10, (3, 32, 32)).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "vgg8_bn", "resnet18", "wrn_16_1"])
def test_eight_pixels_are_enough(name: str) -> None:
    assert build_classifier(name, 4, (1, 8, 8))(torch.rand(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("name", ["wrn_22_3", "small_cnn_5", "planar_cnn_5", "resnet56", "wrn_10_1"])
def test_names_by_pattern(name: str) -> None:
    assert build_classifier(name, 4, (1, 8, 8))(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'resnet18'"):
        build_classifier("resnet19", 10, (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "num_classes", "image_shape", "words"),
    [
        ("wrn_17_2", 10, (3, 32, 32), "6n\\+4"),
        ("wrn_16_0", 10, (3, 32, 32), "6n\\+4"),
        ("small_cnn_0", 10, (3, 32, 32), "at least 1"),
        ("planar_cnn_0", 10, (3, 32, 32), "at least 1"),
        ("vgg8_bn", 10, (3, 4, 32), "at least 8 x 8 pixels, got 4 x 32"),
        ("resnet18", 0, (3, 32, 32), "0 classes"),
        ("resnet18", 10, (0, 32, 32), "positive"),
        ("resnet18", 10, (32, 32), "positive|3 numbers"),
    ],
)
def test_impossible_requests(name: str, num_classes: int, image_shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_classifier(name, num_classes, image_shape)  # type: ignore[arg-type]

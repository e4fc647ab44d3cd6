"""Names for networks, of images or of pixels: ``build_classifier("wrn_16_2", 10, (3, 32, 32))``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from raydfkd.errors import ConfigError
from raydfkd.models.classifiers import ImageShape, mobilenet_v2, resnet, resnet_cifar, vgg
from raydfkd.models.classifiers.conv_net import ConvNet
from raydfkd.models.classifiers.planar import PlanarCNN
from raydfkd.models.classifiers.shufflenet import ShuffleNetV1, ShuffleNetV2
from raydfkd.models.classifiers.small import SmallCNN
from raydfkd.models.classifiers.wide_resnet import WideResNet
from raydfkd.models.external import build_external, import_callable, import_library
from raydfkd.models.hugging_face.hub_folder import PREFIX, open_hub_folder
from raydfkd.models.segmentation.deeplab_v3 import DeepLabV3
from raydfkd.models.segmentation.dilated_mobilenet import WIDTH as MOBILENET_WIDTH
from raydfkd.models.segmentation.dilated_mobilenet import DilatedMobileNetV2
from raydfkd.models.segmentation.dilated_resnet import WIDTH as RESNET_WIDTH
from raydfkd.models.segmentation.dilated_resnet import DilatedResNet50
from raydfkd.models.segmentation.small_unet import SmallUNet
from raydfkd.registry import Registry

EXPORTED_SUFFIX = ".pt2"
"""Suffix of torch.export files, which can be teachers but are not catalog models."""

ClassifierFactory = Callable[[int, ImageShape], nn.Module]
"""Takes the number of classes and the image shape."""


@dataclass(frozen=True)
class ClassifierEntry:
    """A way to build one architecture, and its minimum length of the shorter image side in pixels."""

    build: ClassifierFactory
    min_size: int


CLASSIFIERS: Registry[ClassifierEntry] = Registry("model")


def _wide_resnet(depth: int, widen_factor: int) -> ClassifierEntry:
    if depth < 10 or (depth - 4) % 6 != 0 or widen_factor < 1:
        raise ConfigError(
            f"model 'wrn_{depth}_{widen_factor}' does not exist: the depth must be 6n+4 (10, 16, 22, 28, 34, 40, ...) "
            "and the width at least 1"
        )
    return ClassifierEntry(lambda classes, shape: WideResNet(depth, widen_factor, classes, shape[0]), 4)


def _small_cnn(width: int) -> ClassifierEntry:
    if width < 1:
        raise ConfigError("model 'small_cnn_0' does not exist: the width must be at least 1")
    return ClassifierEntry(lambda classes, shape: SmallCNN(width, classes, shape[0], min(shape[1:])), 4)


def _planar_cnn(width: int) -> ClassifierEntry:
    if width < 1:
        raise ConfigError("model 'planar_cnn_0' does not exist: the width must be at least 1")
    return ClassifierEntry(lambda classes, shape: PlanarCNN(width, classes, shape[0]), 4)


def _conv_net(depth: int) -> ClassifierEntry:
    if depth < 1:
        raise ConfigError("model 'conv_net_0' does not exist: the depth must be at least 1")
    return ClassifierEntry(lambda classes, shape: ConvNet(depth, classes, shape), 2**depth)


def _small_unet(width: int) -> ClassifierEntry:
    if width < 1:
        raise ConfigError("model 'small_unet_0' does not exist: the width must be at least 1")
    return ClassifierEntry(lambda classes, shape: SmallUNet(width, classes, shape[0]), 16)


_PATTERNS: tuple[tuple[re.Pattern[str], Callable[..., ClassifierEntry]], ...] = (
    (re.compile(r"wrn_(\d+)_(\d+)"), _wide_resnet),
    (re.compile(r"small_cnn_(\d+)"), _small_cnn),
    (re.compile(r"planar_cnn_(\d+)"), _planar_cnn),
    (re.compile(r"conv_net_(\d+)"), _conv_net),
    (re.compile(r"small_unet_(\d+)"), _small_unet),
)


def _resnet(block: type[resnet.BasicBlock] | type[resnet.Bottleneck], depths: tuple[int, int, int, int]) -> ClassifierEntry:
    return ClassifierEntry(lambda classes, shape: resnet.ResNet(block, depths, classes, shape[0]), 8)


def _thin_resnet(depth: int, widths: resnet_cifar.Widths) -> ClassifierEntry:
    return ClassifierEntry(lambda classes, shape: resnet_cifar.ThinResNet(depth, widths, classes, shape[0]), 4)


def _vgg(depths: tuple[int, int, int, int, int]) -> ClassifierEntry:
    return ClassifierEntry(lambda classes, shape: vgg.VGG(depths, classes, shape[0], min(shape[1:])), 8)


def _mobilenet_v2(variant: mobilenet_v2.MobileNetV2Variant) -> ClassifierEntry:
    return ClassifierEntry(lambda classes, shape: mobilenet_v2.MobileNetV2(variant, classes, shape[0]), 8)


for _name, _depths in resnet.BASIC_DEPTHS.items():
    CLASSIFIERS.add(_name, _resnet(resnet.BasicBlock, _depths))
for _name, _depths in resnet.BOTTLENECK_DEPTHS.items():
    CLASSIFIERS.add(_name, _resnet(resnet.Bottleneck, _depths))
for _name, (_depth, _widths) in resnet_cifar.ARCHITECTURES.items():
    CLASSIFIERS.add(_name, _thin_resnet(_depth, _widths))
for _name, _vgg_depths in vgg.DEPTHS.items():
    CLASSIFIERS.add(_name, _vgg(_vgg_depths))
for _name, _variant in mobilenet_v2.VARIANTS.items():
    CLASSIFIERS.add(_name, _mobilenet_v2(_variant))
CLASSIFIERS.add("shufflenet_v1", ClassifierEntry(lambda classes, shape: ShuffleNetV1(classes, shape[0]), 8))
CLASSIFIERS.add("shufflenet_v2", ClassifierEntry(lambda classes, shape: ShuffleNetV2(classes, shape[0]), 8))
for _depth, _width in ((16, 1), (16, 2), (40, 1), (40, 2)):
    CLASSIFIERS.add(f"wrn_{_depth}_{_width}", _wide_resnet(_depth, _width))
for _width in (8, 16, 32):
    CLASSIFIERS.add(f"small_cnn_{_width}", _small_cnn(_width))
for _width in (16, 32):
    CLASSIFIERS.add(f"planar_cnn_{_width}", _planar_cnn(_width))
for _depth in (3, 4):
    CLASSIFIERS.add(f"conv_net_{_depth}", _conv_net(_depth))


for _width in (8, 16, 32):
    CLASSIFIERS.add(f"small_unet_{_width}", _small_unet(_width))
CLASSIFIERS.add(
    "deeplabv3_resnet50",
    ClassifierEntry(lambda classes, shape: DeepLabV3(DilatedResNet50(shape[0]), RESNET_WIDTH, classes), 16),
)
CLASSIFIERS.add(
    "deeplabv3_mobilenet_v2",
    ClassifierEntry(lambda classes, shape: DeepLabV3(DilatedMobileNetV2(shape[0]), MOBILENET_WIDTH, classes), 16),
)


def build_classifier(name: str, num_classes: int, image_shape: ImageShape, *, pretrained: bool = False) -> nn.Module:
    """A new network, images [B,C,H,W] to logits [B,num_classes], or [B,num_classes,H,W] of each pixel, in training mode.

    ``name`` is one of ``CLASSIFIERS``, ``wrn_D_K``, ``small_cnn_W``, ``planar_cnn_W``, ``conv_net_D``, ``small_unet_W``,
    ``torchvision:NAME``,
    ``timm:NAME``, ``hf:FOLDER``, ``hf:ORG/NAME`` or ``package.module:callable``. The callable gets ``num_classes``, and
    ``in_channels`` and ``image_shape`` if it names them. ``pretrained``: ``hf:`` with the weights in its folder.

    Raises:
        UnknownNameError: the name is unknown.
        ConfigError: the model cannot take images of that shape or that many classes.
    """
    if num_classes < 1 or len(image_shape) != 3 or min(image_shape) < 1:
        raise ConfigError(
            f"model {name!r}: got {num_classes} classes and image_shape {tuple(image_shape)}; "
            "the shape is 3 numbers (C, H, W), and all must be positive"
        )
    if name.endswith(EXPORTED_SUFFIX):
        raise ConfigError(f"{name} is an exported program, which can only be a teacher; name a model from the catalog")
    if ":" in name:
        return build_external(name, num_classes, image_shape, pretrained=pretrained)
    entry = _entry(name)
    if min(image_shape[1:]) < entry.min_size:
        raise ConfigError(
            f"model {name!r} needs images of at least {entry.min_size} x {entry.min_size} pixels, "
            f"got {image_shape[1]} x {image_shape[2]}"
        )
    return entry.build(num_classes, image_shape)


def require_known(name: str) -> None:
    """Refuses a network that does not exist, whatever its images and classes; see :func:`build_classifier`.

    Raises:
        UnknownNameError, ConfigError: it does not, or its library is missing.
    """
    source, colon, rest = name.partition(":")
    if name.startswith(PREFIX):
        open_hub_folder(name)
    elif source in ("torchvision", "timm"):
        import_library(name)
    elif colon:
        import_callable(source, rest)
    elif not name.endswith(EXPORTED_SUFFIX):
        _entry(name)


def _entry(name: str) -> ClassifierEntry:
    for pattern, make in _PATTERNS:
        match = pattern.fullmatch(name)
        if match:
            return make(*(int(number) for number in match.groups()))
    return CLASSIFIERS.get(name)

"""Which networks a teacher may be distilled into: smaller ones of its family first, then the usual ones for its image size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from raydfkd.errors import ConfigError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers import ImageShape
from raydfkd.pipeline.run.outcome import count_params

FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "": (
        ("resnet50", "resnet34", "resnet18"),
        ("resnet116", "resnet110", "resnet56", "resnet44", "resnet32", "resnet20", "resnet14", "resnet8"),
        ("resnet32x4", "resnet8x4"),
        ("vgg16_bn", "vgg13_bn", "vgg11_bn", "vgg8_bn"),
        ("mobilenet_v2", "mobilenet_v2_half"),
        ("wrn_40_2", "wrn_40_1", "wrn_16_1"),
        ("small_cnn_32", "small_cnn_16", "small_cnn_8", "small_cnn_4"),
        ("planar_cnn_32", "planar_cnn_16"),
        ("deeplabv3_resnet50", "deeplabv3_mobilenet_v2"),
        ("small_unet_32", "small_unet_16", "small_unet_8", "small_unet_4"),
    ),
    "torchvision": (
        ("resnet152", "resnet101", "resnet50", "resnet34", "resnet18"),
        ("vgg19_bn", "vgg16_bn", "vgg13_bn", "vgg11_bn"),
        ("densenet201", "densenet169", "densenet121"),
        ("mobilenet_v3_large", "mobilenet_v3_small"),
        tuple(f"efficientnet_b{number}" for number in range(7, -1, -1)),
        ("convnext_large", "convnext_base", "convnext_small", "convnext_tiny"),
    ),
    "timm": (("resnet152", "resnet101", "resnet50", "resnet34", "resnet18", "resnet14t", "resnet10t"),),
}
"""Networks of one design by library, the largest first."""

USUAL = ((64, ("torchvision:resnet18", "mobilenet_v2", "small_cnn_16", "small_cnn_8")),
         (16, ("resnet18", "wrn_16_2", "wrn_16_1", "small_cnn_16", "small_cnn_8")),
         (0, ("small_cnn_32", "small_cnn_16", "small_cnn_8", "small_cnn_4")))  # fmt: skip
"""Shorter side of the images from which these networks are usual, the largest first."""

USUAL_OF_PIXELS = ((64, ("deeplabv3_mobilenet_v2", "small_unet_16", "small_unet_8")),
                   (0, ("small_unet_16", "small_unet_8", "small_unet_4")))  # fmt: skip
"""The same of those that give each pixel a class."""

WELL_BELOW = 0.6
"""A student has at most this share of its teacher's parameters, unless the user says otherwise."""


@dataclass(frozen=True)
class Candidate:
    """A network, its parameters, and why it is one."""

    model: str
    params: int
    why: str


def family_of(model: str) -> tuple[str, ...]:
    """The smaller networks of a network's design, the largest first."""
    library, _, name = model.rpartition(":")
    prefix = f"{library}:" if library else ""
    for family in FAMILIES.get(library, ()):
        if name in family:
            return tuple(prefix + smaller for smaller in family[family.index(name) + 1 :])
    wide = re.fullmatch(r"wrn_(\d+)_(\d+)", name) if not library else None
    if wide is None:
        return ()
    depth, width = int(wide[1]), int(wide[2])
    return tuple(dict.fromkeys(one for one in (f"wrn_{depth}_1", "wrn_16_1") if width > 1 or depth > 16))


def candidates(
    teacher: str,
    teacher_params: int,
    num_classes: int,
    image_shape: ImageShape,
    max_params: int | None = None,
    positions: tuple[int, ...] = (),
) -> list[Candidate]:
    """Students to try, the best first; at least one.

    Args:
        max_params: most parameters; None: a share of the teacher's.
        positions: axes of the teacher's logits behind the classes.

    Raises:
        ConfigError: none is as small as ``max_params``.
    """
    limit = WELL_BELOW * teacher_params if max_params is None else max_params
    family = [*_built(family_of(teacher), num_classes, image_shape, "of the teacher's family")]
    side = min(image_shape[1:])
    names = next(names for least, names in (USUAL_OF_PIXELS if positions else USUAL) if side >= least)
    usual = [*_built(names, num_classes, image_shape, f"usual for images of {side} pixels")]
    fitting = [one for one in family + usual if one.params <= limit]
    if fitting:
        return fitting
    smallest = min(family + usual, key=lambda one: one.params)
    if max_params is not None:
        raise ConfigError(
            f"no known student for such images has at most {max_params:,} parameters: the smallest, {smallest.model}, has "
            f"{smallest.params:,}; raise --max-params, or name a network of yours with --student"
        )
    return [smallest]


def named(model: str, num_classes: int, image_shape: ImageShape) -> Candidate:
    """The user's own choice.

    Raises:
        ConfigError, UnknownNameError: it does not exist, or not for such images.
    """
    return Candidate(model, count_params(build_classifier(model, num_classes, image_shape)), "as you named it")


def _built(names: tuple[str, ...], num_classes: int, image_shape: ImageShape, why: str) -> Iterator[Candidate]:
    for name in names:
        try:
            network: nn.Module = build_classifier(name, num_classes, image_shape)
        except ConfigError:  # it takes larger images or other channels, or its library is missing
            continue
        yield Candidate(name, count_params(network), why)

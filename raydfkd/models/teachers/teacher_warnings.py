"""What looks wrong with a teacher, as far as it shows without real images: its outputs, and how it takes images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.models.teachers.bn_statistics import batch_norm_layers
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

EQUAL_LOGITS = 0.05
"""Where all logits of an image are within this, its most likely class is at most 5% likelier than any other."""
FAR_LARGER = 300.0
"""Ratio of variances: between natural and random images up to 20 in a filter's output, of pixels 0..255 to 0..1 it is 65025."""
_STATISTICS = (("mean", "std"), ("mu", "sigma"), ("pixel_mean", "pixel_std"), ("image_mean", "image_std"))


def warnings_of(teacher: FrozenTeacher, images: Tensor, logits: Tensor, deterministic: bool) -> Iterator[str]:
    """One sentence for each thing that looks wrong.

    Args:
        images: random ones in [0,1], [B,C,H,W].
        logits: the teacher's of these.
        deterministic: whether it gave the same logits again.
    """
    if not deterministic:
        yield (
            "the same images give the teacher different logits from call to call, such as by a dropout that is always on "
            "(F.dropout without training=self.training): correct its code"
        )
    if teacher.output_kind == "sigmoid":
        yield (
            "all outputs of the teacher are between 0 and 1 and do not add up to 1, as a sigmoid at its end gives: "
            "distillation takes them as logits; leave the sigmoid out"
        )
    spread = float((logits.amax(1) - logits.amin(1)).max())
    if spread < EQUAL_LOGITS:
        yield (
            f"the teacher's logits of random images differ by at most {spread:.2g} between classes, so that all classes are "
            "about equally likely: its weights are untrained, or something divides its logits, such as a temperature"
        )
    yield from _input_warnings(teacher, images)


def _input_warnings(teacher: FrozenTeacher, images: Tensor) -> Iterator[str]:
    mean, std = teacher.normalization.mean, teacher.normalization.std
    own = _own_normalization(teacher)
    if own is not None and not (bool((mean == 0).all()) and bool((std == 1).all())):
        yield (
            f"the teacher's {own} holds a mean and a standard deviation for each channel, so it seems to normalise its "
            "images itself, and teacher.normalization does it before: give mean 0 and std 1 there, unless both are meant"
        )
    larger = _expected_scale(teacher, images)
    if larger is not None and larger > FAR_LARGER:
        yield (
            f"the teacher's first BatchNorm layer was trained on inputs about {larger**0.5:.0f} times as large as images in "
            "[0,1] give with teacher.normalization, as if on pixels from 0 to 255: divide that std by 255 if so"
        )


def _own_normalization(teacher: FrozenTeacher) -> str | None:
    """The module of the network that has statistics of the images' channels."""
    channels = teacher.image_shape[0]
    for name, module in teacher.model.named_modules():
        for pair in _STATISTICS:
            if all(_numel(getattr(module, attribute, None)) == channels for attribute in pair):
                return f"module {name!r}" if name else "network"
    return None


def _numel(value: object) -> int | None:
    if isinstance(value, Tensor):
        return value.numel()
    return len(value) if isinstance(value, list | tuple) else None


def _expected_scale(teacher: FrozenTeacher, images: Tensor) -> float | None:
    """How many times the variance that the first BatchNorm layer was trained on is that of smooth random images, in the median
    over channels; None if there is none, or it is untrained."""
    first = next(iter(batch_norm_layers(teacher.model).values()), None)
    if first is None:
        return None
    trained = first.running_var
    assert isinstance(trained, Tensor)
    if bool((trained == 1).all()):
        return None
    captured: list[Tensor] = []

    def capture(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        captured.extend(args[:1])

    handle = first.register_forward_pre_hook(capture)
    try:
        with torch.no_grad(), suppress(RuntimeError, ValueError, TypeError):
            teacher(F.interpolate(F.avg_pool2d(images, 4), images.shape[2:], mode="bilinear"))
            teacher(images)
    finally:
        handle.remove()
    if len(captured) < 2 or captured[0].ndim != 4:
        return None
    given = torch.stack([values.float().transpose(0, 1).flatten(1).var(1) for values in captured]).amax(0)
    return float((trained.float() / (given + 1e-12)).median())

"""What looks wrong with a teacher, as far as it shows without real images: its outputs, and how it takes images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.models.layer_capture import first_input
from raydfkd.models.teachers.bn_statistics import batch_norm_layers
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.teachers.own_normalization import own_scale_and_offset

EQUAL_LOGITS = 0.05
"""Where all logits of an image are within this, its most likely class is at most 5% likelier than any other."""
EQUAL_LOGITS_OF_REAL_IMAGES = 0.5
"""The most likely class is at most 1.6 times as likely as the least likely; a trained teacher's is hundreds of times."""
FAR_LARGER = 300.0
"""Ratio of variances: between natural and random images up to 20 in a filter's output, of pixels 0..255 to 0..1 it is 65025."""
NEVER = -80.0
"""Logarithm of less than any probability that a softmax of usual logits gives, above that of the smallest float32."""
UNLIKE = 3.0
"""Ratio of variances: images of the kind that a teacher was trained on give 0.7 to 1.4 times that of its training."""
FAR_WIDER = 20.0
"""A std of pixels in [0,1] is at most about 0.5, of pixels 0..255 some 50 to 130, or 255 where they are only divided by it."""
WIDEST = 0.5
"""What a network takes after its normalisation has at least about this span where pixels span 1: only divided, it has 1."""


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
    elif _depends_on_the_batch(teacher, images, logits):
        yield (
            "the teacher's logits of an image depend on the other images of the batch, such as by BatchNorm without running "
            "statistics or with those of the batch: correct its code, or its answers change with every batch"
        )
    if teacher.output_kind == "sigmoid":
        yield (
            "all outputs of the teacher are between 0 and 1 and do not add up to 1, as a sigmoid at its end gives: "
            "distillation takes them as logits; leave the sigmoid out"
        )
    if teacher.output_kind == "probabilities" and bool((logits.amin(1) < NEVER).all()):
        yield (
            "the teacher's outputs are its decisions, 0 or 1, and no probabilities: they teach a student no more than "
            "labels, and give no gradient; leave the rounding out"
        )
    spread = float((logits.amax(1) - logits.amin(1)).max())
    if spread < EQUAL_LOGITS:
        yield (
            f"the teacher's logits of random images differ by at most {spread:.2g} between classes, so that all classes are "
            "about equally likely: its weights are untrained, or something divides its logits, such as a temperature"
        )
    yield from _input_warnings(teacher, images)


def _depends_on_the_batch(teacher: FrozenTeacher, images: Tensor, logits: Tensor) -> bool:
    with torch.no_grad():
        among_others = teacher(torch.cat([images[:1], images[1:].square()])).float()
    return not torch.allclose(among_others[0], logits[0], rtol=1e-2, atol=1e-3 * float(logits.abs().max()))


def _input_warnings(teacher: FrozenTeacher, images: Tensor) -> Iterator[str]:
    yield from _own_normalization_warnings(teacher)
    smooth = F.interpolate(F.avg_pool2d(images, 4), images.shape[2:], mode="bilinear") if min(images.shape[2:]) >= 4 else images
    larger = _trained_to_given(teacher, smooth, images)
    if larger is not None and larger > FAR_LARGER:
        yield (
            f"the teacher's first BatchNorm layer was trained on inputs about {larger**0.5:.0f} times as large as images in "
            "[0,1] give with teacher.normalization, as if on pixels from 0 to 255: divide that std by 255 if so"
        )


def _own_normalization_warnings(teacher: FrozenTeacher) -> Iterator[str]:
    own = own_scale_and_offset(teacher)
    if own is None:
        return
    scale, offset = own
    mean, std = teacher.normalization.mean, teacher.normalization.std
    told = f"mean {_numbers(-offset / scale)} and std {_numbers(1 / scale)}"
    if bool((scale < 1 / FAR_WIDER).all() and (scale / std < WIDEST).all()):
        yield (
            f"the teacher normalises its images itself ({told}), as if their pixels were from 0 to 255, and gets them in [0,1] "
            f"with teacher.normalization: give mean 0 and std {1 / 255:.6f} there"
        )
    elif not _is(scale, 1.0) or not _is(offset, 0.0):
        together_scale, together_offset = scale / std, offset - scale * mean / std
        # torchvision's GoogLeNet and Inception turn a normalisation by ImageNet's statistics into one to [-1,1].
        if not _is(mean, 0.0) and not (_is(together_scale, 2.0) and _is(together_offset, -1.0)):
            yield (
                f"the teacher normalises its images itself ({told}), and teacher.normalization does it before: give mean 0 and "
                "std 1 there, unless both are meant"
            )


def _is(values: Tensor, number: float) -> bool:
    return bool(((values - number).abs() <= 1e-2).all())


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{float(value) + 0.0:.3g}" for value in values)


def warnings_on(teacher: FrozenTeacher, images: Tensor) -> Iterator[str]:
    """As :func:`warnings_of`, for real images in [0,1] of the kind that the teacher was trained on, [B,C,H,W]."""
    with torch.no_grad():
        logits = teacher(images).float()
    spread = float((logits.amax(1) - logits.amin(1)).median())
    if spread < EQUAL_LOGITS_OF_REAL_IMAGES:
        yield (
            f"the teacher's logits of evaluation images differ by only {spread:.2g} between classes, so that all classes "
            "are about equally likely to it: something divides its logits, such as a temperature, or its weights are untrained"
        )
    ratio = _trained_to_given(teacher, images)
    if ratio is not None and not 1 / UNLIKE < ratio < UNLIKE:
        than = f"{ratio**0.5:.2g} times as large as" if ratio > 1 else f"{ratio**-0.5:.2g} times smaller than"
        yield (
            f"the teacher's first BatchNorm layer was trained on inputs {than} those that the evaluation images give with "
            "teacher.normalization: check its mean and std (the network may normalise its images itself, or take pixels from 0 "
            "to 255), and whether these images are of the kind that it was trained on"
        )


def _trained_to_given(teacher: FrozenTeacher, *batches: Tensor) -> float | None:
    """How many times the variance that the first BatchNorm layer was trained on is the largest that these images give, in the
    median over channels; None if there is none, or it is untrained."""
    layers = batch_norm_layers(teacher)
    first = next((layers[name] for name in teacher.executed or layers if name in layers), None)
    if first is None:
        return None
    trained = first.running_var
    assert isinstance(trained, Tensor)
    if bool((trained == 1).all()):
        return None
    captured: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.append(first_input(args, kwargs))

    handle = first.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad(), suppress(RuntimeError, ValueError, TypeError):
            for images in batches:
                teacher(images)
    finally:
        handle.remove()
    if len(captured) < len(batches) or captured[0].ndim != 4:
        return None
    given = torch.stack([values.float().transpose(0, 1).flatten(1).var(1) for values in captured]).amax(0)
    return float((trained.float() / (given + 1e-12)).median())

"""The teacher for fast forward passes: BatchNorm folded into the convolutions before it, and weights in bfloat16.

In evaluation mode BatchNorm is a factor and an offset per channel, which a convolution whose output nothing else reads can
apply itself. Whether nothing else does cannot be seen from outside, so the folded network is tried against the plain one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from raydfkd.errors import described
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

NUM_TRIED = 64
TOLERANCE = 1e-3
"""Largest change of a logit by folding, in shares of the largest logit: some thousand times float32's rounding."""


def fold_batch_norm(teacher: FrozenTeacher) -> tuple[FrozenTeacher, str | None]:
    """A copy of the teacher with fewer layers and the same logits up to rounding, and None; where there is none, the teacher
    itself and the reason (None: it has no BatchNorm).

    Layers keep their names, and a folded BatchNorm is an ``nn.Identity``, so that features are read as before. The output of
    a layer that ``feature_layers`` names is left as it is.
    """
    if not any(type(layer) in _NORMS for layer in teacher.model.modules()):
        return teacher, None
    images = tried_images(teacher)
    try:
        with _without_tf32():
            return _tried(teacher, images)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        return teacher, f"its network cannot be changed ({described(error)})"


def _tried(teacher: FrozenTeacher, images: Tensor) -> tuple[FrozenTeacher, str | None]:
    pairs = _pairs(teacher, images[:2])
    if not pairs:
        return teacher, "none follows a convolution"
    with torch.no_grad():
        plain = teacher(images)
        folded = _folded(teacher, pairs)
        if agree(plain, folded(images)):
            return folded, None
        # Some convolution's output is read past its norm too: those of which this is not so, one by one.
        folded = teacher
        for pair in pairs.items():
            further = _folded(folded, dict([pair]))
            folded = further if agree(plain, further(images)) else folded
    return folded, "without any of them its predictions change" if folded is teacher else None


@contextmanager
def _without_tf32() -> Iterator[None]:
    """float32 products with float32's own mantissas, on GPUs too: TF32's rounding is larger than that of folding."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def agree(plain: Tensor, folded: Tensor) -> bool:
    """Whether two sets of logits [B,K] differ by rounding alone, and predict the same classes but where two are equal to
    within that rounding."""
    limit = TOLERANCE * float(plain.abs().amax().clamp_min(1e-6))
    if not float((plain - folded).abs().amax()) <= limit:  # also where one is not a number
        return False
    ours = folded.argmax(1, keepdim=True)
    return bool(((plain.amax(1, keepdim=True) - plain.gather(1, ours)) <= 2 * limit).all())


def in_bfloat16(teacher: FrozenTeacher) -> tuple[FrozenTeacher, str | None]:
    """A copy with the weights of convolutions and linear layers in bfloat16, to which autocast would convert them in every
    pass, and None; where its network computes with them otherwise, the teacher itself and the reason.

    The classifier head, whose weights objectives read, and all else stay in float32.
    """
    try:
        converted = copy.deepcopy(teacher)
        head = converted.classifier_head if converted.has_classifier_head else None
        for layer in converted.model.modules():
            if type(layer) in (*_CONVOLUTIONS, nn.Linear) and layer is not head:
                layer.to(torch.bfloat16)
        images = tried_images(teacher)[:2]
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
            converted(images)
    except RuntimeError as error:
        return teacher, described(error)
    return converted, None


def tried_images(teacher: FrozenTeacher) -> Tensor:
    """Images [n,C,H,W] in [0,1] on the teacher's device, always the same: of noise in all sizes of grain."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = teacher.image_shape
    grains = []
    for side in (2, 4, 8, 16):
        coarse = torch.rand(NUM_TRIED // 4, channels, side, side, generator=generator)
        grains.append(nn.functional.interpolate(coarse, (height, width), mode="bilinear"))
    return torch.cat(grains).to(teacher.normalization.mean.device)


def _pairs(teacher: FrozenTeacher, images: Tensor) -> dict[str, str]:
    """Names of the BatchNorm layers that take a convolution's output as it is, and of these convolutions; both are called
    once in a pass, and ``feature_layers`` does not name the convolution."""
    layers = {name: layer for name, layer in teacher.model.named_modules() if type(layer) in (*_CONVOLUTIONS, *_NORMS)}
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    handles = [
        layer.register_forward_hook(lambda _, args, output, name=name: calls[name].append((args[0], output)))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            teacher(images)
    finally:
        for handle in handles:
            handle.remove()
    once = {name: made[0] for name, made in calls.items() if len(made) == 1}
    convolutions = {id(once[name][1]): name for name in once if isinstance(layers[name], _CONVOLUTIONS)}
    found: dict[str, str] = {}
    for name, (taken, _) in once.items():
        layer = layers[name]
        if isinstance(layer, _NORMS) and layer.running_mean is not None and id(taken) in convolutions:
            found[name] = convolutions[id(taken)]
    taken_by = list(found.values())
    kept = set(teacher.feature_layers or ())
    return {norm: source for norm, source in found.items() if taken_by.count(source) == 1 and source not in kept}


def _folded(teacher: FrozenTeacher, pairs: dict[str, str]) -> FrozenTeacher:
    folded = copy.deepcopy(teacher)
    for norm, convolution in pairs.items():
        _fold(folded.model, convolution, norm)
    return folded


def _fold(model: nn.Module, convolution: str, norm: str) -> None:
    layer: Any = model.get_submodule(convolution)
    after: Any = model.get_submodule(norm)
    layer.weight, layer.bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, after.running_mean, after.running_var, after.eps, after.weight, after.bias
    )
    layer.requires_grad_(False)
    parent, _, own = norm.rpartition(".")
    setattr(model.get_submodule(parent), own, nn.Identity())

"""What a network does to its images before its first layer with weights, such as a normalisation of its own."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from raydfkd.models.layer_capture import capture
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

LEVELS = (0.2, 0.5, 0.8)
TOLERANCE = 1e-3


@torch.no_grad()
def own_scale_and_offset(teacher: FrozenTeacher) -> tuple[Tensor, Tensor] | None:
    """For each channel x of what the network takes: the a and b [C] of the a x + b that reaches its first layer with weights.

    Read off images of one level each, with the median over pixels, so that it is found through a change of size too. None: it
    cannot be tried, its first layer takes something else than images, or this is no such function.
    """
    layers = dict(teacher.model.named_modules())
    first = next((name for name in teacher.executed or () if next(layers[name].parameters(False), None) is not None), None)
    if first is None:
        return None
    device = teacher.normalization.mean.device
    levels = torch.tensor(LEVELS, device=device)
    take = capture(teacher.model, (), inputs_of=[first], role="teacher", required=False)
    try:
        with torch.random.fork_rng(devices=[]), suppress(Exception):  # the audit says what is wrong with it
            _, (seen,) = take(levels.view(-1, 1, 1, 1).expand(-1, *teacher.image_shape).contiguous())
            return _line_through(levels, seen, teacher.image_shape[0])
    finally:
        take.remove()
    return None


def _line_through(levels: Tensor, seen: object, channels: int) -> tuple[Tensor, Tensor] | None:
    if not isinstance(seen, Tensor) or seen.ndim != 4 or seen.shape[:2] != (len(levels), channels):
        return None
    values = seen.flatten(2).median(2).values
    scale = (values[2] - values[0]) / (levels[2] - levels[0])
    offset = values[0] - levels[0] * scale
    size = values.abs().amax().clamp_min(1.0)
    is_line = bool(((offset + scale * levels[1] - values[1]).abs() <= TOLERANCE * size).all())
    return (scale, offset) if is_line and bool((scale > 0).all()) else None

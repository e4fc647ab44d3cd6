"""What a vision transformer's attention layers make of each patch of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import gcd, isqrt
from typing import Any

import torch
from torch import Tensor, nn

from raydfkd.errors import TeacherError
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.layer_capture import executed_layers
from raydfkd.models.teachers.frozen_teacher import PROBE_BATCH_SIZE, FrozenTeacher

FEWEST_TOKENS = 4
MOST_LEADING = 8
"""Class, distillation and register tokens that may precede the patches."""


def attention_layers(teacher: FrozenTeacher) -> dict[str, int]:
    """Attention layers over patches, by dotted name: how many tokens before the patches (a class token) each gives.

    They are called Attention (torch's, torchvision's, timm's, transformers') and give tokens [B,N,D], or [B * windows,N,D]; of
    nested ones the outermost counts. So many first tokens are no patches that the others fill a grid of the images'
    proportions; none of them where no number does.
    """
    channels, height, width = teacher.image_shape
    weight = next(teacher.model.parameters(), torch.empty(0))
    images = torch.rand(PROBE_BATCH_SIZE, channels, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, outputs = executed_layers(teacher.model, teacher.normalize(images.to(weight.device)))
    layers = dict(teacher.model.named_modules())
    found: dict[str, int] = {}
    for name in layers:  # a layer before those inside it
        if "Attention" not in type(layers[name]).__name__ or any(name.startswith(f"{outer}.") for outer in found):
            continue
        tokens = _tokens(outputs.get(name))
        if tokens is not None and len(tokens) % PROBE_BATCH_SIZE == 0 and tokens.shape[1] >= FEWEST_TOKENS:
            found[name] = _leading_tokens(tokens.shape[1], teacher.image_shape)
    return found


def _tokens(output: object) -> Tensor | None:
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) and first.ndim == 3 else None


def _leading_tokens(num_tokens: int, image_shape: ImageShape) -> int:
    _, height, width = image_shape
    shared = gcd(height, width)
    smallest_grid = (height // shared) * (width // shared)
    for leading in range(min(MOST_LEADING, num_tokens - 1) + 1):
        times, rest = divmod(num_tokens - leading, smallest_grid)
        if rest == 0 and isqrt(times) ** 2 == times:
            return leading
    return 0


class AttentionPatches:
    """Reads the tokens of patches, differentiably, while :meth:`capture` is active; hooks exist only inside it.

    Args:
        teacher: on its device.

    Raises:
        TeacherError: it has no attention layer over patches.
    """

    def __init__(self, teacher: FrozenTeacher) -> None:
        self._leading = attention_layers(teacher)
        if not self._leading:
            raise TeacherError(
                f"{type(teacher.model).__name__} has no attention layer that gives tokens of patches, which patch_weight is "
                "for: set it to 0, or give a vision transformer"
            )
        self._layers = {name: teacher.model.get_submodule(name) for name in self._leading}
        self._tokens: dict[str, Tensor] = {}

    @property
    def tokens(self) -> list[Tensor]:
        """[B,P,D] of each layer, of the last captured forward pass; the first axis is longer where attention is in windows."""
        return list(self._tokens.values())

    @contextmanager
    def capture(self) -> Iterator[AttentionPatches]:
        """Records the next forward pass; what was recorded before is dropped."""
        self._tokens = {}
        handles = [layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(layer: nn.Module, inputs: Any, output: Any) -> None:
            tokens = _tokens(output)
            assert tokens is not None, "as in the pass that found it"
            self._tokens[name] = tokens[:, self._leading[name] :]

        return record

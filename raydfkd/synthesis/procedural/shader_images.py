"""The library's program families as a source of images, rendered by torch or by OpenGL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raydfkd.synthesis.procedural.glsl import GlslRenderer
from raydfkd.synthesis.procedural.images import in_channels, reduced
from raydfkd.synthesis.procedural.shaders.catalog import family_names, program
from raydfkd.synthesis.procedural.shaders.glsl_source import PARAMETERS, SIZE, fragment_shader
from raydfkd.synthesis.procedural.shaders.sketch import Program
from raydfkd.synthesis.procedural.shaders.torch_renderer import render


class ShaderImages:
    """Pictures of random families with random parameters.

    Args:
        families: names to draw from; None: the whole library.
        images_per_family: pictures that are rendered together, of one family and with parameters of their own. More are
            faster, fewer mix better; over many batches it makes no difference to which pictures there are.
        supersampling: rendered so many times as large, and the mean taken.

    Raises:
        UnknownNameError: there is no such family.
        ConfigError: renderer glsl without moderngl or EGL.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        device: torch.device,
        families: Sequence[str] | None = None,
        renderer: Literal["torch", "glsl"] = "torch",
        images_per_family: int = 8,
        supersampling: int = 2,
    ) -> None:
        self._channels, height, width = image_shape
        self._height, self._width = height * supersampling, width * supersampling
        self._supersampling = supersampling
        self._device = device
        self._images_per_family = images_per_family
        self._names = list(family_names() if families is None else families)
        for name in self._names if families is not None else ():
            program(name)
        self._glsl = GlslRenderer() if renderer == "glsl" else None

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        images = []
        while count > 0:
            chosen = program(self._names[int(torch.randint(len(self._names), (), generator=generator))])
            parameters = chosen.draw(min(count, self._images_per_family), generator)
            large = self._drawn(chosen, parameters)
            images.append(reduced(in_channels(large, self._channels), self._supersampling))
            count -= len(parameters)
        return torch.cat(images)

    def _drawn(self, chosen: Program, parameters: Tensor) -> Tensor:
        if self._glsl is None:
            return render(chosen, parameters, self._height, self._width, self._device)
        return render_glsl(self._glsl, chosen, parameters, self._height, self._width).to(self._device)


def render_glsl(renderer: GlslRenderer, chosen: Program, parameters_BP: Tensor, height: int, width: int) -> Tensor:
    """As ``torch_renderer.render``, by OpenGL: [B,3,height,width] in [0,1] with 8 bits a channel."""
    source = _source(chosen)
    drawn = [
        renderer.draw(source, {PARAMETERS: row, SIZE: (float(width), float(height))}, height, width)
        for row in parameters_BP.cpu().numpy().astype(np.float32)
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float().div_(255)


_SOURCES: dict[str, str] = {}


def _source(chosen: Program) -> str:
    if chosen.name not in _SOURCES:
        _SOURCES[chosen.name] = fragment_shader(chosen)
    return _SOURCES[chosen.name]

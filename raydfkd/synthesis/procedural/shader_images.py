"""The library's program families as a source of images, rendered by torch or by OpenGL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.synthesis.procedural.glsl import GlslRenderer
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind, in_channels, reduced

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
    from raydfkd.synthesis.procedural.shaders import glsl_source, shader_catalog, torch_renderer
    from raydfkd.synthesis.procedural.shaders.sketch import Program
else:
    torch = deferred("torch")
    shader_catalog = deferred("raydfkd.synthesis.procedural.shaders.shader_catalog")
    glsl_source = deferred("raydfkd.synthesis.procedural.shaders.glsl_source")
    torch_renderer = deferred("raydfkd.synthesis.procedural.shaders.torch_renderer")


class ShaderImagesConfig(ImagesConfig):
    """The package's own library of parametrised shader programs."""

    kind: Literal["shaders"] = "shaders"
    """Kind of images."""
    families: tuple[str, ...] | None = Field(None, min_length=1)
    """Program families to draw from; null: the whole library."""
    renderer: Literal["torch", "glsl"] = "torch"
    """torch: batched, on any device; glsl: OpenGL through moderngl (extra ``shaders``); the
    driver compiles each family on first use."""
    images_per_family: int = Field(8, ge=1)
    """Images rendered together from one family, each with its own parameters: more are faster, fewer mix better."""
    supersampling: int = Field(2, ge=1, le=8)
    """Render at this many times the size and average, for soft edges."""


class ShaderImages:
    """Pictures of random families with random parameters.

    Args:
        families: names to draw from; None: the whole library.
        images_per_family: pictures that are rendered together, of one family and with parameters of their own. More are
            faster, fewer mix better; over many batches it does not affect the distribution of pictures.
        supersampling: scale factor of the render, which is then averaged down.

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
        self._names = list(shader_catalog.family_names() if families is None else families)
        for name in self._names if families is not None else ():
            shader_catalog.program(name)
        self._glsl = GlslRenderer() if renderer == "glsl" else None

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        images = []
        while count > 0:
            chosen = shader_catalog.program(self._names[int(torch.randint(len(self._names), (), generator=generator))])
            parameters = chosen.draw(min(count, self._images_per_family), generator)
            large = self._drawn(chosen, parameters)
            images.append(reduced(in_channels(large, self._channels), self._supersampling))
            count -= len(parameters)
        return torch.cat(images)

    def _drawn(self, chosen: Program, parameters: Tensor) -> Tensor:
        if self._glsl is None:
            return torch_renderer.render(chosen, parameters, self._height, self._width, self._device)
        return render_glsl(self._glsl, chosen, parameters, self._height, self._width).to(self._device)


def render_glsl(renderer: GlslRenderer, chosen: Program, parameters_BP: Tensor, height: int, width: int) -> Tensor:
    """As ``torch_renderer.render``, by OpenGL: [B,3,height,width] in [0,1] with 8 bits a channel."""
    source = _source(chosen)
    drawn = [
        renderer.draw(source, {glsl_source.PARAMETERS: row, glsl_source.SIZE: (float(width), float(height))}, height, width)
        for row in parameters_BP.cpu().numpy().astype(np.float32)
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float().div_(255)


_SOURCES: dict[str, str] = {}


def _source(chosen: Program) -> str:
    if chosen.name not in _SOURCES:
        _SOURCES[chosen.name] = glsl_source.fragment_shader(chosen)
    return _SOURCES[chosen.name]


def _build(config: ShaderImagesConfig, teacher: FrozenTeacher, device: torch.device) -> ShaderImages:
    shape = teacher.image_shape
    return ShaderImages(shape, device, config.families, config.renderer, config.images_per_family, config.supersampling)


IMAGES = ImagesKind(config=ShaderImagesConfig, build=_build, title="the package's own library of shader programs")

"""A user's own folder of fragment shaders as a source of images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raydfkd.data.file_tree import files_below
from raydfkd.deferred import deferred
from raydfkd.errors import DataError
from raydfkd.settings import InputPath
from raydfkd.synthesis.procedural.glsl import CHECKED_SIZE, GlslRenderer, ShaderError, UniformValue
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind, in_channels, reduced
from raydfkd.synthesis.procedural.user_shaders import complete_shader

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch = deferred("torch")

SUFFIXES = (".glsl", ".frag", ".fs", ".fragment")
FRAMES_PER_S = 60.0

logger = logging.getLogger(__name__)


class GlslFolderImagesConfig(ImagesConfig):
    """A folder of your own fragment shaders, to TwiGL's or Shadertoy's conventions (extra ``shaders``)."""

    kind: Literal["glsl_folder"] = "glsl_folder"
    """Kind of images."""
    path: InputPath
    """Folder of .glsl, .frag, .fs or .fragment files; subfolders are included."""
    supersampling: int = Field(2, ge=1, le=8)
    """Render at this many times the size and average, for soft edges."""
    min_time_s: float = Field(0.1, ge=0)
    """Earliest time at which a shader is rendered."""
    max_time_s: float = Field(10.0, ge=0)
    """Latest time at which a shader is rendered."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_time_s > self.max_time_s:
            raise ValueError(f"min_time_s {self.min_time_s:g} is above max_time_s {self.max_time_s:g}: swap them")
        return self


class GlslFolder:
    """Pictures of random shaders from a folder and its subfolders, each at a random time.

    A shader that cannot be drawn, because it does not compile or declares one of :func:`uniforms` as another type, is skipped
    with a warning.

    Args:
        supersampling: scale factor of the render, which is then averaged down.
        times_s: earliest and latest time in seconds.

    Raises:
        DataError: there is no such folder, no shader in it, or none that can be drawn.
        ConfigError: moderngl or EGL is missing.
    """

    def __init__(
        self,
        path: Path,
        image_shape: tuple[int, int, int],
        device: torch.device,
        supersampling: int = 2,
        times_s: tuple[float, float] = (0.1, 10.0),
    ) -> None:
        self._channels, height, width = image_shape
        self._height, self._width = height * supersampling, width * supersampling
        self._supersampling = supersampling
        self._times_s = times_s
        self._device = device
        self._renderer = GlslRenderer()
        self.files, self._sources = _drawable(path, self._renderer)

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self._sources), (count,), generator=generator).tolist()
        low, high = self._times_s
        times = (low + (high - low) * torch.rand(count, generator=generator)).tolist()
        drawn = [
            self._renderer.draw(self._sources[which], uniforms(time_s, self._height, self._width), self._height, self._width)
            for which, time_s in zip(chosen, times, strict=True)
        ]
        large = torch.from_numpy(np.stack(drawn)).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        return reduced(in_channels(large, self._channels), self._supersampling)


def uniforms(time_s: float, height: int, width: int) -> dict[str, UniformValue]:
    """The uniforms of TwiGL and Shadertoy at a given time; there is no mouse, sound or previous frame."""
    size, frame = (float(width), float(height)), float(int(time_s * FRAMES_PER_S))
    mouse = (0.0, 0.0)
    return {
        "resolution": size,
        "mouse": mouse,
        "time": time_s,
        "frame": frame,
        "sound": 0.0,
        "r": size,
        "m": mouse,
        "t": time_s,
        "f": frame,
        "s": 0.0,
        "iResolution": (*size, 1.0),
        "iTime": time_s,
        "iTimeDelta": 1 / FRAMES_PER_S,
        "iFrameRate": FRAMES_PER_S,
        "iFrame": int(frame),
        "iMouse": (0.0, 0.0, 0.0, 0.0),
        "iDate": (2000.0, 0.0, 1.0, time_s),
        "iSampleRate": 44100.0,
    }


def _drawable(path: Path, renderer: GlslRenderer) -> tuple[list[Path], list[str]]:
    if not path.is_dir():
        raise DataError(f"shader folder {path} {'is not a folder' if path.exists() else 'does not exist'}: correct images.path")
    found = files_below(path, SUFFIXES)
    if not found:
        raise DataError(f"shader folder {path} holds no {', '.join(SUFFIXES)} file: correct images.path")
    good: list[tuple[Path, str]] = []
    reason = ""
    for file in found:
        source = complete_shader(file.read_text(encoding="utf-8", errors="replace"))
        try:
            renderer.check(source, uniforms(0.0, CHECKED_SIZE, CHECKED_SIZE))
            good.append((file, source))
        except ShaderError as error:
            lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower() and "0:" in line]
            reason = (lines or str(error).splitlines())[0]
            logger.warning("shader %s cannot be rendered and is skipped: %s", file, reason)
    if not good:
        raise DataError(f"none of the {len(found)} shaders in {path} can be drawn (the last one: {reason}): correct them")
    return [file for file, _ in good], [source for _, source in good]


def _build(config: GlslFolderImagesConfig, teacher: FrozenTeacher, device: torch.device) -> GlslFolder:
    times_s = (config.min_time_s, config.max_time_s)
    return GlslFolder(config.path, teacher.image_shape, device, config.supersampling, times_s)


IMAGES = ImagesKind(config=GlslFolderImagesConfig, build=_build, title="a folder of your own fragment shaders")

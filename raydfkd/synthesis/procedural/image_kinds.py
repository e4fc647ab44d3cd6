"""The kinds of procedural images by name. To add one, add a file and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.registry import Registry
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind, ImageSource, require_grey_or_colour

if TYPE_CHECKING:
    import torch

    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

IMAGES: Registry[ImagesKind] = Registry("kind of images", ImagesKind)
IMAGES.add("noise", "raydfkd.synthesis.procedural.pixel_noise:IMAGES")
IMAGES.add("spectral", "raydfkd.synthesis.procedural.spectral_noise:IMAGES")
IMAGES.add("leaves", "raydfkd.synthesis.procedural.leaves:IMAGES")
IMAGES.add("shaders", "raydfkd.synthesis.procedural.shader_images:IMAGES")
IMAGES.add("glsl_folder", "raydfkd.synthesis.procedural.glsl_folder:IMAGES")
IMAGES.add("photograph", "raydfkd.synthesis.procedural.photograph:IMAGES")
IMAGES.add("crops", "raydfkd.synthesis.procedural.dataset_crops:IMAGES")

if TYPE_CHECKING:
    AnyImages = ImagesConfig
else:
    AnyImages = IMAGES.union("kind")
    """Settings of any kind of images, distinguished by ``kind``."""


def build_source(config: ImagesConfig, teacher: FrozenTeacher, device: torch.device) -> ImageSource:
    """Images of the teacher's shape.

    Raises:
        ConfigError: neither 1 nor 3 channels, an unknown shader family, or no OpenGL when it is requested.
        DataError: the picture or the folder of shaders is unusable.
    """
    require_grey_or_colour(teacher.image_shape[0])
    return IMAGES.get(config.kind).build(config, teacher, device)

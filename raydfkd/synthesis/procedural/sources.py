"""From its settings to a source of images."""

from __future__ import annotations

import torch

from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.synthesis.procedural.config import (
    CropsImagesConfig,
    GlslFolderImagesConfig,
    ImagesConfig,
    LeavesImagesConfig,
    NoiseImagesConfig,
    PhotographImagesConfig,
    ShaderImagesConfig,
    SpectralImagesConfig,
)
from raydfkd.synthesis.procedural.images import ImageSource, require_grey_or_colour


def build_source(config: ImagesConfig, teacher: FrozenTeacher, device: torch.device) -> ImageSource:
    """Images of the teacher's shape.

    Raises:
        ConfigError: neither 1 nor 3 channels, an unknown shader family, or no OpenGL where it is asked for.
        DataError: the picture or the folder of shaders cannot be used.
    """
    shape = teacher.image_shape
    require_grey_or_colour(shape[0])
    match config:
        case NoiseImagesConfig():
            from raydfkd.synthesis.procedural.noise import PixelNoise

            return PixelNoise(teacher.normalization, shape, device)
        case SpectralImagesConfig():
            from raydfkd.synthesis.procedural.noise import SpectralNoise

            return SpectralNoise(shape, device, config.min_exponent, config.max_exponent)
        case LeavesImagesConfig():
            from raydfkd.synthesis.procedural.leaves import DeadLeaves

            return DeadLeaves(shape, device, config.supersampling, config.textured)
        case ShaderImagesConfig():
            from raydfkd.synthesis.procedural.shader_images import ShaderImages

            return ShaderImages(shape, device, config.families, config.renderer, config.images_per_family, config.supersampling)
        case GlslFolderImagesConfig():
            from raydfkd.synthesis.procedural.glsl_folder import GlslFolder

            times_s = (config.min_time_s, config.max_time_s)
            return GlslFolder(config.path, shape, device, config.supersampling, times_s)
        case PhotographImagesConfig():
            from raydfkd.synthesis.procedural.photograph import PhotographCrops

            return PhotographCrops(config.path, shape, device, config.min_area)
        case CropsImagesConfig():
            from raydfkd.synthesis.procedural.photograph import DatasetCrops

            return DatasetCrops(config.dataset, config.max_pictures, shape, device, config.min_area)

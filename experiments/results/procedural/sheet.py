"""A sheet of procedural images: ``python experiments/results/procedural/sheet.py OUT.jpg [--families NAME ...]``.

Without names: one image of every shader family in alphabetical order, sixteen a row, and below them a row of each other source.
With names: a row of images of each of these families.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch

from raydfkd.data.catalogue import CATALOGUE
from raydfkd.models.teachers.frozen_teacher import Normalization
from raydfkd.synthesis.procedural.images import to_uint8
from raydfkd.synthesis.procedural.leaves import DeadLeaves
from raydfkd.synthesis.procedural.photograph import PhotographCrops
from raydfkd.synthesis.procedural.pixel_noise import PixelNoise
from raydfkd.synthesis.procedural.shader_images import ShaderImages
from raydfkd.synthesis.procedural.shaders.shader_catalog import family_names
from raydfkd.synthesis.procedural.spectral_noise import SpectralNoise

COLUMNS = 16
SIDE = 48
GAP = 2


def whole_library(generator: torch.Generator) -> torch.Tensor:
    """One image of every family, and then whole rows of the other sources."""
    shape, device = (3, SIDE, SIDE), torch.device("cpu")
    names = family_names()
    images = [ShaderImages(shape, device, (name,), images_per_family=1).render(1, generator) for name in names]
    images.append(torch.ones(-len(names) % COLUMNS, *shape))
    cifar10 = Normalization(CATALOGUE["cifar10"].mean, CATALOGUE["cifar10"].std)
    others = (
        PixelNoise(cifar10, shape, device),
        SpectralNoise(shape, device),
        DeadLeaves(shape, device),
        DeadLeaves(shape, device, textured=True),
        PhotographCrops(None, shape, device),
    )
    return torch.cat([*images, *(source.render(COLUMNS, generator) for source in others)])


def tiled(images: torch.Tensor) -> np.ndarray:
    """uint8 [H,W,3], sixteen images a row."""
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    rows, step = math.ceil(len(pixels) / COLUMNS), SIDE + GAP
    sheet = np.full((rows * step, COLUMNS * step, 3), 255, np.uint8)
    for number, image in enumerate(pixels):
        row, column = divmod(number, COLUMNS)
        sheet[row * step : row * step + SIDE, column * step : column * step + SIDE] = image
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--families", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    if arguments.families is None:
        images = whole_library(generator)
    else:
        shape, device = (3, SIDE, SIDE), torch.device("cpu")
        chosen = [ShaderImages(shape, device, (name,)).render(COLUMNS, generator) for name in arguments.families]
        images = torch.cat(chosen)
    from matplotlib import image as image_file

    image_file.imsave(arguments.out, tiled(images), pil_kwargs={"quality": 85} if arguments.out.endswith(".jpg") else None)


if __name__ == "__main__":
    main()

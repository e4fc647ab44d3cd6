"""Speed of the procedural sources. Prints readable lines and, last, one JSON object of the figures, in images a second.

    python experiments/benchmarks/procedural.py [--quick] [--device cuda]

Each source renders batches until the time is up; ``filters`` is what judging a batch costs. ``shaders_glsl`` is there where
moderngl and EGL are, and is OpenGL on whatever that finds (Mesa's llvmpipe on a machine without a graphics card); its programs
are compiled beforehand, and ``glsl_compile_s`` is how long that takes for all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator

import torch

from raydfkd.errors import ConfigError
from raydfkd.models.teachers.frozen_teacher import Normalization
from raydfkd.synthesis.procedural.filters import filter_images
from raydfkd.synthesis.procedural.glsl import GlslRenderer
from raydfkd.synthesis.procedural.images import ImageSource, to_uint8
from raydfkd.synthesis.procedural.leaves import DeadLeaves
from raydfkd.synthesis.procedural.photograph import PhotographCrops
from raydfkd.synthesis.procedural.pixel_noise import PixelNoise
from raydfkd.synthesis.procedural.shader_images import ShaderImages
from raydfkd.synthesis.procedural.shaders.shader_catalog import family_names
from raydfkd.synthesis.procedural.spectral_noise import SpectralNoise

SIDES = (32, 224)
QUICK_FAMILIES = ("voronoi_mosaic", "marble", "julia_set", "checkerboard")


def sources(side: int, device: torch.device, quick: bool) -> Iterator[tuple[str, ImageSource]]:
    """(name, source) of images [3,side,side]."""
    shape = (3, side, side)
    families = QUICK_FAMILIES if quick else None
    yield "noise", PixelNoise(Normalization([0.5] * 3, [0.25] * 3), shape, device)
    yield "spectral", SpectralNoise(shape, device)
    yield "leaves", DeadLeaves(shape, device)
    yield "photograph", PhotographCrops(None, shape, device)
    yield "shaders_torch", ShaderImages(shape, device, families)
    with contextlib.suppress(ConfigError):  # told of by ``compile_glsl``
        yield "shaders_glsl", ShaderImages(shape, device, families, renderer="glsl")


def compile_glsl(quick: bool) -> dict[str, float]:
    """Draws every family once, after which its program is there; the seconds that it took, or nothing without OpenGL."""
    began, generator = time.perf_counter(), torch.Generator().manual_seed(0)
    try:
        for name in QUICK_FAMILIES if quick else family_names():
            ShaderImages((3, 8, 8), torch.device("cpu"), (name,), renderer="glsl").render(1, generator)
    except ConfigError as error:
        print(f"shaders_glsl left out: {error}")
        return {}
    return {"glsl_compile_s": time.perf_counter() - began}


def images_per_s(work: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Of a function that makes images and says how many; its first call is not counted."""
    work()
    _wait(device)
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        count += work()
        _wait(device)
    return count / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(side: int, batch_size: int, seconds: float, device: torch.device, quick: bool) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    figures = {}
    for name, source in sources(side, device, quick):

        def render(source: ImageSource = source) -> int:
            return len(source.render(batch_size, generator))

        figures[name] = images_per_s(render, seconds, device)
    images = to_uint8(torch.rand(batch_size, 3, side, side, generator=generator)).to(device)
    figures["filters"] = images_per_s(lambda: len(filter_images(images).kept), seconds, device)
    for name, figure in figures.items():
        print(f"{side} px: {name} {figure:,.0f} images/s")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    quick = arguments.quick
    batch_sizes, seconds = ((8, 2), 0.0) if quick else ((256, 16), 10.0)
    figures: dict[str, object] = {"threads": torch.get_num_threads(), **compile_glsl(quick)}
    for side, batch_size in zip(SIDES, batch_sizes, strict=True):
        figures[f"px{side}"] = measure(side, batch_size, seconds, device, quick)
    with contextlib.suppress(ConfigError):
        print(f"OpenGL: {GlslRenderer().describe()}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

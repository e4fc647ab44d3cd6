"""The library of shader programs: every family draws proper pictures, and no two are the same program."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.synthesis.procedural.shader_images import ShaderImages
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, constant
from raydfkd.synthesis.procedural.shaders.functions import atan2, floor, less, log, select, smoothstep, sqrt
from raydfkd.synthesis.procedural.shaders.shader_catalog import family_names, program
from raydfkd.synthesis.procedural.shaders.sketch import Sketch, compile_family
from raydfkd.synthesis.procedural.shaders.torch_renderer import evaluate, render

CPU = torch.device("cpu")
SIZE = 32
IMAGES = 3
FEWEST = 150


@functools.cache
def rendered() -> dict[str, Tensor]:
    """Pictures of every family as evaluated, [IMAGES,3,SIZE,SIZE]."""
    generator = torch.Generator().manual_seed(1)
    programs = (program(name) for name in family_names())
    return {one.name: evaluate(one, one.draw(IMAGES, generator), SIZE, SIZE) for one in programs}


def test_there_are_as_many_families_as_promised() -> None:
    assert len(family_names()) >= FEWEST


def test_every_family_draws_finite_pictures_that_are_neither_constant_nor_alike() -> None:
    for name, images in rendered().items():
        assert torch.isfinite(images).all(), name
        clipped = images.clamp(0, 1)
        assert (clipped.flatten(2).std(2).amax(1) > 4 / 255).sum() >= 2, f"{name} is constant"
        assert (clipped[0] - clipped[1]).abs().mean() > 0.01, f"{name} is the same for other parameters"
        assert (clipped - images).abs().mean() < 0.25, f"{name} lies outside [0,1]"


def test_no_two_families_are_the_same_program() -> None:
    """Not by their numbers, which are parameters, but by which operations are applied to what."""
    structures = {}
    for name in family_names():
        compiled = program(name)
        structure = (tuple(node.op for node in compiled.nodes), compiled.args)
        assert structure not in structures, f"{name} and {structures[structure]} differ in numbers alone"
        structures[structure] = name


def test_no_two_families_give_the_same_pictures() -> None:
    names, pictures = zip(*rendered().items(), strict=True)
    flat = torch.stack([images.clamp(0, 1).flatten() for images in pictures])
    distance = torch.cdist(flat, flat) / flat.shape[1] ** 0.5  # root mean square over all pixels
    distance.fill_diagonal_(1.0)
    nearest = int(distance.argmin())
    first, second = divmod(nearest, len(names))
    assert distance.min() > 0.08, f"{names[first]} and {names[second]}"


def test_the_same_parameters_draw_the_same_picture_in_any_company() -> None:
    compiled = program("voronoi_mosaic")
    parameters = compiled.draw(5, torch.Generator().manual_seed(3))
    together = render(compiled, parameters, 16, 16, CPU)
    alone = render(compiled, parameters[2:3], 16, 16, CPU)
    assert torch.equal(together[2:3], alone)


def test_parameters_follow_their_laws() -> None:
    def family(s: Sketch) -> Colour:
        return Colour(s.uniform(-2, 3), s.log_uniform(0.01, 100.0), s.integer(2, 4))

    drawn = compile_family("laws", family).draw(3000, torch.Generator().manual_seed(0))
    uniform, log_uniform, integer = drawn.T
    assert uniform.min() >= -2
    assert uniform.max() <= 3
    assert uniform.mean() == pytest.approx(0.5, abs=0.1)
    assert log_uniform.log10().mean() == pytest.approx(0.0, abs=0.1)  # uniform in the exponent, from -2 to 2
    assert torch.equal(integer.unique(), torch.tensor([2.0, 3.0, 4.0]))
    assert torch.bincount(integer.long())[2:].float().div(3000).sub(1 / 3).abs().max() < 0.04


def test_the_shorter_side_goes_from_minus_one_to_one_and_up_is_positive() -> None:
    compiled = compile_family("axes", lambda s: Colour(s.point.x, s.point.y, constant(0.25) + s.uniform(0, 0)))
    (x, y, plain) = evaluate(compiled, compiled.draw(1, torch.Generator()), 2, 4)[0]
    assert torch.equal(x[0], torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    assert torch.equal(y[:, 0], torch.tensor([0.5, -0.5]))
    assert (plain == 0.25).all()


def value_of(expression: Expr) -> float:
    compiled = compile_family("value", lambda s: Colour(expression, expression, expression + s.uniform(0, 0)))
    return float(evaluate(compiled, compiled.draw(1, torch.Generator()), 1, 1)[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (constant(3) / constant(4), 0.75),
        (constant(1) / constant(0), 1e5),
        (constant(-7) % 3.0, 2.0),
        (constant(-2) ** 2.0, 4.0),
        (sqrt(-4.0), 0.0),
        (log(0.0), -20.723266),
        (atan2(0.0, 0.0), 0.0),
        (floor(-0.5), -1.0),
        (smoothstep(0.0, 1.0, 0.25), 0.15625),
        (smoothstep(1.0, 0.0, 0.25), 0.84375),
        (select(less(1.0, 2.0), 5.0, 6.0), 5.0),
        (2.0 - constant(1), 1.0),
        (-constant(2) * 3.0, -6.0),
    ],
)
def test_operations_and_their_edges(expression: Expr, value: float) -> None:
    assert value_of(expression) == pytest.approx(value, rel=1e-5)


def test_what_is_used_twice_is_evaluated_once() -> None:
    def family(s: Sketch) -> Colour:
        shared = s.point.x * s.uniform(1, 2)
        return Colour(shared, shared, shared)

    assert [node.op for node in compile_family("shared", family).nodes] == ["x", "parameter", "multiply"]


@pytest.mark.parametrize("shape", [(3, 12, 8), (1, 8, 8)])
def test_the_source_gives_any_shape_the_same_for_a_seed(shape: tuple[int, int, int]) -> None:
    source = ShaderImages(shape, CPU, images_per_family=2)
    first, again, other = (source.render(5, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert first.shape == (5, *shape)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_only_the_families_asked_for() -> None:
    source = ShaderImages((3, 8, 8), CPU, families=("checkerboard",), supersampling=1, images_per_family=4)
    images = source.render(4, torch.Generator().manual_seed(0))
    assert all(len(image.flatten(1).unique(dim=1).T) <= 2 for image in images)
    with pytest.raises(UnknownNameError, match="unknown shader family 'checkerbord': did you mean 'checkerboard'"):
        ShaderImages((3, 8, 8), CPU, families=("checkerbord",))
    assert issubclass(UnknownNameError, ConfigError)

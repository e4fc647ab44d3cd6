"""What a node of the expression language can do, in torch and in GLSL.

A division by nearly 0 divides by a small number, a root or logarithm of a negative number is that of 0, and so on, in both
renderers alike: no picture holds NaN, as long as what is iterated (``orbits.py``) is kept from growing without bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raydfkd.synthesis.procedural.shaders.lattice_noise import METRICS, cells, gradient_noise, lattice, value_noise

SMALLEST_DIVISOR = 1e-5
SMALLEST_POSITIVE = 1e-9
LARGEST = 1e9


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        run: on tensors that broadcast against each other, float32.
        glsl: the expression, arguments by position.
        num_outputs: above 1: ``run`` gives a tuple, and the GLSL function an array.
    """

    run: Callable[..., Any]
    glsl: str
    num_outputs: int = 1


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / torch.where(b.abs() < SMALLEST_DIVISOR, torch.where(b < 0, -SMALLEST_DIVISOR, SMALLEST_DIVISOR), b)


def _smoothstep(low: Tensor, high: Tensor, x: Tensor) -> Tensor:
    t = _divide(x - low, high - low).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _wrapped(a: Tensor, b: Tensor) -> Tensor:
    divisor = torch.where(b.abs() < SMALLEST_DIVISOR, SMALLEST_DIVISOR, b)
    return a - divisor * torch.floor(a / divisor)


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a.abs().clamp(min=SMALLEST_POSITIVE), b).clamp(max=LARGEST)


OPERATIONS: dict[str, Operation] = {
    "add": Operation(torch.add, "({0} + {1})"),
    "subtract": Operation(torch.sub, "({0} - {1})"),
    "multiply": Operation(torch.mul, "({0} * {1})"),
    "divide": Operation(_divide, "divided({0}, {1})"),
    "mod": Operation(_wrapped, "wrapped({0}, {1})"),
    "power": Operation(_power, f"min(pow(max(abs({{0}}), {SMALLEST_POSITIVE}), {{1}}), {LARGEST})"),
    "negate": Operation(torch.neg, "(-{0})"),
    "absolute": Operation(torch.abs, "abs({0})"),
    "floor": Operation(torch.floor, "floor({0})"),
    "fract": Operation(lambda a: a - a.floor(), "fract({0})"),
    "sign": Operation(torch.sign, "sign({0})"),
    "sin": Operation(torch.sin, "sin({0})"),
    "cos": Operation(torch.cos, "cos({0})"),
    "tanh": Operation(lambda a: torch.tanh(a.clamp(-20.0, 20.0)), "tanh(clamp({0}, -20.0, 20.0))"),
    "exp": Operation(lambda a: torch.exp(a.clamp(-40.0, 20.0)), "exp(clamp({0}, -40.0, 20.0))"),
    "log": Operation(lambda a: torch.log(a.clamp(min=SMALLEST_POSITIVE)), f"log(max({{0}}, {SMALLEST_POSITIVE}))"),
    "sqrt": Operation(lambda a: torch.sqrt(a.clamp(min=0.0)), "sqrt(max({0}, 0.0))"),
    "atan2": Operation(torch.atan2, "angle_of({0}, {1})"),
    "arcsin": Operation(lambda a: torch.arcsin(a.clamp(-1.0, 1.0)), "asin(clamp({0}, -1.0, 1.0))"),
    "minimum": Operation(torch.minimum, "min({0}, {1})"),
    "maximum": Operation(torch.maximum, "max({0}, {1})"),
    "clamp": Operation(lambda a, low, high: torch.minimum(torch.maximum(a, low), high), "min(max({0}, {1}), {2})"),
    "mix": Operation(lambda a, b, t: a + (b - a) * t, "({0} + ({1} - {0}) * {2})"),
    "smoothstep": Operation(_smoothstep, "eased({0}, {1}, {2})"),
    "less": Operation(lambda a, b: (a < b).float(), "float({0} < {1})"),
    "select": Operation(lambda c, a, b: torch.where(c > 0.5, a, b), "({0} > 0.5 ? {1} : {2})"),
    "lattice": Operation(lattice, "lattice({0}, {1}, {2})"),
    "value_noise": Operation(value_noise, "value_noise({0}, {1}, {2})"),
    "gradient_noise": Operation(gradient_noise, "gradient_noise({0}, {1}, {2})"),
    **{
        f"cells_{metric}": Operation(partial(cells, metric=metric), f"cells_{metric}({{0}}, {{1}}, {{2}}, {{3}})", 5)
        for metric in METRICS
    },
}

GLSL_SOURCE = f"""
float divided(float a, float b) {{
    return a / (abs(b) < {SMALLEST_DIVISOR} ? (b < 0.0 ? -{SMALLEST_DIVISOR} : {SMALLEST_DIVISOR}) : b);
}}
float wrapped(float a, float b) {{
    float divisor = abs(b) < {SMALLEST_DIVISOR} ? {SMALLEST_DIVISOR} : b;
    return a - divisor * floor(a / divisor);
}}
float angle_of(float y, float x) {{ return x == 0.0 && y == 0.0 ? 0.0 : atan(y, x); }}
float eased(float low, float high, float x) {{
    float t = clamp(divided(x - low, high - low), 0.0, 1.0);
    return t * t * (3.0 - 2.0 * t);
}}
"""

"""Random numbers at the points of an integer lattice, and the noises made of them, in torch and in GLSL alike.

The hash is 32-bit integer arithmetic, so that both renderers draw the same numbers to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

FARTHEST = 1e6
"""Coordinates are clipped to this before they become integers."""

_X, _Y, _SEED = 0x27D4EB2D, 0x165667B1, 0x1E3779B9
_MIX1, _MIX2 = 0x2C1B3C6D, 0x297A2D39
_UNIT = 1.0 / (1 << 24)
FAR_AWAY = 9.0
"""Farther than any of the nine nearest points can be."""
_NEIGHBOURS = tuple((i, j) for j in (-1, 0, 1) for i in (-1, 0, 1))

METRICS = ("euclidean", "manhattan", "chebyshev")


def _mixed(h: Tensor) -> Tensor:
    """A well-mixed 32-bit integer in the place of each; shifts are logical, products wrap."""
    h = h ^ ((h >> 15) & 0x1FFFF)
    h = h * _MIX1
    h = h ^ ((h >> 12) & 0xFFFFF)
    h = h * _MIX2
    return h ^ ((h >> 15) & 0x1FFFF)


def _unit(h: Tensor) -> Tensor:
    return (h & 0xFFFFFF).float().mul_(_UNIT)


def _high(h: Tensor) -> Tensor:
    """Another number in [0,1), of the upper 12 bits."""
    return ((h >> 20) & 0xFFF).float().mul_(1.0 / 4096)


def _cell(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integer part (int32) and fraction."""
    x = x.clamp(-FARTHEST, FARTHEST)
    floor = x.floor()
    return floor.to(torch.int32), x - floor


def _key(x: Tensor, y: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """What the hashes of the cell itself and of its neighbours are made of."""
    return x * _X ^ seed.to(torch.int32) * _SEED, y * _Y


def lattice(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """A number in [0,1) for the cell that (x, y) lies in."""
    along_x, along_y = _key(_cell(x)[0], _cell(y)[0], seed)
    return _unit(_mixed(along_x ^ along_y))


def _corner_hashes(ix: Tensor, iy: Tensor, seed: Tensor) -> list[Tensor]:
    seeded = seed.to(torch.int32) * _SEED
    left, right = ix * _X ^ seeded, (ix + 1) * _X ^ seeded
    low, high = iy * _Y, (iy + 1) * _Y
    return [_mixed(a ^ b) for a, b in ((left, low), (right, low), (left, high), (right, high))]


def _faded(t: Tensor) -> Tensor:
    return t * t * t * (t * (t * 6 - 15) + 10)


def value_noise(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Smooth noise in [0,1): random values at the lattice points, blended."""
    (ix, fx), (iy, fy) = _cell(x), _cell(y)
    a, b, c, d = (_unit(h) for h in _corner_hashes(ix, iy, seed))
    u, v = _faded(fx), _faded(fy)
    low = a + (b - a) * u
    return low + (c + (d - c) * u - low) * v


def gradient_noise(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Smooth noise about 0, mostly in [-1,1]: random slopes (uniform in a square) at the lattice points, blended."""
    (ix, fx), (iy, fy) = _cell(x), _cell(y)
    parts = []
    for h, (i, j) in zip(_corner_hashes(ix, iy, seed), ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True):
        slope_x = (h & 0xFFFF).float().mul_(2.0 / 65536).sub_(1.0)
        slope_y = ((h >> 16) & 0xFFFF).float().mul_(2.0 / 65536).sub_(1.0)
        parts.append(slope_x * (fx - i) + slope_y * (fy - j))
    a, b, c, d = parts
    u, v = _faded(fx), _faded(fy)
    low = a + (b - a) * u
    return (low + (c + (d - c) * u - low) * v) * 1.6


def _distance(dx: Tensor, dy: Tensor, metric: str) -> Tensor:
    if metric == "euclidean":
        return dx * dx + dy * dy
    dx, dy = dx.abs(), dy.abs()
    return dx + dy if metric == "manhattan" else torch.maximum(dx, dy)


def cells(x: Tensor, y: Tensor, seed: Tensor, jitter: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Worley noise (SIGGRAPH 1996): one random point a cell of the lattice.

    Args:
        jitter: how far the points stray from their cells' centres: 0 not at all, 1 anywhere in the cell.

    Returns:
        Distances to the nearest and the second nearest point, the nearest one's own random number in [0,1), and the way to it.
    """
    (ix, fx), (iy, fy) = _cell(x), _cell(y)
    seeded = seed.to(torch.int32) * _SEED
    columns = {i: (ix + i) * _X ^ seeded for i in (-1, 0, 1)}
    rows = {j: (iy + j) * _Y for j in (-1, 0, 1)}
    first = second = torch.full_like(fx, FAR_AWAY)
    own = way_x = way_y = torch.zeros_like(fx)
    for i, j in _NEIGHBOURS:
        h = _mixed(columns[i] ^ rows[j])
        dx = (_unit(h) - 0.5) * jitter + (i + 0.5) - fx
        dy = (_high(h) - 0.5) * jitter + (j + 0.5) - fy
        distance = _distance(dx, dy, metric)
        nearer = distance < first
        second = torch.minimum(second, torch.maximum(first, distance))
        first = torch.minimum(first, distance)
        own = torch.where(nearer, _unit(_mixed(h)), own)
        way_x, way_y = torch.where(nearer, dx, way_x), torch.where(nearer, dy, way_y)
    if metric == "euclidean":
        first, second = first.sqrt(), second.sqrt()
    return first, second, own, way_x, way_y


def _cells_source(metric: str) -> str:
    distance = {
        "euclidean": "dot(d, d)",
        "manhattan": "abs(d.x) + abs(d.y)",
        "chebyshev": "max(abs(d.x), abs(d.y))",
    }[metric]
    root = "first = sqrt(first); second = sqrt(second);" if metric == "euclidean" else ""
    return f"""
float[5] cells_{metric}(float x, float y, float seed, float jitter) {{
    float first = {FAR_AWAY}, second = {FAR_AWAY}, own = 0.0;
    vec2 way = vec2(0.0);
    vec2 q = clamp(vec2(x, y), -FARTHEST, FARTHEST);
    ivec2 cell = ivec2(floor(q));
    vec2 f = q - floor(q);
    for (int j = -1; j <= 1; j++) for (int i = -1; i <= 1; i++) {{
        uint h = lattice_hash(cell.x + i, cell.y + j, seed);
        vec2 d = (vec2(unit(h), float(h >> 20) / 4096.0) - 0.5) * jitter + vec2(i, j) + 0.5 - f;
        float distance_ = {distance};
        if (distance_ < first) {{
            second = first; first = distance_; own = unit(mixed(h)); way = d;
        }} else second = min(second, distance_);
    }}
    {root}
    return float[5](first, second, own, way.x, way.y);
}}"""


GLSL_SOURCE = f"""
const float FARTHEST = {FARTHEST:.1f};
uint mixed(uint h) {{
    h ^= h >> 15; h *= {_MIX1}u; h ^= h >> 12; h *= {_MIX2}u;
    return h ^ (h >> 15);
}}
float unit(uint h) {{ return float(h & 0xFFFFFFu) / 16777216.0; }}
uint lattice_hash(int x, int y, float seed) {{
    return mixed((uint(x) * {_X}u ^ uint(int(seed)) * {_SEED}u) ^ uint(y) * {_Y}u);
}}
float lattice(float x, float y, float seed) {{
    return unit(lattice_hash(int(floor(clamp(x, -FARTHEST, FARTHEST))), int(floor(clamp(y, -FARTHEST, FARTHEST))), seed));
}}
vec2 faded(vec2 t) {{ return t * t * t * (t * (t * 6.0 - 15.0) + 10.0); }}
float value_noise(float x, float y, float seed) {{
    vec2 q = clamp(vec2(x, y), -FARTHEST, FARTHEST);
    ivec2 cell = ivec2(floor(q));
    vec2 t = faded(q - floor(q));
    float a = unit(lattice_hash(cell.x, cell.y, seed)), b = unit(lattice_hash(cell.x + 1, cell.y, seed));
    float c = unit(lattice_hash(cell.x, cell.y + 1, seed)), d = unit(lattice_hash(cell.x + 1, cell.y + 1, seed));
    return mix(mix(a, b, t.x), mix(c, d, t.x), t.y);
}}
float slope_at(ivec2 corner, vec2 from_corner, float seed) {{
    uint h = lattice_hash(corner.x, corner.y, seed);
    return dot(vec2(float(h & 0xFFFFu), float(h >> 16)) / 32768.0 - 1.0, from_corner);
}}
float gradient_noise(float x, float y, float seed) {{
    vec2 q = clamp(vec2(x, y), -FARTHEST, FARTHEST);
    ivec2 cell = ivec2(floor(q));
    vec2 f = q - floor(q), t = faded(f);
    float a = slope_at(cell, f, seed), b = slope_at(cell + ivec2(1, 0), f - vec2(1, 0), seed);
    float c = slope_at(cell + ivec2(0, 1), f - vec2(0, 1), seed), d = slope_at(cell + ivec2(1, 1), f - vec2(1, 1), seed);
    return 1.6 * mix(mix(a, b, t.x), mix(c, d, t.x), t.y);
}}
{"".join(_cells_source(metric) for metric in METRICS)}
"""

"""Dead leaves: shapes of random size and colour that cover each other until the background is covered.

The model of Lee, Mumford and Huang (IJCV 2001) with the shapes and sizes of "Learning to See by Looking at Noise" (NeurIPS
2021, "Dead leaves, mixed"), which "What Makes a Good Dataset for Knowledge Distillation?" uses with plain colours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind, reduced

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")

NUM_RADII = 200
SMALLEST_RADIUS, LARGEST_RADIUS = 0.03, 1.0
"""Radii in image sides."""
MAX_LEAVES = 5000
LEAVES_PER_ROUND = 256
PLACES_AT_ONCE = 1 << 22
"""Pixels of leaves' windows processed together: bounds the memory."""


class LeavesImagesConfig(ImagesConfig):
    """Dead leaves: shapes of random sizes and colours that cover each other (Baradad et al., NeurIPS 2021)."""

    kind: Literal["leaves"] = "leaves"
    """Kind of images."""
    textured: bool = False
    """Give half of the leaves stripes or a gradient; false: plain colours, as published."""
    supersampling: int = Field(2, ge=1, le=8)
    """Render at this many times the size and average, for soft edges."""


def radius_probabilities() -> tuple[Tensor, Tensor]:
    """(200 radii in image sides, their probabilities): density proportional to r^-3 - r_max^-3."""
    radii = torch.linspace(SMALLEST_RADIUS, LARGEST_RADIUS, NUM_RADII, dtype=torch.float64)
    density = radii**-3 - LARGEST_RADIUS**-3
    return radii, density / density.sum()


class DeadLeaves:
    """Renders on a canvas ``supersampling`` times as large and takes the mean, so that edges are soft.

    Leaves are drawn from the front to the back (a pixel belongs to the first leaf that covers it, and no more are drawn once
    all belong to one), the limit law of painting them over each other forever; the published code paints
    from the back and stops as soon as no ground is left. An uncovered pixel after 5,000 leaves stays black, as published.

    Args:
        image_shape: 1 or 3 channels, height and width; a leaf's radius is a share of the shorter side.
        textured: half of the leaves have stripes or a gradient between two colours, instead of one colour each.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], device: torch.device, supersampling: int = 2, textured: bool = False
    ) -> None:
        self._channels = image_shape[0]
        self._height, self._width = image_shape[1] * supersampling, image_shape[2] * supersampling
        self._supersampling = supersampling
        self._textured = textured
        self._device = device
        radii, probabilities = radius_probabilities()
        self._radii, self._cumulative = radii.float(), probabilities.cumsum(0).float()

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        canvas = torch.zeros(count, self._channels, self._height * self._width, device=self._device)
        waiting = torch.arange(count, device=self._device)
        uncovered = torch.ones(count, self._height * self._width, dtype=torch.bool, device=self._device)
        for _ in range(math.ceil(MAX_LEAVES / LEAVES_PER_ROUND)):
            leaves = self._draw(len(waiting), generator)
            owner = self._owners(leaves)
            painted = uncovered[waiting] & (owner < LEAVES_PER_ROUND)
            colours = self._colours(leaves, owner.clamp(max=LEAVES_PER_ROUND - 1))
            canvas[waiting] = torch.where(painted[:, None], colours, canvas[waiting])
            uncovered[waiting] &= ~painted
            waiting = waiting[uncovered[waiting].any(1)]
            if not len(waiting):
                break
        return reduced(canvas.view(count, self._channels, self._height, self._width), self._supersampling)

    def _draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One round of leaves [count, LEAVES_PER_ROUND], the first in front; lengths in pixels of the canvas."""
        shape = (count, LEAVES_PER_ROUND)
        unit = torch.rand(*shape, 6, generator=generator)
        chosen = torch.searchsorted(self._cumulative, unit[..., 0].contiguous()).clamp(max=NUM_RADII - 1)
        drawn = {
            "radius": (self._radii[chosen] * min(self._height, self._width)).floor().clamp(min=1.0),
            "x": unit[..., 1] * self._width,
            "y": unit[..., 2] * self._height,
            "angle": unit[..., 3] * (2 * math.pi),
            "corner": unit[..., 4] * (math.pi / 2),
            "kind": (unit[..., 5] * len(SHAPES)).floor(),
            "turns": torch.rand(*shape, 4, generator=generator) * (2 * math.pi),
            "colour": torch.rand(*shape, self._channels, generator=generator),
        }
        if self._textured:
            drawn["texture"] = torch.rand(*shape, 3 + self._channels, generator=generator)
        return {name: value.to(self._device) for name, value in drawn.items()}

    def _owners(self, leaves: dict[str, Tensor]) -> Tensor:
        """The frontmost leaf at each pixel, int64 [count, H*W]; LEAVES_PER_ROUND where there is none.

        Leaves of similar size are drawn together, each in a window just large enough.
        """
        count = len(leaves["radius"])
        owner = torch.full((count * self._height * self._width,), LEAVES_PER_ROUND, device=self._device)
        largest = min(self._height, self._width) * LARGEST_RADIUS
        reach = 2.0
        while True:
            last = reach >= largest
            smaller = leaves["radius"] > reach / 2 if reach > 2.0 else leaves["radius"] > 0
            image, number = torch.nonzero(smaller & (leaves["radius"] <= reach) if not last else smaller, as_tuple=True)
            window = math.ceil(min(reach, largest))
            at_once = max(1, PLACES_AT_ONCE // (2 * window + 1) ** 2)
            for some, theirs in zip(image.split(at_once), number.split(at_once), strict=True):
                self._paint(owner, leaves, some, theirs, window)
            if last:
                return owner.view(count, -1)
            reach *= 2

    def _paint(self, owner: Tensor, leaves: dict[str, Tensor], image: Tensor, number: Tensor, reach: int) -> None:
        """Writes the number of each of these leaves where it is less than what ``owner`` holds."""
        x, y = leaves["x"][image, number], leaves["y"][image, number]
        window = torch.arange(-reach, reach + 1, device=self._device)
        # A window that would be larger than the picture is the picture.
        columns = self._window(x, window, self._width)
        rows = self._window(y, window, self._height)
        dx = (columns + 0.5 - x[:, None])[:, None, :]
        dy = (rows + 0.5 - y[:, None])[:, :, None]
        one = {
            name: value[image, number]
            for name, value in leaves.items()
            if name in ("radius", "angle", "corner", "kind", "turns")
        }
        inside = _covers(dx, dy, one)
        inside &= ((columns >= 0) & (columns < self._width))[:, None, :] & ((rows >= 0) & (rows < self._height))[:, :, None]
        place = (image[:, None, None] * self._height + rows[:, :, None]) * self._width + columns[:, None, :]
        numbers = number[:, None, None].expand_as(place)
        owner.scatter_reduce_(0, place[inside], numbers[inside], "amin")

    def _window(self, centre: Tensor, window: Tensor, size: int) -> Tensor:
        if len(window) >= size:
            return torch.arange(size, device=self._device).expand(len(centre), size)
        return centre.floor().long()[:, None] + window

    def _colours(self, leaves: dict[str, Tensor], owner: Tensor) -> Tensor:
        """The colour at each pixel [count, C, H*W] of its owner."""

        def of_owner(values: Tensor) -> Tensor:
            return values.gather(1, owner)

        plain = torch.stack([of_owner(leaves["colour"][..., k]) for k in range(self._channels)], 1)
        if not self._textured:
            return plain
        kind, rate, phase, *second = leaves["texture"].unbind(-1)
        other = torch.stack([of_owner(channel) for channel in second], 1)
        pixel = torch.arange(self._height * self._width, device=self._device)
        dx = pixel % self._width + 0.5 - of_owner(leaves["x"])
        dy = torch.div(pixel, self._width, rounding_mode="floor") + 0.5 - of_owner(leaves["y"])
        angle = of_owner(leaves["angle"])
        along = (dx * angle.cos() + dy * angle.sin()) / min(self._height, self._width)
        stripe = 0.5 + 0.5 * torch.sin(along * (10 + 50 * of_owner(rate)) + 6.3 * of_owner(phase))
        slope = (along * self._height / of_owner(leaves["radius"]) * 0.5 + 0.5).clamp(0, 1)
        which = of_owner(kind)
        share = torch.where(which < 0.5, torch.zeros_like(stripe), torch.where(which < 0.75, stripe, slope))
        return plain + (other - plain) * share[:, None]


def _covers(dx: Tensor, dy: Tensor, leaf: dict[str, Tensor]) -> Tensor:
    """Which places [M,h,w], relative to the leaves' centres, lie in them; what a leaf has is in ``_draw``."""
    inside = torch.zeros(len(leaf["kind"]), dy.shape[1], dx.shape[2], dtype=torch.bool, device=dx.device)
    for kind, shape in enumerate(SHAPES):
        rows = (leaf["kind"] == kind).nonzero()[:, 0]
        if len(rows):
            inside[rows] = shape(dx[rows], dy[rows], {name: value[rows] for name, value in leaf.items()})
    return inside


def _broad(values: Tensor) -> Tensor:
    return values[:, None, None]


def _circle(dx: Tensor, dy: Tensor, leaf: dict[str, Tensor]) -> Tensor:
    return dx * dx + dy * dy <= _broad(leaf["radius"]) ** 2


def _square(dx: Tensor, dy: Tensor, leaf: dict[str, Tensor]) -> Tensor:
    half = _broad(leaf["radius"]) * math.sqrt(0.5)
    return (dx.abs() <= half) & (dy.abs() <= half)


def _turned_square(dx: Tensor, dy: Tensor, leaf: dict[str, Tensor]) -> Tensor:
    cosine, sine = _broad(leaf["angle"].cos()), _broad(leaf["angle"].sin())
    half = _broad(leaf["radius"]) * math.sqrt(0.5)
    return ((dx * cosine + dy * sine).abs() <= half) & ((dy * cosine - dx * sine).abs() <= half)


def _rectangle(dx: Tensor, dy: Tensor, leaf: dict[str, Tensor]) -> Tensor:
    """Turned, with half of the angle between its diagonals uniform."""
    cosine, sine = _broad(leaf["angle"].cos()), _broad(leaf["angle"].sin())
    half_width, half_height = (_broad(leaf["radius"] * side) for side in (leaf["corner"].cos(), leaf["corner"].sin()))
    return ((dx * cosine + dy * sine).abs() <= half_width) & ((dy * cosine - dx * sine).abs() <= half_height)


def _triangle(dx: Tensor, dy: Tensor, leaf: dict[str, Tensor]) -> Tensor:
    return _polygon(dx, dy, leaf["radius"], leaf["turns"][:, :3])


def _quadrilateral(dx: Tensor, dy: Tensor, leaf: dict[str, Tensor]) -> Tensor:
    return _polygon(dx, dy, leaf["radius"], leaf["turns"])


def _polygon(dx: Tensor, dy: Tensor, radius: Tensor, turns: Tensor) -> Tensor:
    """With its corners at these angles [M,K] on the circle."""
    turns = turns.sort(1).values
    x, y = radius[:, None] * turns.cos(), radius[:, None] * turns.sin()
    side_x, side_y = x.roll(-1, 1) - x, y.roll(-1, 1) - y
    inside = torch.ones((), dtype=torch.bool, device=dx.device)
    for k in range(turns.shape[1]):  # to the left of every side
        left = _broad(side_x[:, k]) * (dy - _broad(y[:, k])) - _broad(side_y[:, k]) * (dx - _broad(x[:, k])) >= 0
        inside = inside & left
    return inside


SHAPES = (_circle, _square, _turned_square, _rectangle, _triangle, _quadrilateral)
"""The kinds of leaves, equally likely; the corners of all but the first lie on its circle."""


IMAGES = ImagesKind(
    config=LeavesImagesConfig,
    build=lambda config, teacher, device: DeadLeaves(teacher.image_shape, device, config.supersampling, config.textured),
    title="dead leaves: shapes of random sizes and colours that cover each other",
)

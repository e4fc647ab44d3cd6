"""Evaluates a program for a whole batch of pictures at once, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raydfkd.synthesis.procedural.shaders.operations import OPERATIONS
from raydfkd.synthesis.procedural.shaders.sketch import Program


def render(program: Program, parameters_BP: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """Pictures [B,3,height,width], float32 in [0,1], one for each row of parameters."""
    values = evaluate(program, parameters_BP.to(device), height, width)
    return values.clamp_(0.0, 1.0)


def evaluate(program: Program, parameters_BP: Tensor, height: int, width: int) -> Tensor:
    """As :func:`render`, before it is clipped to [0,1]."""
    device = parameters_BP.device
    count = len(parameters_BP)
    leaves = {
        "x": _axis(width, height, width, device).view(1, 1, width),
        "y": -_axis(height, height, width, device).view(1, height, 1),
    }
    freed: list[list[int]] = [[] for _ in range(len(program.nodes) + 1)]
    for position, last in enumerate(program.last_use):
        freed[last].append(position)
    values: list[Any] = [None] * len(program.nodes)
    for position, node in enumerate(program.nodes):
        if node.op in leaves:
            values[position] = leaves[node.op]
        elif node.op == "constant":
            values[position] = torch.tensor(node.value, dtype=torch.float32, device=device)
        elif node.op == "parameter":
            values[position] = parameters_BP[:, int(node.value)].view(count, 1, 1)
        elif node.op == "item":
            values[position] = values[program.args[position][0]][int(node.value)]
        else:
            values[position] = OPERATIONS[node.op].run(*(values[one] for one in program.args[position]))
        for done in freed[position]:
            values[done] = None
    channels = [values[output].expand(count, height, width) for output in program.outputs]
    return torch.stack(channels, dim=1)


def _axis(size: int, height: int, width: int, device: torch.device) -> Tensor:
    """Pixel centres along one side, where the shorter side goes from -1 to 1; downwards or to the right."""
    return (2.0 * torch.arange(size, dtype=torch.float32, device=device) + 1.0 - size) / min(height, width)

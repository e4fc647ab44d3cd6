"""Wide residual networks WRN-d-k for small images (Zagoruyko and Komodakis 2016, table 1).

Parameter names are those of the common pre-trained CIFAR checkpoints (``block1.layer.0.convShortcut`` and so on), so that
they load as they are; hence the one name here that is not snake_case.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from raydfkd.models.classifiers.initialization import initialize_fan_out
from raydfkd.models.classifiers.stages import chained_maps


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus a skip; where the width changes, both paths start from the activated input."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, 1, 1, bias=False)
        self.convShortcut = None if in_width == out_width else nn.Conv2d(in_width, out_width, 1, stride, 0, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place is safe: BatchNorm's backward needs its input, not its output.
        activated = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        skip = x if self.convShortcut is None else self.convShortcut(activated)
        return self.conv2(out) + skip


class Stage(nn.Module):
    """``num_blocks`` blocks, of which the first changes width and resolution."""

    def __init__(self, num_blocks: int, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        blocks = [PreActivationBlock(in_width, out_width, stride)]
        blocks += [PreActivationBlock(out_width, out_width, 1) for _ in range(num_blocks - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-``depth``-``widen_factor``: images [B,C,H,W] to logits [B,K]; the penultimate width is 64 x widen_factor.

    Raises:
        ValueError: ``depth - 4`` is not a positive multiple of 6.
    """

    def __init__(self, depth: int, widen_factor: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 != 0 or widen_factor < 1:
            raise ValueError(f"WRN-{depth}-{widen_factor}: depth must be 6n+4 (10, 16, 22, 28, 40, ...), width at least 1")
        num_blocks = (depth - 4) // 6
        widths = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.block1 = Stage(num_blocks, widths[0], widths[1], 1)
        self.block2 = Stage(num_blocks, widths[1], widths[2], 2)
        self.block3 = Stage(num_blocks, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        initialize_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self._last_stage(self.block2(self.block1(self.conv1(images)))))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the stem (a bare convolution), of two stages as they leave them, and of the third after BN and ReLU."""
        return chained_maps(self.conv1(images), (self.block1, self.block2, self._last_stage))

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the third stage's activated output."""
        return self.fc(last_map.mean((2, 3)))

    def _last_stage(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.block3(x)), inplace=True)

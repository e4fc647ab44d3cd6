"""ShuffleNet V1 (Zhang et al. 2018, g=3) and V2 (Ma et al. 2018, x1) with a 1x1 stride-1 stem, for small images.

Layer names are those of the RepDistiller checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from raydfkd.models.classifiers.stages import chained_maps

STEM_WIDTH = 24
V1_GROUPS = 3
V1_STAGES = ((240, 4), (480, 8), (960, 4))
"""Output channels and number of blocks."""
V2_STAGES = ((116, 3), (232, 7), (464, 3))
"""Output channels and number of basic blocks that follow the stage's down block."""
V2_PENULTIMATE_WIDTH = 1024


def shuffle_channels(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channel g*n + i of x [B,C,H,W] moves to i*groups + g, where n = C / groups."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class GroupedUnit(nn.Module):
    """V1: 1x1 group convolution, shuffle, depthwise 3x3, 1x1 group convolution.

    With stride 2 the 3x3 average pool of the input is concatenated, so that the convolutions give only the remaining
    channels; otherwise the input is added.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch_width = out_width - in_width if stride == 2 else out_width
        middle = branch_width // 4
        self.groups = 1 if in_width == STEM_WIDTH else V1_GROUPS
        self.conv1 = nn.Conv2d(in_width, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, branch_width, 1, groups=V1_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(shuffle_channels(out, self.groups))), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return F.relu(torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1), inplace=True)
        return F.relu(out + x, inplace=True)


class ShuffleNetV1(nn.Module):
    """Images [B,C,H,W] to logits [B,K]; the penultimate width is 960."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        widths = (STEM_WIDTH, *(width for width, _ in V1_STAGES))
        stages = [
            nn.Sequential(GroupedUnit(before, width, 2), *(GroupedUnit(width, width, 1) for _ in range(num_units - 1)))
            for before, (width, num_units) in zip(widths, V1_STAGES, strict=False)
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.layer3(self.layer2(self.layer1(self._stem(images)))))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the stem and of the three stages, all activated."""
        return chained_maps(self._stem(images), (self.layer1, self.layer2, self.layer3))

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last stage's output."""
        return self.linear(last_map.mean((2, 3)))

    def _stem(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv1(images)), inplace=True)


class SplitUnit(nn.Module):
    """V2's basic unit: half of the channels pass, the others go through 1x1, depthwise 3x3, 1x1; then shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed, changed = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(changed)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = F.relu(self.bn3(self.conv3(out)), inplace=True)
        return shuffle_channels(torch.cat([passed, out], 1), 2)


class DownUnit(nn.Module):
    """V2's first unit of a stage: two stride-2 branches, depthwise-1x1 and 1x1-depthwise-1x1, concatenated and shuffled."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        half = out_width // 2
        self.conv1 = nn.Conv2d(in_width, in_width, 3, 2, 1, groups=in_width, bias=False)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))), inplace=True)
        return shuffle_channels(torch.cat([left, right], 1), 2)


class ShuffleNetV2(nn.Module):
    """Images [B,C,H,W] to logits [B,K]; the penultimate width is 1024."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        widths = (STEM_WIDTH, *(width for width, _ in V2_STAGES))
        stages = [
            nn.Sequential(DownUnit(before, width), *(SplitUnit(width) for _ in range(num_units)))
            for before, (width, num_units) in zip(widths, V2_STAGES, strict=False)
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.conv2 = nn.Conv2d(widths[-1], V2_PENULTIMATE_WIDTH, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(V2_PENULTIMATE_WIDTH)
        self.linear = nn.Linear(V2_PENULTIMATE_WIDTH, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self._last_stage(self.layer2(self.layer1(self._stem(images)))))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the stem and of the three stages, the last one after the 1x1 convolution that widens it; all activated."""
        return chained_maps(self._stem(images), (self.layer1, self.layer2, self._last_stage))

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last map."""
        return self.linear(last_map.mean((2, 3)))

    def _stem(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv1(images)), inplace=True)

    def _last_stage(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn2(self.conv2(self.layer3(x))), inplace=True)

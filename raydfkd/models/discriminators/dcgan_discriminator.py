"""DCGAN's discriminator (Radford et al., ICLR 2016) in the form of DeGAN's code."""

from __future__ import annotations

from torch import Tensor, nn

from raydfkd.models.generators.dcgan_generator import draw_dcgan_weights, layer_width, num_doublings


class DCGANDiscriminator(nn.Module):
    """Images [B,C,H,W] in [0,1] to the logit [B] for being real, float32; the published sigmoid is in the loss.

    It halves once more than the generator doubles, at 32 pixels to 2x2 with 8 units of width, and one convolution reads the
    whole last map. LeakyReLU .2; BatchNorm in all layers but the first.

    Args:
        image_shape: (C, H, W); H and W are multiples of 4.
        base_channels: the unit of width, 64 as published.
    """

    def __init__(self, image_shape: tuple[int, int, int], base_channels: int) -> None:
        super().__init__()
        width, height, breadth = image_shape
        layers: list[nn.Module] = []
        for level in range(num_doublings(image_shape) + 1):
            wider = layer_width(level) * base_channels
            layers.append(nn.Conv2d(width, wider, 4, 2, 1, bias=False))
            layers += [] if level == 0 else [nn.BatchNorm2d(wider)]
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            width, height, breadth = wider, height // 2, breadth // 2
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Conv2d(width, 1, (height, breadth), bias=False)
        draw_dcgan_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.logit(self.layers(2 * images - 1)).float().flatten()

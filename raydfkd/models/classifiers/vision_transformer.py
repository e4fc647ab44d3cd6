"""ViT-S/16 (Touvron et al., ICML 2021), which torchvision has the parts of but not the name."""

from __future__ import annotations

from torch import nn

from raydfkd.errors import ConfigError
from raydfkd.models.classifiers import ImageShape

PATCH = 16


def vit_small(num_classes: int, image_shape: ImageShape) -> nn.Module:
    """torchvision's vision transformer of width 384 with 12 layers of 6 heads: 22.0 million parameters at 1,000 classes.

    Raises:
        ConfigError: the images are no squares of three channels whose side is a multiple of 16.
    """
    from torchvision.models import VisionTransformer

    channels, height, width = image_shape
    if channels != 3 or height != width or height % PATCH:
        raise ConfigError(
            f"vit_small takes square 3-channel images, sides multiples of {PATCH}, got {list(image_shape)}: change image_shape"
        )
    return VisionTransformer(
        image_size=height,
        patch_size=PATCH,
        num_layers=12,
        num_heads=6,
        hidden_dim=384,
        mlp_dim=1536,
        num_classes=num_classes,
    )

"""VGG-11 with BatchNorm at a quarter of its width: what two CPU cores can train in minutes."""

from torch import nn

from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers.pruning import draw_anew, find_chain, shrink, strongest_filters


def vgg11_quarter(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Images [B,C,H,W] to logits [B,num_classes]: 16, 32, 64, 64, 128, 128, 128 and 128 filters."""
    network = build_classifier("vgg11_bn", num_classes, image_shape)
    chain = find_chain(network, image_shape)
    return draw_anew(shrink(network, chain, strongest_filters(network, chain, 0.75)))

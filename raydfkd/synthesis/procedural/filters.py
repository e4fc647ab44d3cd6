"""Which pictures are useless: constant ones, those of two colours, and those there already. Pure, whole batches at once.

"What Makes a Good Dataset for Knowledge Distillation?" drops constant rendered images and those with only two colours or few
coloured pixels; the paper gives no numbers, these are ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_STD = 4.0
"""Standard deviation of pixel values (0 to 255) in the most varied channel below which a picture is constant."""
LEAST_SHARE = 0.05
"""Minimum share of pixels that differ from the most frequent colour."""
TWO_COLOURS_SHARE = 0.6
"""Share of pixels covered by the two most frequent colours of a two-coloured picture; the rest are soft edges."""
COLOUR_BITS = 5
"""Colours are compared in this many bits per channel."""
THUMBNAIL, THUMBNAIL_BITS = 8, 4
"""Bits in which the means over 8 x 8 squares are compared to find duplicates."""


@dataclass(frozen=True)
class Filtered:
    """What a batch's filtering found, each bool [B]; a picture counts for the first of the reasons that holds.

    Attributes:
        constant: hardly any contrast.
        two_colours: two colours and their mixtures, or nearly all pixels of one colour.
        duplicate: the same as an earlier picture of the batch.
    """

    constant: Tensor
    two_colours: Tensor
    duplicate: Tensor

    @property
    def kept(self) -> Tensor:
        return ~(self.constant | self.two_colours | self.duplicate)

    def counts(self) -> dict[str, int]:
        return {name: int(getattr(self, name).sum()) for name in ("constant", "two_colours", "duplicate")}


def filter_images(images_BCHW: Tensor) -> Filtered:
    """Judges uint8 pictures [B,C,H,W]."""
    constant = is_constant(images_BCHW)
    two_colours = has_two_colours(images_BCHW) & ~constant
    duplicate = is_duplicate(images_BCHW) & ~constant & ~two_colours
    return Filtered(constant, two_colours, duplicate)


def is_constant(images_BCHW: Tensor) -> Tensor:
    """bool [B]: every channel's standard deviation over the pixels is below ``LEAST_STD``."""
    return images_BCHW.float().flatten(2).std(2, correction=0).amax(1) < LEAST_STD


def has_two_colours(images_BCHW: Tensor) -> Tensor:
    """bool [B]: two colours, their mixtures at soft edges included, or nearly all pixels of one colour.

    Two colours: the two most frequent ones cover ``TWO_COLOURS_SHARE`` of the pixels, and the colour of every pixel lies
    between them, as where the mean of several rays falls on both sides of an edge. Nearly all of one colour: fewer than
    ``LEAST_SHARE`` of the pixels differ from the most frequent one.
    """
    coarse = (images_BCHW >> (8 - COLOUR_BITS)).int().flatten(2)
    code = coarse[:, 0]
    for channel in range(1, coarse.shape[1]):
        code = (code << COLOUR_BITS) | coarse[:, channel]
    first = code.mode(1, keepdim=True).values
    is_first = code == first
    # A single-coloured picture has no second colour: a different one that covers no pixel is used.
    second = torch.where(is_first, -1 - torch.arange(code.shape[1], device=code.device), code).mode(1, keepdim=True).values
    is_second = code == second
    pixels = images_BCHW.float().flatten(2)
    a, b = _mean_where(pixels, is_first), _mean_where(pixels, is_second)
    along = b - a
    position = ((pixels - a) * along).sum(1, keepdim=True) / along.square().sum(1, keepdim=True).clamp(min=1)
    between = (pixels - a - position.clamp(0, 1) * along).abs().amax((1, 2)) <= 2 ** (8 - COLOUR_BITS)
    share_of_first, share_of_second = is_first.float().mean(1), is_second.float().mean(1)
    return (share_of_first > 1 - LEAST_SHARE) | between & (share_of_first + share_of_second >= TWO_COLOURS_SHARE)


def _mean_where(pixels_BCN: Tensor, mask_BN: Tensor) -> Tensor:
    """[B,C,1]: mean colour of the pixels of the mask."""
    weights = mask_BN[:, None].float()
    return (pixels_BCN * weights).sum(2, keepdim=True) / weights.sum(2, keepdim=True).clamp(min=1)


def is_duplicate(images_BCHW: Tensor) -> Tensor:
    """bool [B]: an earlier picture of the batch has the same thumbnail."""
    codes = _thumbnail_codes(images_BCHW)
    _, group = codes.unique(dim=0, return_inverse=True)
    number = torch.arange(len(codes), device=codes.device)
    first = torch.full_like(number, len(codes)).scatter_reduce_(0, group, number, "amin")
    return first[group] < number


def thumbnail_hashes(images_BCHW: Tensor) -> np.ndarray:
    """uint64 [B]: equal where thumbnails are, so that pictures of different batches can be compared."""
    codes = _thumbnail_codes(images_BCHW).cpu().numpy()
    hashes = [hashlib.blake2b(code.tobytes(), digest_size=8).digest() for code in codes]
    return np.frombuffer(b"".join(hashes), dtype="<u8").astype(np.uint64)


def _thumbnail_codes(images_BCHW: Tensor) -> Tensor:
    """uint8 [B, C x 8 x 8]."""
    thumbnails = F.adaptive_avg_pool2d(images_BCHW.float(), THUMBNAIL)
    return (thumbnails / (256 / 2**THUMBNAIL_BITS)).floor().to(torch.uint8).flatten(1)

"""NAYER's generator, whose only input is the class: embedding, noisy layer, and the standard network behind it.

Tran et al., "NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge Distillation", CVPR 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydfkd.models.generators.upsampling import LatentGenerator


class NoisyLabelGenerator(nn.Module):
    """Classes [B] to images [B,C,H,W], float32 in [0,1]: BatchNorm of the class embedding, a noisy linear layer, the body.

    There is no latent vector: what differs between two images of a class is their noisy layer. Consecutive groups of K images,
    for K classes, have a noisy layer each, so that a class that comes once in each group is made in as many ways as there
    are groups (the paper's K-to-1 noise). Weights start at PyTorch's defaults, as in the reference code, but the noisy layers',
    which ``redraw_noise`` draws.

    Args:
        body: latents [B,Z] to images; the published one is the standard generator.
        embeddings_KD: of the classes; they are not trained.
        batch_size: most images of a batch; there are ceil(batch_size / K) noisy layers.
    """

    embeddings_KD: Tensor

    def __init__(self, body: LatentGenerator, embeddings_KD: Tensor, batch_size: int) -> None:
        super().__init__()
        self.register_buffer("embeddings_KD", embeddings_KD)
        num_classes, width = embeddings_KD.shape
        self.norm = nn.BatchNorm1d(width)
        self.noisy_layers = nn.ModuleList(nn.Linear(width, body.latent_dim) for _ in range(-(-batch_size // num_classes)))
        self.body = body

    def forward(self, classes_B: Tensor) -> Tensor:
        groups = self.norm(self.embeddings_KD[classes_B]).split(len(self.embeddings_KD))
        latents = [layer(group) for layer, group in zip(self.noisy_layers, groups, strict=False)]
        return self.body(torch.cat(latents))

    def redraw_noise(self, generator: torch.Generator) -> None:
        """Draws the noisy layers anew: weights N(0,1), biases 0. ``generator`` is a CPU generator."""
        with torch.no_grad():
            for layer in self.noisy_layers:
                assert isinstance(layer, nn.Linear)
                layer.weight.copy_(torch.empty(layer.weight.shape).normal_(generator=generator))
                layer.bias.zero_()

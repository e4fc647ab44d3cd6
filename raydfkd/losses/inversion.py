"""Losses that train a generator to invert a teacher. B batch, K classes, L normalisation layers of widths C_l."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.losses.distillation import kd_loss_per_sample

Statistics = Sequence[tuple[Tensor, Tensor]]
"""(mean [C_l], variance [C_l]) of each layer."""


def bn_loss(batch: Statistics, running: Statistics) -> Tensor:
    """Distance of the batch's statistics from those the teacher saw while it was trained.

    sum_l ||M_l - mu_l||_2 + ||V_l - sigma^2_l||_2, norms not squared and not divided by the width
    (DeepInversion, arXiv 1912.08795, in the form of FastDFKD; SSD-KD Eq. 1).
    """
    terms = [
        torch.linalg.vector_norm(running_mean - mean) + torch.linalg.vector_norm(running_variance - variance)
        for (mean, variance), (running_mean, running_variance) in zip(batch, running, strict=True)
    ]
    return torch.stack(terms).sum()


def smoothed_statistics(batch: Statistics, average: Statistics, momentum: float) -> list[tuple[Tensor, Tensor]]:
    """FastDFKD's BN momentum: (1-m) * batch + m * average over earlier calls.

    Only the share 1-m carries gradient, so the effective weight of ``bn_loss`` is that share of its nominal one;
    the published weights are tuned for it.
    """
    return [
        ((1 - momentum) * mean + momentum * average_mean, (1 - momentum) * variance + momentum * average_variance)
        for (mean, variance), (average_mean, average_variance) in zip(batch, average, strict=True)
    ]


def one_hot_loss(teacher_logits_BK: Tensor, targets_B: Tensor, sample_weights_B: Tensor | None = None) -> Tensor:
    """(1/B) sum_i phi_i * CE(t_i, y_i); phi is 1 without ``sample_weights_B`` (the task term of SSD-KD Eq. 2)."""
    losses_B = F.cross_entropy(teacher_logits_BK.float(), targets_B, reduction="none")
    return losses_B.mean() if sample_weights_B is None else (sample_weights_B * losses_B).mean()


def adversarial_loss(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Rewards images on which the student differs from the teacher although both choose the same class.

    -(1/B) sum_i 1[argmax s_i = argmax t_i] KL_{T=1}(t_i || s_i), divided by B and not by the number of agreeing samples
    (FastDFKD; the KD term that the generator maximises in SSD-KD Eq. 2).
    """
    agrees_B = (student_logits_BK.argmax(1) == teacher_logits_BK.argmax(1)).float()
    return -(agrees_B * kd_loss_per_sample(student_logits_BK, teacher_logits_BK, temperature=1.0)).mean()


def modulating_weights(
    teacher_logits_BK: Tensor,
    class_counts_K: Tensor,
    buffer_size: int,
    *,
    diversity: bool,
    difficulty: bool,
    gamma: float,
    targets_B: Tensor | None = None,
) -> Tensor:
    """SSD-KD Eq. 3: phi(x) = (1 - n_c(x) / N) * (1 - p_T(x))^gamma, each factor switchable.

    c(x) is the teacher's argmax, n_c the number of that class in the buffer of N, p_T(x) the probability at temperature 1 of
    c(x) or, with ``targets_B`` [B], of the class the task loss aims at (the focal loss). The two differ where targets are drawn
    at random: an image that the teacher is sure of, but of another class, is easy by the first and hard by the second.
    The paper labels both braces "difficulty"; the first is the diversity factor. Detached: phi is a priority, and a
    differentiated focal factor would let the generator lower its loss by mere confidence (the paper is silent).
    An empty buffer has no rare class, so its diversity factor is 1.

    Returns:
        float32 [B], without gradient.
    """
    probabilities_BK = teacher_logits_BK.detach().float().softmax(1)
    confidence_B, class_B = probabilities_BK.max(1)
    if targets_B is not None:
        confidence_B = probabilities_BK.gather(1, targets_B[:, None]).squeeze(1)
    weights_B = torch.ones_like(confidence_B)
    if diversity and buffer_size > 0:
        weights_B = weights_B * (1 - class_counts_K.to(weights_B)[class_B] / buffer_size)
    if difficulty:
        weights_B = weights_B * (1 - confidence_B) ** gamma
    return weights_B

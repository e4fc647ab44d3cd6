"""Losses that train a generator to invert a teacher. B batch, K classes, L normalisation layers of widths C_l.

Logits may be [B,K] or [B,K,...], with positions behind the classes, each of which has a target and a weight: a formula then
holds at every position, and a sample's value is the mean over its positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.losses.distillation import kd_loss_per_position
from raydfkd.losses.positions import IGNORED, mean_over_positions

Statistics = Sequence[tuple[Tensor, Tensor]]
"""(mean [C_l], variance [C_l]) of each layer."""


def bn_loss(batch: Statistics, running: Statistics, first_weight: float = 1.0) -> Tensor:
    """Distance of the batch's statistics from the teacher's running statistics.

    sum_l ||M_l - mu_l||_2 + ||V_l - sigma^2_l||_2, norms not squared and not divided by the width
    (DeepInversion, arXiv 1912.08795, in the form of FastDFKD; SSD-KD Eq. 1). ``first_weight`` multiplies the first layer's
    term (10 in DeepInversion's ImageNet code).
    """
    terms = [
        torch.linalg.vector_norm(running_mean - mean) + torch.linalg.vector_norm(running_variance - variance)
        for (mean, variance), (running_mean, running_variance) in zip(batch, running, strict=True)
    ]
    return torch.stack([first_weight * terms[0], *terms[1:]]).sum()


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Sum of the norms of a batch's differences of neighbours: across, down and along both diagonals (DeepInversion's L_TV).

    One norm is over the whole batch, as in the published code, to which the published weights belong: a batch of four times
    as many images has twice the loss.
    """
    across = images_BCHW[..., :-1] - images_BCHW[..., 1:]
    down = images_BCHW[..., :-1, :] - images_BCHW[..., 1:, :]
    falling = images_BCHW[..., :-1, :-1] - images_BCHW[..., 1:, 1:]
    rising = images_BCHW[..., 1:, :-1] - images_BCHW[..., :-1, 1:]
    return torch.stack([torch.linalg.vector_norm(difference) for difference in (across, down, falling, rising)]).sum()


def smoothed_statistics(batch: Statistics, average: Statistics, momentum: float) -> list[tuple[Tensor, Tensor]]:
    """FastDFKD's BN momentum: (1-m) * batch + m * average over earlier calls.

    Only the share 1-m carries gradient, so the effective weight of ``bn_loss`` is that share of its nominal one;
    the published weights are tuned for it.
    """
    return [
        ((1 - momentum) * mean + momentum * average_mean, (1 - momentum) * variance + momentum * average_variance)
        for (mean, variance), (average_mean, average_variance) in zip(batch, average, strict=True)
    ]


def one_hot_loss(teacher_logits_BK: Tensor, targets_B: Tensor, weights_B: Tensor | None = None) -> Tensor:
    """(1/B) sum_i phi_i * CE(t_i, y_i); phi is 1 without ``weights_B`` (the task term of SSD-KD Eq. 2).

    Args:
        targets_B, weights_B: y and phi, [B] or, where the logits have positions, [B,...]; a position of class ``IGNORED`` does
            not count.
    """
    losses = F.cross_entropy(teacher_logits_BK.float(), targets_B, reduction="none", ignore_index=IGNORED)
    return mean_over_positions(losses if weights_B is None else weights_B * losses, targets_B).mean()


def gap_aware_loss(
    student_logits_BK: Tensor, teacher_logits_BK: Tensor, targets_B: Tensor, weights_B: Tensor | None = None
) -> Tensor:
    """GapSSG's class loss: (1 - e^-g) (CE((t - s) / 2, y) + 0.2 CE(t + s, y)), by its published code.

    Wang et al., "Unpacking the Gap Box Against Data-Free Knowledge Distillation", TPAMI 2024. g is the batch's mean of
    max_c |p_T(c) - p_S(c)|, detached: where student and teacher agree everywhere nothing is left to gain from the class. The
    first term makes the class one that the teacher sees and the student does not.

    Args:
        targets_B, weights_B: as in :func:`one_hot_loss`.
    """
    student_BK, teacher_BK = student_logits_BK.float(), teacher_logits_BK.float()
    gaps_B = (teacher_BK.detach().softmax(1) - student_BK.detach().softmax(1)).abs().amax(1)
    apart = one_hot_loss((teacher_BK - student_BK) / 2, targets_B, weights_B)
    together = one_hot_loss(teacher_BK + student_BK, targets_B, weights_B)
    return -torch.expm1(-gaps_B.mean()) * (apart + 0.2 * together)


def adversarial_loss(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Rewards images on which the student differs from the teacher although both choose the same class.

    -(1/B) sum_i 1[argmax s_i = argmax t_i] KL_{T=1}(t_i || s_i), divided by B and not by the number of agreeing samples
    (FastDFKD; the KD term that the generator maximises in SSD-KD Eq. 2). Where logits have positions, those agree or do not.
    """
    agrees = (student_logits_BK.argmax(1) == teacher_logits_BK.argmax(1)).float()
    divergence = kd_loss_per_position(student_logits_BK, teacher_logits_BK, temperature=1.0)
    return -mean_over_positions(agrees * divergence).mean()


def distance(student_logits_BK: Tensor, teacher_logits_BK: Tensor, kind: Literal["kl", "l1", "log_l1"]) -> Tensor:
    """How far the student is from the teacher, the batch's mean, which a generator enlarges.

    kl: KL_{T=1}(t || s) of each sample (DFQ, ZSKT). l1: mean |t - s| over all logits (DFAD); log_l1: log(l1 + 1), DFAD's for
    segmentation, whose gradient falls where the distance is large already.
    """
    if kind == "kl":
        return mean_over_positions(kd_loss_per_position(student_logits_BK, teacher_logits_BK, temperature=1.0)).mean()
    l1 = (teacher_logits_BK.float() - student_logits_BK.float()).abs().mean()
    return l1 if kind == "l1" else l1.log1p()


def modulating_weights(
    teacher_logits_BK: Tensor,
    class_counts_K: Tensor,
    num_counted: int,
    *,
    diversity: bool,
    difficulty: bool,
    gamma: float,
    targets_B: Tensor | None = None,
) -> Tensor:
    """SSD-KD Eq. 3: phi(x) = (1 - n_c(x) / N) * (1 - p_T(x))^gamma, each factor switchable.

    c(x) is the teacher's argmax, n_c the number of that class in the buffer of N, p_T(x) the probability at temperature 1 of
    c(x) or, with ``targets_B``, of the class the task loss aims at (the focal loss). The two differ where targets are drawn
    at random: an image that the teacher is sure of, but of another class, is easy by the first and hard by the second.
    Where logits have positions, x is a position: n_c and N count positions, and each has a weight of its own.
    The paper labels both braces "difficulty"; the first is the diversity factor. Detached: phi is a priority, and a
    differentiated focal factor would let the generator lower its loss by mere confidence (the paper is silent).
    An empty buffer has no rare class, so its diversity factor is 1.

    Args:
        class_counts_K: n, of all images in the buffer or of all their positions.
        num_counted: N, which n adds up to.
        targets_B: [B] or [B,...], of the shape of the logits without their classes.

    Returns:
        float32 of the same shape, without gradient.
    """
    probabilities_BK = teacher_logits_BK.detach().float().softmax(1)
    confidence, classes = probabilities_BK.max(1)
    if targets_B is not None:
        confidence = probabilities_BK.gather(1, targets_B[:, None]).squeeze(1)
    weights = torch.ones_like(confidence)
    if diversity and num_counted > 0:
        weights = weights * (1 - class_counts_K.to(weights)[classes] / num_counted)
    if difficulty:
        weights = weights * (1 - confidence) ** gamma
    return weights


def negative_batch_entropy(teacher_logits_BK: Tensor) -> Tensor:
    """sum_c p_c log10 p_c, p the mean over the batch, and over all positions, of the teacher's softmax: least where all classes
    are made equally often.

    The information-entropy loss of DAFL (Chen et al., ICCV 2019), in its code's and PRE-DFKD's logarithm to base 10.
    """
    log_NK = F.log_softmax(teacher_logits_BK.float(), dim=1).movedim(1, -1).flatten(0, -2)
    log_mean_K = torch.logsumexp(log_NK, dim=0) - math.log(len(log_NK))
    # In the log domain a class whose probability underflows to 0 adds 0 and not 0 * -inf, whose gradient is NaN.
    return (log_mean_K.exp() * log_mean_K).sum() / math.log(10)


def activation_loss(features_BF: Tensor) -> Tensor:
    """-(1/(B F)) sum |Phi_T(x)|: rewards images that activate the teacher's penultimate features (DAFL)."""
    return -features_BF.float().abs().mean()


def disagreement_loss(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """1 - JS: rewards images on which student and teacher differ (Adaptive DeepInversion; PRE-DFKD, Binici et al., AAAI 2022).

    With P and Q the softmaxes at temperature 3 and M = (P + Q) / 2, all clamped to [.01,.99], JS is half the mean over all
    elements of M (log M - log P), plus the same of Q, clamped to [0,1]. This is the published code: the Jensen-Shannon
    divergence itself has the arguments the other way round (P (log P - log M)), no clamps, and sums over classes.
    """
    student_BK = (student_logits_BK.float() / 3).softmax(1)
    teacher_BK = (teacher_logits_BK.float() / 3).softmax(1)
    mean_BK = ((student_BK + teacher_BK) / 2).clamp(0.01, 0.99)
    halves = [
        0.5 * (mean_BK * (mean_BK.log() - each_BK.clamp(0.01, 0.99).log())).mean() for each_BK in (student_BK, teacher_BK)
    ]
    return 1 - torch.stack(halves).sum().clamp(0, 1)

"""Losses that train a student on a teacher's outputs. B batch, K classes.

Logits may have position axes after the classes, as in [B,K,H,W]: see ``raydfkd.losses.positions``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.losses.positions import mean_over_positions


def kd_loss_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor, temperature: float) -> Tensor:
    """Temperature-scaled divergence of the student from the teacher, one value a sample: the mean over its positions.

    T^2 * sum_k p_T[k] (log p_T[k] - log p_S[k]) with p = softmax(logits / T) (Hinton et al. 2015, arXiv 1503.02531;
    the KL(T||S) of FastDFKD and SSD-KD). The factor T^2 is always there, so that the gradient's scale does not depend on T.

    Args:
        student_logits_BK, teacher_logits_BK: [B,K] or [B,K,...]; computed in float32 whatever the input type.
        temperature: T > 0.

    Returns:
        float32 [B], differentiable in both arguments.
    """
    return mean_over_positions(kd_loss_per_position(student_logits_BK, teacher_logits_BK, temperature))


def kd_loss_per_position(student_logits_BK: Tensor, teacher_logits_BK: Tensor, temperature: float) -> Tensor:
    """As :func:`kd_loss_per_sample`, before the mean over positions: float32 [B] or [B,...]."""
    student_log_BK = F.log_softmax(student_logits_BK.float() / temperature, dim=1)
    teacher_log_BK = F.log_softmax(teacher_logits_BK.float() / temperature, dim=1)
    divergence = (teacher_log_BK.exp() * (teacher_log_BK - student_log_BK)).sum(dim=1)
    return divergence * temperature**2


def importance_weighted_mean(losses_B: Tensor, importance_weights_B: Tensor) -> tuple[Tensor, Tensor]:
    """SSD-KD Eq. 4: the per-sample loss times its importance weight is back-propagated and is the next priority.

    Returns:
        The scalar (1/B) sum_i w_i * loss_i, and the detached float32 [B] priorities w_i * loss_i.
    """
    weighted_B = importance_weights_B * losses_B
    return weighted_B.mean(), weighted_B.detach()


def self_paced_weights(losses_B: Tensor, threshold: float | Tensor) -> Tensor:
    """CuDFKD's weight of a sample: v = (1 + e^-lambda) / (1 + e^(l - lambda)), 1 for a loss l of 0, about 1/2 at lambda.

    By the published code (Li et al., "Dynamic data-free knowledge distillation by easy-to-hard learning strategy", 2022,
    arXiv 2208.13648). The less, the harder the sample; with a growing ``threshold`` lambda all weights go to 1.

    Returns:
        float32 [B], without gradient.
    """
    most = 1 + (torch.exp(-threshold) if isinstance(threshold, Tensor) else math.exp(-threshold))
    return most * torch.sigmoid(threshold - losses_B.detach().float())


def agreement(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Share of samples, or of all their positions, on which both predict the same class: a scalar in [0,1]."""
    return (student_logits_BK.argmax(1) == teacher_logits_BK.argmax(1)).float().mean()

"""Distillation losses on logits other than plain KL, one value per sample. B batch, K classes, y the label, T the temperature.

There are no labels in data-free distillation: y is the teacher's argmax everywhere (ours; the papers have true labels).

Logits may be [B,K] or [B,K,...], with positions behind the classes, each with its own y. A formula then holds at every
position, and a sample's value is the mean over its positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.losses.positions import mean_over_positions


def hard_label_loss_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Cross-entropy of the student to y: -log p_S[y] (the CE term of all the methods here). Returns float32 [B]."""
    return mean_over_positions(F.cross_entropy(student_logits_BK.float(), teacher_logits_BK.argmax(1), reduction="none"))


def l1_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """(1/K) sum_k |t_k - s_k|: the student's loss of PRE-DFKD (Binici et al., AAAI 2022), as of DFAD. Returns float32 [B]."""
    return mean_over_positions((student_logits_BK.float() - teacher_logits_BK.float()).abs().mean(1))


def normalized_logits_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """sum_k (s_k / ||s|| - t_k / ||t||)^2: NetGraft's loss (Shen et al., AAAI 2021). Returns float32 [B]."""
    student, teacher = F.normalize(student_logits_BK.float(), dim=1), F.normalize(teacher_logits_BK.float(), dim=1)
    return mean_over_positions((student - teacher).square().sum(1))


def smoothed_label_kl_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor, smoothing: float) -> Tensor:
    """KL(q || p_S) with q = (1 - s) one-hot(y) + s / K: the label ablation of the surrogate-dataset study (its Table 4).

    The cross-entropy to q less q's own entropy, a constant, so that 0 is the least value as with soft labels. With s = 0 it
    is the cross-entropy to y.

    Args:
        smoothing: s in [0,1).

    Returns:
        float32 [B].
    """
    num_classes = student_logits_BK.shape[1]
    labels = teacher_logits_BK.argmax(1)
    cross = F.cross_entropy(student_logits_BK.float(), labels, reduction="none", label_smoothing=smoothing)
    rest = smoothing / num_classes
    label = 1 - smoothing + rest
    entropy = 0.0 if smoothing == 0 else -label * math.log(label) - (num_classes - 1) * rest * math.log(rest)
    return mean_over_positions(cross) - entropy


def decoupled_kd_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The two parts that DKD weights independently (Zhao et al., CVPR 2022).

    TCKD = T^2 KL((p_T[y], 1 - p_T[y]) || (p_S[y], 1 - p_S[y])), NCKD = T^2 KL(q_T || q_S), with p = softmax(logits / T) and q
    the distribution over the K-1 classes that are not y, renormalised. Plain KD is TCKD + (1 - p_T[y]) NCKD.

    Args:
        student_logits_BK, teacher_logits_BK: K >= 2.

    Returns:
        TCKD and NCKD, float32 [B] each. All in logarithms: finite for any finite logits, unlike the published code, which
        takes the logarithm of a sum of probabilities.
    """
    student_target, student_rest = _split_at_label(student_logits_BK, teacher_logits_BK)
    teacher_target, teacher_rest = _split_at_label(teacher_logits_BK, teacher_logits_BK)
    student_pair, teacher_pair = (
        torch.stack([target / temperature, (rest / temperature).logsumexp(1)], dim=1)
        for target, rest in ((student_target, student_rest), (teacher_target, teacher_rest))
    )
    target_B = kd_loss_per_sample(student_pair, teacher_pair, 1.0) * temperature**2
    return target_B, kd_loss_per_sample(student_rest, teacher_rest, temperature)


def normalized_kd_per_sample(
    student_logits_BK: Tensor, teacher_logits_BK: Tensor, temperature: float, non_target_weight: float
) -> Tensor:
    """NKD (Yang et al., ICCV 2023) without its CE term.

    -p_T[y] log p_S[y] - gamma T^2 sum_{k != y} q_T[k] log q_S[k]: p at temperature 1, q the distribution over the classes
    that are not y, renormalised, at temperature T. Cross-entropies and not divergences, so that the least value is not 0.

    Args:
        student_logits_BK, teacher_logits_BK: K >= 2.
        non_target_weight: gamma.

    Returns:
        float32 [B].
    """
    labels_B1 = teacher_logits_BK.argmax(1, keepdim=True)
    student_log = student_logits_BK.float().log_softmax(1).gather(1, labels_B1).squeeze(1)
    teacher = teacher_logits_BK.float().softmax(1).gather(1, labels_B1).squeeze(1)
    _, student_rest = _split_at_label(student_logits_BK, teacher_logits_BK)
    _, teacher_rest = _split_at_label(teacher_logits_BK, teacher_logits_BK)
    rest = -((teacher_rest / temperature).softmax(1) * (student_rest / temperature).log_softmax(1)).sum(1)
    return mean_over_positions(-teacher * student_log + non_target_weight * temperature**2 * rest)


def ofa_loss_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor, exponent: float, temperature: float) -> Tensor:
    """OFA-KD's loss with adaptive target enhancement (Hao et al., NeurIPS 2023, in the official code's form).

    -sum_k ((p_T[k] + 1[k = y])^eps - 1[k = y]) log p_S[k] with p = softmax(logits / T), no factor T^2. With eps = 1 it is the
    cross-entropy to the teacher's probabilities; a larger eps raises the share of y.

    Args:
        exponent: eps > 0.

    Returns:
        float32 [B].
    """
    student_log_BK = (student_logits_BK.float() / temperature).log_softmax(1)
    teacher_BK = (teacher_logits_BK.float() / temperature).softmax(1)
    one_hot_BK = F.one_hot(teacher_logits_BK.argmax(1), teacher_logits_BK.shape[1]).movedim(-1, 1).to(teacher_BK)
    targets_BK = (teacher_BK + one_hot_BK) ** exponent - one_hot_BK
    return mean_over_positions(-(targets_BK * student_log_BK).sum(1))


def noise_adapted_loss_per_sample(student_logits_BK: Tensor, teacher_logits_BK: Tensor, log_noise_KK: Tensor) -> Tensor:
    """-log sum_k p_S[k] Q[k, y]: the student's probabilities, passed through a noise matrix, against the teacher's possibly
    wrong label y (DFND, Chen et al., CVPR 2021).

    Args:
        log_noise_KK: log Q; Q[k, j] is the probability that the teacher calls an image of class k one of class j.

    Returns:
        float32 [B], differentiable in student and matrix.
    """
    columns = log_noise_KK.float().T[teacher_logits_BK.argmax(1)].movedim(-1, 1)
    return mean_over_positions(-(student_logits_BK.float().log_softmax(1) + columns).logsumexp(1))


def _split_at_label(logits_BK: Tensor, teacher_logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """At each position the logit of y [B,...] and the other K-1 logits [B,K-1,...] in their order, float32."""
    labels_B1 = teacher_logits_BK.argmax(1, keepdim=True)
    others = torch.arange(logits_BK.shape[1] - 1, device=logits_BK.device).view(1, -1, *[1] * (logits_BK.ndim - 2))
    # Indices, and not a boolean mask, whose result has a shape that a compiler cannot know.
    rest = logits_BK.float().gather(1, others + (others >= labels_B1))
    return logits_BK.float().gather(1, labels_B1).squeeze(1), rest

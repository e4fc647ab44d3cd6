"""Losses of GANs on collected images, HiDFD's (arXiv 2412.13525) and DeGAN's (Addepalli et al., AAAI 2020). All are minimised.

B batch, K classes, F teacher feature width. x is a batch of real images, x^ a batch of synthetic ones, N_D the discriminator's
probability of being real (the sigmoid of its adversarial logit), Psi its classifier over 2K outputs, Phi_T and Phi_D the
features of teacher and discriminator (the latter after the projector, if there is one). Everything is computed in float32
whatever the input type.

HiDFD's are

    L_D = adversarial_discriminator_loss + class_discriminator_loss + lambda_d (feature_blending + feature_transfer)
    L_G = adversarial_generator_loss + class_generator_loss + lambda_g class_regularization
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

AdversarialKind = Literal["hinge", "log"]


def adversarial_discriminator_loss(real_logits_B: Tensor, synthetic_logits_B: Tensor, kind: AdversarialKind) -> Tensor:
    """Discriminates real from synthetic images.

    log (HiDFD Eq. 1; Goodfellow et al. 2014): -E log N_D(x) - E log(1 - N_D(x^)).
    hinge (ADC-GAN's and HiDFD's code; Lim and Ye 2017): E max(0, 1 - r) + E max(0, 1 + s), for logits r of x and s of x^.
    """
    real_B, synthetic_B = real_logits_B.float(), synthetic_logits_B.float()
    if kind == "hinge":
        return F.relu(1 - real_B).mean() + F.relu(1 + synthetic_B).mean()
    return F.softplus(-real_B).mean() + F.softplus(synthetic_B).mean()


def adversarial_generator_loss(synthetic_logits_B: Tensor, kind: AdversarialKind) -> Tensor:
    """Makes synthetic images pass for real.

    log: -E log N_D(x^). The paper's min-max form is E log(1 - N_D(x^)), whose gradient vanishes when the discriminator
    wins; ours is the non-saturating one of Goodfellow et al. 2014, section 3, with the same fixed point.
    hinge: -E s for logits s of x^.
    """
    synthetic_B = synthetic_logits_B.float()
    return -synthetic_B.mean() if kind == "hinge" else F.softplus(-synthetic_B).mean()


def class_discriminator_loss(
    real_class_logits_B2K: Tensor, real_classes_B: Tensor, synthetic_class_logits_B2K: Tensor, synthetic_classes_B: Tensor
) -> Tensor:
    """The discriminative classifier of ADC-GAN learns class and origin at once: HiDFD Eq. 1, its terms in Psi.

    -E log Psi(y+; x) - E log Psi(y-; x^), with y+ = output 2y, "class y and real", and y- = 2y+1, "class y and synthetic".
    Eq. 1 prints both with a plus, which when minimised would teach the classifier to be wrong; ours is the minus of
    ADC-GAN (Hou et al., ICML 2022) and of the official code.
    """
    real = F.cross_entropy(real_class_logits_B2K.float(), 2 * real_classes_B)
    return real + F.cross_entropy(synthetic_class_logits_B2K.float(), 2 * synthetic_classes_B + 1)


def class_generator_loss(synthetic_class_logits_B2K: Tensor, classes_B: Tensor) -> Tensor:
    """Rewards images of the requested class that look real rather than synthetic: the Psi terms of HiDFD's L_adc_g, as printed.

    -E log Psi(y+; x^) + E log Psi(y-; x^). The softmax's denominators cancel, so it is computed as the mean of
    logit[2y+1] - logit[2y], which is exact and cannot overflow.
    """
    pairs_BK2 = synthetic_class_logits_B2K.float().unflatten(1, (-1, 2))
    real_B, synthetic_B = pairs_BK2[torch.arange(len(classes_B), device=classes_B.device), classes_B].unbind(1)
    return (synthetic_B - real_B).mean()


def feature_blending(
    teacher_real_BF: Tensor,
    teacher_synthetic_BF: Tensor,
    discriminator_real_BF: Tensor,
    discriminator_synthetic_BF: Tensor,
    draws: Tensor,
    probability: float,
) -> Tensor:
    """Swaps real and synthetic images of a class between teacher and discriminator (HiDFD Eq. 8).

    E[ 1(p < q) ( ||Phi_T(x) - Phi_D(x^)||_2 + ||Phi_T(x^) - Phi_D(x)||_2 ) ], norms per sample and not squared. Row i of x
    and row i of x^ must have one class: the paper's pairs share y (its code pairs independent labels). The paper prints
    1(p > q), which is probability 1 - q; its text and its sweep of q mean ours. The teacher's features are constants here
    and the discriminator's are not, whereas the official code computes all four without gradient.

    Args:
        draws: p, uniform in [0,1): one number [] for the batch, or [B] one a pair.
        probability: q, .7 in the paper; 0 never blends and 1 always does.

    Returns:
        A scalar, 0 with zero gradients where nothing is blended.
    """
    distances_B = distances(discriminator_synthetic_BF, teacher_real_BF) + distances(
        discriminator_real_BF, teacher_synthetic_BF
    )
    return ((draws < probability) * distances_B).mean()


def feature_transfer(
    teacher_real_BF: Tensor,
    teacher_synthetic_BF: Tensor,
    discriminator_real_BF: Tensor,
    discriminator_synthetic_BF: Tensor,
) -> Tensor:
    """Pulls the discriminator's features towards the teacher's for the same images (HiDFD Eq. 9).

    E ||Phi_T(x) - Phi_D(x)||_2 + E ||Phi_T(x^) - Phi_D(x^)||_2, norms per sample and not squared, the teacher's features
    constant. Deviation from the official code, where this has no gradient at all: as in :func:`feature_blending`.
    """
    real = distances(discriminator_real_BF, teacher_real_BF).mean()
    return real + distances(discriminator_synthetic_BF, teacher_synthetic_BF).mean()


def distances(features_BF: Tensor, teacher_BF: Tensor) -> Tensor:
    """L2 distance [B] of each sample from the teacher's features, which are taken as constants."""
    assert features_BF.shape == teacher_BF.shape, f"{tuple(features_BF.shape)} features against {tuple(teacher_BF.shape)}"
    return torch.linalg.vector_norm(features_BF.float() - teacher_BF.detach().float(), dim=1)


@torch.no_grad()
def updated_class_counts(class_counts_K: Tensor, teacher_logits_BK: Tensor, gamma: float) -> Tensor:
    """Moving average of the number of synthetic images the teacher assigns to each class (HiDFD Eqs 10-11).

    n_c <- (1 - gamma) n_c + gamma * #{i: argmax t_i = c}. The paper's gamma is .5; n starts at any positive constant.

    Returns:
        A new float32 [K] without gradient.
    """
    new_K = F.one_hot(teacher_logits_BK.argmax(1), len(class_counts_K)).sum(0)
    return (1 - gamma) * class_counts_K.float() + gamma * new_K


def class_weights(class_counts_K: Tensor, min_relative_frequency: float = 0.01) -> Tensor:
    """The weight of each class in :func:`class_regularization`: 1 / n^_c with n^ = n / sum n, the weights of HiDFD Eq. 12.

    Deviation: n^ is at least ``min_relative_frequency`` / K, since a class that vanished would otherwise have infinite weight,
    and the weights are divided by their mean, since they would otherwise be about K and lambda_g would mean something else for
    each K. The official code never updates n, so its weights are all 1.

    Args:
        class_counts_K: n, none negative and not all 0.
        min_relative_frequency: a share of the even frequency 1/K, well below 1, otherwise it also hides differences
            between generated classes.

    Returns:
        float32 [K] of mean 1.
    """
    counts_K = class_counts_K.detach().float()
    weights_K = 1 / (counts_K / counts_K.sum()).clamp(min=min_relative_frequency / len(counts_K))
    return weights_K / weights_K.mean()


def class_regularization(teacher_logits_BK: Tensor, class_counts_K: Tensor, min_relative_frequency: float = 0.01) -> Tensor:
    """Category frequency smoothing: weighted negative entropy of the teacher's mean prediction (HiDFD Eq. 12).

    sum_c w_c p_c log p_c, p the mean over synthetic images of the teacher's softmax, w from :func:`class_weights`: classes that
    were rarely made pull harder. The gradient goes through the teacher's logits into the generator.
    """
    log_mean_K = torch.logsumexp(F.log_softmax(teacher_logits_BK.float(), dim=1), dim=0) - math.log(len(teacher_logits_BK))
    # In the log domain a class whose probability underflows to 0 adds 0 and not 0 * -inf, whose gradient is NaN.
    return (class_weights(class_counts_K, min_relative_frequency) * log_mean_K.exp() * log_mean_K).sum()


def mean_entropy(teacher_logits_BK: Tensor) -> Tensor:
    """E[-sum_c p_c log p_c], p the teacher's softmax: low where it is sure of each image (DeGAN's L_entropy)."""
    log_p_BK = teacher_logits_BK.float().log_softmax(1)
    return -(log_p_BK.exp() * log_p_BK).sum(1).mean()


def negative_mean_prediction_entropy(teacher_logits_BK: Tensor) -> Tensor:
    """sum_c p_c log p_c, p the batch's mean of the teacher's softmax: low where all classes are made (DeGAN's L_diversity)."""
    log_p_K = teacher_logits_BK.float().log_softmax(1).logsumexp(0) - math.log(len(teacher_logits_BK))
    return (log_p_K.exp() * log_p_K).sum()

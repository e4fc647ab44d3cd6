"""The Fréchet distance between Gaussians, by which sets of features are compared (Heusel et al. 2017).

N and M images, F features, K classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def class_frechet_distance(first_NF: Tensor, first_N: Tensor, second_MF: Tensor, second_M: Tensor, num_classes: int) -> Tensor:
    """The mean over classes of the squared Fréchet distance between a Gaussian of each set, a scalar.

    With means m and covariances S it is |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) (Heusel et al. 2017, Eq. 6). A few images of
    a class give no covariance of their own, and one image none at all. So a set has one for all of its classes, the mean
    square deviation from their means, and of that the diagonal; the trace then is sum_f (s_f - s'_f)^2 of the standard
    deviations. NaN where the sets have no class in common.

    Args:
        first_NF, second_MF: features.
        first_N, second_M: int64, their classes; one that only one of the sets has does not count.
        num_classes: K.
    """
    counts, means, deviations = _of_classes(first_NF, first_N, num_classes)
    others, other_means, other_deviations = _of_classes(second_MF, second_M, num_classes)
    common = (counts > 0) & (others > 0)
    between = (means - other_means).square().sum(1)[common].mean()
    return between + (deviations - other_deviations).square().sum()


def _of_classes(features_NF: Tensor, classes_N: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number of images [K] and mean features [K,F] of each class, and the standard deviations [F] that all share."""
    members_NK = F.one_hot(classes_N, num_classes).to(features_NF.dtype)
    counts_K = members_NK.sum(0)
    means_KF = members_NK.T @ features_NF / counts_K.clamp(min=1)[:, None]
    return counts_K, means_KF, (features_NF - means_KF[classes_N]).square().mean(0).sqrt()

"""Distillation losses on feature maps and embeddings, one value a sample. B batch, C channels, D embedding width.

Where a published loss relates the samples of a batch to one another, each sample gets its own share, and the mean of the
shares over the batch is the published scalar. Everything is computed in float32, whatever the input type and autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_DISTANCE = 1e-6
"""Two embeddings nearer than this have no direction from one to the other."""
MIN_MAP_NORM = 1e-6
"""Below it a class-activation map is not scaled to length 1: the gradient of a vanishing map stays bounded."""


def feature_alignment_per_sample(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference over channels and pixels (SimKD, Chen et al., CVPR 2022; HiDFD's code).

    Args:
        student_map, teacher_map: [B,C,h,w] and [B,C,H,W]; both are average-pooled to the smaller height and width first.

    Returns:
        float32 [B].
    """
    student_map, teacher_map = to_smaller_map(student_map.float(), teacher_map.float())
    return (student_map - teacher_map).square().mean((1, 2, 3))


def pooled_alignment_per_sample(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """||Phi_S(x) - Phi_T(x)||_2 of pooled features, not squared (HiDFD Eq. 14 as printed). Returns float32 [B]."""
    return torch.linalg.vector_norm(student_BD.float() - teacher_BD.float(), dim=1)


def to_smaller_map(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps average-pooled to the smaller of their heights and of their widths."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    pooled = [x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (one, other)]
    return pooled[0], pooled[1]


def similarity_matrix(map_BCHW: Tensor) -> Tensor:
    """Inner products of the flattened maps of all pairs of samples, float32 [B,B] (SemCKD, Chen et al., AAAI 2021)."""
    with _full_precision(map_BCHW):
        flat = map_BCHW.float().flatten(1)
        return flat @ flat.T


def layer_attention(queries_BSE: Tensor, keys_BTE: Tensor, temperature: float) -> Tensor:
    """Softmax over teacher layers t of q_s . k_t / temperature for each student layer s: [B,S,T] (SemCKD)."""
    with _full_precision(queries_BSE):
        return (queries_BSE.float() @ keys_BTE.float().transpose(1, 2) / temperature).softmax(2)


def attention_weighted_loss(attention_BST: Tensor, distances_BST: Tensor) -> Tensor:
    """(1/S) sum_s sum_t attention * distance (SemCKD; divided by the number S of student layers, as its code is). Float32 [B].

    Attention and distances are each sample's own already, so these are its shares.
    """
    return (attention_BST * distances_BST).sum(2).mean(1)


def correlation_loss_per_sample(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """CC in the first-order form of RepDistiller (after Peng et al., ICCV 2019).

    mean over the B-1 pairs of neighbours in the batch of c_i = sum_d delta_i[d] delta_{i+1}[d], delta = abs(f_S - f_T). A
    pair belongs half to each of its samples: l_i = B / (B-1) * (c_{i-1} + c_i) / 2 with c_0 = c_B = 0. One sample has no
    pair: 0. (The paper's own form, a Gaussian kernel, is not the one behind the published comparisons.)

    Returns:
        float32 [B].
    """
    delta_BD = (student_BD.float() - teacher_BD.float()).abs()
    batch_size = len(delta_BD)
    pairs = (delta_BD[:-1] * delta_BD[1:]).sum(1)
    shares_B = F.pad(pairs, (0, 1)) + F.pad(pairs, (1, 0))
    return shares_B * (batch_size / (2 * max(1, batch_size - 1)))


def relational_distance_loss_per_sample(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """RKD-D (Park et al., CVPR 2019): smooth L1 of distances, each network's divided by their mean.

    The mean over all B^2 ordered pairs (i, j), of which sample i has the B that start at it. The scale is the mean of the
    distances above 0, differentiated for the student, so that the loss does not depend on the scale of either network.

    Returns:
        float32 [B].
    """
    return F.smooth_l1_loss(_scaled_distances(student_BD), _scaled_distances(teacher_BD), reduction="none").mean(1)


def relational_angle_loss_per_sample(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """RKD-A (Park et al., CVPR 2019): smooth L1 of the cosines of the angles in all triplets.

    The mean over all B^3 ordered triplets; sample i has the B^2 whose vertex it is. Memory: B^3 numbers a network, and
    B^2 D of directions.

    Returns:
        float32 [B].
    """
    return F.smooth_l1_loss(_angle_cosines(student_BD), _angle_cosines(teacher_BD), reduction="none").mean((1, 2))


def class_activation_maps(map_BCHW: Tensor, head_weight_KC: Tensor) -> Tensor:
    """The head applied at every pixel, without its bias: float32 [B,K,H,W] (Zhou et al., CVPR 2016)."""
    with _full_precision(map_BCHW):
        return F.conv2d(map_BCHW.float(), head_weight_KC.float()[:, :, None, None])


def class_attention_loss_per_sample(
    student_maps_BKHW: Tensor, teacher_maps_BKHW: Tensor, resolution: int, normalize: bool
) -> Tensor:
    """CAT-KD (Guo et al., CVPR 2023): mean squared difference of class-activation maps over classes and pixels.

    Args:
        resolution: both are average-pooled to this many pixels a side first.
        normalize: each class's pooled map is then scaled to length 1.

    Returns:
        float32 [B].
    """
    pooled = [F.adaptive_avg_pool2d(maps.float(), resolution) for maps in (student_maps_BKHW, teacher_maps_BKHW)]
    if normalize:
        pooled = [F.normalize(maps, dim=(2, 3), eps=MIN_MAP_NORM) for maps in pooled]  # type: ignore[arg-type]
    return (pooled[0] - pooled[1]).square().mean((1, 2, 3))


def attention_transfer_loss_per_sample(student_map_BCHW: Tensor, teacher_map_BCHW: Tensor) -> Tensor:
    """AT (Zagoruyko and Komodakis, ICLR 2017) in the form of ZSKT's code: mean squared difference of two attention maps.

    An attention map is the mean over channels of the squared activations, as a vector of length 1 over pixels; the mean is over
    pixels.

    Args:
        student_map_BCHW, teacher_map_BCHW: of one height and width; their channels may differ in number.

    Returns:
        float32 [B].
    """
    student_BP, teacher_BP = (_attention(each) for each in (student_map_BCHW, teacher_map_BCHW))
    return (student_BP - teacher_BP).square().mean(1)


def _attention(map_BCHW: Tensor) -> Tensor:
    return F.normalize(map_BCHW.float().square().mean(1).flatten(1), dim=1)


def grad_cam(map_BCHW: Tensor, gradient_BC: Tensor) -> Tensor:
    """sum_c g_c F_c, float32 [B,H,W]: Grad-CAM (Selvaraju et al., ICCV 2017) without its ReLU, as SpaceshipNet takes it.

    Args:
        gradient_BC: mean over pixels of the gradient of a class's logit with respect to the map; a constant here.
    """
    return (map_BCHW.float() * gradient_BC.detach().float()[:, :, None, None]).sum(1)


def _scaled_distances(embeddings_BD: Tensor) -> Tensor:
    """Euclidean distances [B,B] divided by the mean of those above 0."""
    x = embeddings_BD.float()
    # Not by inner products, which lose distances that are small relative to the embeddings' norm.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    scale = distances.sum() / (distances > 0).sum().clamp_min(1)
    return distances / scale.clamp_min(MIN_DISTANCE)


def _angle_cosines(embeddings_BD: Tensor) -> Tensor:
    """[B,B,B]: element (i,j,k) is the cosine of the angle at i between the directions to j and to k, 0 without direction."""
    x = embeddings_BD.float()
    differences = x[None, :, :] - x[:, None, :]
    lengths = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    apart = lengths > MIN_DISTANCE
    # The inner `where` keeps the division's gradient finite where the outer one discards its value.
    directions = torch.where(apart, differences / torch.where(apart, lengths, 1.0), 0.0)
    with _full_precision(x):
        return torch.bmm(directions, directions.transpose(1, 2))


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)

"""Feature losses against definitions written out, their invariances, and their shares by sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.losses.feature_distillation import (
    attention_transfer_loss_per_sample,
    attention_weighted_loss,
    class_activation_maps,
    class_attention_loss_per_sample,
    correlation_loss_per_sample,
    feature_alignment_per_sample,
    grad_cam,
    layer_attention,
    pooled_alignment_per_sample,
    relational_angle_loss_per_sample,
    relational_distance_loss_per_sample,
    similarity_matrix,
)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def rotation(seed: int, width: int) -> Tensor:
    return torch.linalg.qr(noise(seed, width, width)).Q


def distances(x: np.ndarray) -> np.ndarray:
    d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    return d / d[d > 0].mean()


def cosines(x: np.ndarray) -> np.ndarray:
    """At vertex i between j and k."""
    num = len(x)
    out = np.zeros((num, num, num))
    for i, j, k in itertools.product(range(num), repeat=3):
        if i not in (j, k):
            a, b = x[j] - x[i], x[k] - x[i]
            out[i, j, k] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return out


@pytest.mark.parametrize(
    ("loss", "relation"),
    [(relational_distance_loss_per_sample, distances), (relational_angle_loss_per_sample, cosines)],
    ids=["distance", "angle"],
)
def test_rkd_is_the_mean_huber_of_its_relations(loss: Callable, relation: Callable) -> None:
    student, teacher = noise(0, 5, 3), noise(1, 5, 7)
    difference = relation(student.double().numpy()) - relation(teacher.double().numpy())
    expected = np.vectorize(huber)(difference)
    found = loss(student, teacher)
    assert found.shape == (5,)
    assert found.mean().item() == pytest.approx(expected.mean(), rel=1e-4)
    np.testing.assert_allclose(found, expected.reshape(5, -1).mean(1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", [relational_distance_loss_per_sample, relational_angle_loss_per_sample])
def test_rkd_does_not_see_scale_rotation_or_place(loss: Callable) -> None:
    student, teacher = noise(0, 6, 4), noise(1, 6, 4)
    moved = 7.0 * student @ rotation(2, 4) + noise(3, 4)
    torch.testing.assert_close(loss(moved, teacher), loss(student, teacher), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(loss(3.0 * teacher @ rotation(2, 4), teacher), torch.zeros(6), rtol=0, atol=1e-8)
    assert (loss(student, teacher) > 1e-3).all()


@pytest.mark.parametrize("loss", [relational_distance_loss_per_sample, relational_angle_loss_per_sample])
def test_rkd_of_equal_and_of_single_samples_has_a_finite_gradient(loss: Callable) -> None:
    """A buffer may give the same image twice, and a young student one feature for all images."""
    for student in (noise(0, 2, 3)[[0, 0, 1]], torch.zeros(3, 3), noise(0, 1, 3)):
        leaf = student.clone().requires_grad_()
        values = loss(leaf, noise(1, len(student), 4))
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        assert torch.isfinite(values).all()
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 100


def test_correlation_is_the_mean_over_neighbours() -> None:
    student, teacher = noise(0, 5, 4), noise(1, 5, 4)
    delta = (student - teacher).double().abs().numpy()
    pairs = [(delta[i] * delta[i + 1]).sum() for i in range(4)]
    found = correlation_loss_per_sample(student, teacher)
    assert found.mean().item() == pytest.approx(np.mean(pairs), rel=1e-5)
    expected = [
        5 / 4 * part / 2 for part in (pairs[0], pairs[0] + pairs[1], pairs[1] + pairs[2], pairs[2] + pairs[3], pairs[3])
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_correlation_of_two_is_halved_and_of_one_nothing() -> None:
    student, teacher = noise(0, 2, 4), noise(1, 2, 4)
    delta = (student - teacher).abs()
    torch.testing.assert_close(correlation_loss_per_sample(student, teacher), (delta[0] * delta[1]).sum().expand(2))
    assert correlation_loss_per_sample(student[:1], teacher[:1]).tolist() == [0.0]
    assert torch.equal(correlation_loss_per_sample(teacher, teacher), torch.zeros(2))


def test_alignment_is_the_mean_squared_difference_at_the_smaller_size() -> None:
    student, teacher = noise(0, 3, 4, 2, 6), noise(1, 3, 4, 4, 3)
    pooled_student, pooled_teacher = F.avg_pool2d(student, (1, 2)), F.avg_pool2d(teacher, (2, 1))
    found = feature_alignment_per_sample(student, teacher)
    torch.testing.assert_close(found.mean(), F.mse_loss(pooled_student, pooled_teacher))
    torch.testing.assert_close(found, (pooled_student - pooled_teacher).square().flatten(1).mean(1))
    assert torch.equal(feature_alignment_per_sample(teacher, teacher), torch.zeros(3))


def test_pooled_alignment_is_a_distance_whose_gradient_is_of_length_one() -> None:
    student, teacher = noise(0, 3, 4).requires_grad_(), noise(1, 3, 4)
    found = pooled_alignment_per_sample(student, teacher)
    np.testing.assert_allclose(found.detach(), np.linalg.norm((student.detach() - teacher).numpy(), axis=1), rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(gradient.norm(dim=1), torch.ones(3))
    (at_rest,) = torch.autograd.grad(pooled_alignment_per_sample(student, student.detach()).sum(), student)
    assert torch.equal(at_rest, torch.zeros(3, 4))


def test_attention_rows_add_up_to_one_and_follow_the_products() -> None:
    queries, keys = F.normalize(noise(0, 3, 2, 4), dim=2), F.normalize(noise(1, 3, 5, 4), dim=2)
    attention = layer_attention(queries, keys, 1.0)
    assert attention.shape == (3, 2, 5)
    torch.testing.assert_close(attention.sum(2), torch.ones(3, 2))
    products = torch.einsum("bse,bte->bst", queries, keys)
    assert torch.equal(attention.argmax(2), products.argmax(2))
    torch.testing.assert_close(layer_attention(queries, keys, 1e6), torch.full((3, 2, 5), 0.2), rtol=0, atol=1e-5)
    assert (layer_attention(queries, keys, 0.01).max(2).values > attention.max(2).values).all()


def test_the_attention_weighted_loss_is_divided_by_samples_and_student_layers() -> None:
    attention, parts = noise(0, 3, 2, 5).softmax(2), noise(1, 3, 2, 5).abs()
    found = attention_weighted_loss(attention, parts)
    assert found.shape == (3,)
    torch.testing.assert_close(found.mean(), (attention * parts).sum() / (3 * 2))


def test_similarities_are_inner_products_of_maps() -> None:
    maps = noise(0, 3, 2, 2, 2)
    expected = [[float((a * b).sum()) for b in maps] for a in maps]
    np.testing.assert_allclose(similarity_matrix(maps), expected, rtol=1e-5, atol=1e-6)


def test_class_activation_maps_pool_to_the_logits() -> None:
    maps, head = noise(0, 3, 4, 5, 5), noise(1, 6, 4)
    cams = class_activation_maps(maps, head)
    assert cams.shape == (3, 6, 5, 5)
    torch.testing.assert_close(cams.mean((2, 3)), maps.mean((2, 3)) @ head.T, rtol=1e-4, atol=1e-5)


def test_class_attention_pools_then_normalises_then_compares() -> None:
    student, teacher = noise(0, 3, 2, 4, 4), noise(1, 3, 2, 8, 8)
    small, large = F.avg_pool2d(student, 2), F.avg_pool2d(teacher, 4)
    plain = class_attention_loss_per_sample(student, teacher, 2, normalize=False)
    torch.testing.assert_close(plain.mean(), F.mse_loss(small, large))
    lengths = [x.flatten(2).norm(dim=2)[:, :, None, None] for x in (small, large)]
    scaled = class_attention_loss_per_sample(student, teacher, 2, normalize=True)
    torch.testing.assert_close(scaled.mean(), F.mse_loss(small / lengths[0], large / lengths[1]))
    assert scaled.shape == (3,)
    torch.testing.assert_close(
        class_attention_loss_per_sample(5.0 * student, teacher, 2, normalize=True), scaled, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(class_attention_loss_per_sample(teacher, teacher, 2, normalize=True), torch.zeros(3))


def test_a_vanished_class_activation_map_has_a_bounded_gradient() -> None:
    leaf = torch.zeros(1, 2, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(class_attention_loss_per_sample(leaf, noise(1, 1, 2, 4, 4), 2, True).sum(), leaf)
    assert torch.isfinite(gradient).all()


LOSSES: list[tuple[str, Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = [
    ("distance", relational_distance_loss_per_sample, (4, 6)),
    ("angle", relational_angle_loss_per_sample, (4, 6)),
    ("correlation", correlation_loss_per_sample, (4, 6)),
    ("pooled", pooled_alignment_per_sample, (4, 6)),
    ("maps", feature_alignment_per_sample, (4, 3, 2, 2)),
    ("class attention", lambda s, t: class_attention_loss_per_sample(s, t, 2, True), (4, 3, 4, 4)),
]


@pytest.mark.parametrize(("name", "loss", "shape"), LOSSES, ids=[name for name, _, _ in LOSSES])
def test_low_precision_is_computed_in_float32_even_under_autocast(name: str, loss: Callable, shape: tuple[int, ...]) -> None:
    student, teacher = noise(0, *shape).bfloat16(), noise(1, *shape).bfloat16()
    expected = loss(student.float(), teacher.float())
    assert expected.dtype == torch.float32
    assert torch.equal(loss(student, teacher), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(student, teacher), expected)
        maps = noise(2, 2, 3, 2, 2)
        assert similarity_matrix(maps).dtype == torch.float32
        assert class_activation_maps(maps, noise(3, 4, 3)).dtype == torch.float32


def test_attention_transfer_compares_directions_of_squared_activations() -> None:
    student, teacher = noise(0, 3, 4, 2, 3), noise(1, 3, 6, 2, 3)
    found = attention_transfer_loss_per_sample(student, teacher)
    for sample in range(3):
        maps = [np.square(x[sample].numpy()).mean(0).ravel() for x in (student, teacher)]
        directions = [x / np.linalg.norm(x) for x in maps]
        assert found[sample].item() == pytest.approx(np.mean((directions[0] - directions[1]) ** 2), rel=1e-5)
    torch.testing.assert_close(attention_transfer_loss_per_sample(-3 * student, teacher), found)
    assert not attention_transfer_loss_per_sample(student, 2 * student).gt(1e-12).any()


def test_grad_cam_is_the_sum_of_channels_by_their_gradients_which_are_constants() -> None:
    maps, gradients = noise(0, 2, 4, 3, 3).requires_grad_(), noise(1, 2, 4).requires_grad_()
    found = grad_cam(maps, gradients)
    torch.testing.assert_close(found, torch.einsum("bchw,bc->bhw", maps, gradients))
    found.sum().backward()
    assert gradients.grad is None
    torch.testing.assert_close(maps.grad, gradients.detach()[:, :, None, None].expand(2, 4, 3, 3))

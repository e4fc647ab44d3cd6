"""FSKD: each layer's least-squares fit, its absorption, and what the pruned network gains by it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydfkd.augment.config import AugmentationConfig
from raydfkd.distillation.few_shot.few_shot_method import FewShotParts
from raydfkd.distillation.few_shot.fskd import FSKDConfig, LeastSquares, train
from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers.pruning import find_chain, shrink, strongest_filters
from raydfkd.models.teachers.teacher import FrozenTeacher, pixels_of

SHAPE = (3, 8, 8)
CLASSES = 5


class Linear(nn.Module):
    """A map without any non-linearity: one convolution over all pixels, then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).mean((2, 3)))


class Deep(nn.Module):
    """Without BatchNorm, and with activations that change the maps in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.second(self.first(images).relu_()).relu_().mean((2, 3)))


def images(num: int, seed: int = 0) -> Tensor:
    """Smooth ones, as real images are."""
    coarse = torch.rand(num, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    fine = nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear", align_corners=True)
    return (255 * fine).to(torch.uint8)


def parts_of(network: nn.Module, ratio: float, num_images: int = 40, **changes: Any) -> FewShotParts:
    """Of the network as the teacher, and the same pruned as the student."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for entry in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert entry is not None
                nn.init.uniform_(entry, 0.5, 1.5)
    chain = find_chain(network, SHAPE)
    kept = strongest_filters(network, chain, ratio)
    student = shrink(copy.deepcopy(network), chain, kept)
    teacher = FrozenTeacher(network, CLASSES, SHAPE, (0.5,) * 3, (0.3,) * 3)
    whole = {"images": images(num_images), "kept": kept, "augmentations": AugmentationConfig().resolve(None, None)}
    return FewShotParts(teacher, student, device=torch.device("cpu"), seed=0, **{**whole, **changes})


def fitted(parts: FewShotParts) -> list[dict[str, float]]:
    return [step.metrics for step in train(FSKDConfig(), parts)]


def logit_error(parts: FewShotParts, seen: Tensor) -> float:
    """Mean squared difference of the student's logits, in evaluation mode."""
    with torch.no_grad():
        view = parts.teacher.normalize(pixels_of(seen))
        return float((parts.student.eval()(view) - parts.teacher.model(view)).square().mean())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg8_bn": lambda: build_classifier("vgg8_bn", CLASSES, SHAPE),
    "small_cnn_8": lambda: build_classifier("small_cnn_8", CLASSES, SHAPE),
    "deep": Deep,
}


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("num_images", [2, 40])
def test_a_network_that_is_not_pruned_stays_exactly_what_it_is(name: str, num_images: int) -> None:
    """Also with fewer pixels than filters, where many corrections would fit."""
    torch.manual_seed(0)
    parts = parts_of(NETWORKS[name](), 0.0, num_images)
    errors = fitted(parts)
    assert all(values == {"error_before": 0.0, "error_after": 0.0} for values in errors)
    for key, tensor in parts.teacher.model.state_dict().items():
        assert torch.equal(parts.student.state_dict()[key], tensor), key


def test_a_linear_map_reaches_the_least_squares_optimum() -> None:
    """W' = Q W with Q = T^T X (X^T X)^-1, the normal equations' solution, and the error that it leaves."""
    torch.manual_seed(0)
    parts = parts_of(Linear(), 0.5)
    kept = parts.kept
    assert kept is not None
    view = parts.teacher.normalize(pixels_of(parts.images)).double()
    conv = copy.deepcopy(parts.teacher.model.get_submodule("conv")).double()
    with torch.no_grad():
        targets = conv(view)[:, kept["conv"]].permute(0, 2, 3, 1).flatten(0, 2)
        weak = copy.deepcopy(parts.student.get_submodule("conv"))
        weak.weight.add_(0.1 * torch.randn_like(weak.weight))  # pruning leaves a single layer as it was
        parts.student.conv.load_state_dict(weak.state_dict())
        found = weak.double()(view).permute(0, 2, 3, 1).flatten(0, 2)
    q = targets.T @ found @ torch.linalg.inv(found.T @ found)
    (errors,) = fitted(parts)
    after = parts.student.get_submodule("conv")
    torch.testing.assert_close(after.weight.double().flatten(1), q @ weak.weight.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.bias.double(), q @ weak.bias, rtol=1e-4, atol=1e-5)
    left = float((found @ q.T - targets).norm() / targets.norm())
    assert errors["error_after"] == pytest.approx(left, rel=1e-3, abs=1e-6)
    assert errors["error_after"] < errors["error_before"]


def test_each_layer_is_fitted_to_the_student_that_the_layers_before_have_become() -> None:
    torch.manual_seed(0)
    parts = parts_of(Deep(), 0.5)
    list(train(FSKDConfig(), parts))
    view = parts.teacher.normalize(pixels_of(parts.images))
    kept = parts.kept
    assert kept is not None
    with torch.no_grad():
        student, teacher = parts.student, parts.teacher.model
        found = student.second(student.first(view).relu()).permute(0, 2, 3, 1).flatten(0, 2).double()
        wanted = teacher.second(teacher.first(view).relu())[:, kept["second"]].permute(0, 2, 3, 1).flatten(0, 2).double()
    left = wanted - found
    assert float((found.T @ left).abs().max()) < 1e-4 * float(found.norm() * left.norm()), "the residual is not orthogonal"


def test_it_lowers_the_error_of_pruning_on_the_images_and_on_others() -> None:
    torch.manual_seed(0)
    parts = parts_of(Deep(), 0.5, num_images=100)
    pruned = {seed: logit_error(parts, images(30, seed)) for seed in (0, 1)}
    errors = fitted(parts)
    assert all(values["error_after"] <= values["error_before"] for values in errors)
    assert all(logit_error(parts, images(30, seed)) < 0.7 * before for seed, before in pruned.items())


def test_parts_give_the_solution_of_the_whole_and_ties_go_to_the_smallest_change() -> None:
    torch.manual_seed(0)
    inputs, outputs = torch.randn(50, 4), torch.randn(50, 4)
    inputs[:, 3] = inputs[:, 2]
    fit = LeastSquares()
    for rows in torch.arange(50).split(7):
        fit.add(inputs[rows], outputs[rows])
    solution, before, after = fit.solve()
    expected = (torch.linalg.pinv(inputs.double(), rtol=1e-6) @ outputs.double()).T
    torch.testing.assert_close(solution, expected)
    assert before == pytest.approx(float(outputs.norm()))
    assert after == pytest.approx(float((inputs.double() @ expected.T - outputs).norm()))

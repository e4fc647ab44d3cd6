"""BatchNorm folded into convolutions: the same logits and features, and a refusal where they would not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.folded_teacher import agree, fold_batch_norm, in_bfloat16, tried_images
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

SHAPE, CLASSES = (3, 16, 16), 10


def teacher_of(network: nn.Module, feature_layers: list[str] | None = None) -> FrozenTeacher:
    """With running statistics and factors that are not those of a new network."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.running_mean, -0.5), (layer.running_var, 0.5), (layer.weight, 0.5), (layer.bias, -0.5)):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return FrozenTeacher(network, CLASSES, SHAPE, (0.5,) * 3, (0.25,) * 3, feature_layers=feature_layers)


def num_norms(teacher: FrozenTeacher) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in teacher.modules())


def built(name: str) -> FrozenTeacher:
    torch.manual_seed(0)
    return teacher_of(build_classifier(name, CLASSES, SHAPE))


@pytest.mark.parametrize(("name", "left"), [("wrn_16_1", 7), ("resnet8", 0), ("small_cnn_8", 0)])
def test_a_folded_teacher_gives_the_plain_ones_logits_and_features(name: str, left: int) -> None:
    """A pre-activation network's norms after a sum stay, and so does the first one, past which the stem's output is read."""
    teacher = built(name)
    folded, refusal = fold_batch_norm(teacher)
    assert refusal is None
    assert num_norms(folded) == left < num_norms(teacher)
    images = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(3))
    plain = teacher(images)
    torch.testing.assert_close(folded(images), plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    needs = frozenset({"maps", "embedding"})
    ours, theirs = (each.feature_reader(needs)(each.normalize(images)) for each in (folded, teacher))
    for mine, own in zip((*ours.maps, ours.embedding), (*theirs.maps, theirs.embedding), strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))
    assert not any(parameter.requires_grad for parameter in folded.parameters())


class ReadTwice(nn.Module):
    """Its convolution's output goes into a norm and past it, which no hook can see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return self.fc((self.norm(x) + 2 * x).relu().mean((2, 3)))


def test_a_network_whose_predictions_would_change_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    teacher = teacher_of(ReadTwice())
    folded, refusal = fold_batch_norm(teacher)
    assert folded is teacher
    assert refusal == "without any of them its predictions change"


def test_a_layer_that_is_read_keeps_its_output() -> None:
    torch.manual_seed(0)
    network = build_classifier("small_cnn_8", CLASSES, SHAPE)
    first = next(name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    folded, refusal = fold_batch_norm(teacher_of(network, feature_layers=[first]))
    assert refusal is None
    assert num_norms(folded) == 1


def test_without_norms_nothing_is_said() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, CLASSES))
    teacher = FrozenTeacher(network, CLASSES, SHAPE, (0.5,) * 3, (0.25,) * 3)
    assert fold_batch_norm(teacher) == (teacher, None)


def test_agreement_is_to_within_rounding() -> None:
    plain = torch.tensor([[1.0, 0.5], [0.2, 0.9]])
    assert agree(plain, plain + 1e-5)
    assert not agree(plain, plain + torch.tensor([[0.0, 0.01], [0.0, 0.0]]))
    assert not agree(plain, plain * float("nan"))


def test_bfloat16_weights_give_what_autocast_gives() -> None:
    teacher = built("wrn_16_1")
    images = tried_images(teacher)[:8]
    converted, refusal = in_bfloat16(teacher)
    assert refusal is None
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(converted(images), teacher(images), rtol=0, atol=0)
    assert all(layer.weight.dtype == torch.float32 for layer in teacher.modules() if isinstance(layer, nn.Conv2d))
    kinds = {type(layer): layer.weight.dtype for layer in converted.modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert kinds == {nn.Conv2d: torch.bfloat16, nn.Linear: torch.float32}


class OutsideOfAutocast(ReadTwice):
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return super().forward(images.float())


def test_a_network_that_computes_in_float32_by_itself_keeps_its_weights() -> None:
    teacher = teacher_of(OutsideOfAutocast())
    converted, refusal = in_bfloat16(teacher)
    assert converted is teacher
    assert refusal is not None

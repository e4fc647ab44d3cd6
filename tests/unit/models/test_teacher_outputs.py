"""Softmax, log-softmax and sigmoid at a teacher's end, and what else looks wrong with how it takes and gives."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.teachers.output_kind import kind_of
from raydfkd.models.teachers.teacher_audit import audit_teacher
from raydfkd.models.teachers.teacher_warnings import warnings_on

SHAPE: ImageShape = (3, 8, 8)


class Net(nn.Module):
    """A convolution, a trained BatchNorm layer and a linear head, with something behind it."""

    def __init__(self, after: nn.Module | None = None, before: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Identity() if before is None else before
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 4)
        nn.init.normal_(self.fc.weight)
        self.after = nn.Identity() if after is None else after

    def learn_statistics(self, images: torch.Tensor) -> Net:
        self.bn.momentum = None
        self.train()(images)
        return self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.fc(F.relu(self.bn(self.conv(self.before(x)))).mean((2, 3))))


def frozen(model: nn.Module, mean: float = 0.0, std: float = 1.0, num_classes: int = 4) -> FrozenTeacher:
    return FrozenTeacher(model, num_classes, SHAPE, (mean,) * 3, (std,) * 3)


def warnings(model: nn.Module, mean: float = 0.0, std: float = 1.0) -> tuple[str, ...]:
    return audit_teacher(frozen(model, mean, std)).warnings


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_softmax_is_undone_for_every_loss_and_gradient(images: torch.Tensor) -> None:
    plain, soft = frozen(Net()), frozen(Net(nn.Softmax(1)))
    assert (plain.output_kind, soft.output_kind) == ("logits", "probabilities")
    assert torch.allclose(soft(images).softmax(1), plain(images).softmax(1), atol=1e-6)
    student = torch.randn(5, 4)
    same = [kd_loss_per_sample(student, teacher(images), 4.0) for teacher in (plain, soft)]
    assert torch.allclose(same[0], same[1], atol=1e-5)
    gradients = []
    for teacher in (plain, soft):
        x = images.clone().requires_grad_()
        teacher(x).log_softmax(1)[:, 0].sum().backward()
        gradients.append(x.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)
    reader = soft.feature_reader(frozenset({"embedding"}))
    assert torch.allclose(reader(soft.normalize(images)).logits, soft(images))
    assert torch.allclose(copy.deepcopy(soft)(images), soft(images)), "once, in a copy too"
    assert torch.allclose(pickle.loads(pickle.dumps(soft))(images), soft(images))
    assert "softmax at its end" in audit_teacher(soft).notes[-1]
    assert audit_teacher(soft).warnings == ()
    assert soft.state_sha256() == plain.state_sha256()


def test_saturated_probabilities_stay_finite(images: torch.Tensor) -> None:
    class Certain(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (1000 * super().forward(x)).softmax(1)

    assert torch.isfinite(frozen(Certain())(images)).all()


def test_a_log_softmax_gives_logits_already(images: torch.Tensor) -> None:
    plain, log = frozen(Net()), frozen(Net(nn.LogSoftmax(1)))
    assert log.output_kind == "log probabilities"
    assert torch.allclose(log(images), plain(images).log_softmax(1))
    assert "log-softmax at its end" in audit_teacher(log).notes[-1]
    assert audit_teacher(log).warnings == ()


def test_a_softmax_over_the_classes_of_each_position_is_recognised() -> None:
    maps = torch.randn(2, 5, 4, 4)
    assert kind_of(maps) == "logits"
    assert kind_of(maps.softmax(1)) == "probabilities"
    assert kind_of(maps.half().softmax(1)) == "probabilities"
    assert kind_of(maps.log_softmax(1)) == "log probabilities"
    assert kind_of(maps.softmax(2)) == "sigmoid"


def test_a_sigmoid_is_warned_of_and_left_as_it_is(images: torch.Tensor) -> None:
    (told,) = warnings(Net(nn.Sigmoid()))
    assert "as a sigmoid at its end gives" in told
    assert torch.allclose(frozen(Net(nn.Sigmoid()))(images), frozen(Net())(images).sigmoid())


def test_logits_that_happen_to_be_small_are_no_sigmoid() -> None:
    class Small(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    assert frozen(Small(), num_classes=3).output_kind == "logits"


def test_nearly_equal_logits_are_warned_of() -> None:
    class Cooled(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / 1000

    assert any("all classes are about equally likely" in told for told in warnings(Cooled()))
    (told,) = warnings_on(frozen(Cooled()), torch.rand(16, *SHAPE))
    assert "something divides its logits, such as a temperature" in told
    assert warnings(Net()) == ()


def test_a_normalisation_inside_the_network_is_warned_of_where_it_is_done_twice() -> None:
    class Normalize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
            self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - self.mean) / self.std

    class Inline(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(F.pad((F.interpolate(x, size=(12, 12)) - 0.5) / 0.25, (1, 1, 1, 1), value=9.0))

    for model in (Net(before=Normalize()), Inline()):
        (told,) = warnings(model, 0.5, 0.25)
        assert "normalises its images itself (mean 0.5, 0.5, 0.5 and std 0.25, 0.25, 0.25)" in told
        assert warnings(model) == ()


def test_pixels_of_0_to_255_that_the_network_divides_itself_are_warned_of() -> None:
    class Divides(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x - 120) / 60)

    for mean, std in ((0.0, 1.0), (0.5, 0.25)):
        (told,) = warnings(Divides(), mean, std)
        assert "as if their pixels were from 0 to 255" in told
        assert "give mean 0 and std 0.003922" in told
    assert warnings(Divides(), 0.0, 1 / 255) == ()


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: x * 2 - 1, lambda x: x - x.mean((2, 3), keepdim=True), torch.sigmoid]
)
def test_what_a_network_may_do_to_its_images_is_not_warned_of(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    class Changed(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(change(x))

    assert warnings(Changed()) == ()


def test_one_normalisation_turned_into_another_is_not_warned_of() -> None:
    """As in torchvision's GoogLeNet and Inception, which were trained on images in [-1,1]."""

    class Turned(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * (0.229 / 0.5) + (0.485 - 0.5) / 0.5)

    assert warnings(Turned(), 0.485, 0.229) == ()


def test_decisions_in_place_of_probabilities_are_warned_of() -> None:
    class Decides(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.one_hot(super().forward(x).argmax(1), 4).float()

    assert any("outputs are its decisions" in told for told in warnings(Decides()))


def test_a_network_trained_on_pixels_of_0_to_255_is_warned_of(images: torch.Tensor) -> None:
    trained = Net().learn_statistics(255 * images)
    (told,) = warnings(trained)
    assert "as if on pixels from 0 to 255" in told
    assert warnings(trained, 0.0, 1 / 255) == ()
    assert warnings(Net().learn_statistics((images - 0.5) / 0.25), 0.5, 0.25) == ()


def test_a_normalisation_that_real_images_contradict_is_warned_of(images: torch.Tensor) -> None:
    trained = Net().learn_statistics((images - 0.5) / 0.25)
    assert list(warnings_on(frozen(trained, 0.5, 0.25), images)) == []
    for mean, std, words in ((0.5, 1.0, "4 times as large as"), (0.5, 0.0625, "4 times smaller than")):
        (told,) = (told for told in warnings_on(frozen(trained, mean, std), images) if "BatchNorm" in told)
        assert f"was trained on inputs {words} those that the evaluation images give" in told
    assert not any("BatchNorm" in told for told in warnings_on(frozen(Net()), images)), "untrained"


def test_logits_that_depend_on_the_other_images_are_warned_of() -> None:
    model = Net()
    model.bn = nn.BatchNorm2d(8, track_running_stats=False)
    (told,) = warnings(model)
    assert "depend on the other images of the batch" in told

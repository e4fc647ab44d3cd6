"""The student with its teacher's classifier: what it is made of, what trains, what is copied, saved and exported."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from raydfkd.errors import CheckpointError, ConfigError, TeacherError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.export import export_model
from raydfkd.models.features import FeatureReader
from raydfkd.models.shared_classifier import (
    ClassifierSharingProjector,
    SharedClassifierStudent,
    describe_shared_classifier,
    rebuild_shared_classifier,
    share_classifier,
)
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.models.weights import load_weights, save_weights

SHAPE = (1, 8, 8)
CLASSES = 5


class Foreign(nn.Module):
    """Does not give its maps, and has more than a head behind the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, CLASSES)
        self.offset = nn.Parameter(torch.ones(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.body(images)).flatten(1))


class Scaled(Foreign):
    """Its head takes something else than the pooled map."""

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(2.0 * self.pool(self.body(images)).flatten(1))


def teacher(model: nn.Module | None = None, **settings: list[str]) -> FrozenTeacher:
    torch.manual_seed(1)
    network = build_classifier("small_cnn_8", CLASSES, SHAPE) if model is None else model
    return FrozenTeacher(network, CLASSES, SHAPE, (0.4,), (0.3,), **settings)


def student(name: str = "small_cnn_4") -> SharedClassifierStudent:
    torch.manual_seed(2)
    backbone = Foreign() if name == "foreign" else build_classifier(name, CLASSES, SHAPE)
    return share_classifier(backbone, teacher())


def images(num: int = 4) -> Tensor:
    return torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_projector_is_three_normalised_convolutions_with_half_the_width_between() -> None:
    projector = ClassifierSharingProjector((6, 8, 8), (10, 4, 4))
    convolutions = [layer for layer in projector.modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convolutions] == [(6, 5, 1), (5, 5, 3), (5, 10, 1)]
    assert [type(layer).__name__ for layer in projector.layers] == ["Conv2d", "BatchNorm2d", "ReLU"] * 3
    assert sum(p.numel() for p in projector.parameters()) == 6 * 5 + 5 * 5 * 9 + 5 * 10 + 2 * (5 + 5 + 10)


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "expected"),
    [((8, 8), (4, 4), (4, 4)), ((4, 4), (8, 8), (4, 4)), ((8, 2), (4, 4), (4, 2)), ((1, 1), (4, 4), (1, 1))],
)
def test_the_projector_works_at_the_smaller_size(student_size: tuple, teacher_size: tuple, expected: tuple) -> None:
    projector = ClassifierSharingProjector((3, *student_size), (6, *teacher_size))
    assert projector(torch.randn(2, 3, *student_size)).shape == (2, 6, *expected)


@pytest.mark.parametrize("name", ["small_cnn_4", "wrn_10_1", "mobilenet_v2_half", "foreign"])
def test_logits_are_the_teachers_head_on_the_pooled_projected_map(name: str) -> None:
    network = student(name).eval()
    head = teacher().classifier_head
    maps = network.forward_maps(images())
    assert maps[-1].shape[1] == head.in_features
    assert (maps[-1] >= 0).all()
    expected = head(maps[-1].mean((2, 3)))
    torch.testing.assert_close(network(images()), expected)
    output = FeatureReader(network, frozenset({"maps", "embedding", "head"}), CLASSES, SHAPE)(images())
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.maps[-1], maps[-1])
    assert output.head_weight is network.head.weight


def test_a_student_that_projects_to_the_teachers_map_is_as_good_as_the_teacher() -> None:
    frozen = teacher()
    network = SharedClassifierStudent(frozen.model, nn.Identity(), frozen.classifier_head).eval()  # type: ignore[arg-type]
    torch.testing.assert_close(network(frozen.normalize(images())), frozen(images()))


@pytest.mark.parametrize("name", ["small_cnn_4", "foreign"])
def test_all_of_it_trains_but_the_teachers_head(name: str) -> None:
    network = student(name).train()
    head = {n: p.detach().clone() for n, p in network.head.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    network(images()).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.requires_grad is (parameter.grad is not None), parameter_name
    untrained = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert untrained == {"head.weight", "head.bias"} | ({"backbone.offset"} if name == "foreign" else set())
    optimizer.step()
    for parameter_name, before in head.items():
        assert torch.equal(network.head.get_parameter(parameter_name), before)
    assert not any(n.startswith("backbone.fc") for n, _ in network.named_parameters())


def test_the_head_is_a_copy() -> None:
    frozen = teacher()
    before = frozen.state_sha256()
    network = share_classifier(build_classifier("small_cnn_4", CLASSES, SHAPE), frozen)
    with torch.no_grad():
        network.head.weight.zero_()
    assert frozen.state_sha256() == before
    assert not any(layer._forward_hooks for layer in frozen.model.modules())


@pytest.mark.parametrize("name", ["small_cnn_4", "foreign"])
def test_copies_and_saved_states_give_the_same_and_are_independent(name: str, tmp_path: Path) -> None:
    network = student(name).eval()
    expected = network(images())
    twin = copy.deepcopy(network)
    assert torch.equal(twin(images()), expected)
    with torch.no_grad():
        for parameter in twin.backbone.parameters():
            parameter.mul_(2.0)
    assert torch.equal(network(images()), expected)
    assert not torch.equal(twin(images()), expected)
    save_weights(network, tmp_path / "student.safetensors")
    load_weights(twin, tmp_path / "student.safetensors")
    assert torch.equal(twin(images()), expected)
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in network.parameters()]


@pytest.mark.parametrize("name", ["small_cnn_4", "foreign"])
def test_it_is_exported_with_its_projector_and_head(name: str, tmp_path: Path) -> None:
    assert export_model(student(name), SHAPE, tmp_path / "student.pt2", "pt2", (0.4,), (0.3,)) < 1e-5


@pytest.mark.parametrize("name", ["small_cnn_4", "foreign"])
def test_it_can_be_compiled_whole(name: str) -> None:
    """Traced in one graph, hooks and all; the backend that runs it is not what is tested."""
    network = student(name).eval()
    reader = FeatureReader(network, frozenset({"maps", "embedding"}), CLASSES, SHAPE)
    expected = reader(images())
    found = torch.compile(reader, backend="eager", fullgraph=True)(images())
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.maps, expected.maps)


def test_a_teacher_whose_head_takes_something_else_is_refused() -> None:
    backbone = build_classifier("small_cnn_4", CLASSES, SHAPE)
    with pytest.raises(TeacherError, match="stage maps cannot be found"):
        share_classifier(backbone, teacher(Scaled()))
    with pytest.raises(TeacherError, match=r"cannot be shared.*feature_layers"):
        share_classifier(backbone, teacher(Scaled(), feature_layers=["body"]))
    with pytest.raises(TeacherError, match="no Linear layer"):
        share_classifier(backbone, teacher(nn.Sequential(nn.Conv2d(1, CLASSES, 8), nn.Flatten())))


def test_a_student_whose_last_map_is_not_found_is_refused_or_told_which_it_is() -> None:
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match="feature_layers"):
        SharedClassifierStudent(Foreign(), ClassifierSharingProjector((6, 4, 4), (16, 4, 4)), nn.Linear(16, CLASSES))
    with pytest.raises(ConfigError, match=r"student's stage maps cannot be found.*feature_layers"):
        share_classifier(Scaled(), teacher())
    network = share_classifier(Scaled(), teacher(), feature_layers=["body.2", "body"])
    assert network(images()).shape == (4, CLASSES)


@pytest.mark.parametrize("backbone", ["small_cnn_4", "torchvision:resnet18"])
def test_a_student_is_rebuilt_from_its_weights_and_their_description_without_the_teacher(backbone: str) -> None:
    shape = (3, 32, 32)
    torch.manual_seed(0)
    teacher = FrozenTeacher(build_classifier("small_cnn_8", 5, shape), 5, shape, [0.5] * 3, [0.2] * 3)
    student = share_classifier(build_classifier(backbone, 5, shape), teacher).eval()
    rebuilt = rebuild_shared_classifier(build_classifier(backbone, 5, shape), describe_shared_classifier(student), 5)
    rebuilt.load_state_dict(student.state_dict())
    images = torch.rand(2, *shape)
    torch.testing.assert_close(rebuilt.eval()(images), student(images), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="does not fit"):
        rebuild_shared_classifier(build_classifier(backbone, 5, shape), "{}", 5)

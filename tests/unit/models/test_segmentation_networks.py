"""Networks of a class for each pixel: the acceptance numbers of DeepLabV3, torchvision's weights in it, and what a teacher is
made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raydfkd.errors import ConfigError, TeacherError, UnknownNameError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.export import export_model
from raydfkd.models.exported import load_exported
from raydfkd.models.external import import_library
from raydfkd.models.features import find_head
from raydfkd.models.segmentation.dilated_mobilenet import DilatedMobileNetV2
from raydfkd.models.segmentation.dilated_resnet import DilatedResNet50
from raydfkd.models.teachers.bn_statistics import BatchNormStatistics, batch_norm_layers
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.teachers.teacher_audit import audit_teacher, require_positions

SHAPE = (3, 32, 48)


@pytest.mark.parametrize(
    ("name", "num_params", "num_norms"), [("deeplabv3_resnet50", 39_636_813, 60), ("deeplabv3_mobilenet_v2", 5_111_821, 58)]
)
def test_deeplab_s_inventory(name: str, num_params: int, num_norms: int) -> None:
    with torch.device("meta"):
        network = build_classifier(name, 13, (3, 128, 128))
        assert network(torch.zeros(2, 3, 128, 128)).shape == (2, 13, 128, 128)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_params
    assert len(batch_norm_layers(network)) == num_norms
    head = network.get_submodule("classifier.4")
    assert isinstance(head, nn.Conv2d)
    assert head.in_channels == 256


@pytest.mark.parametrize(("backbone", "width"), [(DilatedResNet50, 2048), (DilatedMobileNetV2, 320)])
def test_backbones_keep_an_eighth_of_the_resolution(backbone: type[nn.Module], width: int) -> None:
    with torch.device("meta"):
        assert backbone()(torch.zeros(1, 3, 64, 96)).shape == (1, width, 8, 12)


def test_mobilenet_s_strides_become_dilations() -> None:
    with torch.device("meta"):
        network = DilatedMobileNetV2()
    depthwise = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert [layer.stride[0] for layer in depthwise] == [1, 2, 1, 2, *[1] * 13]
    assert [layer.dilation[0] for layer in depthwise] == [*[1] * 7, *[2] * 7, *[4] * 3]
    assert all(layer.padding == layer.dilation for layer in depthwise)


@pytest.mark.slow
def test_deeplab_with_torchvision_s_weights_is_torchvision_s() -> None:
    from torchvision.models.segmentation import deeplabv3_resnet50

    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5).eval()
    ours = build_classifier("deeplabv3_resnet50", 5, SHAPE).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images)["out"])


@pytest.mark.parametrize("shape", [(3, 32, 48), (1, 20, 28)])
def test_the_small_network_gives_logits_of_the_images_size(shape: tuple[int, int, int]) -> None:
    network = build_classifier("small_unet_4", 5, shape)
    assert network(torch.rand(2, *shape)).shape == (2, 5, *shape[1:])
    with pytest.raises(ConfigError, match="needs images of at least 16 x 16 pixels"):
        build_classifier("small_unet_4", 5, (3, 8, 8))


class InDict(nn.Module):
    """As torchvision's segmentation networks: a dict with an auxiliary head beside the logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Conv2d(3, 6, 3, padding=1)
        self.head, self.aux_head = nn.Conv2d(6, num_classes, 1), nn.Conv2d(6, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.body(self.norm(images)).relu()
        return {"out": self.head(x), "aux": self.aux_head(x.detach())}


def teacher_of(network: nn.Module, num_classes: int = 5) -> FrozenTeacher:
    return FrozenTeacher(network, num_classes, SHAPE, [0.5] * 3, [0.25] * 3)


def test_a_teacher_takes_the_logits_out_of_a_dict_and_finds_what_gives_them() -> None:
    network = InDict(5)
    expected = network.eval()(-2 * torch.ones(1, *SHAPE))["out"]
    teacher = teacher_of(network)
    torch.testing.assert_close(teacher(torch.zeros(1, *SHAPE)), expected)
    assert (teacher.positions, teacher.head_name) == ((32, 48), "head")
    logits, features = teacher.forward_features(torch.rand(2, *SHAPE))
    assert (logits.shape, features.shape) == ((2, 5, 32, 48), (2, 6, 32, 48))
    audit = audit_teacher(teacher)
    assert (audit.has_batch_norm, audit.input_gradient, audit.deterministic, audit.feature_dim) == (True, True, True, 6)
    statistics = BatchNormStatistics(teacher)
    with statistics.capture():
        teacher(torch.rand(2, *SHAPE))
    assert statistics.batch[0][0].shape == (3,)


def test_a_user_s_function_and_torchvision_s_networks_are_found() -> None:
    network = build_classifier("test_segmentation_networks:InDict", 5, SHAPE)
    assert network(torch.rand(2, *SHAPE)).shape == (2, 5, 32, 48)
    assert import_library("torchvision:deeplabv3_mobilenet_v3_large") is not None
    with pytest.raises(UnknownNameError, match="torchvision has no classifier 'deeplabv3_resnet5'"):
        import_library("torchvision:deeplabv3_resnet5")


def test_a_convolution_is_the_head_only_of_logits_with_positions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(32 * 48 * 5, 5))
    assert teacher_of(network).head_name == "2"
    convolutional = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert teacher_of(convolutional).head_name is None
    assert find_head(convolutional, None, 5) is None


class Reduced(nn.Module):
    """Logits at half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def test_a_teacher_of_another_task_is_refused() -> None:
    of_pixels, of_images = teacher_of(Reduced()), teacher_of(build_classifier("small_cnn_4", 5, SHAPE))
    with pytest.raises(TeacherError, match=r"gives logits \[3, 5\] for 3 images, and the task has one class for each pixel"):
        require_positions(of_images, (32, 48))
    with pytest.raises(TeacherError, match=r"\[3, 5, 16, 24\] .* logits \[3, 5, 32, 48\]: .* interpolate its logits to the"):
        require_positions(of_pixels, (32, 48))
    with pytest.raises(TeacherError, match=r"\[3, 5, 16, 24\] .* one class for each image, logits \[3, 5\]: change task.kind"):
        require_positions(of_pixels, ())
    require_positions(of_pixels, (16, 24))


@pytest.mark.parametrize("name", ["small_unet_4", pytest.param("deeplabv3_mobilenet_v2", marks=pytest.mark.slow)])
def test_an_exported_network_gives_the_same_logits(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = build_classifier(name, 5, SHAPE).eval()
    assert export_model(network, SHAPE, tmp_path / "s.pt2", "pt2", [0.5] * 3, [0.25] * 3) < 1e-4
    assert export_model(network, SHAPE, tmp_path / "s.safetensors", "safetensors", [0.5] * 3, [0.25] * 3) == 0
    images = torch.rand(4, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(load_exported(tmp_path / "s.pt2")(images), network(4 * (images - 0.5)), atol=1e-4, rtol=1e-4)

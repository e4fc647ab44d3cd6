"""The frozen teacher and its audit."""

import copy
from pathlib import Path

import pytest
import torch
from real_data import real
from torch import nn

from raydfkd.data.catalogue import CATALOGUE
from raydfkd.errors import TeacherError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.frozen_teacher import Normalization
from raydfkd.models.teachers.teacher import (
    FrozenTeacher,
    audit_teacher,
    build_teacher,
    require_batch_norm,
    require_input_gradient,
)
from raydfkd.models.weights import read_metadata, save_weights

MEAN, STD = CATALOGUE["cifar10"].mean, CATALOGUE["cifar10"].std


def teacher_of(model: nn.Module, num_classes: int = 3, channels: int = 3, head: str | None = None) -> FrozenTeacher:
    return FrozenTeacher(model, num_classes, (channels, 8, 8), MEAN[:channels], STD[:channels], head)


def small_teacher() -> FrozenTeacher:
    torch.manual_seed(0)
    return teacher_of(build_classifier("small_cnn_4", 3, (3, 8, 8)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalization(memory_format: torch.memory_format) -> None:
    images = torch.rand(2, 3, 5, 4).contiguous(memory_format=memory_format)
    expected = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    found = Normalization(MEAN, STD)(images)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=memory_format)


def test_nothing_moves_whatever_is_called() -> None:
    teacher = small_teacher()
    before = teacher.state_sha256()
    wrapper = nn.Sequential(teacher).train()
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    expected = teacher(images)
    teacher.model.train()
    assert torch.equal(wrapper(images), expected)
    expected.sum().backward()
    assert images.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(layer.training for layer in teacher.modules())
    assert teacher.state_sha256() == before


def test_a_copy_is_as_frozen() -> None:
    teacher = copy.deepcopy(small_teacher())
    before = teacher.state_sha256()
    teacher.model.train()
    teacher(torch.rand(4, 3, 8, 8))
    assert teacher.state_sha256() == before


def test_hash_tells_weights_buffers_and_normalization_apart() -> None:
    hashes = {small_teacher().state_sha256()}
    for name in ("model.fc.bias", "model.features.1.running_mean", "normalization.mean"):
        teacher = small_teacher()
        teacher.state_dict()[name].view(-1)[0].add_(1e-3)
        hashes.add(teacher.state_sha256())
    assert len(hashes) == 4
    assert small_teacher().state_sha256() in hashes
    assert small_teacher().to(memory_format=torch.channels_last).state_sha256() == small_teacher().state_sha256()


def test_features_are_what_the_head_turns_into_logits() -> None:
    teacher = small_teacher()
    logits, features = teacher.forward_features(torch.rand(4, 3, 8, 8))
    assert features.shape == (4, 8)
    torch.testing.assert_close(teacher.classifier_head(features), logits)
    assert torch.equal(teacher(torch.rand(4, 3, 8, 8)).isnan(), torch.zeros(4, 3, dtype=torch.bool))
    assert not teacher.classifier_head._forward_pre_hooks


def test_head_is_the_last_linear_with_that_many_outputs_or_the_named_one() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Linear(5, 3))

    assert teacher_of(model()).forward_features(torch.rand(2, 3, 8, 8))[1].shape == (2, 5)
    assert teacher_of(model(), head="1").forward_features(torch.rand(2, 3, 8, 8))[1].shape == (2, 192)
    with pytest.raises(TeacherError, match=r"no layer 'fc'.*\['1', '2'\]"):
        teacher_of(model(), head="fc")


def test_no_head() -> None:
    teacher = teacher_of(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()))
    with pytest.raises(TeacherError, match="name its classifier_head"):
        teacher.forward_features(torch.rand(1, 3, 8, 8))
    audit = audit_teacher(teacher)
    assert audit.feature_dim is None
    assert "classifier_head" in audit.notes[0]


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((0.5,), (0.5,), "1 means and 1 stds for 3-channel"),
        ((0.5,) * 3, (0.5, 0.0, 0.5), "above 0"),
        ((125.3, 123.0, 113.9), (63.0,) * 3, "divide mean and std by 255 if they"),
    ],
)
def test_wrong_normalization(mean: tuple[float, ...], std: tuple[float, ...], words: str) -> None:
    with pytest.raises(TeacherError, match=words):
        FrozenTeacher(build_classifier("small_cnn_4", 3, (3, 8, 8)), 3, (3, 8, 8), mean, std)


def test_wrong_images() -> None:
    with pytest.raises(TeacherError, match=r"takes images \[B,3,H,W\], got \[2, 1, 8, 8\]"):
        small_teacher()(torch.rand(2, 1, 8, 8))


def test_audit_of_a_good_teacher() -> None:
    teacher = small_teacher()
    audit = audit_teacher(teacher)
    assert audit.num_params == sum(p.numel() for p in teacher.model.parameters())
    assert audit.normalization_layers == {"BatchNorm2d": 3}
    assert audit.has_batch_norm
    assert audit.input_gradient
    assert audit.deterministic
    assert audit.finite
    assert audit.feature_dim == 8
    assert audit.notes == ()
    assert audit.warnings == ()
    assert audit.sha256 == teacher.state_sha256()
    assert ("normalisation layers", "3 BatchNorm2d") in audit.table()
    require_batch_norm(audit, "ssdkd")
    require_input_gradient(audit, "ssdkd")


def test_group_norm_teacher_is_refused_by_a_batch_norm_method() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    audit = audit_teacher(teacher_of(model))
    assert audit.normalization_layers == {"GroupNorm": 1}
    with pytest.raises(TeacherError, match="'fast' matches BatchNorm statistics, but this teacher has GroupNorm"):
        require_batch_norm(audit, "fast")


def test_wrong_number_of_classes_and_channels() -> None:
    with pytest.raises(TeacherError, match="the teacher has 3 classes, the task has 4"):
        audit_teacher(teacher_of(build_classifier("small_cnn_4", 3, (3, 8, 8)), num_classes=4))
    with pytest.raises(TeacherError, match="takes 3-channel images, the task has 1 channels"):
        audit_teacher(teacher_of(build_classifier("small_cnn_4", 3, (3, 8, 8)), channels=1))
    with pytest.raises(TeacherError, match=r"cannot take 3 images of shape \(3, 8, 8\)"):
        audit_teacher(teacher_of(nn.Sequential(nn.Flatten(), nn.Linear(7, 3))))


def test_nan_in_weights_and_in_logits() -> None:
    teacher = small_teacher()
    teacher.model.get_submodule("features.4").running_var[0] = float("nan")
    with pytest.raises(TeacherError, match=r"1 tensors, first 'model.features.4.running_var'"):
        audit_teacher(teacher)

    class Divides(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) / 0.0

    with pytest.raises(TeacherError, match="NaN or infinite logits"):
        audit_teacher(teacher_of(Divides()))


def test_audit_sees_missing_gradient_and_randomness() -> None:
    class Detached(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.detach().mean((2, 3)) + torch.rand(3)

    audit = audit_teacher(teacher_of(Detached()))
    assert not audit.input_gradient
    assert not audit.deterministic
    assert len(audit.notes) == 2
    assert "dropout that is always on" in audit.warnings[0]
    with pytest.raises(TeacherError, match="needs the gradient"):
        require_input_gradient(audit, "fast")


def test_build_teacher_loads_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = build_classifier("wrn_10_1", 3, (3, 8, 8))
    save_weights(source, tmp_path / "t.safetensors")
    teacher = build_teacher("wrn_10_1", 3, (3, 8, 8), MEAN, STD, tmp_path / "t.safetensors", classifier_head="fc")
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(teacher(images), source.eval()(teacher.normalize(images)))
    assert teacher.classifier_head is teacher.model.get_submodule("fc")


@pytest.mark.real_data
def test_a_trained_wrn_16_2_recognises_real_photographs() -> None:
    checkpoint, table = real("teachers/wrn_16_2_cifar10.safetensors"), real("cifar10/test.parquet")
    import io

    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.ParquetFile(table).read_row_group(0).slice(0, 200)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(b.as_py()))) for b in rows["image"]])
    labels = torch.tensor(rows["label"].to_pylist())
    teacher = build_teacher("wrn_16_2", 10, (3, 32, 32), MEAN, STD, checkpoint)
    with torch.no_grad():
        logits = teacher(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    stated = float(read_metadata(checkpoint)["accuracy"])
    # Four standard deviations of a proportion over 200 images.
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(stated, abs=4 * (0.9 * 0.1 / 200) ** 0.5)


def test_stored_images_are_read_as_what_they_are() -> None:
    teacher = small_teacher()
    stored = torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = teacher.logits_of(stored, bf16=False)
    with torch.no_grad():
        torch.testing.assert_close(found, teacher(stored.double().div(255).float()))
    assert not found.requires_grad

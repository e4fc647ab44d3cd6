"""Exported students: what they take, that they are checked, that they can be teachers again."""

import importlib.util
from pathlib import Path

import pytest
import torch

from raydfkd.errors import CheckpointError, ConfigError, RunFailedError, TeacherError
from raydfkd.models import export as export_module
from raydfkd.models.catalog import build_classifier
from raydfkd.models.export import export_model
from raydfkd.models.exported import load_exported
from raydfkd.models.teachers.teacher import audit_teacher, build_teacher, require_batch_norm
from raydfkd.models.weights import load_weights, read_metadata

MEAN, STD = (0.4,), (0.3,)


def student() -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_classifier("small_cnn_4", 3, (1, 8, 8))
    model(torch.rand(16, 1, 8, 8))
    return model.train()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "student.pt2"
    assert export_model(student(), (1, 8, 8), path, "pt2", MEAN, STD) <= 1e-5
    return path


def test_pt2_takes_unnormalised_images_of_any_batch(exported: Path) -> None:
    program = load_exported(exported)
    model = student().eval()
    for batch in (1, 2, 7):
        images = torch.rand(batch, 1, 8, 8)
        torch.testing.assert_close(program(images), model((images - 0.4) / 0.3), rtol=1e-4, atol=1e-5)


def test_exporting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = student()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_model(model, (1, 8, 8), tmp_path / "s.safetensors", "safetensors", MEAN, STD)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_safetensors_export_loads_and_says_its_normalization(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    assert export_model(student(), (1, 8, 8), path, "safetensors", MEAN, STD, {"architecture": "small_cnn_4"}) == 0.0
    assert read_metadata(path) == {"mean": "[0.4]", "std": "[0.3]", "architecture": "small_cnn_4"}
    other = build_classifier("small_cnn_4", 3, (1, 8, 8))
    load_weights(other, path)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(other.eval()(images), student().eval()(images))


def test_a_difference_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "load_weights", lambda model, path: None)
    with pytest.raises(RunFailedError, match="differ from the model's"):
        export_model(student(), (1, 8, 8), tmp_path / "s.safetensors", "safetensors", MEAN, STD)


def test_unknown_format_and_wrong_suffix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known are pt2, onnx, safetensors"):
        export_model(student(), (1, 8, 8), tmp_path / "s.h5", "h5", MEAN, STD)
    with pytest.raises(ConfigError, match=r"end in \.pt2"):
        export_model(student(), (1, 8, 8), tmp_path / "s.bin", "pt2", MEAN, STD)


def test_onnx_without_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnx, onnxscript, onnxruntime.*raydfkd\[onnx\]"):
        export_model(student(), (1, 8, 8), tmp_path / "s.onnx", "onnx", MEAN, STD)


@pytest.mark.filterwarnings("default")
def test_onnx_gives_the_same_logits(tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    assert export_model(student(), (1, 8, 8), tmp_path / "s.onnx", "onnx", MEAN, STD) <= 1e-4


def test_an_exported_program_as_teacher(exported: Path) -> None:
    teacher = build_teacher(str(exported), 3, (1, 8, 8), (0.0,), (1.0,), None)
    before = teacher.state_sha256()
    teacher.train()
    images = torch.rand(3, 1, 8, 8, requires_grad=True)
    teacher(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher.state_sha256() == before
    audit = audit_teacher(teacher)
    assert audit.input_gradient
    assert audit.feature_dim is None
    assert not audit.has_batch_norm
    assert "exported program" in audit.notes[0]
    with pytest.raises(TeacherError, match="'ssdkd' matches BatchNorm statistics"):
        require_batch_norm(audit, "ssdkd")


def test_exported_program_and_checkpoint_contradict(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="own weights"):
        build_teacher(str(exported), 3, (1, 8, 8), (0.0,), (1.0,), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="only be a teacher"):
        build_classifier(str(exported), 3, (1, 8, 8))


def test_missing_truncated_and_foreign_programs(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no exported program"):
        load_exported(tmp_path / "none.pt2")
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(exported.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="is not a complete"):
        load_exported(cut)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt2")
    with pytest.raises(CheckpointError, match="is not a complete"):
        load_exported(tmp_path / "weights.pt2")

"""Networks in Hugging Face's kind of folder: what the folder says, how they are built, and students written as such folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from found_teachers import LABELS, timm_folder, transformers_folder, vit_folder

from raydfkd.errors import CheckpointError, ConfigError, RaydfkdError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.export import export_folder, export_model
from raydfkd.models.hugging_face.hub_folder import HubFolder, open_hub_folder
from raydfkd.models.teachers.teacher import audit_teacher, build_teacher

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformers_folder(tmp_path_factory.mktemp("hub") / "resnet")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vit_folder(tmp_path_factory.mktemp("hub") / "vit")


@pytest.fixture(scope="module")
def timm_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timm_folder(tmp_path_factory.mktemp("hub") / "timm_net")


def test_a_transformers_folder_says_classes_size_and_normalisation(resnet: Path) -> None:
    found = open_hub_folder(f"hf:{resnet}")
    assert (found.library, found.num_classes, found.classes) == ("transformers", 4, LABELS)
    assert (found.channels, found.image_size) == (3, (32, 32))
    assert found.normalization is not None
    assert found.normalization[0] == pytest.approx((0.5, 0.4, 0.3))
    assert found.normalization[1] == pytest.approx((0.25,) * 3)


def test_a_timm_folder_says_the_same(timm_net: Path) -> None:
    found = open_hub_folder(f"hf:{timm_net}")
    assert (found.library, found.num_classes, found.classes, found.channels) == ("timm", 5, tuple("abcde"), 3)
    assert found.image_size is not None
    assert found.normalization is not None


@pytest.mark.parametrize(
    "processor",
    [
        {"image_mean": [0.5], "image_std": [0.25]},
        {"image_mean": [100.0], "image_std": [50.0], "do_rescale": False},
        {"image_mean": [0.5], "image_std": [0.25], "rescale_factor": 1 / 127.5},
        {"image_mean": [0.5], "image_std": [0.25], "rescale_factor": 1 / 127.5, "rescale_offset": True},
        {"do_normalize": False},
    ],
)
def test_its_normalisation_does_to_pixels_in_0_1_what_the_processor_does_to_bytes(processor: dict[str, object]) -> None:
    folder = HubFolder(Path(), {"model_type": "x", "num_channels": 1}, processor)
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    assert isinstance(factor, float | int)
    value = 200 * factor - (1 if processor.get("rescale_offset") else 0)
    if processor.get("do_normalize", True):
        value = (value - processor["image_mean"][0]) / processor["image_std"][0]  # type: ignore[index]
    assert folder.normalization is not None
    (mean,), (std,) = folder.normalization
    assert (200 / 255 - mean) / std == pytest.approx(value)


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        ({"size": {"height": 24, "width": 32}}, (24, 32)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, (224, 224)),
        ({"size": 64}, (64, 64)),
        ({}, (48, 48)),
    ],
)
def test_its_image_size_is_what_the_processor_ends_with(processor: dict[str, object], size: tuple[int, int]) -> None:
    assert HubFolder(Path(), {"model_type": "x", "image_size": 48}, processor).image_size == size


def test_a_teacher_of_a_folder_gives_its_librarys_logits(resnet: Path, timm_net: Path) -> None:
    import timm
    import transformers

    images = torch.rand(2, *SHAPE)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(resnet).eval()
    own = build_teacher(f"hf:{resnet}", 4, SHAPE, (0.0,) * 3, (1.0,) * 3, None)
    torch.testing.assert_close(own(images), theirs(images).logits)
    assert audit_teacher(own).has_batch_norm
    assert own.has_classifier_head
    own = build_teacher(f"hf:{timm_net}", 5, SHAPE, (0.0,) * 3, (1.0,) * 3, None)
    torch.testing.assert_close(own(images), timm.create_model(f"local-dir:{timm_net}", pretrained=True).eval()(images))


def test_a_student_of_a_folder_is_new_and_for_the_tasks_images(vit: Path, timm_net: Path) -> None:
    network = build_classifier(f"hf:{vit}", 7, (1, 24, 24))
    assert network(torch.rand(2, 1, 24, 24)).shape == (2, 7)
    assert build_classifier(f"hf:{timm_net}", 2, (1, 32, 32))(torch.rand(2, 1, 32, 32)).shape == (2, 2)


def test_what_does_not_fit_the_folders_weights_is_said(resnet: Path, vit: Path, tmp_path: Path) -> None:
    for folder, classes, shape, words in (
        (resnet, 5, SHAPE, "has 4 classes, the task has 5"),
        (resnet, 4, (1, 32, 32), "takes 3-channel images"),
        (vit, 3, SHAPE, "cannot take images of shape"),
        (tmp_path, 3, SHAPE, "holds no config.json"),
        (tmp_path / "none" / "at" / "all", 3, SHAPE, "there is no folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_teacher(f"hf:{folder}", classes, shape, (0.0,) * shape[0], (1.0,) * shape[0], None)


def test_a_folder_without_a_classifiers_weights_is_refused(resnet: Path, tmp_path: Path) -> None:
    import transformers

    transformers.ResNetModel.from_pretrained(resnet).save_pretrained(tmp_path / "headless")
    with pytest.raises(CheckpointError, match="lack 2 tensors of the classifier, first 'classifier"):
        build_teacher(f"hf:{tmp_path / 'headless'}", 4, SHAPE, (0.0,) * 3, (1.0,) * 3, None)


def test_without_the_library_the_extra_is_named(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'raydfkd\[transformers\]'"):
        build_classifier(f"hf:{resnet}", 4, SHAPE)


def test_the_hub_is_asked_only_for_what_is_not_here(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[bool] = []

    def download(name: str, *, local_files_only: bool = False, **_: object) -> str:
        asked.append(local_files_only)
        if name == "org/here":
            return str(resnet)
        raise OSError("Name or service not known\nand a page of advice")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_hub_folder("hf:org/here").num_classes == 4
    assert asked == [True]
    with pytest.raises(ConfigError, match=r"the hub cannot be asked or has none \(Name or service not known\)"):
        open_hub_folder("hf:org/elsewhere")
    assert asked == [True, True, False]


def test_a_student_is_written_as_a_folder_that_its_library_loads(resnet: Path, tmp_path: Path) -> None:
    import timm
    import transformers

    images = torch.rand(2, *SHAPE)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    student = build_classifier(f"hf:{resnet}", 3, SHAPE).eval()
    assert export_folder(student, f"hf:{resnet}", SHAPE, tmp_path / "a", "transformers", mean, std, list("xyz")) < 1e-5
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "a").eval()
    torch.testing.assert_close(loaded(images).logits, student(images))
    assert loaded.config.id2label == {0: "x", 1: "y", 2: "z"}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "a")
    pixels = processor(torch.full(SHAPE, 255, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, *SHAPE)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([(1 - m) / 0.2 for m in mean], rel=1e-4)

    student = build_classifier("timm:test_resnet", 3, (1, 32, 32)).eval()
    assert export_folder(student, "timm:test_resnet", (1, 32, 32), tmp_path / "b", "timm", (0.5,), (0.2,), list("xyz")) < 1e-5
    loaded = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    torch.testing.assert_close(loaded(images[:, :1]), student(images[:, :1]))
    config = timm.data.resolve_model_data_config(loaded)
    assert (tuple(config["input_size"]), tuple(config["mean"]), tuple(config["std"])) == ((1, 32, 32), (0.5,), (0.2,))
    assert open_hub_folder(f"hf:{tmp_path / 'b'}").classes == ("x", "y", "z")


def test_a_student_of_transformers_is_also_written_as_a_file(resnet: Path, tmp_path: Path) -> None:
    student = build_classifier(f"hf:{resnet}", 3, SHAPE).eval()
    assert export_model(student, SHAPE, tmp_path / "student.pt2", "pt2", (0.5,) * 3, (0.2,) * 3) < 1e-5


def test_only_its_own_architectures_and_only_into_a_new_folder(resnet: Path, tmp_path: Path) -> None:
    student = build_classifier("small_cnn_4", 3, SHAPE)
    arguments = ((0.5,) * 3, (0.2,) * 3)
    with pytest.raises(ConfigError, match="transformers has no architecture for the student 'small_cnn_4'"):
        export_folder(student, "small_cnn_4", SHAPE, tmp_path / "a", "transformers", *arguments)
    student = build_classifier(f"hf:{resnet}", 3, SHAPE)
    with pytest.raises(ConfigError, match="timm has no architecture"):
        export_folder(student, f"hf:{resnet}", SHAPE, tmp_path / "a", "timm", *arguments)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="holds something already"):
        export_folder(student, f"hf:{resnet}", SHAPE, resnet, "transformers", *arguments)


def test_a_damaged_configuration_is_one_sentence(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", json.dumps({"model_type": "nothing"}), json.dumps({"architecture": "nothing"})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RaydfkdError) as raised:
            build_classifier(f"hf:{tmp_path}", 3, SHAPE)
        assert "\n" not in str(raised.value)

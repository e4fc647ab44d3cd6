"""What is found about a teacher without being told, and where it is said to be from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from found_teachers import LABELS, save_state, their_nets, transformers_folder
from safetensors.torch import save_file
from torchvision import models

from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.errors import CheckpointError, ConfigError, UnknownNameError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.export import export_model
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.proposal.findings import Findings, Told, find_out, locate_teacher


def found(teacher: Path | str, model: str | None = None, **told: object) -> Findings:
    network, checkpoint = locate_teacher(str(teacher), model)
    assert network is not None
    return find_out(network, checkpoint, Told(**told))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_of_torchvisions_weights_the_shapes_and_what_such_networks_take(tmp_path: Path, suffix: str) -> None:
    network, path = models.mobilenet_v3_small(num_classes=9), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        save_state(network, path)
    else:
        save_file(network.state_dict(), path)  # in another order than the layers'
    known = found(path, "torchvision:mobilenet_v3_small")
    assert known.missing() == []
    assert (known.num_classes.value, known.image_shape) == (9, (3, 224, 224))  # type: ignore[union-attr]
    assert known.num_classes.where == f"the last layer in weights{suffix}"  # type: ignore[union-attr]
    assert known.normalization.value[0] == (0.485, 0.456, 0.406)  # type: ignore[union-attr]
    assert (known.normalization.assumed, known.image_size.assumed, known.num_classes.assumed) == (True, True, False)  # type: ignore[union-attr]
    assert known.classes is None, "ImageNet's names are for its 1,000 classes"


def test_of_timms_weights_what_its_own_of_that_name_take(tmp_path: Path) -> None:
    import timm

    path = save_state(timm.create_model("test_resnet", num_classes=6), tmp_path / "weights.pth")
    known = found(path, "timm:test_resnet")
    assert known.missing() == []
    assert known.num_classes.value == 6  # type: ignore[union-attr]
    assert known.image_shape == (3, 160, 160)


def test_of_a_transformers_folder_everything(tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path / "net")
    for given in (str(folder), f"hf:{folder}"):
        known = found(given)
        assert (known.model, known.checkpoint) == (f"hf:{folder}", None)
        assert known.missing() == []
        assert known.classes is not None
        assert (known.classes.value, known.image_shape) == (LABELS, (3, 32, 32))


def test_of_our_own_file_everything_is_in_its_header(tmp_path: Path) -> None:
    about = {"model": "small_cnn_4", "num_classes": "3", "image_shape": "[1, 8, 8]", "mean": "[0.1]", "std": "[0.2]"}
    about["classes"] = '["a", "b", "c"]'
    save_weights(
        build_classifier("small_cnn_4", 3, (1, 8, 8)), tmp_path / "own.safetensors", {**about, "classes": '["a","b","c"]'}
    )
    known = found(tmp_path / "own.safetensors")
    assert (known.model, known.missing(), known.image_shape) == ("small_cnn_4", [], (1, 8, 8))
    assert known.normalization.value == ((0.1,), (0.2,))  # type: ignore[union-attr]
    assert known.classes.value == ("a", "b", "c")  # type: ignore[union-attr]


def test_of_an_exported_program_its_shapes(tmp_path: Path) -> None:
    export_model(build_classifier("small_cnn_4", 3, (1, 8, 8)), (1, 8, 8), tmp_path / "net.pt2", "pt2", (0.4,), (0.3,))
    known = found(tmp_path / "net.pt2")
    assert (known.num_classes.value, known.image_shape) == (3, (1, 8, 8))  # type: ignore[union-attr]
    assert known.missing() == ["mean", "std"]


def test_of_a_users_network_its_weights_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    their_nets(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = found(tmp_path / "grey.pt", "their_nets:grey")
    assert (known.num_classes.value, known.channels.value) == (10, 1)  # type: ignore[union-attr]
    assert known.missing() == ["image_size", "mean", "std"]
    known = found(tmp_path / "grey.pt", "their_nets:grey", image_size=(8, 8), mean=(0.5,), std=(0.5,))
    assert known.missing() == []


def test_evaluation_images_of_one_size_say_it(tmp_path: Path) -> None:
    from PIL import Image

    for name, size in (("a", (12, 8)), ("b", (12, 8))):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", size).save(tmp_path / "images" / name / "x.png")
    data = ImageFolderConfig(path=str(tmp_path / "images"))
    path = save_state(build_classifier("small_cnn_4", 2, (1, 8, 8)), tmp_path / "weights.pt")
    known = find_out("small_cnn_4", str(path), Told(), data)
    assert known.image_size is not None
    assert (known.image_size.value, known.image_size.assumed) == ((8, 12), True)
    Image.new("L", (9, 9)).save(tmp_path / "images" / "a" / "other.png")
    assert find_out("small_cnn_4", str(path), Told(), data).image_size is None


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    path = save_state(models.mobilenet_v3_small(num_classes=9), tmp_path / "weights.pth")
    with pytest.raises(
        ConfigError, match=r"the teacher has 9 classes, from the last layer in weights\.pth, and --classes is 5"
    ):
        found(path, "torchvision:mobilenet_v3_small", num_classes=5)
    with pytest.raises(ConfigError, match=r"the teacher has 3 channels, .* and --channels is 1"):
        found(path, "torchvision:mobilenet_v3_small", channels=1)
    with pytest.raises(ConfigError, match="--mean and --std belong together"):
        found(path, "torchvision:mobilenet_v3_small", mean=(0.5,))
    with pytest.raises(ConfigError, match="--mean has 1 numbers and --std 3"):
        found(path, "torchvision:mobilenet_v3_small", mean=(0.5,), std=(1.0, 1.0, 1.0))
    for model in ("torchvision:mobilenet_v9", "timm:nothing_like_it", "wrn_1_1", "resnet5"):
        with pytest.raises((UnknownNameError, ConfigError)):
            found(path, model)
    with pytest.raises(ConfigError, match="no Python module"):
        found(path, "nowhere.at_all:network")


def test_a_teacher_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no teacher's file"):
        locate_teacher(str(tmp_path / "no.pt"), "resnet18")
    with pytest.raises(CheckpointError, match="there is no teacher named 'no_such_teacher'"):
        locate_teacher("no_such_teacher", None)
    with pytest.raises(CheckpointError, match="there is no exported program"):
        locate_teacher(None, str(tmp_path / "no.pt2"))
    for model in ("torchvision:resnet18", "timm:resnet18", "resnet18"):
        with pytest.raises(ConfigError, match="has random weights: give the file"):
            locate_teacher(None, model)
    with pytest.raises(ConfigError, match="no teacher is given"):
        locate_teacher(None, None)
    with pytest.raises(ConfigError, match="leave --model out"):
        locate_teacher("hf:org/name", "resnet18")
    assert locate_teacher(None, "their_nets:loads_its_own") == ("their_nets:loads_its_own", None)
    torch.save({}, tmp_path / "weights.pt")
    assert locate_teacher(str(tmp_path / "weights.pt"), None) == (None, str(tmp_path / "weights.pt"))

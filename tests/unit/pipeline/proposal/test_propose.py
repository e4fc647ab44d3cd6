"""The experiment proposed for a teacher: what it does, why it says it does, and that its file reads back as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torchvision.models import VisionTransformer

import raydfkd
from raydfkd.errors import ConfigError, TeacherError, UnknownNameError
from raydfkd.models.classifiers import ImageShape
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.proposal import propose as proposing
from raydfkd.pipeline.proposal.findings import Findings, Told, find_out
from raydfkd.pipeline.proposal.machine import Machine, this_machine
from raydfkd.pipeline.proposal.propose import Proposal, Wishes, propose
from raydfkd.pipeline.proposal.sizing import Costs, Duration
from raydfkd.pipeline.proposal.writing import summary, yaml_text
from raydfkd.pipeline.run.exchange_state import build_rate_limiters

LAPTOP = Machine(cores=2, gpus=0, memory_bytes=24 * 2**30)
QUICK = Costs(Duration(0.0, 1e-3), Duration(0.0, 1e-3), 10**6)


class Counts(nn.Module):
    """A classifier without a gradient: which of some levels the mean of the pixels is."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = (images.flatten(1).mean(1) * self.num_classes).long().clamp(0, self.num_classes - 1)
        return nn.functional.one_hot(level, self.num_classes).float() * 5


def counts(num_classes: int) -> nn.Module:
    return Counts(num_classes)


def without_batch_norm(num_classes: int, in_channels: int) -> nn.Module:
    layers = [nn.Conv2d(in_channels, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def with_batch_norm(num_classes: int, in_channels: int) -> nn.Module:
    layers = [nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def transformer(num_classes: int) -> nn.Module:
    network = VisionTransformer(8, 2, 1, 2, 16, 16, num_classes=num_classes)
    nn.init.normal_(network.heads.head.weight)
    return network


def of_pixels(num_classes: int, in_channels: int) -> nn.Module:
    layers = [nn.Conv2d(in_channels, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, num_classes, 1))


def teacher(name: str, image_shape: ImageShape = (1, 8, 8), num_classes: int = 5) -> Findings:
    """Of a network of this module, which a user's module stands for."""
    channels, *size = image_shape
    told = Told(num_classes, (size[0], size[1]), channels, (0.5,), (0.25,))
    return find_out(f"{__name__}:{name}", None, told)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that no busy machine changes."""
    monkeypatch.setattr(proposing, "measure", lambda *_: QUICK)


def reads_back(proposal: Proposal, folder: Path) -> str:
    """The file's text; it holds what was proposed."""
    (folder / "experiment.yaml").write_text(yaml_text(proposal))
    assert load_experiment(folder / "experiment.yaml") == proposal.config
    return yaml_text(proposal)


@pytest.mark.usefixtures("quick")
def test_batch_norm_and_a_gradient_are_inverted(tmp_path: Path) -> None:
    proposal = propose(teacher("with_batch_norm"), Wishes(minutes=10), LAPTOP)
    (source,) = proposal.config.sources.values()
    assert (source.method, source.reads_batch_norm) == ("ssdkd", True)
    text = reads_back(proposal, tmp_path)
    assert "# the teacher has BatchNorm statistics and a gradient" in text
    assert proposal.config.teacher.normalization is not None
    assert "about" in proposal.reasons["schedule.rounds"]
    assert any(line.startswith("method: ssdkd") for line in summary(proposal))


@pytest.mark.usefixtures("quick")
def test_without_batch_norm_images_are_rendered_and_attacked(tmp_path: Path) -> None:
    proposal = propose(teacher("without_batch_norm", (3, 32, 32)), Wishes(minutes=10), LAPTOP)
    (source,) = proposal.config.sources.values()
    assert source.method == "procedural"
    assert source.boundary_attack is not None
    assert "# the teacher has a gradient, by which images are moved to its decision boundary" in reads_back(proposal, tmp_path)
    grey = propose(teacher("without_batch_norm"), Wishes(minutes=10), LAPTOP)
    assert [source.method for source in grey.config.sources.values()] == ["ssdkd"], "as measured on digits"
    assert "# the teacher has no BatchNorm statistics to match\n    bn_weight: 0" in reads_back(grey, tmp_path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("method", ["ssdkd", "dfad", "deep_inversion"])
def test_the_method_is_as_wished_and_reads_no_batch_norm_that_is_not_there(method: str, tmp_path: Path) -> None:
    proposal = propose(teacher("without_batch_norm"), Wishes(minutes=10, method=method), LAPTOP)
    (source,) = proposal.config.sources.values()
    assert (source.method, source.reads_batch_norm) == (method, False)
    reads_back(proposal, tmp_path)
    builder.build_synthesizer(proposal.config, "images", 0, torch.device("cpu"))


@pytest.mark.usefixtures("quick")
def test_a_wished_method_must_suit_the_teacher() -> None:
    with pytest.raises(TeacherError, match=r"of method 'dfad' are known .* one of ssdkd, deep_inversion, procedural$"):
        propose(teacher("with_batch_norm"), Wishes(method="dfad"), LAPTOP)
    with pytest.raises(UnknownNameError, match="did you mean 'ssdkd'"):
        propose(teacher("with_batch_norm"), Wishes(method="ssdk"), LAPTOP)


@pytest.mark.usefixtures("quick")
def test_a_transformers_patches_are_told_apart_where_pixels_are_optimised() -> None:
    proposal = propose(teacher("transformer", (3, 8, 8)), Wishes(method="deep_inversion"), LAPTOP)
    (source,) = proposal.config.sources.values()
    assert source.model_dump()["patch_weight"] == 1
    builder.build_synthesizer(proposal.config, "images", 0, torch.device("cpu"))


@pytest.mark.usefixtures("quick")
def test_a_teacher_with_a_class_for_each_pixel_has_a_task_and_students_of_its_own(tmp_path: Path) -> None:
    proposal = propose(teacher("of_pixels", (3, 32, 32)), Wishes(minutes=10, max_params=100_000), LAPTOP)
    assert (proposal.config.task.kind, proposal.config.student.model) == ("segmentation", "small_unet_8")
    assert "kind: segmentation" in reads_back(proposal, tmp_path)


@pytest.mark.usefixtures("quick")
def test_without_a_gradient_images_are_rendered(tmp_path: Path) -> None:
    proposal = propose(teacher("counts"), Wishes(minutes=10), LAPTOP)
    assert [source.method for source in proposal.config.sources.values()] == ["procedural"]
    assert proposal.config.student.augmentation.level == "high"
    assert "gives no gradient" in reads_back(proposal, tmp_path)
    with pytest.raises(TeacherError, match="no method makes images for this teacher"):
        propose(teacher("counts", (2, 8, 8)), Wishes(minutes=10), LAPTOP)


@pytest.mark.usefixtures("quick")
def test_the_student_is_as_wished() -> None:
    found = teacher("with_batch_norm")
    assert propose(found, Wishes(student="small_cnn_8"), LAPTOP).config.student.model == "small_cnn_8"
    with pytest.raises(ConfigError, match="at most 5 parameters"):
        propose(found, Wishes(max_params=5), LAPTOP)
    with pytest.raises(ConfigError, match="small_cnn_x"):
        propose(found, Wishes(student="small_cnn_x"), LAPTOP)


def test_a_faster_student_is_taken_where_the_first_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Costs(Duration(0.0, 1.0), Duration(0.0, 1.0), 10**6)
    asked: list[str] = []

    def measured(teacher: object, tree: dict, device: object) -> Costs:  # type: ignore[type-arg]
        asked.append(tree["students"]["student"]["model"])
        return slow if len(asked) == 1 else QUICK

    monkeypatch.setattr(proposing, "measure", measured)
    found = replace(teacher("with_batch_norm", (3, 32, 32)))
    chosen = propose(found, Wishes(minutes=10, max_params=300_000), LAPTOP).config.student.model
    assert asked[:2] == ["wrn_16_1", "small_cnn_16"]
    assert chosen == "small_cnn_16"
    monkeypatch.setattr(proposing, "measure", lambda *_: slow)
    with pytest.raises(ConfigError, match="10 minutes are no time for this teacher here: the shortest run takes about"):
        propose(found, Wishes(minutes=10), LAPTOP)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("machine", "generators", "student_gpus"),
    [
        (Machine(16, 0, 2**36), 8, 0.0),
        (Machine(16, 4, 2**36), 3, 1.0),
        (Machine(8, 1, 2**36, address="10.0.0.1:6379"), 1, 0.5),
    ],
)
def test_a_large_machine_gets_generators_beside_the_student(
    machine: Machine, generators: int, student_gpus: float, tmp_path: Path
) -> None:
    proposal = propose(teacher("with_batch_norm"), Wishes(minutes=10), machine)
    config = proposal.config
    assert (config.runtime.runner, config.schedule.mode, len(config.generators)) == ("ray", "decoupled", generators)
    assert config.student.resources.gpus == student_gpus
    assert config.runtime.address == machine.address
    (source,) = config.sources.values()
    asked = generators * source.resources.num_cpus + config.student.resources.num_cpus
    assert asked <= machine.cores
    build_rate_limiters(config)
    reads_back(proposal, tmp_path)


@pytest.mark.usefixtures("quick")
def test_evaluation_images_are_only_as_many_as_there_is_time_for(tmp_path: Path) -> None:
    from raydfkd.data.kinds.digits import DigitsConfig

    data = DigitsConfig(split="train")
    found = teacher("with_batch_norm", num_classes=10)
    proposal = propose(found, Wishes(minutes=30, evaluation=data), LAPTOP)
    assert proposal.config.evaluation is not None
    assert proposal.config.evaluation.dataset.max_images is None
    assert any("which is chance for 10 classes" in warning for warning in proposal.warnings), "its weights are random"
    proposal = propose(found, Wishes(minutes=0.2, evaluation=data), LAPTOP)
    assert proposal.config.evaluation is not None
    assert proposal.config.evaluation.dataset.max_images == proposing.LEAST_EVALUATED
    reads_back(proposal, tmp_path)


def test_costs_are_measured_here() -> None:
    proposal = propose(teacher("with_batch_norm"), Wishes(minutes=5), this_machine())
    assert 0 < proposal.seconds <= 5 * 60
    assert yaml.safe_load(yaml_text(proposal)) == proposal.tree


@pytest.mark.usefixtures("quick")
def test_python_has_it_too(tmp_path: Path) -> None:
    told = Told(image_size=(8, 8), mean=(0.5,), std=(0.25,))
    weights = tmp_path / "weights.pt"
    torch.save(with_batch_norm(5, 1).state_dict(), weights)
    proposal = raydfkd.propose(weights, f"{__name__}:with_batch_norm", told=told, minutes=5)
    assert proposal.config.task.num_classes == 5
    with pytest.raises(ConfigError, match=r"image_size, mean, std of the teacher .* are not known: give them in told"):
        raydfkd.propose(weights, f"{__name__}:with_batch_norm")
    with pytest.raises(ConfigError, match="does not say which network it is"):
        raydfkd.propose(weights)

"""A whole distillation of a class for each pixel: the package's own shapes, small networks, the local runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raydfkd.errors import ConfigError, RunStoppedError, TeacherError
from raydfkd.models.weights import read_metadata
from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.experiment.doctor import diagnose
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run.execute import execute
from raydfkd.pipeline.run.recorder import Watcher
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.pipeline.teacher.training import train_teacher
from raydfkd.report.html import write_report
from raydfkd.run_dir import RunDir
from raydfkd.testing.command import invoke as raydfkd

SHAPE, CLASSES = (3, 16, 16), 4
NAMES = ("background", "disc", "square", "triangle")


def recipe(**changes: Any) -> TeacherTrainingConfig:
    settings: dict[str, Any] = {
        "task": "segmentation",
        "model": "small_unet_8",
        "num_classes": CLASSES,
        "image_shape": SHAPE,
        "dataset": {"kind": "shapes", "split": "train", "max_images": 320},
        "evaluation": {"kind": "shapes", "max_images": 40},
        "epochs": 8,
        "batch_size": 16,
        "optimizer": {"lr": 0.2, "nesterov": True},
        "crop_padding": 1,
        "bf16": False,
        "device": "cpu",
    }
    return TeacherTrainingConfig.model_validate({**settings, **changes})


@pytest.fixture(scope="module")
def pixel_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("teacher") / "shapes.safetensors"
    result = train_teacher(recipe(), path)
    assert result.accuracy is not None
    assert result.accuracy > 0.2, "background alone gives 0.17"
    return path


def experiment(teacher: Path, **sections: Any) -> dict[str, Any]:
    source = {
        "method": "ssdkd", "batch_size": 8, "base_channels": 4, "latent_dim": 8, "crop_padding": 1, **sections.pop("source", {})
    }  # fmt: skip
    student = {"model": "small_unet_4", "batch_size": 8, "crop_padding": 1, "ema_decay": 0.5, **sections.pop("student", {})}
    return {
        "task": {"kind": "segmentation", "num_classes": CLASSES, "image_shape": list(SHAPE)},
        "teacher": {"model": "small_unet_8", "checkpoint": str(teacher)},
        "sources": {"inversion": source},
        "replay": {"synthetic": {"capacity": 20, "sampler": {"kind": "prioritized"}}},  # full after three batches
        "students": {"small": student},
        "schedule": {"warmup_batches": 2, "rounds": 2, "student_steps_per_round": 3},
        "evaluation": {"dataset": {"kind": "shapes", "max_images": 20}, "period_steps": 3},
        "runtime": {"runner": "local", "device": "cpu", "bf16": False, "log_period_steps": 3, "checkpoint_period_rounds": 1},
        **sections,
    }


def run(tree: dict[str, Any], out: Path, watcher: Watcher | None = None, resume: bool = False) -> dict[str, Any]:
    config = build_experiment(tree)
    folder = RunDir.open(out) if resume else RunDir.create(out)
    folder.config_path.write_text(dump_yaml(config), encoding="utf-8")

    def no_ray(*arguments: object) -> None:
        raise AssertionError("the local runner was asked for")

    return execute(config, folder, resume=resume, watcher=watcher, run_ray=no_ray)


@pytest.fixture(scope="module")
def finished(pixel_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "run"
    run(experiment(pixel_teacher), out)
    return out


def test_a_teacher_s_file_says_its_task_and_its_mean_iou(pixel_teacher: Path) -> None:
    metadata = read_metadata(pixel_teacher)
    assert metadata["task"] == "segmentation"
    assert 0.2 < float(metadata["miou"]) < 1
    assert json.loads(metadata["classes"]) == list(NAMES)
    assert "accuracy" not in metadata


def test_the_result_has_the_mean_iou_and_that_of_each_class(finished: Path) -> None:
    result = RunDir(finished).result()
    assert (result["metric_name"], result["metric_label"]) == ("miou", "mean IoU")
    for network in (result["teacher"], result["students"]["small"]):
        assert len(network["per_class"]) == CLASSES
        known = [value for value in network["per_class"] if value is not None]
        metric = network.get("metric", network.get("metric_last"))
        assert metric == pytest.approx(np.mean(known))
        assert 0 <= network["pixel_accuracy"] <= 1
    assert 0 <= result["student"]["agreement"] <= 1
    assert 0 < result["class_entropy"] <= 1
    assert RunDir(finished).manifest()["classes"] == list(NAMES)


def test_the_buffer_counts_pixels(finished: Path) -> None:
    *_, record = RunDir(finished).metrics("replay")
    assert sum(record["class_counts"]) == record["size"] * 16 * 16
    *_, evaluation = RunDir(finished).metrics("evaluation")
    assert {"metric_last", "metric_ema", "agreement", "pixel_accuracy_last", "pixel_accuracy_ema"} <= evaluation.keys()


def test_the_report_shows_masks_and_the_classes_figures(finished: Path) -> None:
    with np.load(finished / "samples" / "masks.npz") as found:
        assert found["network"].tolist() == ["teacher", "student small"]
        assert found["synthetic_masks"].shape == (2, len(found["synthetic_images"]), 16, 16)
        assert found["real_truth"].min() == -1
    page = write_report(finished).read_text(encoding="utf-8")
    for text in (
        "Classes of pixels",
        "Buffer pixels by the teacher",
        "mean IoU",
        "pixel accuracy",
        "triangle",
        "Evaluation",
    ):
        assert text in page
    assert "samples/masks.npz" not in page


def test_evaluate_and_export_take_it(finished: Path, tmp_path: Path) -> None:
    lines = raydfkd("evaluate", finished).splitlines()
    assert lines[0].split()[2:6] == ["mean", "IoU", "pixel", "accuracy"]
    assert f"{RunDir(finished).result()['student']['metric_last']:.2%}" in lines[3]
    assert [line.split()[0] for line in lines[8:]] == list(NAMES)
    for form in ("pt2", "safetensors"):
        assert "logits differ by at most" in raydfkd("export", finished, "--format", form, "--out", tmp_path / f"s.{form}")


def test_a_run_that_is_stopped_goes_on_to_the_same_student(finished: Path, pixel_teacher: Path, tmp_path: Path) -> None:
    class Stop(Watcher):
        def update(self, record: dict[str, Any]) -> None:
            if record["kind"] == "distillation" and record["step"] == 3:
                raise RunStoppedError("stopped by the test")

    with pytest.raises(RunStoppedError):
        run(experiment(pixel_teacher), tmp_path / "run", Stop())
    result = run(experiment(pixel_teacher), tmp_path / "run", resume=True)
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (tmp_path / "run", finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert result["student"] == RunDir(finished).result()["student"]


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ({"method": "fast"}, {}),
        ({"method": "fast", "generator": "transposed"}, {}),
        ({"method": "dfad", "adversarial_distance": "log_l1", "generator_batch_size": 4}, {}),
        ({"method": "dafl", "generator_batch_size": 4}, {}),
        ({"method": "fast", "feature_alignment": {}}, {"collected": {"dataset": {"kind": "shapes", "max_images": 30}}}),
        ({"method": "deep_inversion", "steps_per_batch": 2}, {}),
        ({"method": "procedural", "images": {"kind": "leaves"}, "max_tries": 1}, {}),
    ],
    ids=["fast", "transposed", "dfad", "dafl", "aligned", "deep_inversion", "procedural"],
)
def test_other_sources_fill_the_buffer(
    pixel_teacher: Path, tmp_path: Path, source: dict[str, Any], more: dict[str, Any]
) -> None:
    tree = experiment(pixel_teacher, **more)
    given = {"batch_size": 8, **source}
    if source["method"] in ("fast", "dfad", "dafl"):
        given |= {"base_channels": 4, "latent_dim": 8}
    tree["sources"] = {"inversion": given}
    tree["replay"]["synthetic"]["sampler"] = {"kind": "class_balanced"}
    tree["schedule"] = {"warmup_batches": 2, "rounds": 1, "student_steps_per_round": 1}
    result = run(tree, tmp_path / "run")
    assert (result["method"], result["images_synthesized"]) == (source["method"], 24)
    *_, record = RunDir(tmp_path / "run").metrics("replay")
    assert sum(record["class_counts"]) == record["size"] * 16 * 16


def test_several_students_learn_from_collected_images(pixel_teacher: Path, tmp_path: Path) -> None:
    tree = experiment(pixel_teacher)
    tree |= {"sources": {}, "collected": {"dataset": {"kind": "shapes", "split": "train", "max_images": 24}}}
    tree["replay"] = {"synthetic": {"capacity": 1}, "pinned": {"capacity": 24, "sampler": {"kind": "class_balanced"}}}
    tree["schedule"] = {"warmup_batches": 0, "batches_per_round": 0, "rounds": 1, "student_steps_per_round": 2}
    tree["students"]["hard"] = {**tree["students"]["small"], "objective": {"kind": "vanilla_kd"}}
    result = run(tree, tmp_path / "run")
    assert set(result["students"]) == {"small", "hard"}
    with np.load(tmp_path / "run" / "samples" / "masks.npz") as found:
        assert found["network"].tolist() == ["teacher", "student small", "student hard"]


def test_the_doctor_finds_nothing_wrong(pixel_teacher: Path) -> None:
    found = diagnose(build_experiment(experiment(pixel_teacher)))
    assert found.problems == []
    told = dict(found.rows)
    assert told["teacher: penultimate features"] == "8"
    assert told["evaluation data"] == "shapes/test, 20 images, for reporting only"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": {"method": "procedural", "boundary_attack": {}, "base_channels": None}},
            "boundary_attack pushes images across the boundary between two classes, and task segmentation has a class for each",
        ),
        (
            {"collected": {"dataset": {"kind": "shapes"}, "labels": "dataset"}},
            "collected.labels dataset reads one class an image, and task segmentation has a class for each pixel: leave it out",
        ),
    ],
)
def test_what_is_about_the_class_of_an_image_is_refused(pixel_teacher: Path, changes: dict[str, Any], message: str) -> None:
    tree = experiment(pixel_teacher, **changes)
    if tree["sources"]["inversion"]["method"] == "procedural":
        tree["sources"]["inversion"] = {"method": "procedural", "boundary_attack": {}, "batch_size": 8}
    with pytest.raises(ConfigError, match=message):
        build_experiment(tree)
    tree = experiment(pixel_teacher, collected={"dataset": {"kind": "shapes"}})
    tree["sources"] = {"gan": {"method": "hidfd", "batch_size": 8}}
    with pytest.raises(ConfigError, match=r"sources.gan's method hidfd makes images of one class each, and task segmentation"):
        build_experiment(tree)


def test_a_teacher_of_another_task_or_of_other_classes_is_refused(pixel_teacher: Path, teacher: Path, tmp_path: Path) -> None:
    tree = experiment(pixel_teacher)
    tree["task"] = {"num_classes": CLASSES, "image_shape": list(SHAPE)}
    with pytest.raises(TeacherError, match=r"was trained for segmentation, task\.kind is classification: change one of"):
        run(tree, tmp_path / "a")
    tree = experiment(pixel_teacher)
    tree["task"]["num_classes"] = 5
    with pytest.raises(TeacherError, match=r"is for 4 classes, task\.num_classes is 5"):
        run(tree, tmp_path / "b")
    tree = experiment(pixel_teacher)
    tree["teacher"] = {"model": "small_cnn_4", "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    with pytest.raises(TeacherError, match=r"gives logits \[3, 4\] .* and the task has one class for each pixel of the images"):
        run(tree, tmp_path / "c")
    tree = experiment(pixel_teacher)
    tree["students"]["small"]["model"] = "small_cnn_4"
    with pytest.raises(ConfigError, match=r"students.small cannot be trained: .* gives \[8, 4\] .* give logits \[8,4,16,16"):
        run(tree, tmp_path / "d")


def test_a_recipe_s_augmentation_moves_masks_or_is_refused() -> None:
    with pytest.raises(ValueError, match="augmentation deforms images in ways that masks do not follow: use level none or"):
        recipe(augmentation={"level": "standard"})
    with pytest.raises(ValueError, match="unknown task 'segmentaton': did you mean 'segmentation'"):
        recipe(task="segmentaton")

"""The Ray runner in lockstep is the local runner, spread over processes."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_experiment import BATCH_SIZE, distil, distil_locally, events, experiment, same, student_of

from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.run_dir import RunDir


def test_the_ray_runner_gives_the_local_runners_student_to_the_bit(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = experiment(teacher)
    local, through_ray = distil_locally(tree, tmp_path / "local"), distil(tree, tmp_path / "ray")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
    counts = ("images_synthesized", "images_distilled", "student_steps", "class_entropy", "restarts")
    assert [through_ray[name] for name in counts] == [local[name] for name in counts]
    assert through_ray["images_synthesized"] == (4 + 6) * BATCH_SIZE
    assert events(tmp_path / "ray") == []
    assert RunDir(tmp_path / "ray").manifest()["state"] == "finished"


def test_classes_of_pixels_come_through_ray_to_the_bit(tmp_path: Path, no_actor_left: None) -> None:
    torch.manual_seed(0)
    save_weights(build_classifier("small_unet_4", 4, (3, 16, 16)), tmp_path / "teacher.safetensors")
    tree = experiment(
        tmp_path / "teacher.safetensors",
        task={"kind": "segmentation", "num_classes": 4, "image_shape": [3, 16, 16]},
        source={"batch_size": 8},
        student={"model": "small_unet_4", "batch_size": 8},
        teacher={"model": "small_unet_4", "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}},
        replay={"synthetic": {"capacity": 40, "sampler": {"kind": "class_balanced"}}},
    )
    tree["evaluation"] = {"dataset": {"kind": "shapes", "max_images": 12}}
    local, through_ray = distil_locally(tree, tmp_path / "local"), distil(tree, tmp_path / "ray")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
    assert through_ray["student"] == local["student"]
    assert (through_ray["class_entropy"], through_ray["metric_name"]) == (local["class_entropy"], "miou")

"""A teacher, encoded images and settings for builds of seconds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.dataset.build import DatasetBuild, Execute, execute_here
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.dataset.folder import BuildFolder
from raydfkd.replay.arrow import from_parquet
from raydfkd.types import SyntheticBatch

NUM_CLASSES = 4
SHAPE = (1, 8, 8)


def save_teacher(path: Path) -> Path:
    """A teacher of random weights that sees all its classes in noise."""
    torch.manual_seed(3)
    network = build_classifier("small_cnn_4", NUM_CLASSES, SHAPE)
    with torch.no_grad():
        network.fc.weight.mul_(30.0)  # type: ignore[union-attr, operator]
        noise = torch.rand(256, *SHAPE, generator=torch.Generator().manual_seed(0))
        network.fc.bias.sub_(network.eval()((noise - 0.5) / 0.25).mean(0))  # type: ignore[union-attr, operator]
    metadata = {"model": "small_cnn_4", "num_classes": "4", "image_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[0.25]"}
    save_weights(network, path, metadata | {"classes": json.dumps(["zero", "one", "two", "three"])})
    return path


def encoded(pixels_HW: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW).save(buffer, format="PNG")
    return buffer.getvalue()


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Pictures of many kinds of contrast, uint8 [count,8,8]."""
    rng = np.random.default_rng(seed)
    return (rng.random((count, 8, 8)) * rng.random((count, 1, 1)) * 255).astype(np.uint8)


def write_images(path: Path, pictures: np.ndarray, broken: tuple[int, ...] = (), row_group: int = 7) -> Path:
    """A Parquet file of PNG images in row groups of seven; the ``broken`` ones are cut off."""
    bytes_ = [encoded(one) for one in pictures]
    for i in broken:
        bytes_[i] = bytes_[i][:40]
    pq.write_table(pa.table({"image": pa.array(bytes_, pa.binary())}), path, row_group_size=row_group)
    return path


def settings(folder: Path, **sections: Any) -> DatasetBuildConfig:
    """A local build from ``folder``/images.parquet with ``folder``/teacher.safetensors; ``sections`` replaces settings."""
    tree: dict[str, Any] = {
        "task": {"num_classes": NUM_CLASSES, "image_shape": list(SHAPE)},
        "teacher": {"model": "small_cnn_4", "checkpoint": str(folder / "teacher.safetensors")},
        "dataset": {"kind": "parquet", "path": str(folder / "images.parquet")},
        "selection": {"num_images": 24},
        "runtime": {"runner": "local", "part_size": 10, "batch_size": 4, "images_per_file": 9, "bf16": False, "device": "cpu"},
    }
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(tree.get(name), dict) and "kind" not in section
        tree[name] = {**tree[name], **section} if both else section
    return DatasetBuildConfig.model_validate(tree)


def build(config: DatasetBuildConfig, out: Path, execute: Execute = execute_here) -> dict[str, Any]:
    made = DatasetBuild(config)
    return made.run(BuildFolder.begin(out, config), execute, lambda name, done, total: None)


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}


def images_of(out: Path) -> list[SyntheticBatch]:
    return [from_parquet(content) for content in files_of(out).values()]

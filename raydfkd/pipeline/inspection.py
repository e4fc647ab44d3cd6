"""The images of a run's buffer or of Parquet files, and the teacher that judges them, for ``raydfkd dataset inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from raydfkd.data.config import ParquetConfig
from raydfkd.data.datasets import load_unlabelled
from raydfkd.data.sources import parquet_files
from raydfkd.errors import DataError, RunDirError, TeacherError
from raydfkd.models.frozen_teacher import FrozenTeacher
from raydfkd.models.teacher import build_teacher
from raydfkd.models.weights import read_metadata
from raydfkd.pipeline.builder import build_frozen_teacher
from raydfkd.pipeline.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.exchange_state import build_exchange, load_exchange
from raydfkd.replay.arrow import from_parquet, holds_synthetic_batch
from raydfkd.run_dir import RunDir


def teacher_of(path: Path) -> tuple[FrozenTeacher, tuple[str, ...] | None]:
    """A teacher, and its class names if they are known.

    Args:
        path: weights that train-teacher wrote, or the YAML file of an experiment whose teacher it is.

    Raises:
        RaydfkdError: there is no such file, or it does not say which network it is of.
    """
    if path.suffix != ".safetensors":
        config = load_experiment(path)
        return build_frozen_teacher(config), class_names(config.teacher.checkpoint)
    metadata = read_metadata(path)
    try:
        model, num_classes = metadata["model"], int(metadata["num_classes"])
        shape, mean, std = (json.loads(metadata[key]) for key in ("image_shape", "mean", "std"))
    except (KeyError, ValueError) as error:
        raise TeacherError(
            f"{path} does not say which network it is of: give weights that train-teacher wrote, or an experiment with it"
        ) from error
    return build_teacher(model, num_classes, tuple(shape), mean, std, path), class_names(path)


def class_names(checkpoint: Path | None) -> tuple[str, ...] | None:
    """The names of the classes as the teacher's weights tell them."""
    if checkpoint is None or checkpoint.suffix != ".safetensors":
        return None
    named = json.loads(read_metadata(checkpoint).get("classes", "[]"))
    return tuple(named) or None


def run_images(run: RunDir) -> tuple[ExperimentConfig, np.ndarray]:
    """The run's experiment, and what its buffer held at the newest checkpoint, uint8 [N,C,H,W].

    Raises:
        RunDirError: there is no checkpoint.
        CheckpointError: it is damaged.
    """
    config = load_experiment(run.config_path)
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise RunDirError(f"{run.path} has no checkpoint yet, and so no buffer to inspect: let the run go on for a while")
    exchange = build_exchange(config)
    load_exchange(checkpoint, exchange)
    parts = [shard.payload.images[shard.slots >= 0] for shard in exchange.buffer.shards_after(-1)]
    return config, np.concatenate([np.empty((0, *config.task.image_shape), np.uint8), *parts])


def parquet_images(path: Path, image_shape: tuple[int, int, int], max_images: int | None = None) -> np.ndarray:
    """Images of Parquet files, uint8 [N,C,H,W]: encoded ones in a column ``image``, or tensors as raydfkd writes them.

    Args:
        path: a file, or a folder of ``*.parquet``.
        max_images: at most so many, evenly spaced.

    Raises:
        DataError: there is none, or they have another shape than the teacher's.
    """
    files = parquet_files(str(path))
    if not holds_synthetic_batch(files[0]):
        return load_unlabelled(ParquetConfig(path=str(path), max_images=max_images), image_shape).images
    images = np.concatenate([from_parquet(file.read_bytes()).images for file in files])
    if images.shape[1:] != tuple(image_shape):
        raise DataError(
            f"the images in {path} are {list(images.shape[1:])}, the teacher's {list(image_shape)}: make them anew at its size"
        )
    if max_images is None or len(images) <= max_images:
        return images
    return images[np.linspace(0, len(images), max_images, endpoint=False).astype(np.int64)]

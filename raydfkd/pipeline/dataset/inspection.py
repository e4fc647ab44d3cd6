"""The images of a run's buffer or of any data set, and the teacher that classifies them, for ``raydfkd dataset inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.data.config import CollectedConfig
from raydfkd.data.dataset_kind import DatasetConfig, evenly_spaced
from raydfkd.data.datasets import load_unlabelled
from raydfkd.data.kinds import DATASETS
from raydfkd.errors import ConfigError, DataError, RunDirError, TeacherError
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.teachers.teacher import build_teacher
from raydfkd.models.weights import read_metadata
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.experiment.builder import build_frozen_teacher, class_names
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.yaml_files import merge, read_layers, validate
from raydfkd.pipeline.run.exchange_state import build_exchange, load_exchange
from raydfkd.replay.arrow import from_parquet
from raydfkd.run_dir import RunDir


def teacher_of(path: Path) -> tuple[FrozenTeacher, tuple[str, ...] | None]:
    """A teacher, and its class names if known.

    Args:
        path: weights that train-teacher wrote, or the YAML file of an experiment that uses it.

    Raises:
        RaydfkdError: there is no such file, or it does not name its network.
    """
    if path.suffix != ".safetensors":
        config = load_experiment(path)
        return build_frozen_teacher(config), class_names(config.teacher.weights, config.teacher.model)
    metadata = read_metadata(path)
    try:
        model, num_classes = metadata["model"], int(metadata["num_classes"])
        shape, mean, std = (json.loads(metadata[key]) for key in ("image_shape", "mean", "std"))
    except (KeyError, ValueError) as error:
        raise TeacherError(
            f"{path} does not name its network: give weights that train-teacher wrote, or an experiment that uses them"
        ) from error
    return build_teacher(model, num_classes, tuple(shape), mean, std, path), class_names(path)


def run_images(run: RunDir, max_images: int | None = None) -> tuple[ExperimentConfig, np.ndarray]:
    """The run's experiment and the contents of its buffer at the newest checkpoint, uint8 [N,C,H,W].

    Args:
        max_images: upper limit; the images are evenly spaced.

    Raises:
        RunDirError: there is no checkpoint.
        CheckpointError: it is damaged.
    """
    config = load_experiment(run.config_path)
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise RunDirError(f"{run.path} has no checkpoint yet and so no buffer to inspect: wait for its first checkpoint")
    exchange = build_exchange(config)
    load_exchange(checkpoint, exchange)
    parts = [shard.payload.images[shard.slots >= 0] for shard in exchange.buffer.shards_after(-1)]
    images = np.concatenate([np.empty((0, *config.task.image_shape), np.uint8), *parts])
    return config, images[evenly_spaced(len(images), max_images)]


def dataset_images(path: Path, image_shape: tuple[int, int, int], max_images: int | None = None) -> np.ndarray:
    """Images of a data set, uint8 [N,C,H,W].

    Args:
        path: see :func:`dataset_of`.
        max_images: upper limit; the images are evenly spaced.

    Raises:
        ConfigError: a YAML file names no data set.
        DataError: it does not exist, its channels differ from the teacher's, or raydfkd wrote it at another size.
    """
    config = dataset_of(path)
    if max_images is not None:
        config = config.model_copy(update={"max_images": max_images})
    batches_of = DATASETS.get(config.kind).batches
    files = None if batches_of is None else batches_of(config)
    if files is None:
        return load_unlabelled(config, image_shape).images
    images = np.concatenate([from_parquet(file.read_bytes()).images for file in files])
    if images.shape[1:] != tuple(image_shape):
        raise DataError(
            f"the images in {path} are {list(images.shape[1:])}, the teacher's {list(image_shape)}: rebuild it at that size"
        )
    return images[evenly_spaced(len(images), config.max_images)]


def dataset_of(path: Path) -> DatasetConfig:
    """The data set that a path refers to.

    Args:
        path: a Parquet file, a folder of ``*.parquet``, a folder of images, ``NAME/SPLIT`` of a named data set, or a YAML
            file: of a data set's own settings (``kind: ...``), of a build (its ``dataset``) or of an experiment (its
            ``collected.dataset``).

    Raises:
        ConfigError: a YAML file names none.
    """
    if path.suffix in (".yaml", ".yml"):
        return _dataset_of_file(path)
    for kind in map(DATASETS.get, DATASETS):
        claimed = None if kind.claims is None else kind.claims(path)
        if claimed is not None:
            return claimed
    if not path.exists():
        raise DataError(f"data set {path} does not exist: correct its path")
    raise DataError(f"{path} is not a known data set: give Parquet files, a folder of images, or a YAML file with a kind")


def _dataset_of_file(path: Path) -> DatasetConfig:
    tree: dict[str, Any] = {}
    for file, layer in read_layers(path):
        tree = merge(tree, _anchored(layer, file.parent))
    collected = tree.get("collected")
    section = tree if "kind" in tree else collected.get("dataset") if isinstance(collected, dict) else tree.get("dataset")
    if section is None:
        raise ConfigError(f"{path} names no data set: it needs a kind, or a dataset or collected.dataset section")
    return validate(CollectedConfig, {"dataset": section}, path).dataset


def _anchored(layer: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A layer of an experiment, of a build, or of a data set's own settings with absolute paths."""
    if "collected" in layer:
        return anchor_paths(layer, ExperimentConfig, folder)
    if "dataset" in layer:
        return anchor_paths(layer, DatasetBuildConfig, folder)
    own: dict[str, Any] = anchor_paths({"dataset": layer}, CollectedConfig, folder)["dataset"]
    return own

"""Runs the rows of a paper's table: first what a row needs (its teacher, its data set), then a run of each seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from raydfkd.api import build_dataset, distill
from raydfkd.data.data_root import VARIABLE
from raydfkd.errors import ConfigError
from raydfkd.papers.rows import Row
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, HeldOutConfig
from raydfkd.pipeline.sweep.held_out_images import make_held_out
from raydfkd.pipeline.teacher.epoch_lines import EpochLines
from raydfkd.pipeline.teacher.training import train_teacher
from raydfkd.replay.arrow import to_parquet
from raydfkd.resources import SettingsT, without_gpus
from raydfkd.run_dir import RunDir, write_atomically

HELD_OUT_IMAGES = 500
"""Images to measure agreement on where there are no labelled ones."""

Tell = Callable[[str], None]


def refuse_missing(row: Row, train: bool) -> None:
    """Refuses a row that lacks something.

    Args:
        train: a teacher that is missing is trained.

    Raises:
        ConfigError: with what is missing and how to get it.
    """
    teacher = row.missing_teacher()
    datasets = row.missing_data()
    if teacher is not None and train:
        recipe = row.teacher_row
        if recipe is None:
            raise ConfigError(f"row {row.name} needs teacher {teacher}, which has no recipe: train it yourself")
        datasets += [name for name in recipe.missing_data() if name not in datasets]
    if datasets:
        names = sorted({name.split("/")[0] for name in datasets})
        raise ConfigError(
            f"row {row.name} needs {', '.join(datasets)}: get it with raydfkd dataset fetch {names[0]}, "
            f"or set {VARIABLE} to the folder that has it"
        )
    if teacher is not None and not train:
        raise ConfigError(
            f"row {row.name} needs teacher {teacher}: put {teacher}.safetensors into the folder teachers of the data root, "
            "or add --train-teacher"
        )


def run_row(row: Row, seed: int, *, tell: Tell, watcher: Any = None) -> None:
    """One run of a row that ``refuse_missing`` has let through, unless it is finished; an unfinished one is resumed.

    Its teacher and its data set are made first where they are missing.

    Args:
        seed: of the run; a data set has the seed of its own settings.
        tell: takes a line for people.
        watcher: of the distillation.

    Raises:
        RaydfkdError: something is wrong.
    """
    recipe = None if row.missing_teacher() is None else row.teacher_row
    if recipe is not None:
        _train(recipe, tell)
    if row.build is not None:
        _build(row.build, tell)
    if row.cell.kind == "teacher":
        _train(row, tell)
    elif row.cell.kind == "dataset":
        _build(row, tell)
    else:
        _distil(row, seed, tell, watcher)


def _distil(row: Row, seed: int, tell: Tell, watcher: Any) -> None:
    run = RunDir(row.run_dir(seed))
    if run.result_path.is_file():
        tell(f"{row.name}, seed {seed}: finished before, {run.path}")
        return
    config = row.experiment()
    config = _on_this_machine(config, config.runtime.address, tell)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"seed": seed})})
    missing = row.missing_evaluation()
    if missing is not None:
        tell(f"{row.name}: {missing} is not here, so agreement with the teacher is measured, not accuracy")
        held_out = HeldOutConfig(path=_held_out(row, config), period_steps=config.evaluation_period_steps)
        config = config.model_copy(update={"evaluation": None, "held_out": held_out})
    distill(config, out=run.path, resume=run.manifest_path.is_file(), watcher=watcher)


def _held_out(row: Row, config: ExperimentConfig) -> Path:
    """Images that no student of the row trains on, made once."""
    path = row.folder.absolute() / "held_out.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = config.model_copy(update={"evaluation": None})
        images = make_held_out(settings, HELD_OUT_IMAGES, 0, builder.choose_device(settings))
        write_atomically(path, to_parquet(images))
    return path


def _on_this_machine(config: SettingsT, address: str | None, tell: Tell) -> SettingsT:
    """Without requests for GPUs where there is none, and no cluster at ``address`` that may have some."""
    on_cpu = without_gpus(config)
    if address is not None or torch.cuda.is_available() or on_cpu == config:
        return config
    tell("this machine has no GPU: everything runs on the CPU")
    return on_cpu


def _train(row: Row, tell: Tell) -> None:
    if row.trained.is_file():
        tell(f"teacher {row.name}: trained before, {row.trained}")
        return
    config = row.recipe()
    row.trained.parent.mkdir(parents=True, exist_ok=True)
    trained = train_teacher(config, row.trained, EpochLines(lambda line: tell(f"teacher {row.name}: {line}")))
    tell(f"teacher {row.name}: {trained.summary}, {trained.path}")


def _build(row: Row, tell: Tell) -> None:
    if row.is_built:
        return
    tell(f"data set {row.name}: building it in {row.built}")
    file = row.folder / "build.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = row.dataset_build()
    plain = _on_this_machine(config, config.runtime.address, tell).model_dump(mode="json")
    write_atomically(file, yaml.safe_dump(plain, sort_keys=False))
    build_dataset(file, out=row.built, resume=(row.built / "build.json").is_file())

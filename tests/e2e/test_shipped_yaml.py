"""Every YAML file under experiments/: it is read, what it names can be built, and its comment's commands are right."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from shipped import BUILDS, EXPERIMENTS, FILES, RECIPES, ROOT, RUNS, SHARED, SWEEPS, commands, name_of

from raydfkd.models.catalog import build_classifier
from raydfkd.models.discriminators import build_discriminator
from raydfkd.models.generators import build_conditional_generator, build_generator
from raydfkd.pipeline.dataset.config import load_dataset_build
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.experiment.yaml_files import read_yaml, validate
from raydfkd.pipeline.run.exchange_state import build_exchange, build_rate_limiters
from raydfkd.pipeline.sweep.config import load_sweep
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.synthesis.fast import FastConfig
from raydfkd.synthesis.hidfd import HiDFDConfig
from raydfkd.synthesis.procedural.shaders.catalog import family_names
from raydfkd.synthesis.procedural.synthesizer import ProceduralConfig
from raydfkd.testing.command import run_command

COUNTS = {
    "smoke": 7,
    "ssdkd": 3, "ssdkd/table1": 10, "ssdkd/table2": 10, "ssdkd/table4": 24,
    "hidfd": 4, "hidfd/table1": 28, "hidfd/table2": 30, "hidfd/table3": 8,
    "surrogate": 23, "surrogate/builds": 8, "surrogate/table1": 132, "surrogate/table2": 25, "surrogate/table3": 37,
    "surrogate/table4": 12, "surrogate/table5": 14, "surrogate/table6": 29, "surrogate/table7": 11,
    "sweeps": 7,
    "teachers": 34,
}  # fmt: skip
"""How many files each folder ships; change it with them."""

TRAINED = [*RUNS, *(path for path in BUILDS if path.parent.name in ("table3", "table6"))]
"""Files whose teacher a recipe of ours trains, unless it is a shared one."""


@cache
def build_on_meta(model: str, classes: int, shape: tuple[int, int, int]) -> None:
    """Builds the network without memory for its weights; those of timm only where it is installed."""
    if model.startswith("timm:") and find_spec("timm") is None:
        return
    with torch.device("meta"):
        build_classifier(model, classes, shape)


def test_as_many_files_as_we_say() -> None:
    assert dict(Counter(path.parent.relative_to(EXPERIMENTS).as_posix() for path in FILES)) == COUNTS


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_run_is_read_and_built(path: Path) -> None:
    config = load_experiment(path)
    assert config.evaluation is not None
    for model in (config.teacher.model, *(student.model for student in config.students.values())):
        build_on_meta(model, config.task.num_classes, config.task.image_shape)
    for source in config.sources.values():
        match source:
            case HiDFDConfig():
                build_gan_on_meta(source, config)
            case ProceduralConfig():
                assert set(getattr(source.images, "families", None) or ()) <= set(family_names())
            case _:
                try_generator(source, config)
    exchange = build_exchange(config)
    pinned = 0 if config.replay.pinned is None else config.replay.pinned.capacity
    assert exchange.buffer.total_slots == config.replay.synthetic.capacity + pinned


def try_generator(source: FastConfig, config: ExperimentConfig) -> None:
    network = build_generator(source.generator, config.task.image_shape, source.latent_dim, source.base_channels)
    assert tuple(network(torch.zeros(2, source.latent_dim)).shape[1:]) == config.task.image_shape


def build_gan_on_meta(source: HiDFDConfig, config: ExperimentConfig) -> None:
    channels, side, _ = config.task.image_shape
    shape = (channels, *(2 * (source.image_size or side,)))
    with torch.device("meta"):
        build_conditional_generator(
            "residual", shape, config.task.num_classes, source.latent_dim, source.generator_channels, source.conditioning
        )
        build_discriminator("residual", shape, config.task.num_classes, source.discriminator_channels)


@pytest.mark.parametrize("path", TRAINED, ids=name_of)
def test_a_teacher_is_there_or_made_by_the_recipe_that_the_comment_names(path: Path) -> None:
    config = load_dataset_build(path) if path in BUILDS else load_experiment(path)
    checkpoint = config.teacher.checkpoint
    assert checkpoint is not None
    if SHARED in checkpoint.parents:
        return
    recipe = checkpoint.with_suffix(".yaml")
    trained = validate(TeacherTrainingConfig, read_yaml(recipe), recipe)
    task = config.task
    assert (trained.model, trained.num_classes, trained.image_shape) == (
        config.teacher.model,
        task.num_classes,
        task.image_shape,
    )
    command = commands(path)[0]
    assert command[:2] == ["raydfkd", "train-teacher"]
    assert [ROOT / command[2], ROOT / command[4]] == [recipe, checkpoint]


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the project's shared data folder is not there")
@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_the_shared_files_that_a_run_names_are_there(path: Path) -> None:
    config = load_experiment(path)
    assert config.evaluation is not None
    datasets = [config.evaluation.dataset] + ([] if config.collected is None else [config.collected.dataset])
    datasets += [
        source.images.dataset for source in config.sources.values() if hasattr(getattr(source, "images", None), "dataset")
    ]
    named = [config.teacher.checkpoint, *(getattr(dataset, "path", None) for dataset in datasets)]
    shared = [Path(one) for one in named if one is not None and SHARED in Path(one).parents]
    assert shared or "smoke" in path.parts or not path.stem.startswith("cifar10_")
    assert [one for one in shared if not one.is_file()] == []
    if config.teacher.checkpoint in shared:
        builder.audit(config, builder.build_frozen_teacher(config))


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_teacher_s_recipe_is_read_and_its_network_built(path: Path) -> None:
    recipe = validate(TeacherTrainingConfig, read_yaml(path), path)
    build_on_meta(recipe.model, recipe.num_classes, recipe.image_shape)


@pytest.mark.parametrize("path", BUILDS, ids=name_of)
def test_a_data_set_s_build_is_read_and_its_teacher_built(path: Path) -> None:
    config = load_dataset_build(path)
    assert config.teacher.checkpoint is not None
    build_on_meta(config.teacher.model, config.task.num_classes, config.task.image_shape)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the project's shared data folder is not there")
@pytest.mark.parametrize("path", [path for path in BUILDS if "smoke" not in path.parts], ids=name_of)
def test_the_shared_files_that_a_build_names_are_there(path: Path) -> None:
    config = load_dataset_build(path)
    named = [config.teacher.checkpoint, *(getattr(one, "path", None) for one in (config.dataset, inner_of(config.images)))]
    shared = [Path(one) for one in named if one is not None and SHARED in Path(one).parents]
    assert shared or path.parent.name in ("table3", "table6")
    assert [one for one in shared if not one.is_file()] == []


def inner_of(images: object) -> object:
    return getattr(images, "dataset", None)


@pytest.mark.parametrize("path", SWEEPS, ids=name_of)
def test_a_sweep_is_read_and_each_of_its_points_is_an_experiment(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.points is not None
    assert len(sweep.points) == sweep.num_trials >= 4
    for point in sweep.points:
        build_rate_limiters(sweep.experiment_of(point))
    assert file_of(sweep.config.experiment) in RUNS


def file_of(path: Path) -> Path:
    return EXPERIMENTS / path.relative_to(EXPERIMENTS.resolve())


@pytest.mark.e2e
def test_the_smoke_run_as_its_comment_says(tmp_path: Path) -> None:
    train, run = commands(EXPERIMENTS / "smoke" / "digits_fast_local.yaml")
    teacher = str(tmp_path / "digits.safetensors")
    train = [teacher if word == "experiments/teachers/digits.safetensors" else word for word in train]
    assert teacher in train
    short = ["schedule.rounds=5", f"teacher.checkpoint={teacher}", "--out", str(tmp_path / "run")]
    for words in ([*train, "epochs=3"], [*run, *short]):
        done = run_command(words[1:], ROOT)
        assert (done.code, done.err) == (0, ""), done.out
    student = re.search(r"student accuracy, last +([\d.]+)%", done.out)
    assert student is not None
    assert float(student[1]) > 25

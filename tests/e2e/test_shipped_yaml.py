"""Every YAML file under experiments/: it is read, what it names can be built, and its comment's commands are right."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from real_data import DATA, needs_data
from shipped import (
    BUILDS,
    EXPERIMENTS,
    FILES,
    OF_THE_DEMO,
    RECIPES,
    ROOT,
    RUNS,
    SWEEPS,
    build_of,
    check_each,
    commands,
    recipe_of,
    run_of,
)

from raydfkd.models.catalog import build_classifier
from raydfkd.models.discriminators import build_discriminator
from raydfkd.models.generators import build_conditional_generator, build_generator
from raydfkd.pipeline.dataset.config import load_dataset_build
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run.exchange_state import build_exchange, build_rate_limiters
from raydfkd.pipeline.sweep.config import load_sweep
from raydfkd.pipeline.teacher.config import load_teacher_training
from raydfkd.synthesis.hidfd import HiDFDConfig
from raydfkd.synthesis.procedural.shaders.shader_catalog import family_names
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
"""Files whose teacher a recipe of ours trains, unless it lies outside of the repository."""


@cache
def build_on_meta(model: str, classes: int, shape: tuple[int, int, int]) -> None:
    """Builds the network without memory for its weights; those of timm only where it is installed."""
    if model.startswith("timm:") and find_spec("timm") is None:
        return
    with torch.device("meta"):
        build_classifier(model, classes, shape)


def test_as_many_files_as_we_say() -> None:
    assert dict(Counter(path.parent.relative_to(EXPERIMENTS).as_posix() for path in FILES)) == COUNTS


def test_runs_and_the_demo_s_are_read_and_built() -> None:
    check_each([*RUNS, OF_THE_DEMO[0]], check_run)


def check_run(path: Path) -> None:
    config = run_of(path)
    assert config.evaluation is not None
    for model in (config.teacher.model, *(student.model for student in config.students.values())):
        build_on_meta(model, config.task.num_classes, config.task.image_shape)
    for source in config.sources.values():
        match source:
            case HiDFDConfig():
                channels, side, _ = config.task.image_shape
                shape = (channels, *(2 * (source.image_size or side,)))
                widths = (source.generator_channels, source.discriminator_channels)
                build_gan_on_meta(shape, config.task.num_classes, source.latent_dim, source.conditioning, *widths)
            case ProceduralConfig():
                assert set(getattr(source.images, "families", None) or ()) <= set(family_names())
            case _:
                try_generator(source.generator, config.task.image_shape, source.latent_dim, source.base_channels)
    build_rate_limiters(config)
    pinned = 0 if config.replay.pinned is None else config.replay.pinned.capacity
    assert build_exchange(config).buffer.total_slots == config.replay.synthetic.capacity + pinned


@cache
def try_generator(generator: str, shape: tuple[int, int, int], latent_dim: int, channels: int) -> None:
    with torch.device("meta"):
        network = build_generator(generator, shape, latent_dim, channels)
        assert tuple(network(torch.zeros(2, latent_dim)).shape[1:]) == shape


@cache
def build_gan_on_meta(shape: tuple[int, int, int], classes: int, latent_dim: int, conditioning: str, *channels: int) -> None:
    for_generator, for_discriminator = channels
    with torch.device("meta"):
        build_conditional_generator("residual", shape, classes, latent_dim, for_generator, conditioning)
        build_discriminator("residual", shape, classes, for_discriminator)


def test_runs_and_the_demo_s_run_again_from_what_they_write(tmp_path: Path) -> None:
    def check(path: Path) -> None:
        (tmp_path / "config.yaml").write_text(dump_yaml(run_of(path)))
        assert load_experiment(tmp_path / "config.yaml") == run_of(path)

    check_each([*RUNS, OF_THE_DEMO[0]], check)


def test_a_teacher_is_there_or_made_by_the_recipe_that_the_comment_names() -> None:
    check_each(TRAINED, check_teacher)


def check_teacher(path: Path) -> None:
    config = build_of(path) if path in BUILDS else run_of(path)
    checkpoint = config.teacher.checkpoint
    assert checkpoint is not None
    if not checkpoint.is_relative_to(ROOT.resolve()):
        return
    recipe = checkpoint.with_suffix(".yaml")
    trained, task = recipe_of(recipe), config.task
    assert (trained.model, trained.num_classes, trained.image_shape) == (
        config.teacher.model,
        task.num_classes,
        task.image_shape,
    )
    command = commands(path)[0]
    assert command[:2] == ["raydfkd", "train-teacher"]
    assert [ROOT / command[2], ROOT / command[4]] == [recipe, checkpoint]


def test_the_commands_of_comments_name_files_and_settings_that_are_there() -> None:
    check_each([path for path in FILES if commands(path)], check_commands)


def check_commands(path: Path) -> None:
    for _, *words in commands(path):
        file = ROOT / next(word for word in words if word.endswith(".yaml"))
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        match words[0]:
            case "train-teacher":
                load_teacher_training(file, overrides)
            case "run":
                load_experiment(file, overrides)
            case "sweep":
                load_sweep(file, overrides)
            case "dataset":
                load_dataset_build(file, overrides)
            case verb:
                raise AssertionError(f"say here how the files of {verb} are read")


@pytest.mark.real_data
@needs_data
def test_the_real_data_that_runs_name_are_there() -> None:
    check_each(RUNS, check_data_of_a_run)


def check_data_of_a_run(path: Path) -> None:
    config = run_of(path)
    assert config.evaluation is not None
    datasets: list[Any] = [config.evaluation.dataset, *([] if config.collected is None else [config.collected.dataset])]
    datasets += [inner_of(getattr(source, "images", None)) for source in config.sources.values()]
    real = real_ones([config.teacher.checkpoint, *(getattr(dataset, "path", None) for dataset in datasets)])
    assert real or "smoke" in path.parts or not path.stem.startswith("cifar10_")
    if config.teacher.checkpoint in real:
        builder.audit(config, builder.build_frozen_teacher(config))


@pytest.mark.real_data
@needs_data
def test_the_real_data_that_builds_name_are_there() -> None:
    check_each([path for path in BUILDS if "smoke" not in path.parts], check_data_of_a_build)


def check_data_of_a_build(path: Path) -> None:
    config = build_of(path)
    paths = [getattr(one, "path", None) for one in (config.dataset, inner_of(config.images))]
    assert real_ones([config.teacher.checkpoint, *paths]) or path.parent.name in ("table3", "table6")


def real_ones(paths: list[Any]) -> list[Path]:
    """Those below $RAYDFKD_DATA, all of which are files."""
    found = [Path(one) for one in paths if one is not None and DATA in Path(one).parents]
    assert [one for one in found if not one.is_file()] == []
    return found


def inner_of(images: object) -> object:
    return getattr(images, "dataset", None)


def test_teachers_recipes_are_read_and_their_networks_built() -> None:
    def check(path: Path) -> None:
        recipe = recipe_of(path)
        build_on_meta(recipe.model, recipe.num_classes, recipe.image_shape)
        assert recipe.dataset.split in ("train", "trainval")
        assert recipe.evaluation is not None
        assert recipe.evaluation.split == "test"
        assert recipe.initial_weights is None or recipe.initial_weights.is_absolute()

    check_each(RECIPES, check)


def test_teachers_recipes_read_back_equal(tmp_path: Path) -> None:
    def check(path: Path) -> None:
        recipe = recipe_of(path)
        (tmp_path / "config.yaml").write_text(dump_yaml(recipe))
        assert load_teacher_training(tmp_path / "config.yaml") == recipe

    check_each([*RECIPES, OF_THE_DEMO[1]], check)


def test_builds_of_data_sets_are_read_and_their_teachers_built() -> None:
    def check(path: Path) -> None:
        config = build_of(path)
        assert config.teacher.checkpoint is not None
        build_on_meta(config.teacher.model, config.task.num_classes, config.task.image_shape)

    check_each(BUILDS, check)


def test_sweeps_are_read_and_each_of_their_points_is_an_experiment() -> None:
    check_each(SWEEPS, check_sweep)


def check_sweep(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.points is not None
    assert len(sweep.points) == sweep.num_trials >= 4
    for point in sweep.points:
        build_rate_limiters(sweep.experiment_of(point))
    assert EXPERIMENTS / sweep.config.experiment.relative_to(EXPERIMENTS.resolve()) in RUNS


def test_what_is_wrong_with_files_is_said_of_each_by_its_name() -> None:
    def check(path: Path) -> None:
        assert "hidfd" not in path.parts, "no"

    with pytest.raises(AssertionError, match=r"(?s)^2 of 3 files\nhidfd/a: AssertionError: no.*\nhidfd/b: AssertionError: no"):
        check_each([EXPERIMENTS / name for name in ("hidfd/a.yaml", "c.yaml", "hidfd/b.yaml")], check)
    with pytest.raises(AssertionError, match="no such file"):
        check_each([], check)


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

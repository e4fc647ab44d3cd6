"""Every YAML file under experiments/ and every cell of a paper's table: it is read, and what it names can be built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from real_data import needs_data
from shipped import (
    BUILDS,
    CELLS,
    EXPERIMENTS,
    FILES,
    LOADERS,
    OF_PAPERS,
    OF_THE_DEMO,
    RECIPES,
    ROOT,
    RUNS,
    SWEEPS,
    Shipped,
    check_each,
    commands,
    one_of_each,
)

from raydfkd.data.catalogue import CATALOGUE
from raydfkd.data.kinds.named import NamedConfig, resolve
from raydfkd.models.catalog import build_classifier
from raydfkd.models.discriminators import build_discriminator
from raydfkd.models.discriminators.dcgan_discriminator import DCGANDiscriminator
from raydfkd.models.generators import build_conditional_generator, build_generator
from raydfkd.models.generators.dcgan_generator import DCGANGenerator
from raydfkd.models.generators.memory_networks import MemoryEncoder, NormalizedGenerator
from raydfkd.pipeline.dataset.config import load_dataset_build
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run.exchange_state import build_exchange, build_rate_limiters
from raydfkd.pipeline.sweep.config import load_sweep
from raydfkd.pipeline.teacher.config import load_teacher_training
from raydfkd.settings import Settings
from raydfkd.synthesis.deep_inversion import DeepInversionConfig
from raydfkd.synthesis.gans.degan import DeGANConfig
from raydfkd.synthesis.gans.hidfd import HiDFDConfig
from raydfkd.synthesis.predfkd import PreDFKDConfig
from raydfkd.synthesis.procedural.shaders.shader_catalog import family_names
from raydfkd.synthesis.procedural.synthesizer import ProceduralConfig
from raydfkd.testing.command import run_command

COUNTS = {
    "smoke": 10, "sweeps": 3, "teachers": 2,
    "cde/table1": 70, "cde/table2": 12, "cde/table3": 30, "cde/table4": 12, "cde/figure4": 10,
    "ssdkd/table1": 10, "ssdkd/table2": 10, "ssdkd/table3": 5, "ssdkd/table4": 24, "ssdkd/figure1": 6, "ssdkd/figure4": 15,
    "hidfd/table1": 110, "hidfd/table2": 32, "hidfd/table3": 8, "hidfd/figure2a": 5, "hidfd/figure2b": 5, "hidfd/figure2c": 5,
    "hidfd/figure2d": 2, "hidfd/figure_a3_q": 5, "hidfd/figure_a3_gamma": 5,
    "surrogate/table1": 132, "surrogate/table2": 24, "surrogate/table2_patient": 1, "surrogate/table3": 37,
    "surrogate/table4": 14, "surrogate/table5": 16, "surrogate/table6": 34, "surrogate/attacks": 12, "surrogate/table7": 11,
    "surrogate/figure2": 6,
    "laptop/cifar10": 5, "laptop/hidfd": 4, "laptop/surrogate": 13, "laptop/augmentation": 10, "laptop/builds": 8,
    "laptop/cde": 50, "laptop/digits": 19, "laptop/digits_hidfd": 8, "laptop/digits_build": 1,
    "laptop/camvid": 5, "teachers/teachers": 40,
    "baselines/ssdkd": 80, "baselines/hidfd": 72, "baselines/surrogate": 8,
}  # fmt: skip
"""How many files each folder ships and how many rows each table runs; change it with them."""

TRAINED_ON = {one.name.removeprefix("teachers/teachers/"): one for one in RECIPES}
"""The recipes of teachers by the name that experiments call their checkpoints by."""
ALL_CELLS = [Shipped(name, cell.kind, cell) for name, cell in CELLS.items()]
"""Those with the paper's figures only included."""


@cache
def build_on_meta(model: str, classes: int, shape: tuple[int, int, int]) -> None:
    """Builds the network without memory for its weights; those of timm only where it is installed."""
    if model.startswith("timm:") and find_spec("timm") is None:
        return
    with torch.device("meta"):
        build_classifier(model, classes, shape)


def test_as_many_files_and_rows_as_we_say() -> None:
    assert dict(Counter(one.name.rpartition("/")[0] for one in (*FILES, *OF_PAPERS))) == COUNTS


def test_runs_are_read_and_built() -> None:
    check_each([*RUNS, OF_THE_DEMO[0]], check_run)


def check_run(run: Shipped) -> None:
    config: ExperimentConfig = run.config
    assert config.evaluation is not None
    for model in (config.teacher.model, *(one.model for one in config.students.values() if one.model is not None)):
        build_on_meta(model, config.task.num_classes, config.task.image_shape)
    for source in config.sources.values():
        match source:
            case HiDFDConfig():
                channels, side, _ = config.task.image_shape
                shape = (channels, *(2 * (source.image_size or side,)))
                widths = (source.generator_channels, source.discriminator_channels)
                build_gan_on_meta(shape, config.task.num_classes, source.latent_dim, source.conditioning, *widths)
            case DeGANConfig():
                build_dcgan_on_meta(config.task.image_shape, source.latent_dim, source.base_channels)
            case ProceduralConfig():
                assert set(getattr(source.images, "families", None) or ()) <= set(family_names())
            case PreDFKDConfig():
                build_memory_on_meta(config.task.image_shape, source.latent_dim, source.base_channels)
            case DeepInversionConfig():
                pass  # it has no generator
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
def build_memory_on_meta(shape: tuple[int, int, int], latent_dim: int, channels: int) -> None:
    with torch.device("meta"):
        NormalizedGenerator(shape, latent_dim, channels, [0.5] * shape[0], [0.25] * shape[0], spectral=True)
        MemoryEncoder(shape, latent_dim, channels)


@cache
def build_gan_on_meta(shape: tuple[int, int, int], classes: int, latent_dim: int, conditioning: str, *channels: int) -> None:
    for_generator, for_discriminator = channels
    with torch.device("meta"):
        build_conditional_generator("residual", shape, classes, latent_dim, for_generator, conditioning)
        build_discriminator("residual", shape, classes, for_discriminator)


@cache
def build_dcgan_on_meta(shape: tuple[int, int, int], latent_dim: int, channels: int) -> None:
    with torch.device("meta"):
        made = DCGANGenerator(shape, latent_dim, channels)(torch.zeros(2, latent_dim))
        assert tuple(made.shape[1:]) == shape
        assert DCGANDiscriminator(shape, channels)(made).shape == (2,)


def test_everything_runs_again_from_what_it_writes(tmp_path: Path) -> None:
    def check(one: Shipped) -> None:
        (tmp_path / "config.yaml").write_text(dump_yaml(one.config))
        assert LOADERS[one.kind](tmp_path / "config.yaml") == one.config

    check_each([*RUNS, OF_THE_DEMO[0], *BUILDS, *RECIPES], check)


def test_everything_has_a_share_of_its_budget() -> None:
    """A thousandth of a run still fits together."""
    check_each([*RUNS, OF_THE_DEMO[0], *BUILDS, *RECIPES], lambda one: one.config.scaled(0.001))


def test_each_row_s_teacher_has_a_recipe_of_its_name() -> None:
    def check(one: Shipped) -> None:
        config = one.config
        recipe = TRAINED_ON[str(config.teacher.checkpoint)].config
        found = (recipe.model, recipe.num_classes, recipe.image_shape)
        assert found == (config.teacher.model, config.task.num_classes, config.task.image_shape)

    check_each([one for one in OF_PAPERS if one.kind != "teacher"], check)


def test_a_file_s_teacher_is_made_by_the_recipe_that_its_comment_names() -> None:
    def check(one: Shipped) -> None:
        config = one.config
        recipe = config.teacher.checkpoint.with_suffix(".yaml")
        trained, task = load_teacher_training(recipe), config.task
        found = (trained.model, trained.num_classes, trained.image_shape)
        assert found == (config.teacher.model, task.num_classes, task.image_shape)
        command = commands(one.origin)[0]
        assert command[:2] == ["raydfkd", "train-teacher"]
        assert [ROOT / command[2], ROOT / command[4]] == [recipe, config.teacher.checkpoint]

    check_each([one for one in FILES if one.kind in ("experiment", "dataset")], check)


def test_the_teacher_that_ships_suits_the_rows_that_name_it() -> None:
    shipped = [path.stem for path in EXPERIMENTS.glob("teachers/*.safetensors") if path.stem in TRAINED_ON]
    theirs = [one for one in OF_PAPERS if one.kind == "experiment" and str(one.config.teacher.checkpoint) in shipped]

    def methods(one: Shipped) -> object:
        return one.config.teacher, {source.method for source in one.config.sources.values()}

    check_each(
        one_of_each(theirs, lambda one: repr(methods(one))),
        lambda one: builder.audit(one.config, builder.build_frozen_teacher(one.config)),
    )


def test_named_data_sets_are_in_the_catalogue_and_have_the_task_s_classes() -> None:
    def check(one: Shipped) -> None:
        named = list(named_in(one.config))
        assert all(dataset.split in CATALOGUE[dataset.name].splits for dataset in named)
        labelled, classes = [], None
        match one.kind:
            case "experiment":
                labelled, classes = [one.config.evaluation.dataset], one.config.task.num_classes
            case "teacher":
                labelled, classes = [one.config.dataset, one.config.evaluation], one.config.num_classes
        for dataset in labelled:
            assert not isinstance(dataset, NamedConfig) or CATALOGUE[dataset.name].num_classes == classes

    check_each(OF_PAPERS, check)


def named_in(value: Any) -> Iterator[NamedConfig]:
    """All named data sets that settings name."""
    if isinstance(value, NamedConfig):
        yield value
    elif isinstance(value, Settings):
        for name in type(value).model_fields:
            yield from named_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from named_in(inner)


def test_what_a_row_builds_first_is_a_row_of_data_sets() -> None:
    def check(one: Shipped) -> None:
        built = CELLS[f"{one.part}/{one.origin.build}"]
        assert (built.kind, built.runnable) == ("dataset", True)
        assert f"datasets/{one.origin.build}" in repr(one.config)

    check_each([one for one in OF_PAPERS if one.origin.build is not None], check)


def test_lists_of_figures_have_one_for_each_column() -> None:
    def check(one: Shipped) -> None:
        cell = one.origin
        for figures in (cell.table.paper, cell.table.found):
            for measure in figures:
                cell.figure(measure, figures)

    check_each(ALL_CELLS, check)


def test_figures_are_of_members_that_are_there() -> None:
    def check(one: Shipped) -> None:
        known = {member for axis in one.origin.paper.axes.values() for member in axis}
        for figures in (one.origin.table.paper, one.origin.table.found):
            assert set(keys_below(list(figures.values()))) <= known

    check_each(one_of_each(ALL_CELLS, lambda one: one.name.rpartition("/")[0]), check)


def keys_below(nodes: list[Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, dict):
            yield from node
            yield from keys_below(list(node.values()))


def test_the_commands_of_comments_name_files_and_settings_that_are_there() -> None:
    check_each([one for one in FILES if commands(one.origin)], check_commands)


def check_commands(one: Shipped) -> None:
    for _, *words in commands(one.origin):
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
def test_the_real_data_that_rows_for_two_cores_name_are_there() -> None:
    def check(one: Shipped) -> None:
        for dataset in named_in(one.config):
            resolve(dataset)

    check_each([one for one in OF_PAPERS if one.part == "laptop"], check)


def test_teachers_recipes_are_read_and_their_networks_built() -> None:
    def check(one: Shipped) -> None:
        recipe = one.config
        build_on_meta(recipe.model, recipe.num_classes, recipe.image_shape)
        assert recipe.dataset.split in ("train", "trainval")
        assert recipe.evaluation is not None
        assert recipe.evaluation.split == "test"
        assert recipe.initial_weights is None or recipe.initial_weights.is_absolute()

    check_each(RECIPES, check)


def test_builds_of_data_sets_are_read_and_their_teachers_built() -> None:
    def check(one: Shipped) -> None:
        config = one.config
        assert config.teacher.checkpoint is not None
        build_on_meta(config.teacher.model, config.task.num_classes, config.task.image_shape)

    check_each(BUILDS, check)


def test_sweeps_are_read_and_each_of_their_points_is_an_experiment() -> None:
    check_each(SWEEPS, check_sweep)


def check_sweep(one: Shipped) -> None:
    sweep = one.config
    assert sweep.points is not None
    assert len(sweep.points) == sweep.num_trials >= 4
    for point in sweep.points:
        build_rate_limiters(sweep.experiment_of(point))
    assert sweep.config.experiment in [run.origin for run in RUNS]


def test_what_is_wrong_is_said_of_each_by_its_name() -> None:
    def check(one: Shipped) -> None:
        assert one.part != "hidfd", "no"

    shipped = [Shipped(name, "experiment", EXPERIMENTS / name) for name in ("hidfd/a", "c", "hidfd/b")]
    with pytest.raises(AssertionError, match=r"(?s)^2 of 3\nhidfd/a: AssertionError: no.*\nhidfd/b: AssertionError: no"):
        check_each(shipped, check)
    with pytest.raises(AssertionError, match="nothing to check"):
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

"""The first steps of the runs and builds that ship, on stand-in images: once a kind with small networks, and (slow) once with
each pair of networks at its full size."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shipped import BUILDS, RUNS, Shipped, check_each, kind_of, one_of_each, without_checkpoint

from raydfkd.data.datasets import load_unlabelled
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.pipeline.dataset.build import DatasetBuild, execute_here
from raydfkd.pipeline.dataset.folder import BuildFolder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.execute import execute
from raydfkd.run_dir import RunDir

pytestmark = pytest.mark.e2e

KINDS = one_of_each(RUNS, lambda run: kind_of(run.config))
KINDS_OF_BUILDS = one_of_each(BUILDS, lambda build: kind_of(build.config))

ONE_THREAD = "resources={num_cpus: 1, num_threads: 1}"
SHORT = ["runtime.runner=local", "replay.synthetic.capacity=8", "replay.synthetic.max_draws=null", "evaluation=null"]
INVERSION = ["base_channels=4", "num_generators=1", "steps_per_batch=1"]
TINY = {
    "fast": INVERSION,
    "ssdkd": INVERSION,
    "deep_inversion": ["num_generators=1", "steps_per_batch=1"],
    "cmi": INVERSION,
    **{key: [*INVERSION, "generator_batch_size=8"] for key in ("dafl", "dfad", "dfq", "zskt")},
    "predfkd": [*INVERSION, "generator_batch_size=16", "memory_steps_per_batch=1", "memory_share=0"],
    "hidfd": ["gan_batch_size=2", "pretrain_steps=1", "generator_channels=1", "discriminator_channels=1"],
    "procedural": ["max_tries=1"],
}
"""What makes a source of each method a matter of seconds; 8 images are made of each."""


def students_of(config: ExperimentConfig, *settings: str) -> list[str]:
    return [f"students.{name}.{setting}" for name in config.students for setting in settings]


SMALL = 16
"""Side of the images that small networks see, in pixels."""


def is_small(config: ExperimentConfig) -> bool:
    return max(config.task.image_shape[1:]) <= SMALL


def with_small_networks(config: ExperimentConfig) -> list[str]:
    """Overrides by which small networks and images stand in; those of the runs on digits are small."""
    if is_small(config):
        return []
    grafted = any(student.few_shot is not None and student.few_shot.kind == "netgraft" for student in config.students.values())
    small = "small_unet_4" if config.task.positions else "small_cnn_8"
    models = [f"teacher.model={'vgg8_bn' if grafted else small}"]  # grafts are for VGG networks
    models += [f"students.{name}.model={small}" for name, student in config.students.items() if student.pruned is None]
    layers = [f"sources.{name}.instance_layers=null" for name, source in config.sources.items() if source.method == "cmi"]
    return [f"task.image_shape=[{config.task.image_shape[0]}, {SMALL}, {SMALL}]", *models, *layers]


def first_steps(run: Shipped, folder: Path, batch_size: int, networks: list[str]) -> None:
    """A batch or two of images and two steps of the student, with a teacher of random weights in this process."""
    whole: ExperimentConfig = run.config
    source, made = next(iter(whole.sources), None), 0 if not whole.sources else 2 * batch_size
    method = "collected" if source is None else whole.sources[source].method
    batches = "warmup_batches: 1" if source == "inversion" else f"warmup_batches: {made // batch_size}, batches_per_round: 0"
    short = [
        f"schedule={{mode: lockstep, rounds: 1, student_steps_per_round: 2, {batches}}}",
        *students_of(whole, f"batch_size={batch_size}", "optimizer.warmup_steps=1", ONE_THREAD),
    ]
    for name, student in whole.students.items():
        if student.few_shot is not None and student.few_shot.kind == "netgraft":
            epochs = ("first_block_epochs", "block_epochs", "network_epochs")
            short += [f"students.{name}.few_shot.{setting}=1" for setting in epochs]
    if source is not None:
        short += [f"sources.{source}.{setting}" for setting in (f"batch_size={batch_size}", ONE_THREAD, *TINY[method])]
        short += rendered_small(whole, source)
    if whole.collected is not None:
        short += of_stand_in_images(whole, folder)
    config = run.load([*without_checkpoint(whole), *SHORT, *short, *networks])
    assert config.student.augmentation == whole.student.augmentation
    result = execute(config, RunDir.create(folder / "run"), resume=False, watcher=None, run_ray=no_ray)
    assert result["method"] == method
    assert (result["student_steps"], result["images_synthesized"]) == (2, made)


def rendered_small(config: ExperimentConfig, source: str) -> list[str]:
    """Overrides that render little: crops are those of digits, an attack has room in a batch of four."""
    images = getattr(config.sources[source], "images", None)
    if images is None:
        return []
    small = [f"sources.{source}.boundary_attack={{share: 1, num_steps: 2}}"] if config.sources[source].boundary_attack else []
    match images.kind:
        case "crops":
            small.append(f"sources.{source}.images.dataset={{kind: digits, split: train, max_images: 4}}")
        case "shaders":
            small.append(f"sources.{source}.images.images_per_family=4")
    return small


def of_stand_in_images(config: ExperimentConfig, folder: Path) -> list[str]:
    """Overrides by which images of noise, of the task's shape, stand in for the collected ones: 8, or 40 to choose 8 from.

    Where each class needs images of its own, two of each of scikit-learn's digits.
    """
    if config.collected.labels == "dataset":
        digits = "{kind: digits, split: train, convert: true, max_images: 200}"
        digits = f"{{dataset: {digits}, labels: dataset, num_images: 20, balanced: true}}"
        return [f"collected={digits}", "replay.pinned.capacity=20", "task.num_classes=10"]
    settings = config.collected.model_dump(mode="json", include={"balanced", "imbalance", "num_images"})
    number = 8 if settings["num_images"] is None else 40
    channels, height, width = config.task.image_shape
    pixels = np.random.default_rng(0).integers(0, 256, (number, height, width, channels)).astype(np.uint8)
    (folder / "images").mkdir()
    for number, image in enumerate(pixels.squeeze(3) if channels == 1 else pixels):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
    settings["num_images"] = None if number == 8 else 8
    given = ", ".join(f"{name}: {'null' if value is None else str(value).lower()}" for name, value in settings.items())
    return [
        f"collected={{dataset: {{kind: image_folder, path: {folder / 'images'}, split: stand-in}}, {given}}}",
        "replay.pinned.capacity=8",
    ]


def no_ray(*arguments: object) -> None:
    raise AssertionError("the local runner was asked for")


@pytest.fixture(autouse=True)
def _not_for_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of megabytes of weights a run: nobody waits here until the disk has them."""
    monkeypatch.setattr("raydfkd.run_dir.os.fsync", lambda descriptor: None)


@pytest.fixture
def each_folder(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A new folder for each."""

    def folder_of(shipped: Shipped) -> Path:
        folder = tmp_path / shipped.name.replace("/", "-")
        folder.mkdir()
        return folder

    return folder_of


@pytest.mark.parametrize("part", sorted({run.part for run in KINDS}))
def test_the_first_steps_of_each_kind_of_run_with_small_networks(part: str, each_folder) -> None:  # type: ignore[no-untyped-def]
    def start(run: Shipped) -> None:
        first_steps(run, each_folder(run), 4, ["runtime.bf16=false", *with_small_networks(run.config)])

    check_each([run for run in KINDS if run.part == part], start)


def meetings(run: Shipped) -> set[object]:
    """What the full-size steps are tried for: each method with each teacher, each objective with each pair of networks."""
    config: ExperimentConfig = run.config
    teacher, shape = config.teacher.model, config.task.image_shape
    methods = {(source.method, teacher, shape) for source in config.sources.values()}
    return methods | {
        (student.objective.kind, teacher, config.model_of(name), shape) for name, student in config.students.items()
    }


def with_new_meetings(runs: list[Shipped]) -> list[Shipped]:
    """The runs in which something meets for the first time."""
    met: set[object] = set()
    chosen = []
    for run in runs:
        if not meetings(run) <= met:
            chosen.append(run)
            met |= meetings(run)
    return chosen


FULL_SIZE = with_new_meetings([run for run in RUNS if not is_small(run.config)])


@pytest.mark.slow
@pytest.mark.parametrize("run", FULL_SIZE, ids=lambda run: run.name)
def test_the_first_steps_with_a_run_s_own_networks(run: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydfkd.synthesis.feature_alignment.NUM_VIEWS", 64)
    if run.config.teacher.model.startswith("timm:") and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    first_steps(run, tmp_path, 2, ["runtime.bf16=true"])


def test_each_kind_of_data_set_is_built_small_from_stand_in_images(each_folder) -> None:  # type: ignore[no-untyped-def]
    check_each(KINDS_OF_BUILDS, lambda build: build_small(build, each_folder(build)))


def build_small(build: Shipped, folder: Path) -> None:
    """With a teacher of random weights in this process, two parts of eight images."""
    whole = build.config
    short = ["teacher.model=small_cnn_8", "selection.num_images=12", "runtime={runner: local, part_size: 8, bf16: false}"]
    if whole.dataset is not None:
        short.append("dataset={kind: digits, split: train, max_images: 16, convert: true}")
    if whole.images is not None:
        short += ["num_candidates=16", "drop_degenerate=false"]
        if whole.images.kind == "crops":
            short.append("images.dataset={kind: digits, split: train, max_images: 4}")
    if whole.boundary_attack is not None:
        short.append("boundary_attack.num_steps=2")
    config = build.load([*without_checkpoint(whole), *short])
    made = DatasetBuild(config).run(BuildFolder.begin(folder / "out", config), execute_here, lambda name, done, total: None)
    assert (made["num_candidates"], made["num_images"]) == (16, 12)
    assert len(load_unlabelled(ParquetConfig(path=str(folder / "out")), config.task.image_shape)) == 12


def test_kinds_differ_by_every_choice_and_by_no_size_or_name() -> None:
    run = next(run for run in RUNS if run.name == "surrogate/table1/cifar10_resnet18_cifar10")

    def kind(*overrides: str) -> str:
        return kind_of(run.load(overrides))

    same = [
        *("students.small.batch_size=7", "students.small.model=wrn_16_1", "task.num_classes=3"),
        *("collected.dataset={kind: digits}", "runtime.seed=5", "evaluation=null"),
    ]
    assert {kind(), *map(kind, same)} == {kind()}
    other = [
        *("students.small.augmentation.level=none", "students.small.objective={kind: dkd}", "collected.num_images=5"),
        *(
            "replay.synthetic.sampler.kind=prioritized",
            "students.small.optimizer.nesterov=true",
            "task.image_shape=[1, 32, 32]",
        ),
    ]
    assert len({kind(), *map(kind, other)}) == 1 + len(other)

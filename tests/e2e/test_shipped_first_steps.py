"""The first steps of the runs and builds under experiments/: each kind is started, most on stand-in images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shipped import BUILDS, EXPERIMENTS, FILES, RUNS, name_of, without_checkpoint

from raydfkd.data.datasets import load_unlabelled
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.pipeline.dataset.build import DatasetBuild, execute_here
from raydfkd.pipeline.dataset.config import load_dataset_build
from raydfkd.pipeline.dataset.folder import BuildFolder
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.run.execute import execute
from raydfkd.run_dir import RunDir
from raydfkd.synthesis.hidfd import HiDFDConfig
from raydfkd.synthesis.procedural.synthesizer import ProceduralConfig

SHORT = [
    "runtime.runner=local",
    "runtime.bf16=false",
    "students.small.batch_size=4",
    "students.small.optimizer.warmup_steps=1",
    "replay.synthetic.capacity=8",
    "evaluation=null",
]
TINY = {
    "inversion": [
        "schedule={mode: lockstep, warmup_batches: 1, rounds: 1, student_steps_per_round: 2}",
        "sources.inversion.batch_size=4",
        "sources.inversion.base_channels=4",
        "sources.inversion.num_generators=1",
        "sources.inversion.steps_per_batch=1",
    ],
    "gan": [
        "schedule={mode: lockstep, warmup_batches: 2, rounds: 1, student_steps_per_round: 2, batches_per_round: 0}",
        "sources.gan.batch_size=4",
        "sources.gan.gan_batch_size=2",
        "sources.gan.pretrain_steps=1",
        "sources.gan.generator_channels=1",
        "sources.gan.discriminator_channels=1",
    ],
    "render": [
        "schedule={mode: lockstep, warmup_batches: 2, rounds: 1, student_steps_per_round: 2, batches_per_round: 0}",
        "sources.render.batch_size=4",
        "sources.render.max_tries=1",
    ],
    None: ["schedule={mode: lockstep, warmup_batches: 0, rounds: 1, student_steps_per_round: 2, batches_per_round: 0}"],
}
"""Overrides that make a run a matter of seconds, besides ``SHORT``, by its source."""

HIDFD = [path for path in RUNS if path.relative_to(EXPERIMENTS).parts[0] == "hidfd"]
SURROGATE = [path for path in RUNS if path.relative_to(EXPERIMENTS).parts[0] == "surrogate"]
DISTINCT = [p for p in HIDFD if not p.stem.endswith("rho10") and ("table2" not in p.parts or "cifar10_" in p.stem)]
"""HiDFD's recipes without those that differ from another in the number of images or classes alone."""

ON_CIFAR10, ON_AIRCRAFT = "cifar10_resnet50_resnet18_", "fgvc_aircraft_resnet50_resnet18_"

STARTED_OF_A_TABLE = {
    "table1": [
        *(ON_CIFAR10 + images for images in ("cifar10", "food101", "fgvc_aircraft", "shaders", "leaves", "noise")),
        *(ON_AIRCRAFT + images for images in ("fgvc_aircraft", "shaders")),
        *("tiny_imagenet_resnet50_resnet18_" + images for images in ("tiny_imagenet", "shaders")),
    ],
    "table2": [f"cifar10_convnext_t_resnet18_{images}" for images in ("cifar10", "shaders")],
    "table3": [
        *(f"cifar10_resnet50_{images}" for images in ("cifar10", "shaders", "leaves", "noise")),
        "eurosat_resnet50_shaders",
    ],
    "table6": ["cifar10_attack_build", *(f"cifar10_{images}_attack" for images in ("cifar10", "noise", "shaders"))],
    "table7": [f"cifar10_resnet34_resnet18_{images}" for images in ("cifar10", "camvid", "photograph", "shaders")],
}
"""Tables of the surrogate study that repeat a recipe over data sets and networks, and which of their files are started."""


def differs(path: Path) -> bool:
    """Whether a file of the study is more than another one with other data, classes or networks."""
    return path.parent.name not in STARTED_OF_A_TABLE or path.stem in STARTED_OF_A_TABLE[path.parent.name]


STARTED = [
    "smoke/digits_ssdkd",
    "smoke/digits_fast_local",
    "smoke/digits_hidfd",
    "smoke/digits_procedural",
    "smoke/digits_two_students",
    "ssdkd/cifar10_wrn16_2_wrn16_1",
    "ssdkd/cifar10_wrn16_2_wrn16_1_ps",
    "ssdkd/cifar10_wrn16_2_wrn16_1_none",
    *(f"ssdkd/table4/cifar100_wrn40_2_wrn16_1_{row}" for row in ("difficulty", "diversity", "difficulty_diversity")),
]
"""Files whose first steps are tried: every method, and every row of Table 4."""


@pytest.fixture(autouse=True)
def _not_for_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of megabytes of weights a run: nobody waits here until the disk has them."""
    monkeypatch.setattr("raydfkd.run_dir.os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("path", [path for path in BUILDS if differs(path)], ids=name_of)
def test_a_data_set_is_built_small_from_stand_in_images(path: Path, tmp_path: Path) -> None:
    """With a teacher of random weights in this process, two parts of eight images."""
    whole = load_dataset_build(path)
    stand_in = []
    if whole.dataset is not None:
        stand_in = ["dataset={kind: digits, split: train, max_images: 16, convert: true}"]
    elif whole.images is not None and whole.images.kind == "crops":
        stand_in = ["images.dataset={kind: digits, split: train, max_images: 4}"]
    short = ["teacher.model=small_cnn_8", "selection.num_images=12", "runtime={runner: local, part_size: 8, bf16: false}"]
    if whole.images is not None:
        short += ["num_candidates=16", "drop_degenerate=false"]
    if whole.boundary_attack is not None:
        short.append("boundary_attack.num_steps=2")
    config = load_dataset_build(path, [*without_checkpoint(whole), *short, *stand_in])
    told = DatasetBuild(config).run(BuildFolder.begin(tmp_path / "out", config), execute_here, lambda name, done, total: None)
    assert (told["num_candidates"], told["num_images"]) == (16, 12)
    assert len(load_unlabelled(ParquetConfig(path=str(tmp_path / "out")), config.task.image_shape)) == 12


@pytest.mark.parametrize("name", STARTED)
def test_the_first_steps_of_a_run(name: str, tmp_path: Path) -> None:
    path = EXPERIMENTS / f"{name}.yaml"
    small = [] if "smoke" in name else ["teacher.model=small_cnn_8", "students.small.model=small_cnn_8"]  # others take minutes
    whole = load_experiment(path)
    source = next(iter(whole.sources), None)
    config = load_experiment(path, [*without_checkpoint(whole), *SHORT, *TINY[source], *small])
    result = execute(config, RunDir.create(tmp_path / "run"), resume=False, watcher=None, run_ray=no_ray)
    assert result["method"] == (config.sources[source].method if source else "collected")
    assert result["student_steps"] == 2
    assert result["images_synthesized"] == (8 if source else 0)


@pytest.mark.parametrize("path", DISTINCT, ids=name_of)
def test_the_first_steps_of_hidfd_s_recipes_with_their_own_networks_on_stand_in_images(path: Path, tmp_path: Path) -> None:
    whole = load_experiment(path)
    _, height, width = whole.task.image_shape
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    stand_in = [
        f"collected={{dataset: {{kind: image_folder, path: {tmp_path / 'images'}, split: stand-in}}}}",
        "replay.pinned.capacity=4",
    ]
    source = next(iter(whole.sources), None)
    few = ["runtime.bf16=true", "students.small.batch_size=2", *([f"sources.{source}.batch_size=2"] if source else [])]
    config = load_experiment(path, [*without_checkpoint(whole), *SHORT, *TINY[source], *stand_in, *few])
    result = execute(config, RunDir.create(tmp_path / "run"), resume=False, watcher=None, run_ray=no_ray)
    assert (result["student_steps"], result["images_synthesized"]) == (2, 4 if source else 0)


@pytest.mark.parametrize("path", [path for path in SURROGATE if differs(path)], ids=name_of)
def test_the_first_steps_of_the_surrogate_studys_recipes_on_stand_in_images(path: Path, tmp_path: Path) -> None:
    """With small networks: the study's own are HiDFD's, which are started above, or take minutes (ResNet-50)."""
    whole = load_experiment(path)
    source = next(iter(whole.sources), None)
    stand_in = [*STAND_IN_NETWORKS, *(of_collected() if source is None else of_rendered(whole.sources[source]))]
    config = load_experiment(path, [*without_checkpoint(whole), *SHORT, *TINY[source], *stand_in])
    result = execute(config, RunDir.create(tmp_path / "run"), resume=False, watcher=None, run_ray=no_ray)
    assert (result["student_steps"], result["images_synthesized"]) == (2, 8 if source else 0)
    assert config.student.augmentation == whole.student.augmentation


STAND_IN_NETWORKS = ["teacher.model=small_cnn_8", "students.small.model=small_cnn_8"]


def of_collected() -> list[str]:
    """Overrides by which digits stand in for collected images."""
    dataset = "{kind: digits, split: train, max_images: 40, convert: true}"
    return [f"collected.dataset={dataset}", "replay.pinned.capacity=8", "collected.num_images=8"]


def of_rendered(source: ProceduralConfig) -> list[str]:
    """Overrides that render small: crops are those of digits, an attack has room in a batch of four."""
    small = ["sources.render.boundary_attack={share: 1, num_steps: 2}"] if source.boundary_attack is not None else []
    match source.images.kind:
        case "crops":
            small.append("sources.render.images.dataset={kind: digits, split: train, max_images: 4}")
        case "shaders":
            small.append("sources.render.images.images_per_family=4")
    return small


def no_ray(*arguments: object) -> None:
    raise AssertionError("the local runner was asked for")


def test_the_started_runs_cover_every_method_and_every_kind_of_modulation_and_replay() -> None:
    def kinds(paths: list[Path]) -> set[tuple[object, ...]]:
        found = set()
        for config in map(load_experiment, paths):
            for source in config.sources.values():
                if isinstance(source, HiDFDConfig):
                    continue  # all of these are started
                switches = [getattr(source, switch, None) for switch in ("diversity", "difficulty")]
                found.add((source.method, *switches, config.replay.synthetic.sampler.kind))
        return found

    assert kinds(RUNS) == kinds([EXPERIMENTS / f"{name}.yaml" for name in STARTED])


def test_the_started_recipes_of_the_surrogate_study_cover_all_that_it_varies() -> None:
    def varied(paths: list[Path]) -> set[tuple[object, ...]]:
        found: set[tuple[object, ...]] = set()
        for config in map(load_experiment, paths):
            student, collected = config.student, config.collected
            found |= {("shape", *config.task.image_shape), ("augmentation", student.augmentation, student.crop_padding)}
            found.add(("objective", student.objective))
            if collected is not None:
                found.add(("chosen", collected.balanced, collected.imbalance, collected.num_images is None))
            for source in config.sources.values():
                found.add(("rendered", source.images.kind, source.boundary_attack is None, source.class_balanced))
        return found

    assert {stem for stems in STARTED_OF_A_TABLE.values() for stem in stems} <= {path.stem for path in FILES}
    assert varied(SURROGATE) == varied([path for path in SURROGATE if differs(path)])

"""Building data sets without Ray: what is chosen and written, that a seed repeats it, kills, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_rig import NUM_CLASSES, build, encoded, files_of, images_of, noise, save_teacher, settings, write_images
from PIL import Image

from raydfkd.data.selection import select_balanced
from raydfkd.errors import ConfigError, DataError, RunDirError
from raydfkd.pipeline.dataset.build import DatasetBuild, execute_here
from raydfkd.pipeline.dataset.config import DatasetBuildConfig, load_dataset_build
from raydfkd.pipeline.dataset.folder import BuildFolder
from raydfkd.pipeline.dataset.parts import Pass
from raydfkd.pipeline.dataset.reading import Columns, spans
from raydfkd.pipeline.experiment.builder import build_frozen_teacher
from raydfkd.seeds import derive_seed

NUM_IMAGES = 33


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    save_teacher(folder / "teacher.safetensors")
    write_images(folder / "images.parquet", noise(NUM_IMAGES), broken=(5, 12))
    return folder


def judged(config: DatasetBuildConfig, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and confidence of pictures [N,8,8], by the teacher itself."""
    with torch.no_grad():
        probabilities = build_frozen_teacher(config)(torch.from_numpy(pictures)[:, None].float() / 255).softmax(1)
    confidence, classes = probabilities.max(1)
    return classes.numpy(), confidence.numpy()


def test_what_is_written_is_the_selection_of_what_the_teacher_sees(folder: Path, tmp_path: Path) -> None:
    config = settings(folder)
    told = build(config, tmp_path / "out")
    pictures = noise(NUM_IMAGES)
    classes, confidences = judged(config, pictures)
    there = np.setdiff1d(np.arange(NUM_IMAGES), [5, 12])
    chosen = there[select_balanced(classes[there], NUM_CLASSES, 24, derive_seed(0, "selection"))]
    batches = images_of(tmp_path / "out")
    assert [len(batch) for batch in batches] == [9, 9, 6]
    assert np.array_equal(np.concatenate([batch.images[:, 0] for batch in batches]), pictures[chosen])
    assert np.array_equal(np.concatenate([batch.teacher_class for batch in batches]), classes[chosen])
    assert np.concatenate([b.teacher_confidence for b in batches]) == pytest.approx(confidences[chosen], abs=1e-5)
    assert {batch.source for batch in batches} == {"surrogate"}
    assert told["class_counts"] == np.bincount(classes[chosen], minlength=NUM_CLASSES).tolist()
    assert told["distinct_class_counts"] == np.bincount(classes[np.unique(chosen)], minlength=NUM_CLASSES).tolist()
    assert told["candidate_class_counts"] == np.bincount(classes[there], minlength=NUM_CLASSES).tolist()
    assert (told["num_skipped"], len(told["skipped"]), told["state"]) == (2, 2, "finished")
    assert "image 5 of" in told["skipped"][0]
    assert not (tmp_path / "out" / "work").exists()


def test_balanced_classes_have_equal_parts_and_unbalanced_ones_are_a_subset(folder: Path, tmp_path: Path) -> None:
    counts = np.array(build(settings(folder), tmp_path / "even")["class_counts"])
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 1
    told = build(settings(folder, selection={"num_images": 20, "balanced": False}), tmp_path / "plain")
    assert told["num_images"] == told["num_distinct_candidates"] == 20
    whole = build(settings(folder, selection={"num_images": 100, "keep_small": True}), tmp_path / "whole")
    assert whole["class_counts"] == whole["candidate_class_counts"]


def test_a_seed_repeats_it_byte_for_byte_and_another_does_not(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        build(settings(folder, runtime={**RUNTIME, "seed": seed}), tmp_path / name)
    one, two, three = (files_of(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one != three


RUNTIME = {"runner": "local", "part_size": 10, "batch_size": 4, "images_per_file": 9, "bf16": False, "device": "cpu"}
SOURCES: dict[str, dict[str, Any]] = {
    "read": {},
    "attacked": {"boundary_attack": {"num_steps": 30, "keep_originals": True}},
    "rendered": {"dataset": None, "images": {"kind": "spectral"}, "num_candidates": 33},
    "rendered_attacked": {
        "dataset": None,
        "images": {"kind": "spectral"},
        "num_candidates": 33,
        "boundary_attack": {"num_steps": 30},
    },
}


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("sections", SOURCES.values(), ids=list(SOURCES))
def test_killed_anywhere_it_goes_on_to_the_same_end_and_does_nothing_twice(
    folder: Path, tmp_path: Path, sections: dict[str, Any]
) -> None:
    config = settings(folder, **sections)
    build(config, tmp_path / "whole")
    out, done, tries = tmp_path / "killed", [], 0

    def one_part(config: DatasetBuildConfig, work: Pass) -> Iterator[tuple[int, Columns]]:
        """Ends a session after each part."""
        for number, columns in execute_here(config, Pass(work.name, work.parts[:1], work.read, work.worker)):
            done.append((work.name, number))
            yield number, columns
            raise _KilledError

    while True:
        tries += 1
        made = DatasetBuild(config)
        place = BuildFolder.begin(out, config) if tries == 1 else BuildFolder.reopen(out, config)
        try:
            made.run(place, one_part, lambda name, done, total: None)
            break
        except _KilledError:
            continue
    assert files_of(out) == files_of(tmp_path / "whole")
    assert len(done) == len(set(done)) == tries - 1


def test_rendered_candidates_are_filtered_and_counted(folder: Path, tmp_path: Path) -> None:
    # Crops of flat pictures are constant.
    (tmp_path / "flat").mkdir()
    for i, value in enumerate((10, 200)):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / "flat" / f"{i}.png")
    flat = {"kind": "crops", "dataset": {"kind": "image_folder", "path": str(tmp_path / "flat")}}
    with pytest.raises(DataError, match=r"all 20 rendered images are constant"):
        build(settings(folder, dataset=None, images=flat, num_candidates=20), tmp_path / "none")
    told = build(settings(folder, dataset=None, images=flat, num_candidates=20, drop_degenerate=False), tmp_path / "all")
    assert (told["dropped"], told["num_images"]) == ({}, 24)


class _FewPictures:
    """A source that draws each candidate among ten pictures, so that there are duplicates in a batch and between parts."""

    def render(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.from_numpy(noise(10)[:, None])[torch.randint(10, (count,), generator=generator)].float() / 255


def test_duplicates_are_dropped_wherever_they_are(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydfkd.synthesis.procedural.image_kinds.build_source", lambda *_: _FewPictures())

    def last_part_first(config: DatasetBuildConfig, work: Pass) -> Iterator[tuple[int, Columns]]:
        return execute_here(config, Pass(work.name, work.parts[::-1], work.read, work.worker))

    config = settings(folder, dataset=None, images={"kind": "noise"}, num_candidates=NUM_IMAGES)
    told = build(config, tmp_path / "out")
    pictures = {picture.tobytes() for batch in images_of(tmp_path / "out") for picture in batch.images}
    usable = sum(told["candidate_class_counts"])
    assert usable == len(pictures) == told["num_distinct_candidates"] <= 10
    assert sum(told["dropped"].values()) == NUM_IMAGES - usable
    assert told["dropped"]["duplicate"] > 10
    again = build(config, tmp_path / "backwards", last_part_first)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "backwards")
    assert again["dropped"] == told["dropped"]
    unfiltered = build(config.model_copy(update={"drop_degenerate": False}), tmp_path / "all")
    assert (unfiltered["dropped"], sum(unfiltered["candidate_class_counts"])) == ({}, NUM_IMAGES)


def test_the_attack_fills_classes_that_the_teacher_sees_rarely(folder: Path, tmp_path: Path) -> None:
    """Candidates of one class alone: the attack's images have the others, and the boundary is near them."""
    config = settings(folder)
    pictures = noise(200, seed=1)
    classes, _ = judged(config, pictures)
    common = np.bincount(classes).argmax()
    write_images(tmp_path / "one.parquet", pictures[classes == common][:30])
    one = {"kind": "parquet", "path": str(tmp_path / "one.parquet")}
    plain = build(settings(folder, dataset=one), tmp_path / "plain")
    assert np.count_nonzero(plain["class_counts"]) == 1
    told = build(settings(folder, dataset=one, boundary_attack={"num_steps": 50}), tmp_path / "attacked")
    assert np.count_nonzero(told["class_counts"]) > 1
    assert told["class_entropy"] > 0.5 > plain["class_entropy"]
    assert told["num_attacked_images"] > 0
    assert told["num_images"] == 24
    batches = images_of(tmp_path / "attacked")
    attacked = np.concatenate([batch.targets for batch in batches]) >= 0
    stored, confidence = judged(config, np.concatenate([batch.images[:, 0] for batch in batches]))
    assert stored.tolist() == np.concatenate([batch.teacher_class for batch in batches]).tolist()
    assert attacked.sum() == told["num_attacked_images"]
    assert (confidence[attacked] < 0.9).any()
    assert told["num_attacked_images"] == told["num_images"], "the attack's images alone"
    kept = build(settings(folder, dataset=one, boundary_attack={"keep_originals": True}), tmp_path / "kept")
    assert 0 < kept["num_attacked_images"] < kept["num_images"]
    impossible = settings(folder, dataset=one, boundary_attack={"num_steps": 1, "step_size": 1e-6})
    with pytest.raises(DataError, match="found no pair in 1 steps: raise"):
        build(impossible, tmp_path / "none")


def test_copies_of_candidates_and_of_the_attack_s_images_are_told_apart(folder: Path, tmp_path: Path) -> None:
    told = build(settings(folder, selection={"num_images": 300}, boundary_attack={"num_steps": 30}), tmp_path / "out")
    batches = images_of(tmp_path / "out")
    _, first = np.unique(np.concatenate([batch.images for batch in batches]), axis=0, return_index=True)
    classes = np.concatenate([batch.teacher_class for batch in batches])
    assert told["class_counts"] == np.bincount(classes, minlength=NUM_CLASSES).tolist()
    assert told["distinct_class_counts"] == np.bincount(classes[first], minlength=NUM_CLASSES).tolist()
    assert 0 < len(first) < 300


def test_a_folder_of_files_gives_the_same_as_parquet(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "files" / "below").mkdir(parents=True)
    for i, picture in enumerate(noise(NUM_IMAGES)):
        content = encoded(picture)
        name = tmp_path / "files" / ("below" if i % 2 else "") / f"{i:03d}.png"
        name.write_bytes(content[:40] if i in (5, 12) else content)
    told = build(settings(folder, dataset={"kind": "image_folder", "path": str(tmp_path / "files")}), tmp_path / "out")
    other = build(settings(folder), tmp_path / "parquet")
    assert told["candidate_class_counts"] == other["candidate_class_counts"]
    assert [name.rsplit("/", 1)[1][:7] for name in told["skipped"]] == ["012.png", "005.png"]  # in the order of the paths


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dataset": {"kind": "parquet", "path": "{tmp}/none.parquet"}}, "none.parquet does not exist"),
        ({"dataset": {"kind": "image_folder", "path": "{tmp}/nowhere"}}, "nowhere does not exist"),
        ({"dataset": {"kind": "parquet", "path": "{tmp}/empty.parquet"}}, "is empty: it holds no image"),
        ({"dataset": {"kind": "image_folder", "path": "{tmp}/colour"}}, "has 3 channels but the task's image_shape has 1"),
        ({"dataset": {"kind": "parquet", "path": "{tmp}/broken.parquet"}}, "none of the 3 images of .* could be read"),
    ],
)
def test_candidates_that_are_none_are_refused_in_one_sentence(
    folder: Path, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    write_images(tmp_path / "empty.parquet", noise(0))
    write_images(tmp_path / "broken.parquet", noise(3), broken=(0, 1, 2))
    (tmp_path / "colour").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colour" / "a.png")
    change["dataset"]["path"] = change["dataset"]["path"].format(tmp=tmp_path)
    with pytest.raises(DataError, match=expected):
        build(settings(folder, **change), tmp_path / "out")


def test_a_folder_that_is_there_is_left_alone(folder: Path, tmp_path: Path) -> None:
    config = settings(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunDirError, match="is not empty: choose another --out"):
        BuildFolder.begin(tmp_path / "mine", config)
    BuildFolder.begin(tmp_path / "begun", config)
    with pytest.raises(RunDirError, match="already holds an unfinished data set: resume it with --resume"):
        BuildFolder.begin(tmp_path / "begun", config)
    with pytest.raises(RunDirError, match=r"was started with other settings \(selection.num_images was 24 and is 25\)"):
        BuildFolder.reopen(tmp_path / "begun", settings(folder, selection={"num_images": 25}))
    BuildFolder.reopen(tmp_path / "begun", settings(folder, runtime={**RUNTIME, "wait_timeout_s": 5}))
    build(config, tmp_path / "done")
    with pytest.raises(RunDirError, match="is finished: there is nothing to resume"):
        BuildFolder.reopen(tmp_path / "done", config)
    with pytest.raises(RunDirError, match="no data set to resume"):
        BuildFolder.reopen(tmp_path / "mine", config)


def test_other_candidates_than_when_it_was_begun_are_refused(folder: Path, tmp_path: Path) -> None:
    config = settings(folder)
    place = BuildFolder.begin(tmp_path / "out", config)
    place.update(num_candidates=NUM_IMAGES + 1)
    with pytest.raises(DataError, match="there were 34 candidates and there are now 33"):
        DatasetBuild(config).run(place, execute_here, lambda name, done, total: None)


def test_another_teacher_than_when_it_was_begun_is_refused(folder: Path, tmp_path: Path) -> None:
    config = settings(folder)
    place = BuildFolder.begin(tmp_path / "out", config)
    place.update(teacher_sha256="0123456789abcdef")
    with pytest.raises(DataError, match=r"the teacher's sha256 was 0123456789ab and is now .*: use the same weights"):
        DatasetBuild(config).run(place, execute_here, lambda name, done, total: None)


def test_an_image_far_down_that_needs_conversion_does_not_cost_what_was_judged(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, picture in enumerate(noise(NUM_IMAGES)):
        content = encoded(np.stack([picture] * 3, axis=-1) if i == 25 else picture)
        (tmp_path / "images" / f"{i:02d}.png").write_bytes(content)
    dataset = {"kind": "image_folder", "path": str(tmp_path / "images")}
    config = settings(folder, dataset=dataset)
    with pytest.raises(DataError, match=r"25\.png has 3 channels but .*set convert: true"):
        build(config, tmp_path / "out")
    converting = settings(folder, dataset={**dataset, "convert": True})
    judged = []

    def watched(config: DatasetBuildConfig, work: Pass) -> Iterator[tuple[int, Columns]]:
        judged.extend([span.number for span in work.parts if work.name == "judging"])
        return execute_here(config, work)

    place = BuildFolder.reopen(tmp_path / "out", converting)
    DatasetBuild(converting).run(place, watched, lambda name, done, total: None)
    assert judged == [2, 3]
    build(converting, tmp_path / "whole")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert load_dataset_build(tmp_path / "out" / "build.yaml") == converting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("images: {kind: noise}\n", "give either dataset .* or images"),
        ("dataset: null\n", "give either dataset .* or images"),
        ("num_candidates: 5\n", "dataset does not use num_candidates"),
        ("selection: {balanced: false, keep_small: true}\n", "balanced false does not use keep_small"),
        ("runtime: {runner: local, num_teachers: 2}\n", "runner local does not use num_teachers"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    base = "task: {num_classes: 4, image_shape: [1, 8, 8]}\nteacher: {model: small_cnn_4}\ndataset: {kind: parquet, path: a}\n"
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "build.yaml").write_text("base: base.yaml\n" + text)
    with pytest.raises(ConfigError, match=expected):
        load_dataset_build(tmp_path / "build.yaml")


def test_paths_are_looked_for_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(
        "task: {num_classes: 4, image_shape: [1, 8, 8]}\nteacher: {model: small_cnn_4, checkpoint: t.safetensors}\n"
    )
    (tmp_path / "build.yaml").write_text("base: below/base.yaml\ndataset: {kind: parquet, path: images.parquet}\n")
    config = load_dataset_build(tmp_path / "build.yaml", ["selection.num_images=7"])
    assert config.teacher.checkpoint == tmp_path / "below" / "t.safetensors"
    assert config.dataset is not None
    assert config.dataset.path == str(tmp_path / "images.parquet")  # type: ignore[union-attr]
    assert (config.selection.num_images, config.num_rendered) == (7, 28)


def test_parts_cover_all_and_stay_small() -> None:
    cut = spans(23, 10)
    assert [(span.number, span.first, span.last) for span in cut] == [(0, 0, 10), (1, 10, 20), (2, 20, 23)]
    task = {"num_classes": 4, "image_shape": [3, 512, 512]}
    config = DatasetBuildConfig.model_validate({"task": task, "teacher": {"model": "x"}, "images": {"kind": "noise"}})
    assert config.part_size == 21  # of 768 KB each: 16 MB

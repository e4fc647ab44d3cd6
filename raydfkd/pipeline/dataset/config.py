"""Settings of ``raydfkd dataset build``. Imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from raydfkd.data.kinds import AnyDataset
from raydfkd.pipeline.experiment.config import TeacherConfig
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, merge, read_layers, validate
from raydfkd.resources import ResourcesConfig
from raydfkd.settings import Settings
from raydfkd.synthesis.boundary import AttackConfig
from raydfkd.synthesis.procedural.image_kinds import AnyImages
from raydfkd.tasks import AnyTask

PART_BYTES = 16 << 20
"""Maximum bytes of images in one part: far below the 128 MB at which Ray Data would split a block."""


class SelectionConfig(Settings):
    """Which candidates make up the data set."""

    num_images: int = Field(50_000, ge=1)
    """Total number of images, including repetitions; every class that the teacher predicts at all gets an equal share."""
    balanced: bool = True
    """Balance the classes, repeating the images of those that have too few; false: a random subset, not balanced."""
    keep_small: bool = False
    """Keep all candidates unchanged if there are no more than num_images (as the study uses natural data sets)."""

    @model_validator(mode="after")
    def _refuse_idle_settings(self) -> Self:
        if not self.balanced:
            self.refuse_idle("balanced false", "keep_small")
        return self


class BuildRuntimeConfig(Settings):
    """Where and how the data set is built."""

    runner: Literal["local", "ray"] = "ray"
    """local: everything in this process, without Ray; ray: Ray Data, with a pool of teachers."""
    seed: int = Field(0, ge=0)
    """All random numbers derive from it."""
    num_teachers: int = Field(1, ge=1)
    """ray: actors, each with a copy of the teacher, that classify, render and attack images."""
    resources: ResourcesConfig = ResourcesConfig()
    """ray: what each of them requests from the cluster."""
    batch_size: int = Field(256, ge=1)
    """Images in one forward pass of the teacher."""
    part_size: int = Field(2048, ge=1)
    """Images read and classified as one unit of work (fewer if they would take more than 16 MB)."""
    images_per_file: int = Field(5000, ge=1)
    """Images per Parquet file written."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU that Ray assigned (or, run locally, the first one), otherwise the CPU."""
    bf16: bool = True
    """Use bfloat16 autocast if the device supports it."""
    address: str | None = None
    """Ray cluster to join (e.g. auto, ray://host:10001); null: a local Ray, started and stopped by the build."""
    num_cpus: float | None = Field(None, gt=0)
    """ray, only if the build starts Ray: CPUs that Ray may use; null: all."""
    wait_timeout_s: float = Field(600.0, gt=0)
    """Longest wait for the next finished unit of work."""

    @model_validator(mode="after")
    def _refuse_idle_settings(self) -> Self:
        if self.runner == "local":
            self.refuse_idle("runner local", "num_teachers", "address", "num_cpus")
        return self


class DatasetBuildConfig(Settings):
    """A data set to distil on: the candidates, the teacher that classifies them, and how they are selected."""

    task: AnyTask
    """What the teacher predicts; without a kind, classification."""
    teacher: TeacherConfig
    """The network that classifies the candidates."""
    dataset: AnyDataset | None = None
    """Existing images as candidates; their labels, if any, are not read."""
    images: AnyImages | None = None
    """Candidates that are rendered, or cropped from pictures at random."""
    num_candidates: int | None = Field(None, ge=1)
    """images: number of candidates to make; null: four times selection.num_images."""
    drop_degenerate: bool = True
    """images: drop constant and two-colour ones, and duplicates of earlier ones."""
    selection: SelectionConfig = SelectionConfig()
    """Which candidates are selected."""
    boundary_attack: AttackConfig | None = None
    """Attack the selected images, and select again from the resulting images; null: no attack."""
    runtime: BuildRuntimeConfig = BuildRuntimeConfig()
    """Where and how the data set is built."""

    @model_validator(mode="after")
    def _one_kind_of_candidates(self) -> Self:
        if (self.dataset is None) == (self.images is None):
            raise ValueError("give either dataset (existing images) or images (images to render)")
        if self.dataset is not None:
            self.refuse_idle("dataset", "num_candidates", "drop_degenerate")
        if self.boundary_attack is not None and self.task.positions:
            raise ValueError(
                f"boundary_attack pushes images across the boundary between two classes, and task {self.task.kind} has a class "
                "for each pixel: leave it out"
            )
        return self

    @property
    def num_rendered(self) -> int:
        """Number of candidates to make, if they are made."""
        return 4 * self.selection.num_images if self.num_candidates is None else self.num_candidates

    @property
    def part_size(self) -> int:
        """Images of one part."""
        channels, height, width = self.task.image_shape
        return max(1, min(self.runtime.part_size, PART_BYTES // (channels * height * width)))


def load_dataset_build(path: str | Path, overrides: Iterable[str] = ()) -> DatasetBuildConfig:
    """Reads a build file as ``load_experiment`` reads an experiment: with its ``base`` files, overrides and absolute paths.

    Raises:
        ConfigError: anything is wrong with it, in one sentence.
    """
    path = Path(path)
    tree: dict[str, object] = {}
    for file, layer in read_layers(path):
        tree = merge(tree, anchor_paths(layer, DatasetBuildConfig, file.parent))
    tree = anchor_paths(apply_overrides(tree, list(overrides)), DatasetBuildConfig, path.parent)
    return validate(DatasetBuildConfig, tree, path)

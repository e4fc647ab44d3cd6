"""Settings of ``raydfkd condense``. Imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raydfkd.data.condensation import CONDENSERS, AnyCondenser
from raydfkd.data.kinds import AnyDataset
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, merge, read_layers, validate
from raydfkd.pipeline.teacher.config import NormalizationConfig
from raydfkd.resources import ResourcesConfig
from raydfkd.settings import InputPath, Settings

DEFAULT_METHOD = "dm"
"""The fastest."""


class CondenseRuntimeConfig(Settings):
    """Where the set is made."""

    runner: Literal["local", "ray"] = "local"
    """local: everything in this process, without Ray; ray: actors that share the classes (dm, dsa) or the experts (mtt)."""
    seed: int = Field(0, ge=0)
    """All random numbers derive from it; the result does not depend on the number of workers."""
    num_workers: int = Field(1, ge=1)
    """ray: actors, each with the real images."""
    resources: ResourcesConfig = ResourcesConfig()
    """ray: what each of them requests from the cluster."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU that Ray assigned (or, run locally, the first one), otherwise the CPU."""
    address: str | None = None
    """Ray cluster to join (e.g. auto, ray://host:10001); null: a local Ray, started and stopped by the command."""
    num_cpus: float | None = Field(None, gt=0)
    """ray, only if the command starts Ray: CPUs that Ray may use; null: all."""
    wait_timeout_s: float = Field(1800.0, gt=0)
    """ray: longest wait for a task."""
    checkpoint_period_s: float = Field(30.0, gt=0)
    """Seconds between savings of the state, from which the same command goes on."""

    @model_validator(mode="after")
    def _refuse_idle_settings(self) -> Self:
        if self.runner == "local":
            self.refuse_idle("runner local", "num_workers", "resources", "address", "num_cpus", "wait_timeout_s")
        return self


class CondenseConfig(Settings):
    """A condensed set: the labelled images it stands for, how many images a class, and how they are made."""

    dataset: AnyDataset
    """Labelled images to condense."""
    images_per_class: int = Field(ge=1)
    """Images to make of each class."""
    method: AnyCondenser = CONDENSERS.get(DEFAULT_METHOD).config(kind=DEFAULT_METHOD)
    """How; without a kind, dm."""
    num_classes: int | None = Field(None, ge=2)
    """Classes K; null: as many as the data set names."""
    image_shape: tuple[int, int, int] | None = None
    """[C, H, W] of the images to make; null: of the data set's first image."""
    network: str | None = None
    """Network whose features or gradients are matched; null: conv_net_3, and conv_net_4 from 64 pixels on, as published."""
    normalization: NormalizationConfig | Literal["auto"] = "auto"
    """Input normalisation; auto: mean and std per channel of the images."""
    start: Literal["real", "noise"] = "real"
    """What the images are in the beginning: real images drawn at random, or noise."""
    start_from: InputPath | None = None
    """Condensed set to go on from, in place of start; null: none."""
    runtime: CondenseRuntimeConfig = CondenseRuntimeConfig()
    """Where and how the set is made."""

    @field_validator("method", mode="before")
    @classmethod
    def _default_kind(cls, value: Any) -> Any:
        return {"kind": DEFAULT_METHOD, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.start_from is not None:
            self.refuse_idle("start_from", "start")
        return self

    @property
    def name(self) -> str:
        """What the set is called unless a user says otherwise."""
        words = getattr(self.dataset, "name", None) or Path(self.dataset.location.split(", ")[0]).stem
        return f"{words}_{self.method.kind}_{self.images_per_class}"


def load_condense(data: str, overrides: Iterable[str] = ()) -> CondenseConfig:
    """Settings from a file of them, or for a data set alone.

    Args:
        data: a YAML file with a ``dataset``, or whatever ``pipeline.dataset.inspection.dataset_of`` takes.
        overrides: ``a.b=c`` settings.

    Raises:
        ConfigError: anything is wrong with it, in one sentence.
    """
    from raydfkd.pipeline.dataset.inspection import dataset_of

    path = Path(data)
    tree: dict[str, Any] = {}
    layers = read_layers(path) if path.suffix in (".yaml", ".yml") else []
    for file, layer in layers:
        tree = merge(tree, anchor_paths(layer, CondenseConfig, file.parent) if "dataset" in layer else layer)
    if "dataset" not in tree:
        tree = {"dataset": dataset_of(path).model_dump(mode="json")}
    tree = anchor_paths(apply_overrides(tree, list(overrides)), CondenseConfig, Path())
    return validate(CondenseConfig, tree, data)

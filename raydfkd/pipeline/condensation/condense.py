"""``raydfkd condense``: from labelled images to a few that stand for them. Independent of Ray.

```
FOLDER/
  NAME.parquet          the condensed set (data/condensation/condensed_set.py), once finished
  NAME.png              its images, a row for each class
  .NAME.condensing/     meanwhile: settings.yaml, state.pt, and what a method keeps beside it
```
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from raydfkd.data.checksums import checksum_of, record_checksum
from raydfkd.data.condensation import CONDENSERS
from raydfkd.data.condensation.condensed_set import CondensedSet, load_condensed, save_condensed, to_bytes
from raydfkd.data.condensation.condenser import (
    Condenser,
    RealImages,
    Setup,
    Work,
    Worker,
    initial_images,
    require_network,
)
from raydfkd.data.datasets import ImageDataset, load_dataset
from raydfkd.data.kinds import open_source
from raydfkd.errors import CheckpointError, ConfigError, DataError, RunDirError
from raydfkd.ownership import owned
from raydfkd.pipeline.condensation.config import CondenseConfig, load_condense
from raydfkd.pipeline.condensation.measuring import Done, perform
from raydfkd.pipeline.experiment.builder import device_of
from raydfkd.pipeline.experiment.changes import described, differences
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run import stop_signals
from raydfkd.pipeline.run.recorder import describe_environment
from raydfkd.resources import use_threads
from raydfkd.run_dir import write_atomically

Tell = Callable[[str, int, int, dict[str, float]], None]
"""Receives what is counted, how much is done, the total, and figures."""


class Pool(Protocol):
    """Workers that do tasks."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    def __call__(self, tasks: list[Work]) -> list[Done]:
        """Does tasks that do not depend on each other."""
        ...


OpenPool = Callable[[CondenseConfig, "Material"], AbstractContextManager[Pool]]


@dataclass(frozen=True)
class Material:
    """The real images and what is to be made of them.

    Attributes:
        data: the labelled images.
        mean, std: their normalisation.
        setup: what is condensed.
    """

    data: ImageDataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    setup: Setup

    def worker(self, config: CondenseConfig, device: torch.device) -> Worker:
        """A worker of the method."""
        real = RealImages(self.data.images, self.data.labels, self.mean, self.std, device)
        return CONDENSERS.get(config.method.kind).worker(config.method, self.setup, real)


@dataclass(frozen=True)
class Estimate:
    """What condensing will take.

    Attributes:
        hours: wall time.
        peak_bytes: memory of each worker.
    """

    hours: float
    peak_bytes: float


@dataclass(frozen=True)
class Condensed:
    """A finished set.

    Attributes:
        path: its file.
        sheet: the picture of its images.
        found: the set.
    """

    path: Path
    sheet: Path
    found: CondensedSet


class LocalPool:
    """One worker in this process."""

    size = 1

    def __init__(self, config: CondenseConfig, material: Material) -> None:
        use_threads(None)
        self._device = device_of(config.runtime.device)
        self._worker = material.worker(config, self._device)

    def __call__(self, tasks: list[Work]) -> list[Done]:
        return [perform(self._worker, work, self._device) for work in tasks]

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def read_material(config: CondenseConfig) -> Material:
    """Reads the real images.

    Raises:
        DataError, ConfigError: they cannot be read, or do not fit the settings.
    """
    shape, num_classes = config.image_shape, config.num_classes
    if shape is None or num_classes is None:
        source = open_source(config.dataset)
        if num_classes is None:
            if source.classes is None:
                raise ConfigError(f"data set {config.dataset.location} does not name its classes: set num_classes")
            num_classes = len(source.classes)
        if shape is None:
            with source.opener(next(source.chunks).items[0]) as image:
                shape = (1 if image.mode == "L" else 3, image.height, image.width)
    data = load_dataset(config.dataset, shape, num_classes)
    if config.normalization == "auto":
        pixels = data.images.astype(np.float32) / 255
        mean, std = pixels.mean((0, 2, 3)).tolist(), np.maximum(pixels.std((0, 2, 3)), 1e-6).tolist()
    else:
        mean, std = config.normalization.mean, config.normalization.std
        if len(mean) != shape[0]:
            raise ConfigError(
                f"normalization has {len(mean)} channels and the images {shape[0]}: give one mean and std for each"
            )
    missing = np.flatnonzero(np.bincount(data.labels, minlength=num_classes) == 0)
    if len(missing):
        raise DataError(f"{data.source} has no image of class {missing[0]}: condensing needs some of every class")
    network = config.network or ("conv_net_3" if min(shape[1:]) < 64 else "conv_net_4")
    setup = Setup(num_classes, shape, config.images_per_class, network, config.runtime.seed)
    require_network(setup)
    return Material(data, tuple(mean), tuple(std), setup)


def condense(
    config: CondenseConfig,
    out: Path,
    open_pool: OpenPool = LocalPool,
    tell: Tell = lambda what, done, total, figures: None,
    announce: Callable[[Estimate], None] = lambda estimate: None,
) -> Condensed:
    """Makes a condensed set, or goes on with one that was begun with the same settings.

    Args:
        out: the file to write.
        open_pool: gives the workers.
        tell: told of progress.
        announce: gets what it will take, before it starts; not called where it goes on.

    Raises:
        RunDirError: ``out`` is there, or was begun with other settings.
        RaydfkdError: the images, the settings or the device are wrong.
    """
    if out.suffix != ".parquet":
        raise RunDirError(f"{out} cannot hold a condensed set: give a file name that ends in .parquet")
    advice = "wait until that process has made it, or choose another --out"
    with owned(out.parent, out.name, what=f"condensed set {out}", advice=advice):
        if out.exists():
            raise RunDirError(f"{out} is there already: choose another --name or --out")
        return _condense(config, out, open_pool, tell, announce)


def _condense(
    config: CondenseConfig, out: Path, open_pool: OpenPool, tell: Tell, announce: Callable[[Estimate], None]
) -> Condensed:
    material = read_material(config)
    work = _Folder(out.with_name(f".{out.stem}.condensing"))
    work.require_same(config)
    condenser = _condenser(config, material, work)
    spent_s, began = work.restore(condenser), time.monotonic()
    peak_bytes, figures = 0, dict[str, float]()
    with open_pool(config, material) as pool, stop_signals.deferred():
        work.begin(config)
        if condenser.progress[0] == 0 and spent_s == 0:
            announce(_estimate(condenser, pool))
        saved = began = time.monotonic()
        while tasks := condenser.tasks(pool.size):
            what = condenser.unit
            done = pool(tasks)
            peak_bytes = max(peak_bytes, *(one.peak_bytes for one in done))
            figures |= condenser.take([one.result for one in done])
            tell(what, *condenser.progress, figures)
            now = time.monotonic()
            if stop_signals.requested() or now - saved >= config.runtime.checkpoint_period_s:
                work.save(condenser, spent_s + now - began)
                saved = now
            stop_signals.interrupt_if_requested()
    seconds = spent_s + time.monotonic() - began
    about = {
        "seconds": round(seconds, 1),
        "peak_bytes": peak_bytes,
        "image_steps_per_s": round(_image_steps(condenser) / seconds, 2),
        **figures,
    }
    found = _finished(config, material, condenser, about)
    save_condensed(found, out)
    record_checksum(out, len(found))
    sheet = out.with_suffix(".png")
    write_atomically(sheet, contact_sheet(found.images, found.labels))
    shutil.rmtree(work.path, ignore_errors=True)
    return Condensed(out, sheet, found)


def _image_steps(condenser: Condenser) -> int:
    """How many images took a step, all steps counted."""
    return condenser.progress[1] * len(condenser.images)


def _condenser(config: CondenseConfig, material: Material, work: _Folder) -> Condenser:
    setup = material.setup
    if config.start_from is None:
        real = RealImages(material.data.images, material.data.labels, material.mean, material.std, torch.device("cpu"))
        images = initial_images(setup, real, config.start)
    else:
        images = _from_set(config.start_from, material)
    return CONDENSERS.get(config.method.kind).condenser(config.method, setup, images, work.path)


def _from_set(path: Path, material: Material) -> torch.Tensor:
    """Images of a condensed set in the order of their classes, normalised."""
    found, setup = load_condensed(path), material.setup
    counts = np.bincount(found.labels, minlength=setup.num_classes)
    if found.images.shape[1:] != tuple(setup.image_shape) or not (counts == setup.images_per_class).all():
        raise DataError(
            f"start_from {path} has images {list(found.images.shape[1:])}, {counts.min()} to {counts.max()} of each of "
            f"{len(counts)} classes, and {setup.images_per_class} of {list(setup.image_shape)} are to be made of each of "
            f"{setup.num_classes}: use a set that fits"
        )
    order = np.argsort(found.labels, kind="stable")
    real = RealImages(found.images[order], found.labels[order], material.mean, material.std, torch.device("cpu"))
    return real.take(torch.arange(len(found)))


def _estimate(condenser: Condenser, pool: Pool) -> Estimate:
    """From short tasks: the first of them warms up and is done once more."""
    trials = condenser.trials()
    pool([trials[0].work])
    seconds, peak_bytes = 0.0, 0.0
    for trial in trials:
        (done,) = pool([trial.work])
        seconds += trial.seconds * done.seconds / (pool.size if trial.spread else 1)
        peak_bytes += trial.bytes * done.peak_bytes
    return Estimate(max(seconds, 0.0) / 3600, peak_bytes)


def _finished(config: CondenseConfig, material: Material, condenser: Condenser, about: dict[str, Any]) -> CondensedSet:
    setup = material.setup
    images = to_bytes(condenser.images.numpy(), material.mean, material.std)
    provenance = {
        "settings": config.model_dump(mode="json"),
        "network": setup.network,
        "mean": material.mean,
        "std": material.std,
        "dataset": config.dataset.location,
        "dataset_sha256": checksum_of(config.dataset),
        **describe_environment(),
        **about,
    }
    return CondensedSet(images, setup.labels, material.data.classes, None, provenance)


class _Folder:
    """What is kept of an unfinished set."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def _settings(self) -> Path:
        return self.path / "settings.yaml"

    def require_same(self, config: CondenseConfig) -> None:
        """Raises RunDirError if the folder is there and was begun with other settings."""
        if not self._settings.exists():
            return
        changed = described(differences(_lasting(load_condense(str(self._settings))), _lasting(config)))
        if changed:
            raise RunDirError(
                f"{self.path} was begun with other settings ({', '.join(changed)}): use the same, remove it, or choose another "
                "--name"
            )

    def begin(self, config: CondenseConfig) -> None:
        """Makes the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self._settings, dump_yaml(config))

    def restore(self, condenser: Condenser) -> float:
        """Loads the state, if there is one; the seconds spent on it."""
        path = self.path / "state.pt"
        if not path.exists():
            return 0.0
        try:
            state = torch.load(path, weights_only=True)
            condenser.load_state_dict(state["condenser"])
        except (RuntimeError, EOFError, KeyError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): remove {self.path} and condense anew") from error
        return float(state["seconds"])

    def save(self, condenser: Condenser, seconds: float) -> None:
        from io import BytesIO

        buffer = BytesIO()
        torch.save({"condenser": condenser.state_dict(), "seconds": seconds}, buffer)
        write_atomically(self.path / "state.pt", buffer.getvalue())


def _lasting(config: CondenseConfig) -> dict[str, Any]:
    """Settings on which the result depends."""
    tree = config.model_dump(mode="json")
    tree["runtime"] = {"seed": tree["runtime"]["seed"]}
    return tree


def contact_sheet(images: np.ndarray, labels: np.ndarray, most: int = 50) -> bytes:
    """A PNG with a row for each class, of at most ``most`` images."""
    from io import BytesIO

    from PIL import Image

    rows = [images[labels == label][:most] for label in np.unique(labels)]
    channels, height, width = images.shape[1:]
    gap = 2
    sheet = np.full((len(rows) * (height + gap) - gap, max(map(len, rows)) * (width + gap) - gap, channels), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    buffer = BytesIO()
    scale = max(1, 32 // min(height, width))
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()

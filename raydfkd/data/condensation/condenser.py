"""What every condensation method is: its settings' base class, the contract of its two halves, and its registry entry.

A method is one file: a subclass of ``CondenserConfig``, a ``Condenser``, a worker, and a ``CondenserEntry`` that is named in
one line of ``__init__.py``. The condenser holds the images in the making and goes from round to round: it says what there is to
do, and takes what was done. Workers hold the real images and do it: a call each in this process, or actors on a cluster. What
they do does not depend on how many they are, because every random draw belongs to an iteration and a class, an expert or an
epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from raydfkd.augment.config import SIAMESE_OPERATIONS, SiameseOperation
from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError, DataError
from raydfkd.run_dir import write_atomically
from raydfkd.seeds import derive_seed
from raydfkd.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.augment import siamese
    from raydfkd.augment.siamese import SiameseDraw
    from raydfkd.models import catalog
    from raydfkd.models.classifiers import ImageShape
else:
    torch, catalog, siamese = deferred("torch"), deferred("raydfkd.models.catalog"), deferred("raydfkd.augment.siamese")


class CondenserConfig(Settings):
    """What all condensation methods have: how images start, move and are augmented."""

    kind: str
    """The method."""
    image_momentum: float = Field(0.5, ge=0, lt=1)
    """SGD momentum of the images."""
    real_batch_size: int = Field(256, ge=1)
    """Real images of a batch; of a class for dm and dsa."""
    augmentation: tuple[SiameseOperation, ...] = SIAMESE_OPERATIONS
    """Operations of the siamese augmentation, one of which is drawn each time; none for no augmentation."""


@dataclass(frozen=True)
class Setup:
    """What is condensed, and into how much.

    Attributes:
        num_classes: K.
        image_shape: (C, H, W).
        images_per_class: N.
        network: catalog name.
        seed: all draws derive from it.
    """

    num_classes: int
    image_shape: ImageShape
    images_per_class: int
    network: str
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """int64 [K*N]: the class of each condensed image; those of a class are neighbours."""
        return np.repeat(np.arange(self.num_classes), self.images_per_class)

    def rows(self, label: int) -> slice:
        """Where a class's images are."""
        return slice(label * self.images_per_class, (label + 1) * self.images_per_class)

    def generator(self, *names: object) -> torch.Generator:
        """A CPU generator for one purpose."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *names))

    def new_network(self, device: torch.device, *names: object) -> nn.Module:
        """A freshly drawn network; the same for the same names in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "network", *names))
            network = catalog.build_classifier(self.network, self.num_classes, self.image_shape)
        return network.to(device)


@dataclass(frozen=True)
class Work:
    """A task for a worker.

    Attributes:
        name: what is to be done, which the method's worker knows.
        given: tensors on the CPU and plain values.
    """

    name: str
    given: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A task that tells what condensing will take.

    Attributes:
        work: the task.
        seconds: of the whole, for each second of this task, with one worker.
        spread: whether more workers share this part.
        bytes: of the whole's peak, for each byte of this task's.
    """

    work: Work
    seconds: float
    spread: bool
    bytes: float


class RealImages:
    """Real images by class, on a device.

    Args:
        images: uint8 [N,C,H,W].
        labels: int64 [N].
        mean, std: [C], of pixel values in [0,1].
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, mean: Sequence[float], std: Sequence[float], device: torch.device
    ) -> None:
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.device = device
        self._rows = [torch.from_numpy(np.flatnonzero(labels == k)) for k in range(int(labels.max()) + 1)]
        self._mean, self._std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))

    def take(self, rows: Tensor) -> Tensor:
        """Normalised images float32 [n,C,H,W]."""
        return (self.images[rows.to(self.device)].float().div_(255) - self._mean) / self._std

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """``count`` different images of a class, normalised; all of them if there are fewer."""
        rows = self._rows[label]
        return self.take(rows[torch.randperm(len(rows), generator=generator)[:count]])

    def __len__(self) -> int:
        return len(self.images)


class Condenser(ABC):
    """A method at work, without the real images.

    Args:
        config: its settings.
        setup: what is condensed.
        images: to start from, normalised, float32 [K*N,C,H,W].
        folder: keeps what is too large for the state.

    Attributes:
        images: the condensed images so far, as the argument.
        unit: what ``progress`` counts.
    """

    unit = "iterations"

    def __init__(self, config: Any, setup: Setup, images: Tensor, folder: Path) -> None:
        self.config, self.setup, self.images, self.folder = config, setup, images, folder

    @property
    @abstractmethod
    def progress(self) -> tuple[int, int]:
        """How much is done, and how much there is to do."""

    @abstractmethod
    def tasks(self, num_workers: int) -> list[Work]:
        """What to do next; the tasks of a list do not depend on each other. Empty: it is finished."""

    @abstractmethod
    def take(self, results: list[Any]) -> dict[str, float]:
        """What the tasks gave, in their order; returns figures for people."""

    @abstractmethod
    def trials(self) -> list[Trial]:
        """Short tasks from whose time and memory those of the whole follow. They change nothing."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which ``load_state_dict`` goes on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Worker = Callable[[Work], Any]
"""Does tasks; holds the real images."""


@dataclass(frozen=True)
class CondenserEntry:
    """A condensation method, and all that the rest of the program asks about it.

    Attributes:
        config: its settings.
        title: for people.
        paper: where it is from.
        condenser: makes the half that holds the condensed images.
        worker: makes the half that holds the real ones, from settings, setup and images.
    """

    config: type[CondenserConfig]
    title: str
    paper: str
    condenser: Callable[[Any, Setup, Tensor, Path], Condenser]
    worker: Callable[[Any, Setup, RealImages], Worker]


def class_groups(num_classes: int, num_workers: int) -> list[list[int]]:
    """Classes dealt out to workers as evenly as possible; no empty group."""
    return [group for group in (list(range(k, num_classes, num_workers)) for k in range(num_workers)) if group]


def sgd_step(images: Tensor, gradient: Tensor, velocity: Tensor, lr: float, momentum: float) -> None:
    """PyTorch's SGD with momentum, in place."""
    velocity.mul_(momentum).add_(gradient)
    images.sub_(velocity, alpha=lr)


def augmented(config: CondenserConfig, setup: Setup, *names: object, count: int = 1) -> Callable[[Tensor], Tensor]:
    """The augmentation of one occasion: the same change for every batch that it is called with."""
    if not config.augmentation:
        return lambda images: images
    draw: SiameseDraw = siamese.draw_siamese(setup.generator("augmentation", *names), count, config.augmentation)
    return lambda images: siamese.siamese_augment(images, draw)


def initial_images(setup: Setup, real: RealImages, start: Literal["real", "noise"]) -> Tensor:
    """Images to start from, normalised, on the CPU: real ones drawn at random, or standard normal noise.

    Raises:
        DataError: a class has fewer real images than are to be made.
    """
    generator = setup.generator("initial images")
    if start == "noise":
        return torch.randn(len(setup.labels), *setup.image_shape, generator=generator)
    chosen = []
    for label in range(setup.num_classes):
        found = real.draw(label, setup.images_per_class, generator)
        if len(found) < setup.images_per_class:
            raise DataError(
                f"class {label} has {len(found)} images and images_per_class is {setup.images_per_class}: ask for fewer, or "
                "start=noise"
            )
        chosen.append(found.cpu())
    return torch.cat(chosen)


def require_network(setup: Setup) -> None:
    """Refuses a network in which an image's output depends on the other images of its batch.

    Raises:
        ConfigError: it has BatchNorm.
    """
    network = setup.new_network(torch.device("cpu"), "checked")
    if any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        raise ConfigError(
            f"network {setup.network!r} has BatchNorm, which mixes the images of a batch: condense with one without, such as "
            "conv_net_3"
        )


def last_map(network: nn.Module, images: Tensor) -> Tensor:
    """Features [B,F]: the last map, flattened."""
    features: Tensor = network.forward_maps(images)[-1].flatten(1)  # type: ignore[operator]
    return features


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of an epoch's batches, shuffled; the last one may be smaller."""
    yield from torch.randperm(count, generator=generator).split(size)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a ``.npy`` file atomically."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())

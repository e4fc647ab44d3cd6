"""Distribution Matching: synthetic images whose mean features under random networks are those of the real ones of their class.

"Dataset Condensation with Distribution Matching" (Zhao and Bilen, WACV 2023, arXiv 2110.04181). Each iteration draws a network,
which is not trained, and takes one SGD step on the images of every class with Eq. 4's loss; a real and a synthetic batch see
the same augmentation. Classes do not influence each other, so that workers need to meet only to show what they have.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from raydfkd.data.condensation.condenser import (
    Condenser,
    CondenserConfig,
    CondenserEntry,
    RealImages,
    Setup,
    Trial,
    Work,
    augmented,
    class_groups,
    last_map,
    sgd_step,
)
from raydfkd.deferred import deferred
from raydfkd.settings import Budget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.losses import condensation
else:
    torch, condensation = deferred("torch"), deferred("raydfkd.losses.condensation")

MANY = 100
"""Images a class from which on the published rate is ten times as high."""


class DMConfig(CondenserConfig):
    """Distribution matching (arXiv 2110.04181): the fastest; memory does not grow with the number of iterations."""

    kind: Literal["dm"] = "dm"

    iterations: Annotated[int, Budget()] = Field(20_000, ge=1)
    """Steps of the images, each with a network of its own."""
    image_lr: float | None = Field(None, gt=0)
    """SGD rate of the images; null: as published, 1, and 10 from 100 images a class on."""
    iterations_per_round: int = Field(10, ge=1)
    """Iterations after which workers hand over what they have."""


class DM(Condenser):
    """Hands out classes, for some iterations at a time."""

    def __init__(self, config: DMConfig, setup: Setup, images: Tensor, folder: Path) -> None:
        super().__init__(config, setup, images, folder)
        self._velocity = torch.zeros_like(images)
        self._done = 0
        self._groups: list[list[int]] = []

    @property
    def progress(self) -> tuple[int, int]:
        return self._done, self.config.iterations

    def tasks(self, num_workers: int) -> list[Work]:
        count = min(self.config.iterations_per_round, self.config.iterations - self._done)
        if count == 0:
            return []
        self._groups = class_groups(self.setup.num_classes, num_workers)
        return [self._work(group, count) for group in self._groups]

    def _work(self, classes: list[int], count: int) -> Work:
        rows = [self.setup.rows(label) for label in classes]
        images, velocity = (torch.stack([all_[place] for place in rows]) for all_ in (self.images, self._velocity))
        given = {"classes": classes, "images": images, "velocity": velocity, "first": self._done, "count": count}
        return Work("match", given)

    def take(self, results: list[Any]) -> dict[str, float]:
        count = min(self.config.iterations_per_round, self.config.iterations - self._done)
        loss = 0.0
        for classes, (images, velocity, group_loss) in zip(self._groups, results, strict=True):
            for number, label in enumerate(classes):
                self.images[self.setup.rows(label)] = images[number]
                self._velocity[self.setup.rows(label)] = velocity[number]
            loss += group_loss
        self._done += count
        return {"loss": loss / self.setup.num_classes}

    def trials(self) -> list[Trial]:
        classes = self.setup.num_classes
        return [Trial(self._work([0], 1), self.config.iterations * classes, spread=True, bytes=1.0)]

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "velocity": self._velocity, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images, self._velocity, self._done = state["images"], state["velocity"], state["done"]


class DMWorker:
    """Takes steps on some classes' images."""

    def __init__(self, config: DMConfig, setup: Setup, real: RealImages) -> None:
        self.config, self.setup, self.real = config, setup, real
        rate = 10.0 if setup.images_per_class >= MANY else 1.0
        self._lr = rate if config.image_lr is None else config.image_lr

    def __call__(self, work: Work) -> tuple[Tensor, Tensor, float]:
        """Images and momentum of the given classes after ``count`` iterations, and the sum of their mean losses."""
        images_KNCHW, velocity = (work.given[name].to(self.real.device).clone() for name in ("images", "velocity"))
        total = torch.zeros((), device=self.real.device)
        for iteration in range(work.given["first"], work.given["first"] + work.given["count"]):
            network = self.setup.new_network(self.real.device, iteration).requires_grad_(False)
            for number, label in enumerate(work.given["classes"]):
                images = images_KNCHW[number].clone().requires_grad_()
                loss = self._loss(network, images, iteration, label)
                (gradient,) = torch.autograd.grad(loss, images)
                sgd_step(images_KNCHW[number], gradient, velocity[number], self._lr, self.config.image_momentum)
                total += loss.detach()
        return images_KNCHW.cpu(), velocity.cpu(), float(total) / work.given["count"]

    def _loss(self, network: torch.nn.Module, images: Tensor, iteration: int, label: int) -> Tensor:
        change = augmented(self.config, self.setup, iteration, label)
        with torch.no_grad():
            real = self.real.draw(label, self.config.real_batch_size, self.setup.generator("real", iteration, label))
            real_BF = last_map(network, change(real))
        return condensation.distribution_matching_loss(real_BF, last_map(network, change(images)))


CONDENSER = CondenserEntry(DMConfig, "DM: equal mean features under random networks", "Zhao and Bilen, WACV 2023", DM, DMWorker)

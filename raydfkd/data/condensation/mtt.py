"""Matching Training Trajectories: synthetic images that lead a network in few steps where real ones lead it in epochs.

"Dataset Distillation by Matching Training Trajectories" (Cazenavette et al., CVPR 2022, arXiv 2203.11932), Algorithm 1. First
expert networks are trained on the real images, and their weights kept after each epoch. Then an iteration starts a student
from an expert's weights of a random epoch, takes N steps on the synthetic images, and moves these, and the student's learning
rate, against Eq. 2's gradient, through all N steps: memory grows with N. Workers share the experts; the iterations come one
after the other.

Ours: no ZCA whitening, which the paper uses for some settings, so that images need not be mapped back (those of 50 a class on
CIFAR-10 and of 10 on CIFAR-100 have none in the paper either). N, M and the rates are the published ones where the paper's
authors give them for this number of classes and of images a class, and those of the nearest number of images otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
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
    batches,
    save_array,
    sgd_step,
)
from raydfkd.deferred import deferred
from raydfkd.settings import Budget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.losses import condensation
    from raydfkd.models import weight_vector
else:
    torch, condensation = deferred("torch"), deferred("raydfkd.losses.condensation")
    weight_vector = deferred("raydfkd.models.weight_vector")


@dataclass(frozen=True)
class Recipe:
    """The published settings of one number of classes and of images a class; names as in ``MTTConfig``."""

    student_steps: int
    expert_epochs_matched: int
    last_start_epoch: int
    image_lr: float
    rate_lr: float
    student_lr: float
    student_batch_size: int | None = None


PUBLISHED = {
    (10, 1): Recipe(50, 2, 2, 1e2, 1e-7, 0.01),
    (10, 10): Recipe(30, 2, 20, 1e2, 1e-5, 0.001),
    (10, 50): Recipe(30, 2, 40, 1e3, 1e-5, 0.001),
    (100, 1): Recipe(20, 3, 20, 1e3, 1e-5, 0.01),
    (100, 10): Recipe(20, 2, 20, 1e3, 1e-5, 0.01),
    (100, 50): Recipe(80, 2, 40, 1e3, 1e-5, 0.01, 125),
    (200, 1): Recipe(10, 2, 10, 1e4, 1e-4, 0.01),
    (200, 10): Recipe(20, 2, 40, 1e4, 1e-4, 0.01, 200),
    (200, 50): Recipe(20, 2, 40, 1e4, 1e-4, 0.01, 300),
}
"""By (classes, images a class): CIFAR-10, CIFAR-100 and Tiny-ImageNet, as the authors give them."""


def published(num_classes: int, images_per_class: int) -> Recipe:
    """The published settings of the nearest numbers, on a logarithmic scale; the number of classes counts first."""

    def distance(numbers: tuple[int, int]) -> tuple[float, float]:
        return abs(math.log(numbers[0] / num_classes)), abs(math.log(numbers[1] / images_per_class))

    return PUBLISHED[min(PUBLISHED, key=distance)]


class MTTConfig(CondenserConfig):
    """Trajectory matching (arXiv 2203.11932): trains experts first; memory grows with student_steps."""

    kind: Literal["mtt"] = "mtt"

    iterations: Annotated[int, Budget()] = Field(5_000, ge=1)
    """Steps of the images."""
    experts: Annotated[int, Budget()] = Field(100, ge=1)
    """Networks that are trained on the real images."""
    expert_epochs: int = Field(50, ge=2)
    """Epochs of an expert's training; its weights are kept after each (0.3 MB for each 80,000 weights)."""
    expert_lr: float = Field(0.01, gt=0)
    """SGD rate of an expert."""
    student_steps: int | None = Field(None, ge=1)
    """Steps on the synthetic images, N; null: as published, 10 to 80."""
    student_batch_size: int | None = Field(None, ge=1)
    """Synthetic images of a step; null: as published, mostly all of them."""
    expert_epochs_matched: int | None = Field(None, ge=1)
    """Epochs of the expert that the student's steps stand for, M; null: as published, 2 or 3."""
    last_start_epoch: int | None = Field(None, ge=0)
    """A student starts from an expert's weights of an epoch below this; null: as published, 2 to 40."""
    image_lr: float | None = Field(None, gt=0)
    """SGD rate of the images; null: as published, 100 to 10,000."""
    student_lr: float | None = Field(None, gt=0)
    """The student's learning rate in the beginning; null: as published, 0.001 or 0.01."""
    rate_lr: float | None = Field(None, gt=0)
    """SGD rate of the student's learning rate; null: as published, 1e-7 to 1e-4."""

    def resolved(self, num_classes: int, images_per_class: int) -> Recipe:
        """The published settings with those that are set here in their place, and as many epochs as there are."""
        recipe = vars(published(num_classes, images_per_class))
        chosen = {name: default if getattr(self, name) is None else getattr(self, name) for name, default in recipe.items()}
        chosen["expert_epochs_matched"] = min(chosen["expert_epochs_matched"], self.expert_epochs - 1)
        last = self.expert_epochs - chosen["expert_epochs_matched"] + 1
        chosen["last_start_epoch"] = max(1, min(chosen["last_start_epoch"], last))
        return Recipe(**chosen)


class MTT(Condenser):
    """Has experts trained, and then students."""

    def __init__(self, config: MTTConfig, setup: Setup, images: Tensor, folder: Path) -> None:
        super().__init__(config, setup, images, folder)
        self.recipe = config.resolved(setup.num_classes, setup.images_per_class)
        self._missing = [number for number in range(config.experts) if not self._expert_path(number).exists()]
        self._training: list[int] = []
        self._velocity = torch.zeros_like(images)
        self._rate, self._rate_velocity = torch.tensor(self.recipe.student_lr), torch.zeros(())
        self._done = 0

    @property
    def unit(self) -> str:  # type: ignore[override]
        return "experts" if self._missing else "iterations"

    @property
    def progress(self) -> tuple[int, int]:
        if self._missing:
            return self.config.experts - len(self._missing), self.config.experts
        return self._done, self.config.iterations

    def _expert_path(self, number: int) -> Path:
        return self.folder / f"expert-{number:04d}.npy"

    def tasks(self, num_workers: int) -> list[Work]:
        if self._missing:
            self._training = self._missing[:num_workers]
            return [Work("expert", {"number": number, "epochs": self.config.expert_epochs}) for number in self._training]
        if self._done == self.config.iterations:
            return []
        generator = self.setup.generator("start", self._done)
        number = int(torch.randint(self.config.experts, (), generator=generator))
        epoch = int(torch.randint(self.recipe.last_start_epoch, (), generator=generator))
        expert = np.load(self._expert_path(number), mmap_mode="r")
        start, target = (torch.from_numpy(np.array(expert[e])) for e in (epoch, epoch + self.recipe.expert_epochs_matched))
        return [self._student(start, target, self.recipe.student_steps)]

    def _student(self, start: Tensor, target: Tensor, steps: int) -> Work:
        given = {"images": self.images, "rate": self._rate, "start": start, "target": target}
        return Work("student", {**given, "steps": steps, "iteration": self._done})

    def take(self, results: list[Any]) -> dict[str, float]:
        if self._missing:
            for number, (trajectory, _) in zip(self._training, results, strict=True):
                save_array(self._expert_path(number), trajectory.numpy())
                self._missing.remove(number)
            return {"expert accuracy": sum(accuracy for _, accuracy in results) / len(results)}
        gradient, rate_gradient, loss = results[0]
        momentum = self.config.image_momentum
        sgd_step(self.images, gradient, self._velocity, self.recipe.image_lr, momentum)
        sgd_step(self._rate, rate_gradient, self._rate_velocity, self.recipe.rate_lr, momentum)
        self._done += 1
        return {"loss": loss, "student lr": float(self._rate)}

    def trials(self) -> list[Trial]:
        start, target = (
            torch.from_numpy(weight_vector.flat_weights(self.setup.new_network(torch.device("cpu"), "trial", k)))
            for k in range(2)
        )
        students, steps = self.config.iterations, self.recipe.student_steps
        experts = self.config.experts * self.config.expert_epochs
        trials = [Trial(Work("expert", {"number": -1, "epochs": 1}), experts, spread=True, bytes=0.0)]
        # A student's time and memory grow linearly with its steps: the line through those of few and of more steps.
        few = max(1, steps // 8)
        more = min(steps, 3 * few)
        share = (steps - few) / (more - few) if more > few else 1.0
        for number, weight in ((few, 1 - share), (more, share)):
            if weight:
                trials.append(Trial(self._student(start, target, number), students * weight, spread=False, bytes=weight))
        return trials

    def state_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "velocity": self._velocity,
            "rate": self._rate,
            "rate_velocity": self._rate_velocity,
            "done": self._done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images, self._velocity, self._done = state["images"], state["velocity"], state["done"]
        self._rate, self._rate_velocity = state["rate"], state["rate_velocity"]


class MTTWorker:
    """Trains experts on the real images, and students on the synthetic ones."""

    def __init__(self, config: MTTConfig, setup: Setup, real: RealImages) -> None:
        self.config, self.setup, self.real = config, setup, real
        self.recipe = config.resolved(setup.num_classes, setup.images_per_class)

    def __call__(self, work: Work) -> Any:
        return self._expert(work.given) if work.name == "expert" else self._student(work.given)

    def _expert(self, given: dict[str, Any]) -> tuple[Tensor, float]:
        """Weights [epochs + 1, P] before and after each epoch, and the accuracy on the last epoch's batches."""
        device = self.real.device
        network = self.setup.new_network(device, "expert", given["number"])
        optimizer = torch.optim.SGD(network.parameters(), lr=self.config.expert_lr)
        trajectory, right = [weight_vector.flat_weights(network)], 0.0
        for epoch in range(given["epochs"]):
            occasion = ("expert", given["number"], epoch)
            right = 0.0
            order = self.setup.generator("order", *occasion)
            for number, rows in enumerate(batches(len(self.real), self.config.real_batch_size, order)):
                change = augmented(self.config, self.setup, *occasion, number, count=len(rows))
                labels = self.real.labels[rows.to(device)]
                logits = network(change(self.real.take(rows)))
                loss = torch.nn.functional.cross_entropy(logits, labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                right += float((logits.argmax(1) == labels).sum())
            trajectory.append(weight_vector.flat_weights(network))
        return torch.stack([torch.from_numpy(weights) for weights in trajectory]), right / len(self.real)

    def _student(self, given: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
        """Gradients of the images and of the student's learning rate, and the loss."""
        device = self.real.device
        network = self.setup.new_network(device, "any")
        images, rate = (given[name].to(device, copy=True).requires_grad_() for name in ("images", "rate"))
        start, target = given["start"].to(device), given["target"].to(device)
        labels = torch.from_numpy(self.setup.labels).to(device)
        reached = start.clone().requires_grad_()
        for number, rows in enumerate(self._batches(len(images), given["steps"], given["iteration"])):
            change = augmented(self.config, self.setup, "student", given["iteration"], number, count=len(rows))
            logits = torch.func.functional_call(network, _parameters(network, reached), change(images[rows]))
            loss = torch.nn.functional.cross_entropy(logits, labels[rows])
            (gradient,) = torch.autograd.grad(loss, reached, create_graph=True)
            reached = reached - rate * gradient
        loss = condensation.trajectory_matching_loss(reached, start, target)
        of_images, of_rate = torch.autograd.grad(loss, (images, rate))
        return of_images.cpu(), of_rate.cpu(), float(loss.detach())

    def _batches(self, count: int, steps: int, iteration: int) -> list[Tensor]:
        """Row numbers of each step's images: epoch after epoch, each shuffled."""
        size = self.recipe.student_batch_size or count
        generator = self.setup.generator("order", "student", iteration)
        found: list[Tensor] = []
        while len(found) < steps:
            found += [rows.to(self.real.device) for rows in batches(count, size, generator)]
        return found[:steps]


def _parameters(network: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """A network's parameters as views of a vector, with its gradient."""
    views, first = {}, 0
    for name, parameter in network.named_parameters():
        views[name] = vector[first : first + parameter.numel()].view(parameter.shape)
        first += parameter.numel()
    return views


CONDENSER = CondenserEntry(
    MTTConfig, "MTT: the way of networks trained on real images", "Cazenavette et al., CVPR 2022", MTT, MTTWorker
)

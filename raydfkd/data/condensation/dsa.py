"""Gradient matching with siamese augmentation: synthetic images that give a network the gradients that real ones give it.

"Dataset Condensation with Gradient Matching" (Zhao, Mopuri and Bilen, ICLR 2021, arXiv 2006.05929), Algorithm 1, with the
augmentation of "Dataset Condensation with Differentiable Siamese Augmentation" (Zhao and Bilen, ICML 2021, arXiv 2102.08259).
Each outer iteration draws a network. Then the images of all classes take a step towards equal gradients and the network is
trained on them, in turn. A class's step depends on the network alone, so that workers share the classes; the training is one
worker's. Without augmentation this is the first of the two papers.
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
    batches,
    class_groups,
    sgd_step,
)
from raydfkd.deferred import deferred
from raydfkd.settings import Budget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.losses import condensation
    from raydfkd.models import weight_vector
else:
    torch, condensation = deferred("torch"), deferred("raydfkd.losses.condensation")
    weight_vector = deferred("raydfkd.models.weight_vector")

EPOCHS = 500
"""Published epochs of a network's training, over an outer iteration."""


class DSAConfig(CondenserConfig):
    """Gradient matching with siamese augmentation (arXiv 2102.08259); without augmentation: DC (arXiv 2006.05929)."""

    kind: Literal["dsa"] = "dsa"

    iterations: Annotated[int, Budget()] = Field(1_000, ge=1)
    """Networks that are drawn, one after the other."""
    image_lr: float = Field(0.1, gt=0)
    """SGD rate of the images."""
    matches: int | None = Field(None, ge=1)
    """Steps of the images for each network; null: as published, as many as there are images a class."""
    epochs: int | None = Field(None, ge=1)
    """Epochs of the network's training on the images between two of these steps; null: as published, 500 / matches (50 for 10
    images a class, 10 for 50), and 1 for one image a class."""
    network_lr: float = Field(0.01, gt=0)
    """SGD rate of that training."""
    network_batch_size: int = Field(256, ge=1)
    """Images of a batch of that training."""

    def loops(self, images_per_class: int) -> tuple[int, int]:
        """(matches, epochs)."""
        matches = images_per_class if self.matches is None else self.matches
        return matches, (1 if matches == 1 else max(1, EPOCHS // matches)) if self.epochs is None else self.epochs


class DSA(Condenser):
    """Hands out classes to match, and the network to train, in turn."""

    unit = "matches"

    def __init__(self, config: DSAConfig, setup: Setup, images: Tensor, folder: Path) -> None:
        super().__init__(config, setup, images, folder)
        self.matches, self.epochs = config.loops(setup.images_per_class)
        self._velocity = torch.zeros_like(images)
        self._outer, self._inner, self._training = 0, 0, False
        self._weights = self._new_weights()
        self._groups: list[list[int]] = []

    def _new_weights(self) -> Tensor:
        """Of the network of this outer iteration, [P]."""
        return torch.from_numpy(weight_vector.flat_weights(self.setup.new_network(torch.device("cpu"), self._outer)))

    @property
    def progress(self) -> tuple[int, int]:
        return self._outer * self.matches + self._inner, self.config.iterations * self.matches

    def tasks(self, num_workers: int) -> list[Work]:
        if self._outer == self.config.iterations:
            return []
        if self._training:
            return [self._train(self.epochs)]
        self._groups = class_groups(self.setup.num_classes, num_workers)
        return [self._match(group) for group in self._groups]

    def _match(self, classes: list[int]) -> Work:
        images = torch.stack([self.images[self.setup.rows(label)] for label in classes])
        occasion = (self._outer, self._inner)
        return Work("match", {"classes": classes, "images": images, "weights": self._weights, "occasion": occasion})

    def _train(self, epochs: int) -> Work:
        given = {"images": self.images, "weights": self._weights, "occasion": (self._outer, self._inner), "epochs": epochs}
        return Work("train", given)

    def take(self, results: list[Any]) -> dict[str, float]:
        if self._training:
            self._weights, self._training = results[0], False
            return {}
        loss, gradient = 0.0, torch.zeros_like(self.images)
        for classes, (gradients, group_loss) in zip(self._groups, results, strict=True):
            for number, label in enumerate(classes):
                gradient[self.setup.rows(label)] = gradients[number]
            loss += group_loss
        sgd_step(self.images, gradient, self._velocity, self.config.image_lr, self.config.image_momentum)
        self._inner += 1
        self._training = self._inner < self.matches
        if not self._training:
            self._outer, self._inner = self._outer + 1, 0
            self._weights = self._new_weights()
        return {"loss": loss / self.setup.num_classes}

    def trials(self) -> list[Trial]:
        steps = self.config.iterations * self.matches
        trained = self.config.iterations * (self.matches - 1) * self.epochs
        first = Trial(self._match([0]), steps * self.setup.num_classes, spread=True, bytes=1.0)
        return [first, Trial(self._train(1), trained, spread=False, bytes=1.0)] if trained else [first]

    def state_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "velocity": self._velocity,
            "weights": self._weights,
            "place": [self._outer, self._inner, int(self._training)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images, self._velocity, self._weights = state["images"], state["velocity"], state["weights"]
        self._outer, self._inner, training = state["place"]
        self._training = bool(training)


class DSAWorker:
    """Gives the images' gradients, or trains the network."""

    def __init__(self, config: DSAConfig, setup: Setup, real: RealImages) -> None:
        self.config, self.setup, self.real = config, setup, real
        self._network = setup.new_network(real.device, "any")

    def __call__(self, work: Work) -> Any:
        weight_vector.load_flat_weights(self._network, work.given["weights"].numpy())
        return self._match(work.given) if work.name == "match" else self._train(work.given)

    def _match(self, given: dict[str, Any]) -> tuple[Tensor, float]:
        """Gradients of the given classes' images, and the sum of their losses."""
        parameters = list(self._network.parameters())
        gradients, total = [], 0.0
        for images, label in zip(given["images"].to(self.real.device), given["classes"], strict=True):
            occasion = (*given["occasion"], label)
            change = augmented(self.config, self.setup, *occasion)
            real = self.real.draw(label, self.config.real_batch_size, self.setup.generator("real", *occasion))
            theirs = torch.autograd.grad(self._loss(change(real), label), parameters)
            images = images.clone().requires_grad_()
            ours = torch.autograd.grad(self._loss(change(images), label), parameters, create_graph=True)
            loss = condensation.gradient_matching_loss(theirs, ours)
            gradients.append(torch.autograd.grad(loss, images)[0])
            total += float(loss.detach())
        return torch.stack(gradients).cpu(), total

    def _loss(self, images: Tensor, label: int) -> Tensor:
        labels = torch.full((len(images),), label, device=self.real.device)
        return torch.nn.functional.cross_entropy(self._network(images), labels)

    def _train(self, given: dict[str, Any]) -> Tensor:
        """Weights after some epochs of SGD on the synthetic images."""
        images = given["images"].to(self.real.device)
        labels = torch.from_numpy(self.setup.labels).to(self.real.device)
        optimizer = torch.optim.SGD(self._network.parameters(), lr=self.config.network_lr)
        for epoch in range(given["epochs"]):
            occasion = (*given["occasion"], "training", epoch)
            for number, rows in enumerate(
                batches(len(images), self.config.network_batch_size, self.setup.generator("order", *occasion))
            ):
                rows = rows.to(self.real.device)
                change = augmented(self.config, self.setup, *occasion, number, count=len(rows))
                loss = torch.nn.functional.cross_entropy(self._network(change(images[rows])), labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        return torch.from_numpy(weight_vector.flat_weights(self._network))


CONDENSER = CondenserEntry(
    DSAConfig, "DSA: equal gradients, under siamese augmentation", "Zhao and Bilen, ICML 2021", DSA, DSAWorker
)

"""What a condensed set is worth: the accuracy of fresh networks that are trained on it alone, as its literature measures it.

As in DSA (Zhao and Bilen, ICML 2021): SGD with momentum 0.9 and weight decay 5e-4, rate 0.01, divided by ten at half of the
epochs, batches of 256, one operation of the siamese augmentation for each batch with parameters of each image's own. The last
network counts, not the best one on the test images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from raydfkd.augment.config import SIAMESE_OPERATIONS, SiameseOperation
from raydfkd.augment.siamese import draw_siamese, siamese_augment
from raydfkd.data.condensation.condensed_set import CondensedSet
from raydfkd.data.condensation.condenser import batches
from raydfkd.data.datasets import ImageDataset
from raydfkd.errors import ConfigError
from raydfkd.evaluation import evaluate
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.teacher import Normalization
from raydfkd.seeds import derive_seed

LR, MOMENTUM, WEIGHT_DECAY, BATCH_SIZE = 0.01, 0.9, 5e-4, 256


@dataclass(frozen=True)
class Recipe:
    """How networks are trained on a set.

    Attributes:
        network: catalog name.
        networks: how many, each from its own initial weights.
        epochs: passes over the set.
        operations: of the augmentation; none: no augmentation.
        seed: all draws derive from it.
    """

    network: str
    networks: int = 5
    epochs: int = 1000
    operations: tuple[SiameseOperation, ...] = SIAMESE_OPERATIONS
    seed: int = 0


def accuracies(
    found: CondensedSet,
    test: ImageDataset,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    recipe: Recipe,
    device: torch.device,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[float]:
    """Accuracy on ``test`` of each network after training on ``found``, in [0,1].

    Args:
        mean, std: of the networks' input.
        tell: told of epochs, over all networks.

    Raises:
        ConfigError: the test images are of other classes or another shape.
    """
    if test.num_classes != len(found.classes) or test.images.shape[1:] != found.images.shape[1:]:
        raise ConfigError(
            f"the set has {len(found.classes)} classes and images {list(found.images.shape[1:])}, the test images "
            f"{test.num_classes} and {list(test.images.shape[1:])}: evaluate it on the data set it stands for"
        )
    measured = []
    for number in range(recipe.networks):
        told = partial(_tell_overall, tell, number * recipe.epochs, recipe.networks * recipe.epochs)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(recipe.seed, "network", number))
            network = _trained(found, mean, std, recipe, number, device, told)
        measured.append(evaluate(network, test, device=device).metric)
    return measured


def _tell_overall(tell: Callable[[str, int, int], None], before: int, total: int, epoch: int) -> None:
    tell("epochs", before + epoch, total)


def _trained(
    found: CondensedSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    recipe: Recipe,
    number: int,
    device: torch.device,
    tell: Callable[[int], None],
) -> nn.Module:
    """A network that takes images in [0,1]."""
    network = build_classifier(recipe.network, len(found.classes), found.images.shape[1:]).to(device)
    normalize = Normalization(mean, std).to(device)
    images = normalize(torch.from_numpy(found.images).to(device).float().div(255))
    targets = torch.from_numpy(found.labels if found.probabilities is None else found.probabilities).to(device)
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "training", number))
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    for epoch in range(recipe.epochs):
        if epoch == recipe.epochs // 2 + 1:
            optimizer.param_groups[0]["lr"] = LR / 10
        for rows in batches(len(images), BATCH_SIZE, generator):
            view = images[rows.to(device)]
            if recipe.operations:
                view = siamese_augment(view, draw_siamese(generator, len(view), recipe.operations))
            loss = F.cross_entropy(network(view), targets[rows.to(device)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        tell(epoch + 1)
    return nn.Sequential(normalize, network)


def random_real(data: ImageDataset, per_class: int, seed: int) -> CondensedSet:
    """As many random real images of each class: what a condensed set is compared with.

    Raises:
        ConfigError: a class has fewer.
    """
    generator = np.random.default_rng(derive_seed(seed, "random real images"))
    chosen = []
    for label in range(data.num_classes):
        rows = np.flatnonzero(data.labels == label)
        if len(rows) < per_class:
            raise ConfigError(f"class {label} has {len(rows)} real images and {per_class} are needed: give more images")
        chosen.append(generator.permutation(rows)[:per_class])
    rows = np.concatenate(chosen)
    return CondensedSet(data.images[rows], data.labels[rows], data.classes)

"""SpaceshipNet: the exchange of channels, the bank, the generator's training against a plain loop, and when it takes place."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_synthesis import SHAPE, assert_alike, build, build_teacher, hand_over, summary
from torch.nn import functional as F

from raydfkd.models.teachers.bn_statistics import BatchNormStatistics
from raydfkd.synthesis.spaceshipnet import MapBank, SpaceshipNetConfig, exchange_channels

SMALL: dict[str, Any] = {
    "method": "spaceshipnet",
    "batch_size": 20,
    "generator_batch_size": 12,
    "steps_per_training": 3,
    "base_channels": 4,
    "latent_dim": 6,
    "bank_size": 24,
    "crop_padding": 0,
    "flip": False,
}


def make(seed: int = 1, **settings: Any) -> Any:
    return build("spaceshipnet", {**SMALL, **settings}, seed=seed)


def test_each_image_keeps_half_of_its_channels_and_has_its_counterparts_others() -> None:
    maps = torch.randn(5, 7, 2, 3)
    exchanged = exchange_channels(maps, torch.Generator().manual_seed(0))
    own = (exchanged == maps).all((2, 3))
    theirs = (exchanged == maps.flip(0)).all((2, 3))
    assert (own | theirs).all()
    kept = own[[0, 1, 3, 4]]
    assert kept.sum(1).tolist() == [3, 3, 3, 3], "half of seven, rounded down"
    assert len({tuple(row.tolist()) for row in kept}) > 1, "each draws its own"
    assert own[2].all(), "the middle one is its own counterpart"


def test_the_bank_keeps_the_newest_and_draws_each_once_before_again() -> None:
    bank = MapBank(4)
    for start in (0, 3):
        values = torch.arange(start, start + 3, dtype=torch.float32)
        bank.add([values.view(-1, 1, 1, 1), values.view(-1, 1, 1, 1) * 10], values.long())
    maps, targets = bank.draw(8, 1, torch.Generator().manual_seed(0))
    assert maps.flatten().tolist() == [10.0 * target for target in targets.tolist()]
    assert maps.dtype == torch.float32
    assert sorted(targets[:4].tolist()) == [2, 3, 4, 5]
    assert sorted(targets[4:].tolist()) == [2, 3, 4, 5]


def test_a_training_is_of_adam_on_the_published_loss_and_its_best_maps_are_kept() -> None:
    synthesizer = make(exchange_probability=0)
    generator = copy.deepcopy(synthesizer.generator).train()
    made = synthesizer.step(summary())

    teacher, random = build_teacher(), torch.Generator().manual_seed(1)
    statistics = BatchNormStatistics(teacher)
    latents, targets = torch.randn(12, 6, generator=random), torch.arange(12) % 10
    optimizer = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999))
    losses, maps = [], []
    for _ in range(3):
        hidden = generator.maps(latents)
        with statistics.capture():
            t = teacher(generator.decode(hidden[2], 2))
        pairs = zip(statistics.batch, statistics.running, strict=True)
        bn = torch.stack([(m - mu).norm() + (v - s).norm() for (m, v), (mu, s) in pairs]).sum()
        loss = 0.5 * F.cross_entropy(t, targets) + bn
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        maps.append([each.detach().half() for each in hidden])
    assert made.metrics["loss"] == pytest.approx(min(losses), rel=1e-4)
    kept = synthesizer.bank.state_dict()
    for found, expected in zip(kept["maps"], maps[int(np.argmin(losses))], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-3)
    assert kept["targets"].tolist() == targets.tolist()


def test_images_are_made_of_the_banks_maps_by_the_generator_as_it_is_now() -> None:
    synthesizer = make(exchange_probability=0, batch_size=12)
    made = synthesizer.step(summary())
    kept, generator = synthesizer.bank.state_dict(), synthesizer.generator
    assert not generator.training
    assert sorted(made.targets.tolist()) == sorted(kept["targets"].tolist())
    with torch.no_grad():
        could_be = [generator.decode(maps.float(), layer).mul(255).round() for layer, maps in enumerate(kept["maps"])]
    images = torch.from_numpy(made.images).float()
    distances = torch.stack([(images[:, None] - each[None]).abs().amax((2, 3, 4)).amin(1).max() for each in could_be])
    assert distances.min() <= 1, "all from one layer"


@pytest.mark.parametrize(("probability", "exchanged"), [(0.0, 0.0), (1.0, 1.0), (0.7, 0.7)])
def test_a_group_is_exchanged_with_the_given_probability_and_has_no_targets_then(probability: float, exchanged: float) -> None:
    synthesizer = make(exchange_probability=probability, batch_size=400, generator_batch_size=2, training_period_batches=9)
    made = synthesizer.step(summary())
    groups = made.targets.reshape(-1, 2)
    assert ((groups == -1).all(1) | (groups >= 0).all(1)).all()
    assert (made.targets == -1).mean() == pytest.approx(exchanged, abs=0.08)
    assert (made.images.shape, made.source) == ((400, *SHAPE), "spaceshipnet")


def test_the_generator_trains_before_the_first_of_every_period_of_batches() -> None:
    synthesizer, steps, losses = make(training_period_batches=3), [], []
    maps = synthesizer.generator.maps
    synthesizer.generator.maps = lambda latents: (steps.append(synthesizer._num_batches), maps(latents))[1]
    weights = []
    for _ in range(5):
        losses.append(synthesizer.step(summary()).metrics["loss"])
        weights.append(synthesizer.generator.first_linear.weight.detach().clone())
    assert steps == [0] * 3 + [3] * 3
    assert len(set(losses[:3])) == 1
    assert losses[3] != losses[0]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[2], weights[3])
    assert SpaceshipNetConfig().images_trained_on(201) == 2 * 200 * 256


def test_a_restored_synthesizer_goes_on_bit_for_bit() -> None:
    settings: dict[str, Any] = {"training_period_batches": 2, "crop_padding": 1, "flip": True}
    one, other = make(**settings), make(seed=9, **settings)
    one.step(summary())
    hand_over(one, other)
    assert_alike(one, other)

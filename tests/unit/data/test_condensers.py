"""Condensation methods on a few small images: their steps against the formulas, and what must not matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydfkd.data.condensation import CONDENSERS
from raydfkd.data.condensation.condenser import (
    Condenser,
    RealImages,
    Setup,
    Work,
    initial_images,
    last_map,
    require_network,
)
from raydfkd.data.condensation.mtt import MTTConfig
from raydfkd.errors import ConfigError, DataError
from raydfkd.models.weight_vector import flat_weights

CPU = torch.device("cpu")
SETUP = Setup(num_classes=3, image_shape=(1, 4, 4), images_per_class=2, network="conv_net_1", seed=0)
SHORT: dict[str, dict[str, Any]] = {
    "dm": {"iterations": 5, "iterations_per_round": 2},
    "dsa": {"iterations": 2, "matches": 2, "epochs": 2},
    "mtt": {"iterations": 3, "experts": 2, "expert_epochs": 3, "student_steps": 2, "image_lr": 1.0},
}


def real_images() -> RealImages:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 6)
    images = (random.integers(0, 60, (18, 1, 4, 4)) + 70 * labels[:, None, None, None]).astype(np.uint8)
    return RealImages(images, labels, [0.5], [0.25], CPU)


def halves(kind: str, folder: Path, **settings: Any) -> tuple[Condenser, Any]:
    entry, real = CONDENSERS.get(kind), real_images()
    config = entry.config.model_validate({"kind": kind, "real_batch_size": 4, **SHORT[kind], **settings})
    images = initial_images(SETUP, real, "real")
    return entry.condenser(config, SETUP, images, folder), entry.worker(config, SETUP, real)


def finish(condenser: Condenser, worker: Any, num_workers: int = 1) -> list[dict[str, float]]:
    return list(rounds(condenser, worker, num_workers))


def rounds(condenser: Condenser, worker: Any, num_workers: int = 1) -> Iterator[dict[str, float]]:
    while tasks := condenser.tasks(num_workers):
        yield condenser.take([worker(work) for work in tasks])


@pytest.mark.parametrize("kind", list(CONDENSERS))
def test_the_result_does_not_depend_on_the_number_of_workers(kind: str, tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        condenser, worker = halves(kind, folder)
        before = condenser.images.clone()
        finish(condenser, worker, number)
        assert condenser.progress[0] == condenser.progress[1]
        assert not torch.equal(before, condenser.images)
        found.append(condenser.images)
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", list(CONDENSERS))
def test_resumed_equals_unbroken(kind: str, tmp_path: Path) -> None:
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    condenser, worker = halves(kind, tmp_path / "unbroken")
    count = len(finish(condenser, worker))
    for stop in range(1, count):
        first, worker = halves(kind, tmp_path / "broken")
        for number, _ in enumerate(rounds(first, worker), start=1):
            if number == stop:
                break
        state = {name: value.clone() if isinstance(value, Tensor) else value for name, value in first.state_dict().items()}
        second, worker = halves(kind, tmp_path / "broken")
        second.load_state_dict(state)
        finish(second, worker)
        assert torch.equal(condenser.images, second.images), f"stopped after {stop} of {count} rounds"


@pytest.mark.parametrize("kind", list(CONDENSERS))
def test_trials_change_nothing(kind: str, tmp_path: Path) -> None:
    condenser, worker = halves(kind, tmp_path)
    before = condenser.images.clone()
    trials = condenser.trials()
    for trial in trials:
        worker(trial.work)
    assert torch.equal(before, condenser.images)
    assert list(tmp_path.iterdir()) == []
    # A whole of as many seconds a task as its trial took: all of them, or, where two trials make a line, its value.
    assert sum(trial.seconds for trial in trials) > 0


def test_dm_takes_a_step_against_the_gradient_of_the_distance_of_means(tmp_path: Path) -> None:
    condenser, worker = halves("dm", tmp_path, iterations=1, augmentation=[], image_lr=0.7, real_batch_size=6)
    before, real = condenser.images.clone().requires_grad_(), real_images()
    network = SETUP.new_network(CPU, 0)
    loss = torch.zeros(())
    for label in range(3):
        theirs = last_map(network, real.take(torch.arange(18)[real.labels == label])).mean(0)
        ours = last_map(network, before[SETUP.rows(label)]).mean(0)
        loss = loss + (theirs - ours).square().sum()
    (gradient,) = torch.autograd.grad(loss, before)
    figures = finish(condenser, worker)
    torch.testing.assert_close(condenser.images, before.detach() - 0.7 * gradient, atol=1e-5, rtol=1e-4)
    assert figures[0]["loss"] == pytest.approx(float(loss.detach()) / 3, rel=1e-4)


def test_dsa_takes_a_step_against_the_gradient_of_the_gradients_distance(tmp_path: Path) -> None:
    condenser, worker = halves("dsa", tmp_path, iterations=1, matches=1, augmentation=[], image_lr=0.3, real_batch_size=6)
    before, real = condenser.images.clone().requires_grad_(), real_images()
    network = SETUP.new_network(CPU, 0)

    def gradients(images: Tensor, label: int) -> list[Tensor]:
        loss = torch.nn.functional.cross_entropy(network(images), torch.full((len(images),), label))
        return [g for g in torch.autograd.grad(loss, list(network.parameters()), create_graph=True) if g.ndim > 1]

    distance = torch.zeros(())
    for label in range(3):
        theirs = gradients(real.take(torch.arange(18)[real.labels == label]), label)
        ours = gradients(before[SETUP.rows(label)], label)
        for a, b in zip(theirs, ours, strict=True):
            for row_a, row_b in zip(a.detach().flatten(1), b.flatten(1), strict=True):
                distance = distance + 1 - row_a @ row_b / (row_a.norm() * row_b.norm() + 1e-6)
    (gradient,) = torch.autograd.grad(distance, before)
    finish(condenser, worker)
    torch.testing.assert_close(condenser.images, before.detach() - 0.3 * gradient, atol=1e-4, rtol=1e-3)


def test_dsa_trains_the_network_on_the_images_between_two_matches(tmp_path: Path) -> None:
    condenser, worker = halves("dsa", tmp_path, iterations=1, matches=2, epochs=1, augmentation=[])
    condenser.take([worker(work) for work in condenser.tasks(1)])
    (training,) = condenser.tasks(1)
    assert training.name == "train"
    network = SETUP.new_network(CPU, 0)
    loss = torch.nn.functional.cross_entropy(network(condenser.images), torch.from_numpy(SETUP.labels))
    steps = torch.autograd.grad(loss, list(network.parameters()))
    expected = torch.cat([(p - 0.01 * g).detach().flatten() for p, g in zip(network.parameters(), steps, strict=True)])
    torch.testing.assert_close(worker(training), expected, atol=1e-5, rtol=0)
    assert CONDENSERS.get("dsa").config(kind="dsa").loops(10) == (10, 50)  # type: ignore[attr-defined]


def test_mtt_s_gradient_is_that_of_finite_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through both student steps, in double precision."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    try:
        _, worker = halves("mtt", tmp_path, augmentation=[])
        start, target = (torch.from_numpy(flat_weights(SETUP.new_network(CPU, k))).double() for k in ("start", "target"))
        images, rate = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor(0.5)

        def loss(images: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, float]:
            given = {"images": images, "rate": rate, "start": start, "target": target, "steps": 2, "iteration": 0}
            found: tuple[Tensor, Tensor, float] = worker(Work("student", given))
            return found

        of_images, of_rate, _ = loss(images, rate)
        step = 1e-5
        for place in ((0, 0, 1, 2), (3, 0, 2, 2), (5, 0, 0, 0)):
            moved = images.clone()
            moved[place] += step
            back = images.clone()
            back[place] -= step
            difference = (loss(moved, rate)[2] - loss(back, rate)[2]) / (2 * step)
            assert float(of_images[place]) == pytest.approx(difference, rel=1e-3, abs=1e-9)
        difference = (loss(images, rate + step)[2] - loss(images, rate - step)[2]) / (2 * step)
        assert float(of_rate) == pytest.approx(difference, rel=1e-3)
    finally:
        torch.set_default_dtype(torch.float32)


def test_mtt_s_recipes() -> None:
    """Published where there is one, the nearest number of images otherwise, and no epoch that no expert has."""
    config = MTTConfig()
    assert (config.resolved(10, 50).student_steps, config.resolved(10, 50).last_start_epoch) == (30, 40)
    assert config.resolved(100, 10).image_lr == 1000
    assert config.resolved(10, 20) == config.resolved(10, 10)
    assert config.resolved(200, 50).student_batch_size == 300
    short = MTTConfig(expert_epochs=3, student_steps=5).resolved(10, 50)
    assert (short.student_steps, short.expert_epochs_matched, short.last_start_epoch) == (5, 2, 2)


def test_what_cannot_be_condensed_is_refused() -> None:
    with pytest.raises(DataError, match="class 0 has 6 images and images_per_class is 7: ask for fewer, or start=noise"):
        initial_images(Setup(3, (1, 4, 4), 7, "conv_net_1", 0), real_images(), "real")
    with pytest.raises(ConfigError, match="network 'small_cnn_8' has BatchNorm, which mixes"):
        require_network(Setup(3, (1, 4, 4), 2, "small_cnn_8", 0))
    noise = initial_images(Setup(3, (1, 4, 4), 200, "conv_net_1", 0), real_images(), "noise")
    assert noise.shape == (600, 1, 4, 4)
    assert abs(float(noise.std()) - 1) < 0.05

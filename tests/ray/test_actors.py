"""Replay actor, its clients, weight store and pool, on Ray but without Ray Train."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from bench import Bench, bench, numbers_of
from tiny_experiment import BATCH_SIZE, experiment

from raydfkd.errors import RunFailedError, WaitTimeoutError
from raydfkd.pipeline.run.student_loop import Batch
from raydfkd.runtime.calls import call
from raydfkd.runtime.generators.generator_pool_actor import GeneratorPoolActor
from raydfkd.runtime.replay.replay_client import ReplayClient
from raydfkd.testing.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_actor_left")

DECOUPLED = {
    "mode": "decoupled",
    "rounds": 1000,
    "samples_per_insert": 2.0,
    "error_buffer": 256.0,
    "prefetch": 2,
    "batches_per_request": 2,
}


def take(client: ReplayClient, step: int) -> Batch:
    batch = client.next(step, step // 4)
    client.report(batch.keys, torch.rand(len(batch.keys), generator=torch.Generator().manual_seed(step)))
    return batch


@pytest.mark.parametrize("delivery", ["mirror", pytest.param("gather", marks=pytest.mark.slow)])
def test_a_key_stands_for_one_image_that_a_generator_made(teacher: Path, tmp_path: Path, delivery: str) -> None:
    tree = experiment(teacher, schedule=DECOUPLED, runtime={"delivery": delivery})
    with bench(tree, tmp_path) as actors:
        generators = [actors.generator(f"inversion-{turn}", turn, 2, first=turn << 20) for turn in range(2)]
        client = actors.client()
        seen: dict[int, int] = {}
        for step in range(60):
            batch = take(client, step)
            for key, number in zip(batch.keys.tolist(), numbers_of(batch.images).tolist(), strict=True):
                assert seen.setdefault(key, number) == number, "a key is an image's for ever"
        assert len(set(seen.values())) == len(seen), "and an image has one key"
        made = ray.get([generator.made.remote() for generator in generators])
        assert all((number & (1 << 20) - 1) < made[number >> 20] - (number >> 20 << 20) for number in seen.values())
        stats = actors.stats()
        assert stats["inserts"] > 512, "the buffer has evicted: the test would see nothing otherwise"
        assert 0 <= stats["samples"] - 60 * BATCH_SIZE <= 3 * 2 * BATCH_SIZE, "no more was drawn than is in flight"


@pytest.mark.slow
def test_a_worker_draws_a_round_itself_and_hands_its_priorities_over(teacher: Path, tmp_path: Path) -> None:
    """As on a GPU, here on the CPU: in lockstep, four steps a round."""
    with bench(experiment(teacher), tmp_path) as actors:
        actors.generator("inversion-0")
        client = actors.client(own_draws=True)
        in_round: dict[int, int] = {}
        for step in range(12):
            if step % 4 == 0:
                in_round.clear()
            batch = client.next(step, step // 4)
            assert isinstance(batch.keys, torch.Tensor)
            assert batch.images.shape == (BATCH_SIZE, 1, 8, 8)
            for slot, number in zip(batch.keys.tolist(), numbers_of(batch.images).tolist(), strict=True):
                assert in_round.setdefault(slot, number) == number, "a slot holds one image throughout a round"
            client.report(batch.keys, torch.full((BATCH_SIZE,), float(step)))
        client.flush()
        stats = actors.stats()
        assert stats["samples"] == 12 * BATCH_SIZE
        assert stats["dropped_updates"] == 0
        assert stats["inserts"] == (4 + 3) * BATCH_SIZE


@pytest.mark.slow
def test_a_student_that_dies_with_requests_in_flight_is_followed_by_another(teacher: Path, tmp_path: Path) -> None:
    with bench(experiment(teacher, schedule=DECOUPLED), tmp_path) as actors:
        actors.generator("inversion-0")
        dead = actors.client("first")
        for step in range(8):
            take(dead, step)
        heir = actors.client("second", step=4)
        for step in range(4, 20):
            assert len(take(heir, step).keys) == BATCH_SIZE
        assert 0 <= actors.stats()["samples"] - 24 * BATCH_SIZE <= 3 * 4 * BATCH_SIZE
        with pytest.raises(RunFailedError, match="student worker 0 was replaced by a newer one"):
            _exhaust(dead, 8)


def _exhaust(client: ReplayClient, step: int) -> None:
    """Takes what was drawn for it before, and more."""
    for further in range(step, step + 12):
        take(client, further)


@pytest.mark.slow
def test_clients_come_through_the_death_of_the_replay_actor(teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher, schedule=DECOUPLED, runtime={"snapshot_period_s": 0.3})
    with bench(tree, tmp_path) as actors:
        generator = actors.generator("inversion-0")
        client = actors.client()
        for step in range(20):
            take(client, step)
        saved = actors.stats()["inserts"]
        time.sleep(1.5)
        os.kill(ray.get(actors.replay.pid.remote()), signal.SIGKILL)
        call(lambda: actors.replay.attach.remote("inversion-0", generator), 300, "the replay actor")
        for step in range(20, 60):
            batch = take(client, step)
            assert (numbers_of(batch.images) < ray.get(generator.made.remote())).all()
        [line] = actors.events()
        assert line.startswith("replay actor restarted from its snapshot with ")
        assert int(line.split()[-2]) >= min(saved, 512)
        assert actors.stats()["inserts"] >= saved


def test_two_workers_share_the_batch_that_one_would_get(teacher: Path, tmp_path: Path) -> None:
    drawn: list[list[np.ndarray]] = []
    for world_size in (1, 2):
        tree = experiment(teacher, student={"num_workers": world_size}, schedule={"rounds": 3})
        with bench(tree, tmp_path / str(world_size)) as actors:
            actors.generator("inversion-0")
            clients = [actors.client(rank=rank, world_size=world_size) for rank in range(world_size)]
            drawn.append([_global_batch(clients, step) for step in range(12)])
    for one, two in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, two)


def _global_batch(clients: list[ReplayClient], step: int) -> np.ndarray:
    """Image numbers of one step's batch over all workers, whose requests are made in turn; priorities depend on the image."""
    for client in clients:
        client._fill(step // 4, 1)
    batches = [client.next(step, step // 4) for client in clients]
    for client, batch in zip(clients, batches, strict=True):
        client.report(batch.keys, torch.from_numpy(1.0 + numbers_of(batch.images) % 7).float())
    numbers = np.empty((BATCH_SIZE,), np.int64)
    for rank, batch in enumerate(batches):
        numbers[rank :: len(clients)] = numbers_of(batch.images)
    return numbers


@pytest.mark.slow
def test_generators_go_on_when_the_weight_store_comes_back_empty(teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher, schedule={"rounds": 20})
    with bench(tree, tmp_path) as actors, pool(actors) as generators:
        client = actors.client()
        client.publish(torch.zeros(_student_size(teacher)).numpy(), 0)
        for step in range(4):
            take(client, step)
        ray.kill(actors.weights, no_restart=False)
        for step in range(4, 12):
            if step % 4 == 0:
                client.publish(torch.zeros(_student_size(teacher)).numpy(), step // 4)
            take(client, step)
        assert ray.get(generators.pids.remote())["inversion-0"]
        wait_until(lambda: "weight store restarted" in "".join(actors.events()), 300, "it says so")


@pytest.fixture
def starving(teacher: Path) -> dict[str, object]:
    return experiment(teacher, runtime={"wait_timeout_s": 1.0})


def test_a_student_without_generators_says_what_it_waited_for(starving: dict[str, object], tmp_path: Path) -> None:
    with bench(starving, tmp_path) as actors:
        ray.get(actors.replay.pid.remote())
        client = actors.client()
        with pytest.raises(
            WaitTimeoutError, match=r"student worker 0 waited 1 s for training images: 0 images are in the buffer"
        ):
            client.next(0, 0)


@pytest.mark.slow
def test_a_generator_that_finds_no_place_is_named_with_its_needs(teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher, source={"resources": {"num_cpus": 64}}, runtime={"wait_timeout_s": 1.0})
    with bench(tree, tmp_path) as actors:
        ray.get(actors.replay.pid.remote())
        with pool(actors):
            wait_until(lambda: ray.get(actors.coordinator.failure.remote()) is not None, 300, "nothing was left with the log")
            failure = ray.get(actors.coordinator.failure.remote())
    assert failure.kind == "WaitTimeoutError"
    assert failure.sentence.startswith("waited 1 s for generator inversion-0 to start: it needs 64 CPU")


class pool:
    """A generator pool, started, and closed again."""

    def __init__(self, actors: Bench) -> None:
        self._context = actors.context

    def __enter__(self) -> ray.actor.ActorHandle:
        self._pool = GeneratorPoolActor.options(name=self._context.name_of("pool")).remote(self._context)
        ray.get(self._pool.start.remote(), timeout=120)
        return self._pool

    def __exit__(self, *_: object) -> None:
        ray.get(self._pool.close.remote(5), timeout=300)
        ray.kill(self._pool)


def _student_size(teacher: Path) -> int:
    from raydfkd.models import flat_weights
    from raydfkd.pipeline.experiment import builder
    from raydfkd.pipeline.experiment.config import build_experiment

    return len(flat_weights(builder.build_student(build_experiment(experiment(teacher)))))


@pytest.mark.slow
def test_an_elastic_student_that_finds_no_node_is_waited_for_as_long_as_for_all_else(teacher: Path, tmp_path: Path) -> None:
    elastic = {"num_workers": 2, "min_workers": 1, "resources": {"num_cpus": 1, "custom": {"student_node": 1}}}
    tree = experiment(teacher, schedule=DECOUPLED, student=elastic, runtime={"wait_timeout_s": 2})
    with bench(tree, tmp_path) as actors:

        def failure() -> Any:
            return ray.get(actors.coordinator.drain.remote(), timeout=300)[1]

        ray.get(actors.coordinator.begin_attempt.remote("small", [1, 2]), timeout=300)
        time.sleep(2.5)
        assert failure() is None, "its workers are there"
        ray.get(actors.coordinator.note_workers_lost.remote("small"), timeout=300)
        assert failure() is None
        time.sleep(2.5)
        assert failure().message == (
            "waited 2 s for student workers: at least 1 are required, and each needs 1 CPU, 1 student_node on a node; add "
            "nodes, then resume"
        )

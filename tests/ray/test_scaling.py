"""The number of generators changes while students go on: up, down with draining, and beyond what there is room for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from bench import Bench, bench
from tiny_experiment import BATCH_SIZE, experiment

from raydfkd.errors import ConfigError
from raydfkd.runtime.failures import original
from raydfkd.runtime.generators.generator_pool_actor import GeneratorPoolActor
from raydfkd.testing.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_actor_left")]

SCHEDULE = {"mode": "decoupled", "rounds": 1000, "samples_per_insert": 2.0, "error_buffer": 256.0}
CPUS_EACH = 3
"""Of the eight that there are: two generators find a place and a third does not."""


class Pool:
    """A pool actor and what its run's log has heard."""

    def __init__(self, actors: Bench) -> None:
        self._actors = actors
        self.actor = GeneratorPoolActor.options(name=actors.context.name_of("pool")).remote(actors.context)
        self.records: list[dict[str, Any]] = []
        ray.get(self.actor.start.remote(), timeout=300)

    def scale(self, number: int, source: str | None = None) -> dict[str, Any]:
        return ray.get(self.actor.scale.remote(source, number), timeout=300)

    def states(self) -> dict[str, str]:
        found = ray.get(self.actor.status.remote(), timeout=300)["inversion"]
        return {generator["name"]: generator["state"] for generator in found["generators"]}

    def wait_for(self, states: dict[str, str]) -> None:
        wait_until(lambda: self.states() == states, 300, lambda: f"{self.states()} and not {states}")

    def listen(self) -> list[str]:
        """All event lines so far."""
        self.records += ray.get(self._actors.coordinator.drain.remote(), timeout=300)[0]
        return [record["message"] for record in self.records if record["kind"] == "event"]

    def made(self) -> Counter[str]:
        """Batches by generator, so far."""
        self.listen()
        return Counter(record["generator_id"] for record in self.records if record["kind"] == "synthesis")

    def close(self) -> None:
        ray.get(self.actor.close.remote(5), timeout=300)
        ray.kill(self.actor)


def test_generators_come_and_go_and_no_batch_is_lost(teacher: Path, tmp_path: Path) -> None:
    tree = experiment(
        teacher,
        source={"resources": {"num_cpus": CPUS_EACH, "num_threads": 1}},
        schedule=SCHEDULE,
        runtime={"wait_timeout_s": 300},
    )
    with bench(tree, tmp_path) as actors:
        client, pool = actors.client(), Pool(actors)
        steps = iter(range(10_000))

        def train(count: int) -> None:
            for _, step in zip(range(count), steps, strict=False):
                batch = client.next(step, 0)
                client.report(batch.keys, torch.ones(len(batch.keys)))

        train(4)
        pool.wait_for({"inversion-0": "running"})

        answer = pool.scale(3)["inversion"]
        assert (answer["target"], answer["running"]) == (3, 1), "the answer comes at once"
        pool.wait_for({"inversion-0": "running", "inversion-1": "running", "inversion-2": "pending"})
        wait_until(lambda: any("lack resources" in line for line in pool.listen()), 300, "it says that one waits")
        train(40)

        pool.scale(1)
        pool.wait_for({"inversion-0": "running"})
        train(20)
        batches, lines = pool.made()["inversion-1"], pool.listen()
        assert batches > 0
        assert f"generator inversion-1 has ended after {batches} batches; its state is kept" in lines
        assert not any("inversion-2 has ended" in line for line in lines), "one that had no place has nothing to deliver"
        # The limiter soon holds the one that is left, so that both counts come to rest.
        wait_until(lambda: actors.stats()["inserts"] == BATCH_SIZE * pool.made().total(), 300, "what was made was not inserted")
        stats = actors.stats()
        assert 2.0 * (stats["inserts"] - 4 * BATCH_SIZE) - stats["samples"] <= 256 + 3 * 2 * BATCH_SIZE, "the limiter holds"

        pool.scale(2)
        pool.wait_for({"inversion-0": "running", "inversion-1": "running"})
        train(20)
        lines = pool.listen()
        assert [line for line in lines if "scaled" in line] == [
            "inversion scaled from 1 to 3 generators",
            "inversion scaled from 3 to 1 generators",
            "inversion scaled from 1 to 2 generators, 1 of them from their earlier state",
        ]
        waiting = [line for line in lines if "lack resources" in line]
        reason = "each needs 3 CPU and no node has that free; they start as soon as one does"
        assert all(line.endswith(reason) for line in waiting)
        # Two, if it was said while the second was still being placed.
        assert any(line.startswith(f"{n} of 3 generators of inversion lack resources (") for n in (1, 2) for line in waiting)
        folder = tmp_path / "saved"
        ray.get(pool.actor.save.remote(folder), timeout=120)
        assert sorted(path.name for path in (folder / "generators").iterdir()) == ["inversion-0.pt", "inversion-1.pt"]
        counts = [record["running"] for record in pool.records if record["kind"] == "generators"]
        assert counts[0] == 1
        assert max(counts) == 2
        with pytest.raises(ray.exceptions.RayTaskError) as refused:
            pool.scale(1, "nosuch")
        assert isinstance(original(refused.value), ConfigError)
        assert ray.get(actors.coordinator.failure.remote()) is None
        pool.close()

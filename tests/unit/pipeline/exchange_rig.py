"""Generators and student workers as the exchange sees them, driven step by step and without threads."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.run.exchange import Exchange, NotYet, SampleReply, SampleRequest, Ticket
from raydfkd.pipeline.run.exchange_state import build_exchange
from raydfkd.types import SyntheticBatch

SIZE = 4
"""Images in a synthesized batch."""


def experiment(
    workers: int = 1, generators: int = 1, batch_size: int = 4, capacity: int = 12, **schedule: Any
) -> ExperimentConfig:
    return build_experiment(
        {
            "task": {"num_classes": 2, "image_shape": [1, 4, 4]},
            "teacher": {"model": "x"},
            "sources": {"a": {"method": "fast", "batch_size": SIZE, "num_generators": generators}},
            "replay": {"synthetic": {"capacity": 12, "sampler": {"kind": "prioritized"}}},
            "students": {"s": {"model": "x", "batch_size": batch_size, "num_workers": workers}},
            "schedule": {"warmup_batches": 2, "rounds": 3, "student_steps_per_round": 2, **schedule},
            "runtime": {"runner": "ray"},
        }
    )


def batch_of(generator_id: str, mark: int = 0, version: int = 0) -> SyntheticBatch:
    """Four images whose first pixel is ``mark``."""
    return SyntheticBatch(
        images=np.full((SIZE, 1, 4, 4), mark % 256, np.uint8),
        targets=np.zeros(SIZE, np.int64),
        teacher_class=np.arange(SIZE, dtype=np.int32) % 2,
        teacher_confidence=np.full(SIZE, 0.5, np.float32),
        source="fast",
        generator_id=generator_id,
        student_version=version,
        priorities=np.ones(SIZE, np.float32),
    )


@dataclass
class Worker:
    """One student worker: what it asked for and not had, and up to which step it has images."""

    asked_until: int
    received_until: int
    flying: deque[tuple[SampleRequest, SampleReply | None]] = field(default_factory=deque)


class Rig:
    """An exchange with the generators and workers of an experiment, each of which moves only when it is told to."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.schedule = config.schedule
        self.exchange = build_exchange(config)
        self.names = [f"{source}-{index}" for source, index in config.generators]
        self.tickets: dict[str, deque[Ticket]] = {name: deque() for name in self.names}
        self.num_delivered = 0
        self.num_attempts = 0
        self.samples: dict[tuple[int, int], np.ndarray] = {}
        self.workers: list[Worker] = []
        self.start_students(0)

    @classmethod
    def of(cls, **settings: Any) -> Rig:
        return cls(experiment(**settings))

    # -- generators

    def admit(self, index: int = 0) -> Ticket | NotYet:
        answer = self.exchange.try_admit(self.names[index], index, len(self.names))
        if isinstance(answer, Ticket):
            self.tickets[self.names[index]].append(answer)
        return answer

    def deliver(self, index: int = 0) -> None:
        name = self.names[index]
        ticket = self.tickets[name].popleft()
        self._insert(name, ticket.number)

    def die(self, index: int, late: bool = False) -> int:
        """The generator's tickets are taken back; ``late``: one of its batches turns up all the same."""
        name = self.names[index]
        held = list(self.tickets[name])
        self.tickets[name].clear()
        taken_back = self.exchange.cancel(name)
        if late and held:
            self._insert(name, held[0].number)
        return taken_back

    def _insert(self, name: str, mark: int) -> None:
        batch = batch_of(name, mark)
        self.exchange.insert(batch, batch)
        self.num_delivered += 1

    def make(self, num: int) -> None:
        """Has ``num`` batches made and delivered, whoever's turn it is."""
        for _ in range(num):
            index = self.exchange.num_tickets % len(self.names)
            answer = self.admit(index)
            assert isinstance(answer, Ticket), answer
            self.deliver(index)

    # -- students

    @property
    def step(self) -> int:
        """Steps for which every worker has had its images; a worker can be at most one step further (gradients are shared)."""
        return min(worker.received_until for worker in self.workers)

    def start_students(self, step: int) -> None:
        """All workers (re)start from the checkpoint of ``step``."""
        self.num_attempts += 1
        self.workers = [Worker(step, step) for _ in range(self.config.student.num_workers)]
        for rank in range(len(self.workers)):
            self.exchange.register("s", len(self.workers), step, self.version_of(step), f"attempt {self.num_attempts}", rank)

    def version_of(self, step: int) -> int:
        return step // self.schedule.student_steps_per_round

    def submit(self, rank: int, wanted: int) -> None:
        """As the client does: requests in flight up to ``wanted``, as far as there are steps left."""
        worker, total = self.workers[rank], self.schedule.total_steps
        while len(worker.flying) < wanted and worker.asked_until < total:
            num = min(self.schedule.batches_per_request, total - worker.asked_until)
            request = SampleRequest(
                "s", rank, num, -1, worker.asked_until, self.version_of(min(worker.received_until, total - 1)),
                np.empty(0, np.int64), np.empty(0, np.float32), f"attempt {self.num_attempts}",
            )  # fmt: skip
            worker.flying.append((request, None))
            worker.asked_until += num

    def poll(self, rank: int) -> bool:
        """Asks for everything in flight that is open; whether an answer came."""
        if self.workers[rank].received_until <= self.step:
            self.submit(rank, 1)
        came = False
        for place, (request, reply) in enumerate(self.workers[rank].flying):
            if reply is None:
                answer = self.exchange.try_sample(request)
                if isinstance(answer, SampleReply):
                    self.workers[rank].flying[place] = (request, answer)
                    came = True
        return came

    def consume(self, rank: int) -> bool:
        """Trains on the next answered request, if its time has come."""
        worker = self.workers[rank]
        if not worker.flying or worker.flying[0][1] is None or worker.received_until > self.step:
            return False
        request, reply = worker.flying.popleft()
        assert reply is not None
        for row in range(request.num_batches):
            self.samples[request.student_step + row, rank] = reply.sample.keys[row]
        self.submit(rank, self.schedule.prefetch)  # in advance, and so knowing the student's version of this step
        worker.received_until += request.num_batches
        return True

    # -- all together

    def finished(self) -> bool:
        return self.step >= self.schedule.total_steps

    def run_to_the_end(self) -> None:
        """Lets everybody move who can, until the students are done.

        Raises:
            AssertionError: nobody can.
        """
        while not self.finished():
            moved = False
            for rank in range(len(self.workers)):
                moved |= self.poll(rank)
                moved |= self.consume(rank)
            if moved:
                continue
            for index, name in enumerate(self.names):
                moved |= isinstance(self.admit(index), Ticket)
                if self.tickets[name]:
                    self.deliver(index)
                    moved = True
            # A worker's question may be what another waited for, so asking once more counts as a move too.
            for rank in range(len(self.workers)):
                moved |= self.poll(rank)
            assert moved, f"standstill at step {self.step}: {[self.admit(i) for i in range(len(self.names))]}"


def check_counts(rig: Rig) -> None:
    exchange: Exchange = rig.exchange
    limiter = exchange.limiters["s"].state_dict()
    assert limiter["inserts"] == exchange.buffer.num_inserts == exchange.buffer.num_batches * SIZE
    early = rig.num_delivered - exchange.buffer.num_batches
    assert early >= 0
    assert exchange.num_pending == early + sum(map(len, rig.tickets.values()))
    assert limiter["samples"] <= rig.schedule.total_steps * rig.config.student.batch_size
    assert limiter["samples"] >= rig.step * rig.config.student.batch_size


def cause(answer: object) -> str:
    assert isinstance(answer, NotYet), answer
    assert answer.reason
    return answer.cause


def request(
    step: int, rank: int = 0, *, num: int = 1, version: int = 0, found: Any = (), attempt: str = "attempt 1", **more: Any
) -> SampleRequest:
    keys = np.array([key for key, _ in found], np.int64)
    priorities = np.array([priority for _, priority in found], np.float32)
    return SampleRequest("s", rank, num, more.pop("cursor", -1), step, version, keys, priorities, attempt, **more)


def sampled(rig: Rig, asked: SampleRequest) -> SampleReply:
    answer = rig.exchange.try_sample(asked)
    assert isinstance(answer, SampleReply), answer
    return answer

"""The meeting point of generators, buffer and students: who may go on, and what they get. Plain and single-threaded.

``Exchange`` joins a replay buffer with a rate limiter and a staleness bound. It never waits: each question is answered with
what was asked for or with a ``NotYet`` that names the reason. ``local_runner`` asks in a loop; the replay actor asks again
whenever something has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.replay.buffer import ReplayBuffer, ShardView
from raydfkd.replay.rate_limiter import RateLimiter
from raydfkd.types import BufferSummary, Sample, SyntheticBatch, WeightsVersion


@dataclass(frozen=True)
class NotYet:
    """Why something must wait. ``cause`` is one of: limiter, turn, weights, data, peers."""

    cause: str
    reason: str


@dataclass(frozen=True)
class Ticket:
    """Leave to synthesize one batch.

    Attributes:
        number: of the batch, over the whole run.
        summary: what the buffer held when the batch's turn began.
        min_version: the oldest student weights it may be made with.
    """

    number: int
    summary: BufferSummary
    min_version: WeightsVersion


@dataclass(frozen=True)
class SampleRequest:
    """One worker's request for the next batches of its student.

    Attributes:
        consumer: the student.
        rank, sequence: which worker asks, and for which request of this session (from 0).
        num_batches: training batches wanted.
        cursor: id of the last shard that the worker's mirror has seen; -1 for none.
        student_step: optimizer updates done.
        version: weights published so far.
        keys, priorities: int64 and float32 [n], what the worker learnt since its last request.
    """

    consumer: str
    rank: int
    sequence: int
    num_batches: int
    cursor: int
    student_step: int
    version: WeightsVersion
    keys: np.ndarray
    priorities: np.ndarray


@dataclass(frozen=True)
class SampleReply:
    """A worker's part of the drawn batches (B / num_workers each), and the shards that its mirror lacks."""

    sample: Sample
    shards: list[ShardView]


@dataclass
class _Session:
    """A student's workers since they last (re)started; its first request is number 0."""

    world_size: int
    sequence: int = 0
    drawn: Sample | None = None
    waiting: dict[int, SampleRequest] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)


class Exchange:
    """Admits synthesis, takes in batches, and deals out training batches.

    Args:
        config: the experiment.
        buffer: empty or restored.
        limiter: of the configured mode.
    """

    def __init__(self, config: ExperimentConfig, buffer: ReplayBuffer, limiter: RateLimiter) -> None:
        self.config = config
        self.buffer = buffer
        self.limiter = limiter
        self.num_tickets = buffer.num_batches
        self.student_version: WeightsVersion = 0
        self.student_step = 0
        self._pending: dict[str, int] = {}
        self._group_summary: tuple[int, BufferSummary] | None = None
        self._sessions: dict[str, _Session] = {}

    @property
    def lockstep(self) -> bool:
        return self.config.schedule.mode == "lockstep"

    @property
    def num_pending(self) -> int:
        """Tickets given out whose batches have not come yet."""
        return sum(self._pending.values())

    def round_of(self, number: int) -> int:
        """The round for which batch ``number`` is made; warm-up batches belong to round 0."""
        schedule = self.config.schedule
        return max(0, number - schedule.warmup_batches) // schedule.batches_per_round

    def try_admit(self, generator_id: str, turn: int, num_turns: int) -> Ticket | NotYet:
        """May this generator begin a batch? In lockstep generators take turns, so that a seed fixes who makes what.

        Args:
            generator_id: who asks.
            turn, num_turns: its place among the generators.
        """
        schedule, number = self.config.schedule, self.num_tickets
        if self.lockstep and number % num_turns != turn:
            return NotYet("turn", f"batch {number} is another generator's")
        size = self.config.synthesis_batch_size
        if not self.limiter.can_insert((self.num_pending + 1) * size):
            return NotYet("limiter", f"{self.buffer.num_inserts} images inserted, the students must draw more first")
        lag = 0 if self.lockstep else schedule.max_staleness_rounds
        min_version = 0 if lag is None else max(0, self.round_of(number) - lag)
        if self.student_version < min_version:
            return NotYet(
                "weights", f"batch {number} needs student weights {min_version}, published are {self.student_version}"
            )
        summary = self.buffer.summary()
        if self.lockstep:
            grouped = self._lockstep_summary(number, summary)
            if isinstance(grouped, NotYet):
                return grouped
            summary = grouped
        self.num_tickets += 1
        self._pending[generator_id] = self._pending.get(generator_id, 0) + 1
        return Ticket(number, summary, min_version)

    def _lockstep_summary(self, number: int, summary: BufferSummary) -> BufferSummary | NotYet:
        """All batches of a group see the buffer as it was before the group, however many generators make them at once."""
        per_round = self.config.schedule.batches_per_round
        first = number - (number - self.config.schedule.warmup_batches) % per_round
        if self._group_summary is None or self._group_summary[0] != first:
            if summary.num_batches < max(0, first):
                return NotYet("data", f"batch {number} comes after batch {first - 1}, which is not in yet")
            self._group_summary = (first, summary)
        grouped = self._group_summary[1]
        return BufferSummary(grouped.size, grouped.class_counts, number)

    def cancel(self, generator_id: str) -> int:
        """Takes back the tickets of a generator that died; returns how many. Their batches will be made by others."""
        lost = self._pending.pop(generator_id, 0)
        self.num_tickets -= lost
        return lost

    def insert(self, batch: SyntheticBatch, payload: Any) -> None:
        """Files a batch for which a ticket was given."""
        self.buffer.insert(batch, payload)
        self.limiter.record_insert(len(batch))
        left = self._pending.get(batch.generator_id, 0) - 1
        if left > 0:
            self._pending[batch.generator_id] = left
        else:
            self._pending.pop(batch.generator_id, None)
        self.num_tickets = max(self.num_tickets, self.buffer.num_batches)

    def register(self, consumer: str, world_size: int, student_step: int, version: WeightsVersion) -> None:
        """A student's workers (re)start at ``student_step``: what they had drawn beyond it counts as not drawn."""
        self._sessions[consumer] = _Session(world_size)
        self.student_step, self.student_version = student_step, version
        self.limiter.set_samples(student_step * self.config.students[consumer].batch_size)

    def try_sample(self, request: SampleRequest) -> SampleReply | NotYet:
        """The worker's part of the next draws. The draws are made once, when all workers of the student have asked.

        So the global batch and the order of priority updates do not depend on which worker asks first.
        """
        session = self._sessions[request.consumer]
        if request.sequence != session.sequence:
            return NotYet("peers", f"request {session.sequence} has not been answered to all workers yet")
        session.waiting.setdefault(request.rank, request)
        if session.drawn is None:
            if len(session.waiting) < session.world_size:
                return NotYet("peers", f"{session.world_size - len(session.waiting)} workers have not asked yet")
            drawn = self._draw(session)
            if isinstance(drawn, NotYet):
                return drawn
            session.drawn = drawn
        part = _part(session.drawn, request.rank, session.world_size)
        session.taken.add(request.rank)
        if len(session.taken) == session.world_size:
            session.sequence, session.drawn = session.sequence + 1, None
            session.waiting, session.taken = {}, set()
        return SampleReply(part, self.buffer.shards_after(request.cursor))

    def _draw(self, session: _Session) -> Sample | NotYet:
        requests = [session.waiting[rank] for rank in range(session.world_size)]
        first = requests[0]
        for rank, request in enumerate(requests):
            if len(request.keys):
                self.buffer.update(first.consumer, request.keys, request.priorities)
                session.waiting[rank] = _without_updates(request)
        self.student_version = max(self.student_version, first.version)
        self.student_step = first.student_step
        batch_size = self.config.students[first.consumer].batch_size
        num_draws = first.num_batches * batch_size
        if not self.limiter.can_sample(num_draws):
            size = self.buffer.size
            return NotYet(
                "limiter", f"{size} images are in the buffer and the generators must insert more before the next draw"
            )
        self.limiter.record_sample(num_draws)
        return self.buffer.sample(first.consumer, first.num_batches, batch_size, first.student_step)

    def progress(self) -> tuple[int, ...]:
        """Counts of everything that an answer can depend on: equal counts, equal answers."""
        asked = sum(len(session.waiting) + session.sequence for session in self._sessions.values())
        return self.buffer.num_inserts, self.buffer.num_samples, self.num_tickets, self.num_pending, self.student_version, asked

    def stats(self) -> dict[str, Any]:
        """Figures for a ``replay`` metrics record."""
        return self.buffer.stats(self.student_version)

    def state_dict(self) -> dict[str, Any]:
        return {
            "limiter": self.limiter.state_dict(),
            "student_version": self.student_version,
            "student_step": self.student_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.limiter.load_state_dict(state["limiter"])
        self.student_version, self.student_step = int(state["student_version"]), int(state["student_step"])
        self.num_tickets = self.buffer.num_batches


def _without_updates(request: SampleRequest) -> SampleRequest:
    return replace(request, keys=request.keys[:0], priorities=request.priorities[:0])


def _part(sample: Sample, rank: int, world_size: int) -> Sample:
    columns = slice(rank, None, world_size)
    names = [f.name for f in fields(Sample)]
    return Sample(*(getattr(sample, name)[:, columns] for name in names))

"""Coordinates generators, buffer and students: who may proceed, and with which data. Plain and single-threaded.

``Exchange`` joins a replay buffer with a rate limiter for each student and a staleness bound. It never blocks: each request
returns its result or a ``NotYet`` that names the reason. ``local_runner`` asks in a loop; the replay actor asks again whenever
something has changed.

Several students draw from one buffer, each with its own priorities and random stream, so that a student's draws do not depend
on when the others ask. The same inserts count for every student's limiter, and all limiters must allow an insert: the slowest
student holds back the generators and thereby the other students. In lockstep a round's synthesis begins when every student
has requested its first batch of that round, so that all priority updates of the previous round are in.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raydfkd.pipeline.experiment.config import ExperimentConfig, source_of
from raydfkd.pipeline.run.messages import NotYet, Places, SampleReply, SampleRequest, Ticket, no_draws, part_of
from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.rate_limiter import RateLimiter
from raydfkd.types import BufferSummary, Sample, SyntheticBatch, WeightsVersion


@dataclass
class _Attempt:
    """A student's workers since they last (re)started.

    Attributes:
        drawn_until: the step up to which batches have been drawn.
        next_step: by rank, the step of a worker's next batches; workers that have not registered yet are missing.
        waiting: by rank, the request for that step.
        parts: by rank and step, draws for a worker that it has not fetched yet.
    """

    name: str | None
    world_size: int
    drawn_until: int
    next_step: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, SampleRequest] = field(default_factory=dict)
    parts: dict[tuple[int, int], SampleReply] = field(default_factory=dict)


class Exchange:
    """Admits synthesis, accepts batches, and hands out training batches.

    Args:
        config: the experiment.
        buffer: empty or restored.
        limiters: of the configured mode, one for each student.
    """

    def __init__(self, config: ExperimentConfig, buffer: ReplayBuffer, limiters: Mapping[str, RateLimiter]) -> None:
        self.config = config
        self.buffer = buffer
        self.limiters = limiters
        self.num_tickets = buffer.num_batches
        self.student_versions: dict[str, WeightsVersion] = dict.fromkeys(config.students, 0)
        self.student_steps = dict.fromkeys(config.students, 0)
        """By student: the newest step for which it has drawn."""
        self._pending: dict[str, deque[int]] = {}
        self._returned: list[int] = []
        self._early: dict[int, tuple[SyntheticBatch, Any]] = {}
        self._preparing: dict[str, str] = {}
        self._group_summary: tuple[int, BufferSummary] | None = None
        self._attempts: dict[str, _Attempt] = {}
        self._arrived: dict[str, int] = {}

    @property
    def lockstep(self) -> bool:
        return self.config.schedule.mode == "lockstep"

    @property
    def student_step(self) -> int:
        """The slowest student's."""
        return min(self.student_steps.values())

    @property
    def num_pending(self) -> int:
        """Issued tickets whose batches are not in the buffer yet."""
        return sum(map(len, self._pending.values())) + len(self._early)

    def round_of(self, number: int) -> int:
        """The round that batch ``number`` belongs to; warm-up batches belong to round 0."""
        schedule = self.config.schedule
        return max(0, number - schedule.warmup_batches) // max(1, schedule.batches_per_round)

    def try_admit(self, holder: str, turn: int, num_turns: int, student: str | None = None) -> Ticket | NotYet:
        """Whether this generator may begin a batch. In lockstep generators take turns, so a seed determines who makes what.

        Args:
            holder: who asks and will own the ticket: the generator, or one stream of its batches.
            turn, num_turns: its place among the generators.
            student: the student whose weights it uses; None: the first one.
        """
        number = self._next_number(turn, num_turns)
        if number is None:
            return NotYet("turn", f"batch {self.num_tickets} belongs to another generator")
        absent = [name for name in self.config.students if name not in self._attempts and name not in self._arrived]
        in_warmup = number < self.config.schedule.warmup_batches
        if absent and (not in_warmup or any(self.config.students[name].few_shot is not None for name in absent)):
            # Starting takes seconds; unrestricted generators would occupy its processors and fill the buffer needlessly. The
            # last warm-up batches may already be made against the student, as its few-shot training has made it.
            return NotYet("limiter", f"student {absent[0]!r} has not started yet")
        if self.config.schedule.batches_per_round == 0 and number >= self.config.schedule.warmup_batches:
            return NotYet("complete", "the pool is complete")
        full = [name for name in self.config.students if not self._has_room(name)]
        if full:
            slowest = min(full, key=lambda name: self.student_steps[name])
            return NotYet("limiter", f"{self.buffer.num_inserts} images inserted, {self._at(slowest)}, must draw more first")
        lag = 0 if self.lockstep else self.config.schedule.max_staleness_rounds
        min_version = 0 if lag is None else max(0, self.round_of(number) - lag)
        opponent = self.config.student_name if student is None else student
        for name in self.config.students if self.lockstep else (opponent,):
            if self.student_versions[name] < min_version:
                return NotYet(
                    "weights",
                    f"batch {number} needs weights {min_version} of student {name!r}, published are "
                    f"{self.student_versions[name]}",
                )
        summary = self.buffer.summary()
        if self.lockstep:
            grouped = self._lockstep_summary(number, summary)
            if isinstance(grouped, NotYet):
                return grouped
            summary = grouped
        if number == self.num_tickets:
            self.num_tickets += 1
        else:
            self._returned.remove(number)
            heapq.heapify(self._returned)
        self._pending.setdefault(holder, deque()).append(number)
        return Ticket(number, summary, min_version)

    def _has_room(self, student: str) -> bool:
        """Whether a student's limiter allows one more batch."""
        return self.limiters[student].can_insert((self.num_pending + 1) * self.config.synthesis_batch_size)

    def _at(self, student: str) -> str:
        return f"student {student!r}, at step {self.student_steps[student]}"

    def _next_number(self, turn: int, num_turns: int) -> int | None:
        """The lowest outstanding batch number for this generator: from a returned ticket, or a new one."""
        free = [*self._returned, self.num_tickets]
        mine = [number for number in free if not self.lockstep or number % num_turns == turn]
        return min(mine, default=None)

    def _lockstep_summary(self, number: int, summary: BufferSummary) -> BufferSummary | NotYet:
        """All batches of a group see the buffer as it was before the group, however many generators work in parallel."""
        per_round = max(1, self.config.schedule.batches_per_round)
        first = number - (number - self.config.schedule.warmup_batches) % per_round
        if self._group_summary is None or self._group_summary[0] != first:
            if summary.num_batches < max(0, first):
                return NotYet("data", f"batch {number} comes after batch {first - 1}, which is not in yet")
            self._group_summary = (first, summary)
        grouped = self._group_summary[1]
        return BufferSummary(grouped.size, grouped.class_counts, number)

    def cancel(self, holder: str) -> int:
        """Takes back the tickets of a holder that will not deliver; returns how many. Other generators make those batches."""
        lost = self._pending.pop(holder, deque())
        for number in lost:
            heapq.heappush(self._returned, number)
        return len(lost)

    def insert(self, batch: SyntheticBatch, payload: Any, holder: str | None = None) -> None:
        """Files a batch under its holder's oldest ticket (without one: under one taken back, or the next number).

        In lockstep batches are inserted in ticket order, so that a seed determines the buffer: one that arrives early is
        held until those before it are in.

        Args:
            holder: of the ticket; the batch's generator unless another is named.
        """
        holder = batch.generator_id if holder is None else holder
        numbers = self._pending.get(holder)
        if numbers:
            number = numbers.popleft()
        elif self._returned:
            # A dead generator's batch that arrived anyway. With a number of its own it would, in lockstep, take the place
            # of the preceding batch that is still to be made.
            number = heapq.heappop(self._returned)
        else:
            number, self.num_tickets = self.num_tickets, self.num_tickets + 1
        if not numbers:
            self._pending.pop(holder, None)
        if not self.lockstep:
            self._file(batch, payload)
            return
        self._early[number] = (batch, payload)
        while self.buffer.num_batches in self._early:
            self._file(*self._early.pop(self.buffer.num_batches))

    def preload(self, batch: SyntheticBatch, payload: Any) -> None:
        """Inserts pinned images, which have no generator and count towards no limit; must come before any other insert."""
        self.buffer.insert(batch, payload)

    def note_preparation(self, holder: str, how_far: str | None) -> None:
        """A generator reports progress of its preparation before the first batch; None: it is done."""
        if how_far is None:
            self._preparing.pop(holder, None)
        else:
            self._preparing[holder] = how_far

    def _file(self, batch: SyntheticBatch, payload: Any) -> None:
        self.buffer.insert(batch, payload, self._opponent_of(batch.generator_id))
        for limiter in self.limiters.values():
            limiter.record_insert(len(batch))

    def _opponent_of(self, generator: str) -> str:
        return self.config.student_of(source_of(generator))

    def register(
        self,
        consumer: str,
        world_size: int,
        student_step: int,
        version: WeightsVersion,
        attempt: str | None = None,
        rank: int = 0,
    ) -> None:
        """A student's worker (re)starts at ``student_step``: draws beyond that step are discarded.

        Args:
            attempt: identifies this start of the student's workers. The first worker with a new one resets the student; None
                always resets.
        """
        known = self._attempts.get(consumer)
        if known is None or attempt is None or known.name != attempt:
            known = self._attempts[consumer] = _Attempt(attempt, world_size, student_step)
            self.student_steps[consumer], self.student_versions[consumer] = student_step, version
            self.limiters[consumer].set_samples(student_step * self.config.students[consumer].batch_size)
            self._arrived.pop(consumer, None)
        known.next_step[rank] = student_step
        known.waiting.pop(rank, None)
        known.parts = {place: part for place, part in known.parts.items() if place[0] != rank}

    def try_sample(self, request: SampleRequest) -> SampleReply | NotYet:
        """The worker's part of the next draws, which are made once, when all workers of the student have asked.

        So the global batch and the order of priority updates do not depend on which worker asks first.
        """
        attempt = self._attempts.get(request.consumer)
        if attempt is None or attempt.name != request.attempt:
            return NotYet("over", "the student's workers have been restarted since")
        place = (request.rank, request.student_step)
        if place not in attempt.parts:
            if attempt.next_step.get(request.rank) != request.student_step:
                return NotYet("peers", f"the request for step {request.student_step} follows one that is still open")
            attempt.waiting.setdefault(request.rank, request)
            refusal = self._draw(attempt, request)
            if refusal is not None:
                return refusal
        return attempt.parts.pop(place)

    def _draw(self, attempt: _Attempt, request: SampleRequest) -> NotYet | None:
        """Draws for ``request`` and for the workers waiting for the same step; None once done."""
        step = request.student_step
        if request.alone:
            together = [request.rank]
        else:
            others = {rank: attempt.next_step.get(rank, step) for rank in range(attempt.world_size)}
            missing = [
                rank for rank, other in others.items() if other < step or (other == step and rank not in attempt.waiting)
            ]
            if missing:
                why = f"student workers {', '.join(map(str, missing))} have not asked for step {step} yet"
                return NotYet("peers", "; ".join([why, *self._behind_at_checkpoint(request.consumer)]))
            together = [rank for rank, other in others.items() if other == step]
        asked = [attempt.waiting[rank] for rank in together]
        self._take_findings(attempt, asked)
        batch_size = self.config.students[request.consumer].batch_size
        until = step + request.num_batches
        num_draws = max(0, until - attempt.drawn_until) * batch_size
        if not self.limiters[request.consumer].can_sample(num_draws):
            so_far = "; ".join([*self._preparing_so_far(), *self._held_by(request.consumer)])
            return NotYet(
                "limiter",
                f"{self.buffer.size} images are in the buffer and the generators must insert more before the next draw"
                + (f" ({so_far})" if so_far else ""),
            )
        self.limiters[request.consumer].record_sample(num_draws)
        attempt.drawn_until = max(attempt.drawn_until, until)
        attempt.next_step.update(dict.fromkeys(together, until))
        if request.draws_itself:
            table = self.buffer.leave_draws(request.consumer, request.num_batches * batch_size)
            shards = self.buffer.shards_after(-1 if request.cursor is None else request.cursor)
            attempt.parts[request.rank, step] = SampleReply(no_draws(request.num_batches), shards, table=table)
            attempt.waiting.pop(request.rank)
            return None
        # In lockstep one by one, so that a seed's draws do not depend on how many are asked for at once.
        draw = self.buffer.sample_one_by_one if self.lockstep else self.buffer.sample
        drawn = draw(request.consumer, request.num_batches, batch_size, step)
        for rank in together:
            cursor = attempt.waiting.pop(rank).cursor
            attempt.parts[rank, step] = self._reply(part_of(drawn, rank, attempt.world_size), cursor)
        return None

    def _preparing_so_far(self) -> list[str]:
        return [f"{holder}: {how_far}" for holder, how_far in self._preparing.items()]

    def _held_by(self, student: str) -> list[str]:
        """Whom the generators, and so ``student``, are waiting for."""
        mine = self._has_room(student)
        late = [
            name
            for name in self.config.students
            if (name not in self._attempts and name not in self._arrived)
            or (mine and not self._has_room(name))
            or (self.lockstep and self.student_versions[name] < self.student_versions[student])
        ]
        return [f"the generators wait for {self._at(name)}" for name in late]

    def _reply(self, part: Sample, cursor: int | None) -> SampleReply:
        """Built together with the draws, since images may be evicted before the worker fetches its part."""
        if cursor is not None:
            return SampleReply(part, self.buffer.shards_after(cursor))
        shard_ids, rows = self.buffer.locate(part.slots)
        payloads = {int(shard_id): self.buffer.payload(int(shard_id)) for shard_id in np.unique(shard_ids)}
        return SampleReply(part, [], Places(shard_ids, rows, payloads))

    def _take_findings(self, attempt: _Attempt, asked: list[SampleRequest]) -> None:
        """Applies the priorities and progress sent with the requests; once, even if a request is repeated."""
        for request in asked:
            if len(request.keys):
                self.buffer.update(request.consumer, request.keys, request.priorities)
                attempt.waiting[request.rank] = _without_updates(request)
        self.note_version(asked[0].consumer, asked[0].version)
        self.student_steps[asked[0].consumer] = max(self.student_steps[asked[0].consumer], asked[0].student_step)

    def note_version(self, student: str, version: WeightsVersion) -> None:
        """A student has published; its priority updates arrived before."""
        self.student_versions[student] = max(self.student_versions[student], version)

    def try_meet(self, student: str, step: int) -> NotYet | None:
        """A student has handed over its state at ``step`` for a checkpoint; None once all students have.

        It repeats this each time it asks, so that nothing is lost if the counting process is.
        """
        if student not in self._attempts and student not in self._arrived:
            # This buffer was lost and restored. The student registers when it draws again; until then it blocks nobody.
            self.student_steps[student] = step
            self.note_version(student, step // self.config.schedule.student_steps_per_round - 1)
            self.limiters[student].set_samples(step * self.config.students[student].batch_size)
        self._arrived[student] = step
        missing = self._not_arrived(step)
        return NotYet("peers", f"{' and '.join(missing)} to reach the checkpoint of step {step}") if missing else None

    def _behind_at_checkpoint(self, student: str) -> list[str]:
        """Students that a student's first worker, and with it its other workers, waits for at a checkpoint."""
        here = self._arrived.get(student, -1)
        return [f"{self._at(name)} has not reached it" for name in self.config.students if self._arrived.get(name, -1) < here]

    def _not_arrived(self, step: int) -> list[str]:
        return [self._at(name) for name in self.config.students if self._arrived.get(name) != step]

    def progress(self) -> tuple[int, ...]:
        """Counts of everything a reply can depend on: equal counts give equal replies."""
        attempts = list(self._attempts.values())
        asked = sum(len(attempt.waiting) for attempt in attempts)
        served = sum(sum(attempt.next_step.values()) for attempt in attempts)
        return (
            *(self.buffer.num_inserts, self.buffer.num_samples, self.num_tickets, self.num_pending, len(self._returned)),
            *(*self.student_versions.values(), *self._arrived.values(), asked, served),
        )

    def stats(self) -> dict[str, Any]:
        """Values for a ``replay`` metrics record."""
        return self.buffer.stats(lambda generator: self.student_versions[self._opponent_of(generator)])

    def state_dict(self) -> dict[str, Any]:
        return {
            name: {
                "limiter": limiter.state_dict(),
                "version": self.student_versions[name],
                "step": self.student_steps[name],
            }
            for name, limiter in self.limiters.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from the students' counts.

        Raises:
            KeyError: a student has none.
        """
        for name, limiter in self.limiters.items():
            # The buffer was saved slightly earlier or later than these counts, so its own number of inserts is used.
            limiter.load_state_dict({**state[name]["limiter"], "inserts": np.array(self.buffer.num_inserts)})
            self.student_versions[name], self.student_steps[name] = int(state[name]["version"]), int(state[name]["step"])
        self.num_tickets = self.buffer.num_batches


def _without_updates(request: SampleRequest) -> SampleRequest:
    return replace(request, keys=request.keys[:0], priorities=request.priorities[:0])

"""Requests of generators and students to an exchange, and its replies."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from raydfkd.replay.buffer import DrawTable, ShardView
from raydfkd.types import BufferSummary, Sample, WeightsVersion


@dataclass(frozen=True)
class NotYet:
    """Why something must wait. ``cause`` is one of: limiter, turn, weights, data, peers, complete (nothing more needed in this
    run), over (waiting is useless)."""

    cause: str
    reason: str


@dataclass(frozen=True)
class Ticket:
    """Permission to synthesize one batch.

    Attributes:
        number: the batch's number in the whole run.
        summary: contents of the buffer when the batch's turn began.
        min_version: the oldest version of the student's weights it may be made with.
    """

    number: int
    summary: BufferSummary
    min_version: WeightsVersion


@dataclass(frozen=True)
class SampleRequest:
    """One worker's request for the next batches of its student.

    Attributes:
        consumer: the student.
        rank: which of its workers asks.
        num_batches: training batches wanted.
        cursor: id of the last shard in the worker's mirror; -1 for none yet, None without a mirror.
        student_step: optimizer updates before the first of these batches; names the request.
        version: weights published so far.
        keys, priorities: int64 and float32 [n], new priorities since the worker's last request.
        attempt: as registered.
        draws_itself: the worker, the only one of its student, makes these draws; it is told the priorities.
        alone: do not wait for workers that have not registered. Only after the buffer was lost and restored: another worker
            may already have its part of these batches and be waiting for this one elsewhere.
    """

    consumer: str
    rank: int
    num_batches: int
    cursor: int | None
    student_step: int
    version: WeightsVersion
    keys: np.ndarray
    priorities: np.ndarray
    attempt: str | None = None
    draws_itself: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Places:
    """Where drawn images are stored, for a worker without a mirror. Payloads stay valid even after eviction.

    Attributes:
        shard_ids: int64 [S,B].
        rows: int32 [S,B], within the shard.
        payloads: by shard id.
    """

    shard_ids: np.ndarray
    rows: np.ndarray
    payloads: dict[int, Any]


@dataclass(frozen=True)
class SampleReply:
    """A worker's part of the drawn batches (B / num_workers each), and how to access the images.

    Attributes:
        sample: the draws.
        shards: those missing from the worker's mirror when the draws were made.
        places: locations of the images, if the worker has no mirror.
        table: where the worker makes the draws itself; ``sample`` then has batches without items.
    """

    sample: Sample
    shards: list[ShardView]
    places: Places | None = None
    table: DrawTable | None = None


def part_of(sample: Sample, rank: int, world_size: int) -> Sample:
    """The draws of one of a student's workers."""
    return Sample(*(getattr(sample, field.name)[:, rank::world_size] for field in fields(Sample)))


def no_draws(num_batches: int) -> Sample:
    """So many batches without items."""
    return Sample(*(np.empty((num_batches, 0), kind) for kind in (np.int64, np.int32, np.float32, np.int32)))

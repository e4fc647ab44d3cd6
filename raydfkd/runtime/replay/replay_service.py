"""The exchange behind a lock, with all waits: the replay actor's whole behaviour, independent of Ray."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from raydfkd.errors import RunFailedError
from raydfkd.pipeline.experiment.config import ExperimentConfig, source_of
from raydfkd.pipeline.run.exchange_state import build_exchange, load_exchange, save_exchange
from raydfkd.pipeline.run.messages import NotYet, Places, SampleReply, SampleRequest, Ticket
from raydfkd.replay.buffer import ShardView
from raydfkd.types import SyntheticBatch, WeightsVersion

Answer = TypeVar("Answer")


class Tell(Protocol):
    """Sends a metrics record: kind, student step, values."""

    def __call__(self, kind: str, step: int, **values: Any) -> None: ...


class _LostShardError(Exception):
    """A shard's pixels are lost, with the node that held them."""

    def __init__(self, shard_id: int) -> None:
        super().__init__(shard_id)
        self.shard_id = shard_id


class ReplayService:
    """Answers generators and students from many threads.

    One condition guards the exchange. Every wait on it ends when something changes, when it times out, or when ``abort``
    or ``stop_admitting`` is called.

    Args:
        config: the experiment.
        tell: takes metrics records.
        put, get: convert a batch to the payload that the buffer keeps, and back; ``get`` returns None if it has been lost.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        tell: Tell,
        put: Callable[[SyntheticBatch], Any] = lambda batch: batch,
        get: Callable[[Any], SyntheticBatch | None] = lambda payload: payload,
    ) -> None:
        self.config = config
        self._tell, self._put, self._get = tell, put, get
        self._exchange = build_exchange(config)
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._streams: dict[str, str] = {}
        self._stream_names = (f"{number}-{uuid.uuid4().hex[:6]}" for number in itertools.count())
        self._past_attempts: dict[str, list[str]] = {name: [] for name in config.students}
        self._drawing_since: float | None = None
        self._admits = True
        self._closed = threading.Event()

    @property
    def size(self) -> int:
        return self._exchange.buffer.size

    def restore(self, folder: Path) -> None:
        """Restores a snapshot or checkpoint."""
        load_exchange(folder, self._exchange, put=self._put)

    def preload(self, collected: SyntheticBatch | None) -> None:
        """Inserts the collected images, if there are any and a table for them."""
        if collected is not None and self.config.replay.pinned is not None:
            with self._changed:
                self._exchange.preload(collected, self._put(collected))

    # -- students

    def register(self, consumer: str, attempt: str, rank: int, world_size: int, step: int, version: WeightsVersion) -> None:
        """Registers a student worker, at its start and when it finds that this buffer does not know it.

        Raises:
            RunFailedError: newer workers have replaced it.
        """
        with self._changed:
            past = self._past_attempts[consumer]
            if attempt in past[:-1]:
                worker = f"{self.config.label_of(consumer)} worker {rank}"
                raise RunFailedError(f"{worker} was replaced by a newer one and must end")
            if attempt not in past:
                past.append(attempt)
            self._exchange.register(consumer, world_size, step, version, attempt, rank)
            self._changed.notify_all()

    def sample(self, request: SampleRequest, timeout_s: float) -> tuple[SampleReply | NotYet, np.ndarray | None, float]:
        """The answer, the images themselves if no mirror is kept, and the seconds of delay by the limiter."""
        limited_since: float | None = None

        def ask() -> SampleReply | NotYet:
            nonlocal limited_since
            if self._failure is not None:
                raise RunFailedError(self._failure)
            answer = self._exchange.try_sample(request)
            if isinstance(answer, NotYet) and answer.cause == "limiter" and limited_since is None:
                limited_since = time.monotonic()
            return answer

        reply = self._wait_for(ask, timeout_s)
        waited_s = 0.0 if limited_since is None else time.monotonic() - limited_since
        if isinstance(reply, NotYet):
            return reply, None, waited_s
        if self._drawing_since is None:
            self._drawing_since = time.monotonic()
        if reply.places is None:
            return reply, None, waited_s
        try:
            return SampleReply(reply.sample, []), self._gather(reply.places), waited_s
        except _LostShardError as lost:
            self.forget([lost.shard_id])
            return NotYet("over", f"images of shard {lost.shard_id} were lost with their node"), None, waited_s

    def update(self, consumer: str, keys: np.ndarray, priorities: np.ndarray) -> None:
        with self._changed:
            self._exchange.buffer.update(consumer, keys, priorities)

    def meet(self, student: str, step: int, timeout_s: float) -> NotYet | None:
        """Reports that a student has reached the checkpoint of ``step``; returns None once all have.

        Raises:
            RunFailedError: the run has failed in the meantime.
        """

        def ask() -> NotYet | None:
            if self._failure is not None:
                raise RunFailedError(self._failure)
            return self._exchange.try_meet(student, step)

        return self._wait_for(ask, timeout_s)

    # -- generators

    def open_stream(self, generator_id: str) -> str:
        """A name for one stream of a generator's batches. Tickets belong to streams, so that those of a dead generator and its
        successor do not mix."""
        with self._changed:
            stream = f"{generator_id}/{next(self._stream_names)}"
            self._streams[stream] = generator_id
            return stream

    def end_stream(self, stream: str) -> None:
        """Marks a stream as ended; its open tickets go to others."""
        with self._changed:
            generator_id = self._streams.pop(stream, None)
            if generator_id is not None:
                self._exchange.note_preparation(generator_id, None)
            self._exchange.cancel(stream)
            self._changed.notify_all()

    def admit(self, stream: str, turn: int, num_turns: int, timeout_s: float) -> tuple[Ticket | NotYet, float]:
        """Admission to synthesize, and the seconds waited for it since a student first drew."""
        began = time.monotonic()

        def ask() -> Ticket | NotYet:
            if not self._admits or stream not in self._streams:
                return NotYet("over", f"stream {stream} is closed")
            student = self.config.student_of(source_of(self._streams[stream]))
            return self._exchange.try_admit(stream, turn, num_turns, student)

        answer = self._wait_for(ask, timeout_s)
        since = self._drawing_since
        return answer, 0.0 if since is None else time.monotonic() - max(began, since)

    def note_preparation(self, stream: str, how_far: str | None) -> None:
        with self._changed:
            if stream in self._streams:
                self._exchange.note_preparation(self._streams[stream], how_far)

    def insert(self, stream: str, batch: SyntheticBatch, payload: Any) -> None:
        with self._changed:
            self._exchange.insert(batch, payload, stream)
            step = self._exchange.student_step
            self._changed.notify_all()
        values = {"generator_id": batch.generator_id, "student_version": batch.student_version, "num_images": len(batch)}
        self._tell("synthesis", step, **values, **batch.metrics)

    # -- the run

    def event(self, message: str, **values: Any) -> None:
        self._tell("event", self._exchange.student_step, message=message, **values)

    def stats(self) -> tuple[int, dict[str, Any]]:
        """The student's step, and the values of a ``replay`` record."""
        with self._changed:
            return self._exchange.student_step, self._exchange.stats()

    def progress(self) -> tuple[bool, int]:
        """Whether a student has drawn since this service started, and the sum of the newest steps that students drew for."""
        with self._changed:
            return self._drawing_since is not None, sum(self._exchange.student_steps.values())

    def newest_images(self) -> np.ndarray | None:
        """Images of the newest batch, or None before the first."""
        with self._changed:
            views = self._exchange.buffer.shards_after(-1)
        batch = self._get(views[-1].payload) if views else None
        return None if batch is None else np.array(batch.images)

    def forget(self, shard_ids: list[int]) -> None:
        """Evicts shards with lost pixels."""
        with self._changed:
            lost = sum(self._exchange.buffer.forget_shard(shard_id) for shard_id in shard_ids)
        if lost:
            self.event(f"{lost} images were lost with the node that held them")

    def save(self, folder: Path) -> None:
        """Writes buffer and counts into a folder."""
        while True:
            try:
                save_exchange(folder, self._exchange, self._batch_of, self._changed)
                return
            except _LostShardError as lost:
                self.forget([lost.shard_id])

    def keep_snapshots(self, folder: Path, period_s: float) -> None:
        """Saves into ``folder`` every ``period_s`` seconds until closed, in a separate thread."""

        def work() -> None:
            while not self._closed.wait(period_s):
                try:
                    self.save(folder)
                except OSError as error:
                    self.event(f"the buffer's snapshot could not be written ({error.strerror}): a restart would lose more")

        threading.Thread(target=work, name="snapshots", daemon=True).start()

    def abort(self, message: str) -> None:
        """The run has failed: wakes every waiter with that error, and rejects all later calls."""
        with self._changed:
            self._failure = self._failure or message
            self._admits = False
            self._changed.notify_all()

    def stop_admitting(self) -> None:
        """Refuses all further admissions, including those being waited for."""
        with self._changed:
            self._admits = False
            self._changed.notify_all()

    def close(self) -> None:
        self._closed.set()

    def _wait_for(self, ask: Callable[[], Answer | NotYet], timeout_s: float) -> Answer | NotYet:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                before = self._exchange.progress()
                answer = ask()
                if self._exchange.progress() != before:
                    self._changed.notify_all()  # This call may have changed what another waits for.
                left = deadline - time.monotonic()
                if not isinstance(answer, NotYet) or answer.cause == "over" or left <= 0:
                    return answer
                self._changed.wait(left)

    def _gather(self, places: Places) -> np.ndarray:
        """Images uint8 [S,B,C,H,W]."""
        images = np.empty((*places.rows.shape, *self.config.task.image_shape), np.uint8)
        for shard_id, payload in places.payloads.items():
            batch = self._get(payload)
            if batch is None:
                raise _LostShardError(shard_id)
            here = places.shard_ids == shard_id
            images[here] = batch.images[places.rows[here]]
        return images

    def _batch_of(self, view: ShardView) -> SyntheticBatch:
        batch = self._get(view.payload)
        if batch is None:
            raise _LostShardError(view.shard_id)
        return batch

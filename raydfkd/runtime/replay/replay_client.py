"""A student worker's side of the replay actor: requests in flight, the mirror, waits by cause, and recovery from restarts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, OwnerDiedError, RayActorError, RayError, RayTaskError
from torch import Tensor

from raydfkd.distillation.device_mirror import DeviceMirror, free_bytes, mirror_refusal
from raydfkd.errors import RaydfkdError, WaitTimeoutError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.messages import NotYet, SampleReply, SampleRequest
from raydfkd.pipeline.run.student_loop import Batch
from raydfkd.runtime.calls import RETRY_PERIOD_S, call
from raydfkd.runtime.failures import original
from raydfkd.runtime.replay.own_draws import OwnDraws
from raydfkd.types import WeightsVersion

SERVER_WAIT_S = 2.0
ANSWER_GRACE_S = 30.0

Findings = tuple[np.ndarray, np.ndarray]
"""Keys int64 [n] and their new priorities float32 [n]."""


@dataclass(frozen=True)
class _Flying:
    request: SampleRequest
    ref: Any


class _StaleError(Exception):
    """The requests in flight will not be answered: the replay actor was restarted, or pixels were lost. Start over."""


class ReplayClient:
    """The batch source of a Ray student worker.

    Args:
        config: the experiment.
        replay, weight_store: the run's actors.
        attempt: name of this start of the student's worker group; the same on all its workers.
        rank, world_size: this worker's rank and the number of workers.
        step: optimizer updates done.
        device: where to put batches.
        student: the worker's student; None: the first one.
        own_draws: whether it makes a round's prioritized draws itself, if it may; None: on a GPU.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        replay: Any,
        weight_store: Any,
        attempt: str,
        rank: int,
        world_size: int,
        step: int,
        device: torch.device,
        student: str | None = None,
        own_draws: bool | None = None,
    ) -> None:
        self._config = config
        self._student = config.student_name if student is None else student
        self._who = f"{config.label_of(self._student)} worker {rank}"
        self._timeout_s = config.runtime.wait_timeout_s
        self._replay, self._weight_store = replay, weight_store
        self._attempt, self._rank, self._world_size = attempt, rank, world_size
        self._device = device
        self.notes: list[str] = []
        """Sentences for people: what is not done as configured."""
        total_slots = config.replay.synthetic.capacity + (0 if config.replay.pinned is None else config.replay.pinned.capacity)
        self._uses_mirror = config.runtime.delivery == "mirror" and self._mirror_fits(total_slots)
        self._mirror = DeviceMirror(total_slots if self._uses_mirror else 0, config.task.image_shape, device)
        wanted = device.type == "cuda" if own_draws is None else own_draws
        may = self._uses_mirror and world_size == 1 and config.leaves_draws
        self._own_draws = OwnDraws(config, self._student, self._mirror, device) if wanted and may else None
        self._ready: deque[Callable[[], Batch]] = deque()
        self._flying: deque[_Flying] = deque()
        self._found: list[tuple[np.ndarray | Tensor, Tensor]] = []
        self._waits = {"student_wait_data_s": 0.0, "student_wait_limiter_s": 0.0}
        self._warm = False
        self._recovering = False
        self._weights: tuple[np.ndarray, WeightsVersion] | None = None
        self._register(step)

    def next(self, step: int, version: WeightsVersion) -> Batch:
        if not self._ready:
            self._receive(step, version)
        return self._ready.popleft()()

    def report(self, keys: np.ndarray | Tensor, priorities: Tensor) -> None:
        if self._own_draws is not None and isinstance(keys, Tensor):
            self._own_draws.update(keys, priorities)
        self._found.append((keys, priorities))

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self._weights = (weights, version)
        call(lambda: self._weight_store.publish.remote(weights, version, self._student), self._timeout_s, "the weight store")

    def publish_again(self) -> None:
        """Called periodically while waiting: a restarted weight store is empty, and generators may wait for it."""
        if self._weights is not None and self._rank == 0:
            self.publish(*self._weights)

    def flush(self) -> None:
        """All workers call this together, and the first sends the updates of all, in order of rank: so a seed fixes the buffer,
        and a checkpoint written afterwards holds every worker's updates."""
        everyones = [self._take_found()]
        if self._world_size > 1:
            gathered: list[Any] | None = [None] * self._world_size if self._rank == 0 else None
            torch.distributed.gather_object(everyones[0], gathered)
            everyones = gathered or []
        for keys, priorities in everyones:
            self._update(keys, priorities)

    def take_waits(self) -> dict[str, float]:
        waits, self._waits = self._waits, dict.fromkeys(self._waits, 0.0)
        return waits

    def note_wait(self, cause: str, seconds: float) -> None:
        """Counts a wait measured elsewhere."""
        self._waits[cause] = self._waits.get(cause, 0.0) + seconds

    def _update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        call(lambda: self._replay.update.remote(self._student, keys, priorities), self._timeout_s, "the replay actor")

    def _mirror_fits(self, total_slots: int) -> bool:
        free = free_bytes(self._device)
        refusal = None if free is None else mirror_refusal(total_slots, self._config.task.image_shape, free)
        if refusal is not None:
            self.notes.append(refusal)
        return refusal is None

    def _register(self, step: int) -> None:
        """Registers this worker, and drops all requests to an earlier replay actor.

        So the mirror is refilled, and priority updates are dropped: a restored buffer may have reused their keys.
        """
        version = step // self._config.schedule.student_steps_per_round
        arguments = (self._student, self._attempt, self._rank, self._world_size, step, version)
        call(lambda: self._replay.register.remote(*arguments), self._timeout_s, "the replay actor")
        self._flying.clear()
        self._found.clear()
        self._cursor, self._next_step = -1, step

    def _receive(self, step: int, version: WeightsVersion) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what the GPU has yet to do is not a wait for data
        began, limiter_s = time.monotonic(), 0.0
        moved, reason = began, ""  # when the answer last changed: a long warm-up with moving counts is not a standstill
        while True:
            self._fill(version, 1)
            try:
                answer, images, waited_s = self._answer(self._flying[0])
                limiter_s += waited_s
                if isinstance(answer, SampleReply):
                    self._unpack(answer, images, self._flying.popleft().request.student_step)
                    break
                if answer.cause == "over":
                    raise _StaleError(answer.reason)
                if answer.reason != reason:
                    moved, reason = time.monotonic(), answer.reason
                self._check_time(moved, f"training images: {answer.reason}")
                self._ask_again(answer)
            except _StaleError as stale:
                self._check_time(moved, f"the replay actor: {stale}")
                time.sleep(RETRY_PERIOD_S)
                self._register(step)
                self._recovering = True
        self._recovering = False
        self._fill(version, self._config.schedule.prefetch)
        self._account(time.monotonic() - began, limiter_s)

    def _answer(self, flying: _Flying) -> tuple[SampleReply | NotYet, np.ndarray | None, float]:
        try:
            answer: tuple[SampleReply | NotYet, np.ndarray | None, float] = ray.get(
                flying.ref, timeout=SERVER_WAIT_S + ANSWER_GRACE_S
            )
        except GetTimeoutError as error:
            raise _StaleError("it does not answer") from error
        except RayTaskError as error:
            cause = original(error)
            if isinstance(cause, RaydfkdError):
                raise cause from None
            raise
        except RayActorError as error:
            raise _StaleError("it is not available") from error
        return answer

    def _ask_again(self, answer: NotYet) -> None:
        request = self._flying[0].request
        if answer.cause == "peers" and self._recovering:
            # Another worker may hold its part of these batches and wait for this one in a collective.
            request = replace(request, alone=True)
        self.publish_again()
        self._flying[0] = _Flying(request, self._submit(request))

    def _check_time(self, began: float, what: str) -> None:
        if time.monotonic() - began > self._timeout_s:
            raise WaitTimeoutError(f"{self._who} waited {self._timeout_s:.0f} s for {what}")

    def _account(self, total_s: float, limiter_s: float) -> None:
        """Waits count only once the buffer is warm: the first batch waits for the whole warm-up by design."""
        if self._warm:
            limiter_s = min(limiter_s, total_s)
            self._waits["student_wait_limiter_s"] += limiter_s
            self._waits["student_wait_data_s"] += total_s - limiter_s
        self._warm = True

    def _fill(self, version: WeightsVersion, wanted: int) -> None:
        """Keeps at least ``wanted`` requests in flight, as far as steps remain."""
        total_steps = self._config.schedule.total_steps
        while len(self._flying) < wanted and self._next_step < total_steps:
            keys, priorities = self._take_found()
            request = SampleRequest(
                consumer=self._student,
                rank=self._rank,
                num_batches=min(
                    self._config.batches_to_request(self._next_step, self._uses_mirror, self._own_draws is not None),
                    total_steps - self._next_step,
                ),
                cursor=self._cursor if self._uses_mirror else None,
                student_step=self._next_step,
                version=version,
                keys=keys,
                priorities=priorities,
                attempt=self._attempt,
                draws_itself=self._own_draws is not None,
            )
            self._flying.append(_Flying(request, self._submit(request)))
            self._next_step += request.num_batches

    def _submit(self, request: SampleRequest) -> Any:
        return self._replay.sample.remote(request, SERVER_WAIT_S)

    def _take_found(self) -> Findings:
        if not self._found:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        slots = [keys for keys, _ in self._found if isinstance(keys, Tensor)]
        if slots:  # drawn on the device
            keys = self._mirror.keys_of(torch.cat(slots).cpu().numpy())
        else:
            keys = np.concatenate([keys for keys, _ in self._found if isinstance(keys, np.ndarray)])
        priorities = torch.cat([priorities for _, priorities in self._found]).cpu().numpy()
        self._found.clear()
        return keys, priorities

    def _unpack(self, reply: SampleReply, images: np.ndarray | None, step: int) -> None:
        sample = reply.sample
        if reply.table is not None and self._own_draws is not None:
            self._catch_up(reply)
            self._own_draws.begin(reply.table, step)
            self._ready.extend(partial(self._own_draws.batch, step + i) for i in range(len(sample.keys)))
            return
        weights = self._there(sample.importance_weights.copy())
        if images is None:
            self._catch_up(reply)
            keys, index = self._mirror.keys_of(sample.slots), self._there(sample.slots.astype(np.int64))

            def batch(row: int) -> Batch:
                return Batch(self._mirror.images_at(index[row]), weights[row], keys[row], sample.ages[row])
        else:
            stacked = self._there(images.copy())

            def batch(row: int) -> Batch:
                return Batch(stacked[row], weights[row], sample.keys[row], sample.ages[row])

        for row in range(len(sample.keys)):
            made = partial(batch, row)
            # In lockstep no slot changes before the next request; otherwise a later shard may overwrite it.
            self._ready.append(made if self._config.schedule.mode == "lockstep" else _done(made()))

    def _there(self, array: np.ndarray) -> Tensor:
        """On the device, which is not waited for."""
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _catch_up(self, reply: SampleReply) -> None:
        shards = [shard for shard in reply.shards if shard.shard_id > self._cursor]
        for shard, batch in zip(shards, self._fetch(shards), strict=True):
            self._mirror.apply(shard.slots, shard.keys, batch.images)
            self._cursor = shard.shard_id

    def _fetch(self, shards: list[Any]) -> list[Any]:
        try:
            batches: list[Any] = ray.get([shard.payload for shard in shards], timeout=self._timeout_s)
        except GetTimeoutError as error:
            raise WaitTimeoutError(f"{self._who} waited {self._timeout_s:.0f} s to fetch images") from error
        except OwnerDiedError as error:
            raise _StaleError("it died with its images") from error
        except RayError as error:
            lost = [shard.shard_id for shard in shards if self._is_lost(shard)]
            call(lambda: self._replay.forget.remote(lost), self._timeout_s, "the replay actor")
            raise _StaleError("images were lost with their node") from error
        return batches

    def _is_lost(self, shard: Any) -> bool:
        try:
            ray.get(shard.payload, timeout=self._timeout_s)
        except RayError:
            return True
        return False


def _done(batch: Batch) -> Callable[[], Batch]:
    return lambda: batch

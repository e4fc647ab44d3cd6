"""A student worker's side of the replay actor: requests in flight, the mirror, waits by cause, and coming through restarts."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError
from torch import Tensor

from raydfkd.distillation.device_mirror import DeviceMirror
from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.pipeline.exchange import NotYet, SampleReply, SampleRequest
from raydfkd.pipeline.student_loop import Batch
from raydfkd.runtime.calls import RETRY_PERIOD_S, call
from raydfkd.types import WeightsVersion

SERVER_WAIT_S = 2.0
ANSWER_GRACE_S = 30.0


@dataclass(frozen=True)
class _Flying:
    request: SampleRequest
    ref: Any


class ReplayClient:
    """The batch source of a Ray student worker.

    Args:
        config: the experiment.
        replay, weight_store: the run's actors.
        session: names this start of the student's worker group; the same on all its workers.
        rank, world_size: which worker this is.
        step: optimizer updates done.
        device: where batches are wanted.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        replay: Any,
        weight_store: Any,
        session: str,
        rank: int,
        world_size: int,
        step: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._replay, self._weight_store = replay, weight_store
        self._session, self._rank, self._world_size = session, rank, world_size
        self._device = device
        total_slots = config.replay.synthetic.capacity + (0 if config.replay.pinned is None else config.replay.pinned.capacity)
        self._uses_mirror = config.runtime.delivery == "mirror"
        self._mirror = DeviceMirror(total_slots if self._uses_mirror else 0, config.task.image_shape, device)
        self._ready: deque[Batch] = deque()
        self._flying: deque[_Flying] = deque()
        self._found: list[tuple[np.ndarray, Tensor]] = []
        self._waits = {"student_wait_data_s": 0.0, "student_wait_limiter_s": 0.0}
        self._warm = False
        self._weights: tuple[np.ndarray, WeightsVersion] | None = None
        self._register(step)

    def next(self, step: int, version: WeightsVersion) -> Batch:
        if not self._ready:
            self._receive(step, version)
        return self._ready.popleft()

    def report(self, keys: np.ndarray, priorities: Tensor) -> None:
        self._found.append((keys, priorities))

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self._weights = (weights, version)
        call(
            lambda: self._weight_store.publish.remote(weights, version), self._config.runtime.wait_timeout_s, "the weight store"
        )

    def flush(self) -> None:
        keys, priorities = self._take_found()
        call(
            lambda: self._replay.update.remote(self._config.student_name, keys, priorities),
            self._config.runtime.wait_timeout_s,
            "the replay actor to take priorities",
        )

    def take_waits(self) -> dict[str, float]:
        waits, self._waits = self._waits, dict.fromkeys(self._waits, 0.0)
        return waits

    def _register(self, step: int) -> None:
        """Announces this worker, and forgets all that an earlier replay actor had promised."""
        version = step // self._config.schedule.student_steps_per_round
        self._epoch = call(
            lambda: self._replay.register.remote(
                self._config.student_name, self._session, self._rank, self._world_size, step, version
            ),
            self._config.runtime.wait_timeout_s,
            "the replay actor",
        )
        self._flying.clear()
        self._ready.clear()
        self._cursor, self._next_step = -1, step

    def _receive(self, step: int, version: WeightsVersion) -> None:
        began, last_told = time.monotonic(), ""
        limiter_s = 0.0
        while True:
            self._fill(version, 1)
            flying = self._flying[0]
            try:
                answer, images, waited_s = ray.get(flying.ref, timeout=SERVER_WAIT_S + ANSWER_GRACE_S)
            except (ActorUnavailableError, ActorDiedError, GetTimeoutError):
                time.sleep(RETRY_PERIOD_S)
                self._check_time(began, "the replay actor, which is not available")
                self._register(step)
                continue
            limiter_s += waited_s
            if isinstance(answer, SampleReply):
                self._flying.popleft()
                break
            last_told = answer.reason
            self._check_time(began, f"training images: {last_told}")
            if self._weights is not None and self._rank == 0:
                self.publish(*self._weights)  # A restarted weight store knows nothing.
            self._flying[0] = _Flying(flying.request, self._submit(flying.request))
        self._unpack(answer, images)
        self._fill(version, self._config.schedule.prefetch)
        self._account(time.monotonic() - began, limiter_s)

    def _check_time(self, began: float, what: str) -> None:
        timeout_s = self._config.runtime.wait_timeout_s
        if time.monotonic() - began > timeout_s:
            raise WaitTimeoutError(f"student worker {self._rank} waited {timeout_s:.0f} s for {what}")

    def _account(self, total_s: float, limiter_s: float) -> None:
        """Waits count once the buffer is warm: the first batch waits for the whole warm-up by design."""
        if self._warm:
            limiter_s = min(limiter_s, total_s)
            self._waits["student_wait_limiter_s"] += limiter_s
            self._waits["student_wait_data_s"] += total_s - limiter_s
        self._warm = True

    def _fill(self, version: WeightsVersion, wanted: int) -> None:
        """Keeps at least ``wanted`` requests in flight, as far as there are steps left to do."""
        schedule, total_steps = self._config.schedule, self._config.schedule.total_steps
        while len(self._flying) < wanted and self._next_step < total_steps:
            num_batches = min(schedule.batches_per_request, total_steps - self._next_step)
            keys, priorities = self._take_found()
            request = SampleRequest(
                self._config.student_name, self._rank, num_batches, self._cursor, self._next_step, version, keys, priorities,
                self._session,
            )  # fmt: skip
            self._flying.append(_Flying(request, self._submit(request)))
            self._next_step += num_batches

    def _submit(self, request: SampleRequest) -> Any:
        return self._replay.sample.remote(request, SERVER_WAIT_S)

    def _take_found(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._found:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        keys = np.concatenate([keys for keys, _ in self._found])
        priorities = torch.cat([priorities for _, priorities in self._found]).cpu().numpy()
        self._found.clear()
        return keys, priorities

    def _unpack(self, reply: SampleReply, images: np.ndarray | None) -> None:
        sample = reply.sample
        if images is None:
            self._catch_up(reply)
            flat, keys = self._mirror.gather(sample.slots.reshape(-1))
            stacked = flat.reshape(*sample.slots.shape, *self._config.task.image_shape)
            keys = keys.reshape(sample.slots.shape)
        else:
            stacked, keys = torch.from_numpy(images.copy()).to(self._device), sample.keys
        weights = torch.from_numpy(sample.importance_weights.copy()).to(self._device)
        for row in range(len(keys)):
            self._ready.append(Batch(stacked[row], weights[row], keys[row], sample.ages[row]))

    def _catch_up(self, reply: SampleReply) -> None:
        shards = [shard for shard in reply.shards if shard.shard_id > self._cursor]
        batches = ray.get([shard.payload for shard in shards], timeout=self._config.runtime.wait_timeout_s)
        for shard, batch in zip(shards, batches, strict=True):
            self._mirror.apply(shard.slots, shard.keys, batch.images)
            self._cursor = shard.shard_id

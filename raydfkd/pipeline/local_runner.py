"""The whole pipeline in one process and one thread, without Ray: breakpoints work, and a seed repeats it bit for bit."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raydfkd.distillation.device_mirror import DeviceMirror
from raydfkd.pipeline import builder, checkpoints, collecting
from raydfkd.pipeline.config import ExperimentConfig, generator_id
from raydfkd.pipeline.exchange import Exchange, NotYet, SampleRequest, Ticket
from raydfkd.pipeline.exchange_state import build_exchange, load_exchange, save_exchange
from raydfkd.pipeline.recorder import Recorder
from raydfkd.pipeline.student_loop import Batch, Emit, LoopHooks, StudentLoop
from raydfkd.run_dir import RunDir
from raydfkd.types import Synthesizer, WeightsVersion


class LocalSource:
    """A batch source that synthesizes in place whenever the rate limiter says that the student must wait."""

    def __init__(
        self,
        config: ExperimentConfig,
        exchange: Exchange,
        synthesizers: dict[str, Synthesizer],
        device: torch.device,
        emit: Emit,
    ) -> None:
        self.config = config
        self.exchange = exchange
        self.synthesizers = synthesizers
        self.device = device
        self.emit = emit
        self._waited_s = 0.0
        self._mirror = DeviceMirror(exchange.buffer.total_slots, config.task.image_shape, device)
        self._cursor = -1
        self._keys: np.ndarray = np.empty(0, np.int64)
        self._priorities: np.ndarray = np.empty(0, np.float32)
        self._weights: tuple[np.ndarray, WeightsVersion] | None = None

    def next(self, step: int, version: WeightsVersion) -> Batch:
        while True:
            request = SampleRequest(self.config.student_name, 0, 1, self._cursor, step, version, self._keys, self._priorities)
            reply = self.exchange.try_sample(request)
            if not isinstance(reply, NotYet):
                break
            self._synthesize(step)
        for shard in reply.shards:
            self._mirror.apply(shard.slots, shard.keys, shard.payload.images)
            self._cursor = shard.shard_id
        images, keys = self._mirror.gather(reply.sample.slots[0])
        weights = torch.from_numpy(reply.sample.importance_weights[0]).to(self.device)
        return Batch(images, weights, keys, reply.sample.ages[0])

    def _synthesize(self, step: int) -> None:
        began = time.monotonic()
        turn = self.exchange.num_tickets % len(self.synthesizers)
        name = list(self.synthesizers)[turn]
        ticket = self.exchange.try_admit(name, turn, len(self.synthesizers))
        if not isinstance(ticket, Ticket):
            raise AssertionError(f"lockstep stands still: {ticket.reason}")
        synthesizer = self.synthesizers[name]
        if self._weights is not None:
            synthesizer.load_student(*self._weights)
        batch = synthesizer.step(ticket.summary)
        self.exchange.insert(batch, batch)
        seconds = time.monotonic() - began
        if step > 0 or self.exchange.buffer.num_batches > self.config.schedule.warmup_batches:
            self._waited_s += seconds
        self.emit("synthesis", step, generator_id=batch.generator_id, student_version=batch.student_version, seconds=seconds,
                  num_images=len(batch), **batch.metrics)  # fmt: skip
        self.emit("replay", step, **self.exchange.stats())

    def report(self, keys: np.ndarray, priorities: Tensor) -> None:
        self._keys, self._priorities = keys, priorities.cpu().numpy()

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self._weights = (weights, version)

    def flush(self) -> None:
        self.exchange.buffer.update(self.config.student_name, self._keys, self._priorities)
        self._keys, self._priorities = self._keys[:0], self._priorities[:0]

    def take_waits(self) -> dict[str, float]:
        waited, self._waited_s = self._waited_s, 0.0
        return {"student_wait_limiter_s": waited}


def run_local(config: ExperimentConfig, run: RunDir, recorder: Recorder, resume_from: Path | None) -> None:
    """Runs the experiment to its end; the last checkpoint in ``run`` holds its outcome.

    Args:
        resume_from: a checkpoint folder to go on from, None to begin.
    """
    device = builder.choose_device(config)
    if config.student.resources.num_threads is not None:
        torch.set_num_threads(config.student.resources.num_threads)
    exchange = build_exchange(config)
    collected = collecting.read(run)
    synthesizers = {
        generator_id(source, index): builder.build_synthesizer(config, source, index, device, collected)
        for source, index in config.generators
    }
    distiller = builder.build_distiller(config, device)
    for name, synthesizer in synthesizers.items():
        checkpoints.load_generator(run.preparation if resume_from is None else resume_from, name, synthesizer)
    if resume_from is not None:
        load_exchange(resume_from, exchange)
        checkpoints.load_student(resume_from, distiller)
    elif collected is not None and config.replay.pinned is not None:
        exchange.preload(collected, collected)
    exchange.register(config.student_name, 1, distiller.num_steps, exchange.student_version)

    def save(step: int) -> None:
        with checkpoints.writing(run, step) as folder:
            checkpoints.save_student(folder, distiller)
            save_exchange(folder, exchange)
            for name, synthesizer in synthesizers.items():
                checkpoints.save_generator(folder, name, synthesizer.state_dict())
        shutil.rmtree(run.preparation, ignore_errors=True)
        newest = exchange.buffer.shards_after(-1)[-1].payload
        recorder.save_grid(newest.images, step)

    source = LocalSource(config, exchange, synthesizers, device, recorder.emit)
    evaluator = builder.build_evaluator(config, distiller.teacher, device)
    hooks = LoopHooks(recorder.emit, save)
    if resume_from is None:
        _prepare(run, recorder, synthesizers)
    recorder.stage("distilling" if distiller.num_steps else "filling the buffer")
    held_out = builder.build_held_out(config, distiller.teacher, device)
    StudentLoop(config, distiller, source, hooks, evaluator, held_out=held_out).run()


def _prepare(run: RunDir, recorder: Recorder, synthesizers: dict[str, Synthesizer]) -> None:
    """Lets every synthesizer do what comes before its first batch."""
    saved_at = time.monotonic()
    for name, synthesizer in synthesizers.items():
        announced = False
        while (prepared := synthesizer.prepare()) is not None:
            if not announced:
                recorder.stage("preparing", name)
                announced = True
            recorder.emit("preparation", 0, generator_id=name, done=prepared.done, total=prepared.total, **prepared.metrics)
            if time.monotonic() - saved_at > recorder.config.runtime.snapshot_period_s:
                checkpoints.save_generator(run.preparation, name, synthesizer.state_dict())
                saved_at = time.monotonic()
        if run.preparation.exists():
            checkpoints.save_generator(run.preparation, name, synthesizer.state_dict())

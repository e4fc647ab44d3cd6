"""The whole pipeline in one process and one thread, without Ray: breakpoints work, and a seed reproduces it bit for bit."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raydfkd.distillation.device_mirror import DeviceMirror
from raydfkd.distillation.distiller import Distiller
from raydfkd.evaluation.collapse import batch_figures
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, generator_id, source_of
from raydfkd.pipeline.run import checkpoints, collecting, stop_signals
from raydfkd.pipeline.run.exchange import Exchange
from raydfkd.pipeline.run.exchange_state import build_exchange, load_exchange, save_exchange
from raydfkd.pipeline.run.few_shot_stage import run_few_shot_stage
from raydfkd.pipeline.run.messages import NotYet, SampleRequest, Ticket
from raydfkd.pipeline.run.recorder import Recorder
from raydfkd.pipeline.run.student_loop import Batch, Emit, LoopHooks, StudentLoop
from raydfkd.resources import use_threads
from raydfkd.run_dir import RunDir
from raydfkd.types import Synthesizer, WeightsVersion


class LocalSynthesis:
    """The run's synthesizers, which make a batch whenever a student is waiting for one."""

    def __init__(self, config: ExperimentConfig, exchange: Exchange, synthesizers: dict[str, Synthesizer], emit: Emit) -> None:
        self.config = config
        self.exchange = exchange
        self.synthesizers = synthesizers
        self.emit = emit
        self._weights: dict[str, tuple[np.ndarray, WeightsVersion]] = {}

    def publish(self, student: str, weights: np.ndarray, version: WeightsVersion) -> None:
        self._weights[student] = weights, version
        self.exchange.note_version(student, version)

    def make_batch(self, step: int) -> float:
        """Lets the synthesizer whose turn it is make one; returns the seconds it took."""
        began = time.monotonic()
        turn = self.exchange.num_tickets % len(self.synthesizers)
        name = list(self.synthesizers)[turn]
        student = self.config.student_of(source_of(name))
        ticket = self.exchange.try_admit(name, turn, len(self.synthesizers), student)
        if not isinstance(ticket, Ticket):
            raise AssertionError(f"lockstep is stuck: {ticket.reason}")
        synthesizer = self.synthesizers[name]
        if student in self._weights:
            synthesizer.load_student(*self._weights[student])
        batch = synthesizer.step(ticket.summary)
        self.exchange.insert(batch, batch)
        seconds = time.monotonic() - began
        self.emit("synthesis", step, generator_id=batch.generator_id, student_version=batch.student_version, seconds=seconds,
                  num_images=len(batch), **batch_figures(batch, self.config.task.num_classes), **batch.metrics)  # fmt: skip
        self.emit("replay", step, **self.exchange.stats())
        return seconds


class LocalSource:
    """A student's batch source that synthesizes in place whenever the rate limiter makes the student wait."""

    def __init__(self, student: str, exchange: Exchange, synthesis: LocalSynthesis, device: torch.device) -> None:
        self.student = student
        self.exchange = exchange
        self.synthesis = synthesis
        self.device = device
        self._warmup_batches = synthesis.config.schedule.warmup_batches
        self._waited_s = 0.0
        self._mirror = DeviceMirror(exchange.buffer.total_slots, synthesis.config.task.image_shape, device)
        self._cursor = -1
        self._keys: np.ndarray = np.empty(0, np.int64)
        self._priorities: np.ndarray = np.empty(0, np.float32)

    def next(self, step: int, version: WeightsVersion) -> Batch:
        while True:
            request = SampleRequest(self.student, 0, 1, self._cursor, step, version, self._keys, self._priorities)
            reply = self.exchange.try_sample(request)
            if not isinstance(reply, NotYet):
                break
            if self.exchange.buffer.num_samples == 0:  # in the warm-up, of which nothing is kept
                stop_signals.interrupt_if_requested()
            seconds = self.synthesis.make_batch(step)
            if step > 0 or self.exchange.buffer.num_batches > self._warmup_batches:
                self._waited_s += seconds
        for shard in reply.shards:
            self._mirror.apply(shard.slots, shard.keys, shard.payload.images)
            self._cursor = shard.shard_id
        images, keys = self._mirror.gather(reply.sample.slots[0])
        weights = torch.from_numpy(reply.sample.importance_weights[0]).to(self.device, non_blocking=True)
        return Batch(images, weights, keys, reply.sample.ages[0])

    def report(self, keys: np.ndarray | Tensor, priorities: Tensor) -> None:
        assert isinstance(keys, np.ndarray), "the buffer has drawn them"
        self._keys, self._priorities = keys, priorities.cpu().numpy()

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.flush()  # Another student may draw first in this round and trigger synthesis.
        self.synthesis.publish(self.student, weights, version)

    def flush(self) -> None:
        self.exchange.buffer.update(self.student, self._keys, self._priorities)
        self._keys, self._priorities = self._keys[:0], self._priorities[:0]

    def take_waits(self) -> dict[str, float]:
        waited, self._waited_s = self._waited_s, 0.0
        return {"student_wait_limiter_s": waited}


def run_local(config: ExperimentConfig, run: RunDir, recorder: Recorder, resume_from: Path | None) -> None:
    """Runs the experiment to its end; the last checkpoint in ``run`` holds its outcome.

    In each round the students train one after another, in the experiment's order.

    Args:
        resume_from: a checkpoint folder to resume from, None to start anew.

    Raises:
        RunStoppedError: a signal asked for it.
    """
    device = builder.choose_device(config)
    threads = [s.resources.num_threads for s in config.students.values() if s.resources.num_threads is not None]
    use_threads(max(threads, default=None))
    exchange = build_exchange(config)
    collected = collecting.read(run)
    synthesizers = {
        generator_id(source, index): builder.build_synthesizer(config, source, index, device, collected)
        for source, index in config.generators
    }
    distillers = {name: builder.build_distiller(config, device, name) for name in config.students}
    for name, synthesizer in synthesizers.items():
        checkpoints.load_generator(run.preparation if resume_from is None else resume_from, name, synthesizer)
    if resume_from is not None:
        load_exchange(resume_from, exchange)
        for name, distiller in distillers.items():
            checkpoints.load_student(resume_from, name, distiller)
    elif collected is not None and config.replay.pinned is not None:
        exchange.preload(collected, collected)
    if resume_from is None:
        for name, distiller in distillers.items():
            run_few_shot_stage(config, run, name, distiller, recorder.emit)
    for name, distiller in distillers.items():
        exchange.register(name, 1, distiller.num_steps, exchange.student_versions[name])
    synthesis = LocalSynthesis(config, exchange, synthesizers, recorder.emit)
    sources = {name: LocalSource(name, exchange, synthesis, device) for name in distillers}
    saved: list[int] = []

    def save(step: int) -> None:
        if step in saved:
            return  # The first student to reach a checkpoint saves all: they are at the same step.
        saved.append(step)
        with checkpoints.writing(run, step) as folder:
            for name, distiller in distillers.items():
                sources[name].flush()
                checkpoints.save_student(folder, name, distiller)
            save_exchange(folder, exchange)
            for name, synthesizer in synthesizers.items():
                checkpoints.save_generator(folder, name, synthesizer.state_dict())
        shutil.rmtree(run.preparation, ignore_errors=True)
        newest = exchange.buffer.shards_after(-1)[-1].payload
        recorder.save_grid(newest.images, step)

    hooks = LoopHooks(recorder.emit, save, lambda number: stop_signals.requested())
    loops = [_build_loop(config, name, distillers[name], sources[name], hooks, device) for name in distillers]
    with stop_signals.deferred():
        if resume_from is None:
            _prepare(run, recorder, synthesizers)
        _alternate(loops)
        if loops[0].distiller.num_steps < config.schedule.total_steps:
            raise checkpoints.stopped_early(run, config.schedule.total_steps)


def _build_loop(
    config: ExperimentConfig, name: str, distiller: Distiller, source: LocalSource, hooks: LoopHooks, device: torch.device
) -> StudentLoop:
    evaluator = builder.build_evaluator(config, distiller.teacher, device)
    held_out = builder.build_held_out(config, distiller.teacher, device)
    return StudentLoop(config, distiller, source, hooks, evaluator, held_out=held_out, student=name)


def _alternate(loops: list[StudentLoop]) -> None:
    """Round by round; all students begin a round, handing over the last one's priorities, before any trains in it."""
    for loop in loops:
        loop.begin()
    begun = [loop.begin_round() for loop in loops]
    while all(begun):
        for loop in loops:
            loop.play_round()
        begun = [loop.begin_round() for loop in loops]
    for loop in loops:
        loop.end()


def _prepare(run: RunDir, recorder: Recorder, synthesizers: dict[str, Synthesizer]) -> None:
    """Runs every synthesizer's preparation before its first batch."""
    saved_at = time.monotonic()
    for name, synthesizer in synthesizers.items():
        while (prepared := synthesizer.prepare()) is not None:
            recorder.emit("preparation", 0, generator_id=name, **prepared.record())
            if stop_signals.requested() or time.monotonic() - saved_at > recorder.config.runtime.snapshot_period_s:
                checkpoints.save_generator(run.preparation, name, synthesizer.state_dict())
                saved_at = time.monotonic()
            if stop_signals.requested():
                raise checkpoints.stopped_early(run, recorder.config.schedule.total_steps)
        if run.preparation.exists():
            checkpoints.save_generator(run.preparation, name, synthesizer.state_dict())

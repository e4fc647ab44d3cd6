"""The training loop of a student, the same for every runner. A run's length is set by its students' steps alone.

At the beginning of each round a student publishes its weights; at fixed intervals it reports mean metrics, is evaluated and
is checkpointed. Images come from a ``BatchSource``. Each student of a run has its own loop; they synchronise at checkpoints,
which hold all students at the same step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raydfkd.distillation.distiller import Distiller, StepOutput
from raydfkd.errors import RunFailedError
from raydfkd.evaluation.accuracy import Evaluator
from raydfkd.evaluation.held_out_agreement import HeldOutEvaluator
from raydfkd.models import flat_weights
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.seeds import derive_seed
from raydfkd.types import WeightsVersion

Emit = Callable[..., None]
"""emit(kind, step, **values): one metrics record."""


@dataclass(frozen=True)
class Batch:
    """One worker's part of a training batch, on its device.

    Attributes:
        images: uint8 [B,C,H,W].
        importance_weights: float32 [B].
        keys: int64 [B] of the items; a tensor of their slots if they were drawn on the device.
        ages: int32 [B], in inserted batches, equally.
    """

    images: Tensor
    importance_weights: Tensor
    keys: np.ndarray | Tensor
    ages: np.ndarray | Tensor


class BatchSource(Protocol):
    """Supplies a student worker's batches and receives its priorities."""

    def next(self, step: int, version: WeightsVersion) -> Batch:
        """The next batch; waits for it."""
        ...

    def report(self, keys: np.ndarray | Tensor, priorities: Tensor) -> None:
        """New priorities of the drawn items, as ``Batch.keys`` names them; they are sent with a later request."""
        ...

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        """Publishes the student's weights to the generators."""
        ...

    def flush(self) -> None:
        """Hands over every priority reported so far (before a checkpoint)."""
        ...

    def take_waits(self) -> dict[str, float]:
        """Seconds waited since the last call, by cause (``student_wait_data_s``, ``student_wait_limiter_s``)."""
        ...


@dataclass
class LoopHooks:
    """Callbacks of the loop besides its source.

    Attributes:
        emit: receives metrics records.
        checkpoint: gets the step and saves the shared state; waits for the other students to reach it.
        stop: called with the number of the next round; whether to end before it. All students, and all workers
            of each, must end before the same one.
    """

    emit: Emit
    checkpoint: Callable[[int], None]
    stop: Callable[[int], bool] = lambda number: False


class StudentLoop:
    """Trains one student worker to the end of the schedule.

    Args:
        config: the experiment.
        distiller: new, or restored from a checkpoint at a round's beginning.
        source: supplies the batches.
        hooks: receives records and checkpoints.
        evaluator: on the worker that evaluates (rank 0), None elsewhere or without evaluation data.
        rank: 0 publishes, reports, evaluates and checkpoints.
        held_out: as ``evaluator``, for unlabelled images that are never trained on.
        student: its name; None: the first one.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        distiller: Distiller,
        source: BatchSource,
        hooks: LoopHooks,
        evaluator: Evaluator | None,
        rank: int = 0,
        held_out: HeldOutEvaluator | None = None,
        student: str | None = None,
    ) -> None:
        self.config = config
        self.name = config.student_name if student is None else student
        self.settings = config.students[self.name]
        self.distiller = distiller
        self.source = source
        self.hooks = hooks
        self.evaluator = evaluator
        self.held_out = held_out
        self.rank = rank
        self.leads = rank == 0
        self._restored_step = distiller.num_steps
        self._means = _Means()
        self._clock = StepClock(distiller.device)
        self._last_log = time.monotonic()

    def run(self) -> None:
        """Trains until the schedule's end, or until ``hooks.stop`` returns true; checkpoints at the end.

        Raises:
            RunFailedError: the student's loss is no longer a number, seen at most ``runtime.log_period_steps`` later.
        """
        self.begin()
        while self.begin_round():
            self.play_round()
        self.end()

    def begin(self) -> None:
        """Measures a student that starts with more than random weights."""
        starts_trained = self.settings.few_shot is not None or self.settings.keeps_filters
        if starts_trained and self.distiller.num_steps == 0:
            self._measure(0)

    def begin_round(self) -> bool:
        """Publishes the weights for the next round; False if there is none."""
        runtime, step = self.config.runtime, self.distiller.num_steps
        version = step // self.config.schedule.student_steps_per_round
        if step >= self.config.schedule.total_steps or self.hooks.stop(version):
            return False
        self.distiller.reseed(derive_seed(runtime.seed, "augmentation", self.name, self.rank, version))
        if step > self._restored_step and version % runtime.checkpoint_period_rounds == 0:
            self._checkpoint(step)
        if self.leads:
            self.source.publish(flat_weights(self.distiller.student), version)
        return True

    def play_round(self) -> None:
        """Runs the round's steps."""
        steps_per_round, distiller = self.config.schedule.student_steps_per_round, self.distiller
        version = distiller.num_steps // steps_per_round
        while distiller.num_steps < (version + 1) * steps_per_round:
            batch = self.source.next(distiller.num_steps, version)
            self._clock.begin()
            output = distiller.step(batch.images, batch.importance_weights)
            self._clock.end()
            self.source.report(batch.keys, output.priorities_B)
            self._means.add(output, batch)
            self._after_step(distiller.num_steps)

    def end(self) -> None:
        """Checkpoints the current state."""
        if self.distiller.num_steps > self._restored_step or self.config.schedule.total_steps == 0:
            self._checkpoint(self.distiller.num_steps)

    def _checkpoint(self, step: int) -> None:
        self.source.flush()
        if self.leads:
            self.hooks.checkpoint(step)

    def _after_step(self, done: int) -> None:
        last = done == self.config.schedule.total_steps
        if self.leads and (last or done % self.config.runtime.log_period_steps == 0):
            self._log(done)
        self._measure(done, last)

    def _measure(self, done: int, last: bool = False) -> None:
        """On the evaluation and the held-out images, where it is their time; this does not count as time of the student's."""
        began = time.monotonic()
        if self.evaluator is not None and (last or done % self.config.evaluation_period_steps == 0):
            self._emit("evaluation", done, self.evaluate(self.evaluator))
        if self.held_out is not None and (last or done % self.config.held_out_period_steps == 0):
            self._emit("held_out", done, self.measure(self.held_out))
        self._last_log += time.monotonic() - began

    def _emit(self, kind: str, done: int, values: dict[str, Any]) -> None:
        self.hooks.emit(kind, done, student=self.name, **values)

    def _log(self, done: int) -> None:
        now, size = time.monotonic(), self.settings.batch_size
        values = self._means.take()
        values["step_s"] = self._clock.take() / max(1, values["num_steps"])
        while self.distiller.notes:
            self.hooks.emit("event", done, message=self.distiller.notes.pop(0))
        self._refuse_divergence(done, values["kd_loss"])
        steps = values.pop("num_steps")
        self._emit("distillation", done, values)
        flow = {
            "images_distilled": done * size,
            "images_distilled_since": steps * size,
            "distilled_per_s": steps * size / max(1e-9, now - self._last_log),
            "rss_bytes": resident_bytes(),
        }
        self._emit("throughput", done, {**flow, **self.source.take_waits()})
        self._last_log = now

    def _refuse_divergence(self, done: int, loss: float) -> None:
        """A diverged student does not recover: its further steps, and its weights in the generators, are useless."""
        if not math.isfinite(loss):
            raise RunFailedError(
                f"student {self.name!r} diverged by step {done} (loss {loss}): lower students.{self.name}.optimizer.lr, or set "
                f"students.{self.name}.optimizer.max_grad_norm"
            )

    def evaluate(self, evaluator: Evaluator) -> dict[str, Any]:
        """Last and averaged student on the evaluation split."""
        distiller = self.distiller
        last = evaluator.evaluate(normalized(distiller.teacher, distiller.student))
        ema = evaluator.evaluate(normalized(distiller.teacher, distiller.student_ema))
        others = {f"{name}_last": value for name, value in last.others.items()}
        others |= {f"{name}_ema": value for name, value in ema.others.items()}
        return {
            "metric_last": last.metric, "metric_ema": ema.metric, "agreement": last.agreement, "split": last.split, **others
        }  # fmt: skip

    def measure(self, held_out: HeldOutEvaluator) -> dict[str, float]:
        """Last and averaged student compared with the teacher on the held-out images."""
        measured = {"num_images": float(len(held_out))}
        for which, student in (("last", self.distiller.student), ("ema", self.distiller.student_ema)):
            agreement, kl = held_out.measure(student)
            measured |= {f"agreement_{which}": agreement, f"kl_{which}": kl}
        return measured


def normalized(teacher: FrozenTeacher, student: nn.Module) -> nn.Module:
    """The student as a network that takes images in [0,1], with its teacher's input statistics."""
    return nn.Sequential(teacher.normalization, student)


class _Means:
    """Running sums of scalars over steps; tensors are read only when the means are computed."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._lr = 0.0
        self._weights: list[Tensor] = []
        self._ages: list[float | Tensor] = []

    def add(self, output: StepOutput, batch: Batch) -> None:
        self._rows.append((output.loss, output.agreement, output.grad_norm))
        self._lr = output.lr
        self._weights.append(batch.importance_weights.mean())
        self._ages.append(batch.ages.float().mean() if isinstance(batch.ages, Tensor) else float(batch.ages.mean()))

    def take(self) -> dict[str, float]:
        """Means since the last call; resets the sums."""
        loss, agree, norm = (float(torch.stack([r[i].float() for r in self._rows]).mean()) for i in range(3))
        means = {
            "kd_loss": loss,
            "agreement": agree,
            "grad_norm": norm,
            "lr": self._lr,
            "importance_weight_mean": float(torch.stack(self._weights).mean()),
            "item_age": float(np.mean([float(age) for age in self._ages])),
            "num_steps": len(self._rows),
        }
        self.__init__()  # type: ignore[misc]
        return means


class StepClock:
    """Seconds that steps take on the device that takes them: a GPU still works when the host has gone on."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._began: list[Any] = []
        self._ended: list[Any] = []

    def begin(self) -> None:
        self._began.append(self._now())

    def end(self) -> None:
        self._ended.append(self._now())

    def take(self) -> float:
        """The sum since the last call; waits for the GPU to have taken these steps."""
        if self._on_gpu and self._ended:
            self._ended[-1].synchronize()
        pairs = list(zip(self._began, self._ended, strict=True))
        self._began, self._ended = [], []
        return sum(first.elapsed_time(last) / 1000 if self._on_gpu else last - first for first, last in pairs)

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def resident_bytes() -> int:
    """Resident memory of this process; 0 if the system does not report it."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return 0
    import resource

    return int(status.read_text().split()[1]) * resource.getpagesize()

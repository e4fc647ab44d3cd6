"""The draws that a student's worker makes itself, on its device, for the batches of one round."""

from __future__ import annotations

import torch
from torch import Tensor

from raydfkd.distillation.device_mirror import DeviceMirror
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.student_loop import Batch
from raydfkd.replay.buffer import DrawTable
from raydfkd.replay.device_replay import DeviceReplay
from raydfkd.replay.importance import importance_exponent
from raydfkd.seeds import derive_seed


class OwnDraws:
    """Batches from a mirror, drawn by priorities that are updated after each step.

    Args:
        config: the experiment; its buffer has a synthetic table alone, whose sampler is prioritized.
        student: whose draws they are; with the run's seed and the step a round begins with it fixes their random numbers.
        mirror: of the buffer, on ``device``, up to date.
    """

    def __init__(self, config: ExperimentConfig, student: str, mirror: DeviceMirror, device: torch.device) -> None:
        self._config, self._student, self._mirror, self._device = config, student, mirror, device
        self._sampler = config.replay.synthetic.sampler
        self._batch_size = config.students[student].batch_size
        self._replay = DeviceReplay(self._sampler, device)
        self._random = torch.Generator(device)
        self._ages = torch.empty(0, dtype=torch.int32, device=device)

    def begin(self, table: DrawTable, step: int) -> None:
        """A round's batches are drawn from this table, the first one before ``step``."""
        self._replay.load(table.values)
        self._ages = torch.from_numpy(table.ages.copy()).to(self._device, non_blocking=True)
        self._random.manual_seed(derive_seed(self._config.runtime.seed, "draws", self._student, step))

    def batch(self, step: int) -> Batch:
        """The next batch; ``keys`` are its slots."""
        uniforms = torch.rand(self._batch_size, dtype=torch.float64, generator=self._random, device=self._device)
        exponent = importance_exponent(self._sampler, step, self._config.schedule.total_steps)
        slots, weights = self._replay.draw(uniforms, exponent)
        return Batch(self._mirror.images_at(slots), weights, slots, self._ages[slots])

    def update(self, slots: Tensor, priorities: Tensor) -> None:
        """New priorities of a batch's items."""
        self._replay.update(slots, priorities)

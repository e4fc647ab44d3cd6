"""The distiller: one optimizer update of a student on images drawn from the buffer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydfkd.augment.levels import BatchAugmentation, Draws
from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.data_parallel import synchronize_batch_norm, without_reduction
from raydfkd.distillation.learner import build_learner
from raydfkd.distillation.objective import Objective
from raydfkd.distillation.optimizers import build_optimizer
from raydfkd.distillation.recorded_step import NotRecordableError, RecordedStep
from raydfkd.distillation.schedule import learning_rate
from raydfkd.errors import ConfigError
from raydfkd.losses.distillation import agreement, importance_weighted_mean
from raydfkd.models.features import join_outputs
from raydfkd.models.moving_average import move_average, newest_share
from raydfkd.models.precision import autocast, device_name, supports_bfloat16
from raydfkd.models.random_streams import RandomStreams
from raydfkd.models.teachers.folded_teacher import fold_batch_norm, in_bfloat16
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.models.weight_vector import float_state
from raydfkd.models.weights import load_optimizer

CPU_TEACHER_CHUNK = 64
"""On a CPU the teacher takes this many images at a time, so activations stay in the caches (WRN-16-2, 2 cores: 136 ms for
256 images against 177 ms at once)."""


@dataclass(frozen=True)
class StepOutput:
    """Result of one update; tensors stay on the device, so that a step never waits for a copy.

    Attributes:
        loss: the scalar that was minimised.
        priorities_B: float32 [B], new raw priorities of the drawn items in draw order (SSD-KD Eq. 4).
        agreement: share of images on which student and teacher predict the same class.
        grad_norm: before clipping.
        lr: learning rate of this update.
    """

    loss: Tensor
    priorities_B: Tensor
    agreement: Tensor
    grad_norm: Tensor
    lr: float


@dataclass(frozen=True)
class _Pace:
    """What differs from step to step besides the images: numbers, or scalars on the device.

    Attributes:
        lr: learning rate.
        newest_share: of the student in its average, see ``moving_average``.
        progress: completed share of training, in [0,1].
    """

    lr: float | Tensor
    newest_share: float | Tensor
    progress: float | Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """As scalars on the CPU, of the types in which the operations that take them compute."""
        return torch.tensor(self.lr), torch.tensor(self.newest_share), torch.tensor(self.progress, dtype=torch.float64)


class Distiller:
    """Owns a student, its objective, its moving average, its optimizer and its augmentation.

    ``step`` is SSD-KD's Algorithm 1, lines 19-21: the importance-weighted loss of the drawn images is back-propagated, and the
    same per-sample values, from the same forward pass, are the images' new priorities.

    Args:
        config: the student's settings.
        teacher: frozen; it gets the augmented images.
        student: takes normalised images [B,C,H,W] and gives logits [B,K].
        total_steps: length of the learning-rate schedule.
        device: where all of it runs. On a GPU the step is one CUDA graph, and the teacher's forward pass in it has its
            BatchNorm folded into its convolutions.
        bf16: bfloat16 autocast where the device has it.

    Attributes:
        notes: on a GPU, which of the two is not so, and why; sentences for people.

    Raises:
        TeacherError, ConfigError: a network does not have what the objective needs, or the student has no weight that learns.
    """

    def __init__(
        self,
        config: StudentConfig,
        teacher: FrozenTeacher,
        student: nn.Module,
        total_steps: int,
        device: torch.device,
        bf16: bool = True,
    ) -> None:
        self.config = config
        self.device = device
        self.bf16 = bf16
        self.total_steps = total_steps
        self.num_steps = 0
        self.trained_on = self._device_name = device_name(device)
        """The device of the newest step, which may have been taken before a restart elsewhere."""
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self.student = student.to(device).to(memory_format=torch.channels_last).train()
        self.student_ema = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.rng = torch.Generator()
        self._layers_draws = RandomStreams(device)
        self._augment = BatchAugmentation(config.augmentations, self.teacher.normalization.mean)
        self.notes: list[str] = []
        on_gpu = device.type == "cuda"
        learner, self._forward_teacher = build_learner(config, self._fast_teacher() if on_gpu else self.teacher, self.student)
        self.objective = learner.objective
        self.objective.trained.to(device)
        self._objective_optimizer = self.objective.build_optimizer()
        own = set() if self._objective_optimizer is None else set(self.objective.trained.parameters())
        self._trained = [weight for weight in learner.parameters() if weight.requires_grad and weight not in own]
        if not self._trained:
            raise ConfigError("the student's network has no weight that learns: requires_grad is False, or it has none")
        self.optimizer = build_optimizer(config.optimizer, self._trained, fused=on_gpu)
        if config.sync_batch_norm:
            for network in (self.student, self.objective.trained):
                synchronize_batch_norm(network)
        if config.compile:
            learner.student.compile()
            self._forward_teacher.compile()
        self._forward: nn.Module = learner
        self._recorded: RecordedStep | None = None
        if on_gpu and config.cuda_graph:
            self._recorded = RecordedStep(self._update, device)
            if self._objective_optimizer is not None or type(self.objective).perturbed_view is not Objective.perturbed_view:
                self._run_eagerly(f"objective {config.objective.kind} has draws or an optimizer of its own")

    def wrap_learner(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Wraps student and objective for every training forward pass, e.g. in DistributedDataParallel."""
        self._forward = wrap(self._forward)
        self._run_eagerly("its workers exchange gradients in it")

    def reseed(self, seed: int) -> None:
        """Reseeds all random numbers of a step: the augmentation's, and those of layers such as dropout.

        Done each round, so that workers' random states need not be saved.
        """
        self.rng.manual_seed(seed)
        self._layers_draws.restart(seed + 1)  # distinct from the augmentation's

    def restart_average(self) -> None:
        """The moving average begins with the student as it is, after something else than a step has changed it."""
        self.student_ema.load_state_dict(self.student.state_dict())

    def step(self, images_BCHW: Tensor, importance_weights_B: Tensor) -> StepOutput:
        """One update.

        Args:
            images_BCHW: uint8 on the distiller's device (this worker's part of the batch).
            importance_weights_B: float32, same length.
        """
        pace = _Pace(
            lr=learning_rate(self.config.optimizer, self.num_steps, self.total_steps),
            newest_share=newest_share(self.config.ema_decay, self.num_steps + 1),
            progress=self.num_steps / max(1, self.total_steps),
        )
        _, _, height, width = images_BCHW.shape
        parts = images_BCHW.chunk(self.config.accumulation_steps)
        draws = [self._augment.draw(len(part), height, width, self.rng) for part in parts]
        with self._layers_draws.in_use():
            loss, priorities_B, agreed, grad_norm = self._step(images_BCHW, importance_weights_B, draws, pace)
        self.num_steps += 1
        self.trained_on = self._device_name
        return StepOutput(loss, priorities_B, agreed, grad_norm, lr=float(pace.lr))

    def _step(self, images: Tensor, weights: Tensor, draws: list[Draws], pace: _Pace) -> tuple[Tensor, ...]:
        inputs = (*pace.tensors(), images, weights, *(each.rows_RB for each in draws)) if self._recorded is not None else ()
        if self._recorded is not None and self._recorded.fits(*inputs):
            try:
                return self._recorded(*inputs)
            except NotRecordableError as error:
                self._run_eagerly(f"it cannot be recorded ({error})")
        return self._updated(images, weights, [each.to(self.device) for each in draws], pace)

    def _run_eagerly(self, reason: str) -> None:
        if self._recorded is not None:
            self.notes.append(f"the student's step is not one CUDA graph: {reason}")
        self._recorded = None

    def _update(
        self, lr: Tensor, newest_share: Tensor, progress: Tensor, images: Tensor, weights: Tensor, *rows: Tensor
    ) -> tuple[Tensor, ...]:
        """As ``_updated``, from tensors alone: with the draws' rows, whose seed is needed on a CPU alone."""
        return self._updated(images, weights, [Draws(each) for each in rows], _Pace(lr, newest_share, progress))

    def _updated(self, images: Tensor, weights: Tensor, draws: Sequence[Draws], pace: _Pace) -> tuple[Tensor, ...]:
        """One update of student, optimizer and average: the same operations in every step, on the device alone."""
        for group in self.optimizer.param_groups:
            group["lr"] = pace.lr
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        parts = self.config.accumulation_steps
        outputs = []
        for number, part in enumerate(zip(images.chunk(parts), weights.chunk(parts), draws, strict=True), 1):
            with nullcontext() if number == parts else without_reduction(self._forward):
                outputs.append(self._backward(*part, pace.progress))
        losses, priorities, agreed = (list(column) for column in zip(*outputs, strict=True))
        limit = self.config.optimizer.max_grad_norm
        grad_norm = torch.nn.utils.clip_grad_norm_(self._trained, float("inf") if limit is None else limit)
        for optimizer in self._optimizers.values():
            optimizer.step()
        move_average(float_state(self.student_ema), float_state(self.student), pace.newest_share)
        return torch.stack(losses).mean(), torch.cat(priorities), torch.stack(agreed).mean(), grad_norm

    def _backward(
        self, images: Tensor, weights: Tensor, draws: Draws, progress: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        view = self.teacher.normalize(self._augment.apply(images, draws))
        perturbed = self.objective.perturbed_view(view, self.rng)
        with autocast(self.device, self.bf16):
            with torch.no_grad():
                chunk = CPU_TEACHER_CHUNK if self.device.type == "cpu" else len(view)
                teacher = join_outputs([self._forward_teacher(images) for images in view.split(chunk)])
            losses, student_logits = self._forward(view, teacher, progress, perturbed)
        loss, priorities = importance_weighted_mean(losses, weights)
        (loss * (1 / self.config.accumulation_steps)).backward()
        return loss.detach(), priorities, agreement(student_logits, teacher.logits)

    def _fast_teacher(self) -> FrozenTeacher:
        """The teacher for the step on a GPU: without BatchNorm layers that a convolution can do the work of, and with weights
        that need no conversion in each step."""
        teacher, refusal = fold_batch_norm(self.teacher)
        if refusal is not None:
            self.notes.append(f"the teacher keeps its BatchNorm layers: {refusal}")
        if self.bf16 and supports_bfloat16(self.device):
            teacher, refusal = in_bfloat16(teacher)
            if refusal is not None:
                self.notes.append(f"the teacher's weights are converted to bfloat16 in every step: {refusal}")
        return teacher

    @property
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The student's, and the objective's own if it has one, by their names in the state."""
        own = self._objective_optimizer
        return {"optimizer": self.optimizer} if own is None else {"optimizer": self.optimizer, "objective_optimizer": own}

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "student_ema": self.student_ema.state_dict(),
            "objective": self.objective.trained.state_dict(),
            **{name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "num_steps": self.num_steps,
            "device": self.trained_on,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.student_ema.load_state_dict(state["student_ema"])
        self.objective.trained.load_state_dict(state["objective"])
        for name, optimizer in self._optimizers.items():
            load_optimizer(optimizer, state[name])
        if self._recorded is not None:
            self._recorded = RecordedStep(self._update, self.device)  # a record refers to the optimizer's earlier state
        self.num_steps = state["num_steps"]
        self.trained_on = state.get("device", self.trained_on)

"""A student's whole step as one CUDA graph: recorded once, replayed with new inputs. No part of it waits for the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydfkd.errors import described


class NotRecordableError(RuntimeError):
    """A step cannot be recorded as a CUDA graph; the message is the device's reason."""


WARM_UP_STEPS = 3
"""Steps before the recording: cuDNN has chosen its algorithms by then, and the optimizer has its state."""


@dataclass(frozen=True)
class Pace:
    """What differs from step to step besides the images: numbers, or scalars on the device.

    Attributes:
        lr: learning rate; float32.
        newest_share: of the student in its average, see ``moving_average``; float32.
        progress: completed share of training, in [0,1]; float64.
    """

    lr: float | Tensor
    newest_share: float | Tensor
    progress: float | Tensor


@dataclass(frozen=True)
class StepTensors:
    """What a step gives: scalars, and ``priorities_B`` float32 [B]; see ``StepOutput``."""

    loss: Tensor
    priorities_B: Tensor
    agreement: Tensor
    grad_norm: Tensor

    def cloned(self) -> StepTensors:
        return StepTensors(*(tensor.clone() for tensor in (self.loss, self.priorities_B, self.agreement, self.grad_norm)))


Update = Callable[[Tensor, Tensor, Sequence[Tensor], Pace], StepTensors]
"""One update from images uint8 [B,C,H,W], importance weights [B], the augmentation's draws for each part, and the pace."""


class RecordedStep:
    """Runs ``update`` from tensors that stay in their places and are overwritten for each step.

    The first steps run as they are, the next one is recorded, and all later ones replay the record. Random numbers of the
    device's default generator continue its stream in a replay too.

    Args:
        update: must read nothing that differs from step to step but its arguments, and always run the same operations.
        device: a CUDA device.
        record: false: nothing is recorded, and every step runs as it is, for tests of the above.
    """

    def __init__(self, update: Update, device: torch.device, record: bool = True) -> None:
        self._update = update
        self._device = device
        self._record = record
        self._inputs: tuple[Tensor, ...] = ()
        self._pace = Pace(
            torch.zeros((), device=device),
            torch.zeros((), device=device),
            torch.zeros((), dtype=torch.float64, device=device),
        )
        self._warm_up_left = WARM_UP_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: StepTensors | None = None

    def fits(self, images: Tensor) -> bool:
        """Whether a batch has the shape of the first one."""
        return not self._inputs or self._inputs[0].shape == images.shape

    def __call__(self, images: Tensor, weights: Tensor, draws: Sequence[Tensor], pace: Pace) -> StepTensors:
        """One step; ``pace`` of numbers, all tensors of the same shapes as in the first call.

        Raises:
            NotRecordableError: nothing of this step has been done.
        """
        self._fill((images, weights, *draws), pace)
        if not self._record:
            return self._run().cloned()
        if self._graph is None and self._warm_up_left > 0:
            self._warm_up_left -= 1
            return self._on_side_stream()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    self._outputs = self._run()
            except RuntimeError as error:
                raise NotRecordableError(described(error)) from error
            self._graph = graph
        self._graph.replay()
        assert self._outputs is not None
        return self._outputs.cloned()

    def _run(self) -> StepTensors:
        images, weights, *draws = self._inputs
        return self._update(images, weights, draws, self._pace)

    def _on_side_stream(self) -> StepTensors:
        """As a recording runs, so that what libraries set up for a stream is set up."""
        here, side = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            outputs = self._run().cloned()
        here.wait_stream(side)
        return outputs

    def _fill(self, inputs: tuple[Tensor, ...], pace: Pace) -> None:
        if not self._inputs:
            self._inputs = tuple(torch.empty_like(tensor, device=self._device) for tensor in inputs)
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        for name in ("lr", "newest_share", "progress"):
            getattr(self._pace, name).fill_(getattr(pace, name))

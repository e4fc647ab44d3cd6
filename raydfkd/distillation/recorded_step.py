"""A training step as one CUDA graph: recorded once, replayed with new inputs. No part of it waits for the host."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydfkd.errors import described

WARM_UP_STEPS = 3
"""Steps before the recording: cuDNN has chosen its algorithms by then, and the optimizer has its state."""

Update = Callable[..., tuple[Tensor, ...]]
"""One update from tensors on the device to tensors there; the same number, shapes and types in every step."""


class NotRecordableError(RuntimeError):
    """A step cannot be recorded as a CUDA graph; the message is the device's reason."""


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
        self._warm_up_left = WARM_UP_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def fits(self, *inputs: Tensor) -> bool:
        """Whether these have the shapes of the first step's."""
        return not self._inputs or [x.shape for x in self._inputs] == [x.shape for x in inputs]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One step from tensors that fit, on the device or on the host, such as numbers as scalars.

        Raises:
            NotRecordableError: nothing of this step has been done.
        """
        if not self._inputs:
            self._inputs = tuple(torch.empty_like(tensor, device=self._device) for tensor in inputs)
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        if not self._record:
            return self._run()
        if self._graph is None and self._warm_up_left > 0:
            self._warm_up_left -= 1
            return self._on_side_stream()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    self._outputs = self._update(*self._inputs)
            except RuntimeError as error:
                raise NotRecordableError(described(error)) from error
            self._graph = graph
        self._graph.replay()
        return tuple(tensor.clone() for tensor in self._outputs)

    def _run(self) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in self._update(*self._inputs))

    def _on_side_stream(self) -> tuple[Tensor, ...]:
        """As a recording runs, so that what libraries set up for a stream is set up."""
        here, side = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            outputs = self._run()
        here.wait_stream(side)
        return outputs

"""Seeded random numbers for layers that use torch's default generators, such as dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RandomStreams:
    """One stream for the CPU and, if ``device`` is a CUDA device, one for that: layers draw on the device of their input.

    A layer cannot be given a generator: ``torch.nn.functional.dropout`` takes none. So, inside :meth:`in_use`, the default
    generators have the states of these streams, and afterwards the states that they had before. What is drawn inside does not
    depend on what is drawn outside, nor vice versa; a second thread must not draw at the same time, as it would consume
    these streams. The states are in host memory, so that nothing waits for the device.

    Args:
        device: where the layers run.
    """

    def __init__(self, device: torch.device) -> None:
        self._streams = [(torch.default_generator, torch.Generator())]
        if device.type == "cuda":
            torch.cuda.init()  # The default generators do not exist before.
            own = torch.Generator(device)
            self._streams.append((torch.cuda.default_generators[own.device.index], own))

    def restart(self, seed: int) -> None:
        """Reseeds every stream from ``seed``."""
        for _, own in self._streams:
            own.manual_seed(seed)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Draws from the default generators in this context continue the streams."""
        outside = [default.get_state() for default, _ in self._streams]
        for default, own in self._streams:
            default.set_state(own.get_state())
        try:
            yield
        finally:
            for (default, own), state in zip(self._streams, outside, strict=True):
                own.set_state(default.get_state())
                default.set_state(state)

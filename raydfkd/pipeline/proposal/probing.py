"""What an experiment costs on this machine, measured with small batches before its sizes are decided."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.experiment.doctor import time_student, time_synthesis
from raydfkd.pipeline.experiment.timing import Timing
from raydfkd.pipeline.proposal.sizing import Costs, Duration
from raydfkd.types import SyntheticBatch

PROBED_BATCH = 8
"""The student's batch that is timed first."""
QUICK_S, LARGER = 1.0, 8
"""Where a batch takes no longer, one so many times as large is timed too, which is more exact."""


def probe(
    at: Callable[[int], ExperimentConfig],
    teacher: FrozenTeacher,
    device: torch.device,
    collected: SyntheticBatch | None = None,
) -> tuple[Costs, float]:
    """Costs by a small batch and, if that was quick, a larger one, and the seconds before the first batch of images.

    Args:
        at: from the student's batch size to the experiment, of one source and one student.
        collected: its collected images, if it has any.

    Raises:
        RaydfkdError: a part of it cannot be built.
    """
    student = builder.build_student(at(PROBED_BATCH), teacher)
    saved = 2 * (saved_bytes(teacher.model, teacher.image_shape) + saved_bytes(student, teacher.image_shape))  # and a generator
    timing = Timing(device)
    synthesis: dict[int, float] = {}
    step: dict[int, float] = {}
    prepare_s = 0.0
    for batch in (PROBED_BATCH, LARGER * PROBED_BATCH):
        config = at(batch)
        source = next(iter(config.sources))
        prepare_s, batch_s = time_synthesis(config, source, device, collected, timing)
        step[batch] = time_student(config, config.student_name, device, timing)
        synthesis[config.synthesis_batch_size] = batch_s
        if batch_s + step[batch] > QUICK_S:
            break
    return Costs(Duration.through(synthesis), Duration.through(step), saved), prepare_s


def saved_bytes(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """What autograd keeps of one image's forward pass."""
    seen: dict[int, int] = {parameter.data_ptr(): 0 for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        seen.setdefault(tensor.data_ptr(), tensor.numel() * tensor.element_size())
        return tensor

    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.rand(2, *image_shape, device=device).requires_grad_())
    return sum(seen.values()) // 2

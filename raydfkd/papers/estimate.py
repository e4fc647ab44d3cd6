"""How long a row takes on this machine, about: its arithmetic divided by what this machine does in a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from raydfkd.errors import RaydfkdError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.precision import autocast
from raydfkd.papers.rows import Row

BACKWARD = 2
"""Operations of a backward pass, in forward passes."""
EFFICIENCY = 0.5
"""Of whole networks, whose other layers take time too, compared with convolutions alone."""


def estimated_hours(row: Row) -> float | None:
    """Hours on this machine's device, to within a factor of about two; None for a network whose arithmetic is not known.

    Counted are the convolutions and matrix products of the teacher and the student in a student's step, and of the teacher for
    each image that a source makes or trains on. A generator's own are left out.
    """
    if row.cell.kind != "experiment":
        return None
    config = row.experiment()
    shape, classes = config.task.image_shape, config.task.num_classes
    teacher = _forward(config.teacher.model, classes, shape)
    if teacher is None:
        return None
    students = {
        name: teacher * (1 - student.pruned.ratio) ** 2
        if student.pruned is not None
        else _forward(config.model_of(name), classes, shape)
        for name, student in config.students.items()
    }
    if None in students.values():
        return None
    steps = config.schedule.total_steps
    work = sum(
        steps * config.students[name].batch_size * (teacher + (1 + BACKWARD) * (one or 0)) for name, one in students.items()
    )
    batches = config.schedule.warmup_batches + config.schedule.rounds * config.schedule.batches_per_round
    for source in config.sources.values():
        trained_on = source.images_trained_on(batches)
        work += (batches * source.batch_size + (1 + BACKWARD) * trained_on) * teacher
    return work / _per_second() / 3600


@cache
def _forward(model: str, num_classes: int, image_shape: tuple[int, int, int]) -> float | None:
    """Floating point operations of one image's forward pass; None if the network is not of the catalog."""
    try:
        with torch.device("meta"):
            network = build_classifier(model, num_classes, image_shape).eval()
            images = torch.empty(1, *image_shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(images)
    except (RaydfkdError, RuntimeError, NotImplementedError):  # it needs its weights or a package, or has unknown operations
        return None
    return float(counter.get_total_flops())


@cache
def _per_second() -> float:
    """Floating point operations in a second of convolutions, forward and backward, in the precision that runs use here.

    On a CPU one thread's processor time is taken, and multiplied by the threads: other work on the machine would multiply the
    time on the wall.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        return _measured(device, time.perf_counter)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return threads * _measured(device, time.process_time)
    finally:
        torch.set_num_threads(threads)


def _measured(device: torch.device, clock: Callable[[], float]) -> float:
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    images = torch.randn(64, 64, 16, 16, device=device).to(memory_format=torch.channels_last).requires_grad_()
    operations, spent = 0.0, 0.0
    for number in range(8):
        began = clock()
        with autocast(device, enabled=True):
            loss = layer(images).float().square().mean()
        loss.backward()
        float(loss.detach())
        if number:  # the first is slower
            operations += (1 + BACKWARD) * 2 * 64 * 64 * 9 * 16 * 16 * 64
            spent += clock() - began
    return EFFICIENCY * operations / spent

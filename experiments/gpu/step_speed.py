"""How fast student steps and synthesis are on this device, beside what its arithmetic and its memory allow.

    python experiments/gpu/step_speed.py [--dry-run]

The arithmetic of a step is counted by torch's counter of floating-point operations, its traffic as the bytes that every
operation of the plain step reads and writes; fused operations move fewer. The ceilings are a matrix product in bfloat16 and a
copy, measured here. Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.distiller import Distiller
from raydfkd.models.catalog import build_classifier
from raydfkd.models.precision import prepare
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.synthesis.ssdkd import SSDKDConfig, SSDKDSynthesizer
from raydfkd.tasks import build_task
from raydfkd.tasks.classification import ClassificationConfig
from raydfkd.types import BufferSummary

CLASSES = 10
PAIRS = (("wrn_16_2", "wrn_16_1"), ("wrn_40_2", "wrn_16_1"), ("resnet34", "resnet18"))
MODES: dict[str, dict[str, bool]] = {
    "eager": {"cuda_graph": False},
    "graph": {"cuda_graph": True},
    "compiled": {"cuda_graph": False, "compile": True},
    "compiled graph": {"cuda_graph": True, "compile": True},
}
COMPILE_S = 45.0
"""Not begun with less time than this left."""

Put = Callable[..., None]


def device() -> torch.device:
    chosen = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    prepare(chosen)
    return chosen


def wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def seconds_of(call: Callable[[], object], times: int, warm_up: int, where: torch.device) -> float:
    """Mean seconds of a call."""
    for _ in range(warm_up):
        call()
    wait(where)
    began = time.perf_counter()
    for _ in range(times):
        call()
    wait(where)
    return (time.perf_counter() - began) / times


def ceilings(where: torch.device, dry: bool) -> dict[str, float]:
    """FLOP/s of a matrix product in bfloat16, and bytes/s of a copy, read and written."""
    side, size = (256, 1 << 20) if dry else (8192, 1 << 30)
    matrix = torch.randn(side, side, device=where, dtype=torch.bfloat16)
    product_s = seconds_of(lambda: matrix @ matrix, 2 if dry else 20, 3, where)
    source = torch.empty(size, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    copy_s = seconds_of(lambda: target.copy_(source), 2 if dry else 20, 3, where)
    return {"flop_per_s": 2 * side**3 / product_s, "byte_per_s": 2 * size / copy_s}


class Traffic(TorchDispatchMode):
    """Bytes of the tensors that operations take and give, without those that only look at memory in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, given)) if isinstance(x, Tensor)]
            self.num_bytes += sum(x.numel() * x.element_size() for x in tensors)
        return given


def teacher_of(model: str, shape: tuple[int, int, int]) -> FrozenTeacher:
    torch.manual_seed(0)
    return FrozenTeacher(build_classifier(model, CLASSES, shape), CLASSES, shape, (0.5,) * shape[0], (0.25,) * shape[0])


def distiller_of(pair: tuple[str, str], shape: tuple[int, int, int], where: torch.device, **settings: Any) -> Distiller:
    teacher, student = pair
    config = StudentConfig.model_validate({"model": student, "objective": {"temperature": 20}, **settings})
    torch.manual_seed(1)
    return Distiller(config, teacher_of(teacher, shape), build_classifier(student, CLASSES, shape), 10_000, where)


def student_step(
    pair: tuple[str, str], batch: int, mode: str, where: torch.device, limits: dict[str, float], dry: bool
) -> dict[str, Any]:
    """Images a second of one mode, and its shares of the ceilings."""
    shape = (1, 8, 8) if dry else (3, 32, 32)
    distiller = distiller_of(pair, shape, where, batch_size=batch, **MODES[mode])
    images = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=where)
    weights = torch.ones(batch, device=where)
    step_s = seconds_of(lambda: distiller.step(images, weights), 3 if dry else 60, 2 if dry else 12, where)
    plain = distiller_of(pair, shape, where, batch_size=batch, cuda_graph=False)
    plain.step(images, weights)
    with FlopCounterMode(display=False) as arithmetic:
        plain.step(images, weights)
    with Traffic() as traffic:
        plain.step(images, weights)
    flops = arithmetic.get_total_flops()
    return {
        "images_per_s": batch / step_s,
        "step_ms": 1000 * step_s,
        "flops_per_image": flops / batch,
        "share_of_arithmetic": flops / step_s / limits["flop_per_s"],
        "share_of_bandwidth": traffic.num_bytes / step_s / limits["byte_per_s"],
        "notes": distiller.notes,
    }


def synthesis(teacher: str, student: str, steps: int, where: torch.device, dry: bool) -> dict[str, Any]:
    """Seconds of one batch of 256 by SSD-KD, its way to the host included."""
    shape, batch = ((1, 8, 8), 16) if dry else ((3, 32, 32), 256)
    config = SSDKDConfig(steps_per_batch=steps, batch_size=batch, **({"base_channels": 4, "latent_dim": 8} if dry else {}))
    torch.manual_seed(1)
    parts = SynthesisParts(
        build_task(ClassificationConfig(num_classes=CLASSES, image_shape=shape)),
        teacher_of(teacher, shape),
        build_classifier(student, CLASSES, shape),
    )
    synthesizer = SSDKDSynthesizer.build(config, parts, SynthesisContext("speed-0", 0, 1, 20.0), where)
    summary = BufferSummary(5000, np.full(CLASSES, 500), 50)
    return {"batch_s": seconds_of(lambda: synthesizer.step(summary), 2 if dry else 20, 1 if dry else 5, where)}


def measure(put: Put, limits: dict[str, float], dry: bool, left_s: Callable[[], float] = lambda: math.inf) -> None:
    """All of it, most important first; what fails leaves its error and the rest goes on."""
    where = device()
    pairs = (("small_cnn_8", "small_cnn_4"),) if dry else PAIRS
    steps: dict[str, Any] = {}
    syntheses: dict[str, Any] = {}

    def tried(name: str, into: dict[str, Any], key: str, call: Callable[[], dict[str, Any]]) -> None:
        try:
            into[key] = call()
        except Exception as error:
            into[key] = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        put(**{name: into})

    def step(pair: tuple[str, str], batch: int, mode: str) -> None:
        key = f"{pair[0]} -> {pair[1]}, {batch}, {mode}"
        tried("student_steps", steps, key, lambda: student_step(pair, batch, mode, where, limits, dry))

    for batch in (16,) if dry else (256, 1024):
        for pair in pairs:
            for mode in ("graph", "eager"):
                step(pair, batch, mode)
    for number in (2, 5):
        for teacher, student in pairs:
            key = f"{teacher} -> {student}, {number} steps"
            tried("synthesis", syntheses, key, lambda t=teacher, s=student, n=number: synthesis(t, s, n, where, dry))
    for pair in () if dry else pairs:
        for mode in ("compiled graph", "compiled"):
            if left_s() > COMPILE_S:
                step(pair, 256, mode)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    dry_run = parser.parse_args().dry_run
    found = ceilings(device(), dry_run)
    print(json.dumps(found))
    measure(lambda **figures: print(json.dumps(figures), flush=True), found, dry_run)

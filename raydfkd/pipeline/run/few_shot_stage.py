"""A student's training on the collected images alone, once, before its first round; the same for every runner."""

from __future__ import annotations

import time

import torch

from raydfkd.distillation.distiller import Distiller
from raydfkd.distillation.few_shot import FEW_SHOT, FewShotParts
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run import checkpoints, collecting
from raydfkd.pipeline.run.student_loop import Emit
from raydfkd.run_dir import RunDir
from raydfkd.seeds import derive_seed


def run_few_shot_stage(config: ExperimentConfig, run: RunDir, name: str, distiller: Distiller, emit: Emit) -> None:
    """Trains the student in place, if it has a few-shot method and has not done this.

    Its state afterwards is kept in ``run.preparation`` until the run's first checkpoint, so that a resumed run, or a restarted
    worker, does not repeat it.

    Args:
        distiller: of a student that no checkpoint was loaded into.
    """
    settings = config.students[name].few_shot
    if settings is None:
        return
    if checkpoints.student_path(run.preparation, name).exists():
        checkpoints.load_student(run.preparation, name, distiller)
        return
    collected = collecting.read(run)
    assert collected is not None, "the settings require collected images"
    parts = FewShotParts(
        teacher=distiller.teacher,
        student=distiller.student,
        images=torch.tensor(collected.images),
        kept=builder.pruned_filters(config, name, distiller.teacher),
        augmentations=config.students[name].augmentations,
        device=distiller.device,
        seed=derive_seed(config.runtime.seed, "few-shot", name),
    )
    began = time.monotonic()
    for step in FEW_SHOT.get(settings.kind).train(settings, parts):
        seconds = time.monotonic() - began
        emit("few_shot", 0, student=name, done=step.done, total=step.total, few_shot_s=seconds, **step.metrics)
        began = time.monotonic()
    distiller.restart_average()
    checkpoints.save_student(run.preparation, name, distiller)

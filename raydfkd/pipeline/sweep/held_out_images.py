"""The images on which a sweep's trials are compared when no real labelled data may be used.

They are made once, before the trials, by one generator per source of the sweep's base experiment, with its own seed: images
of a trial's buffer would be training images of its student, and would differ between trials. The generator runs the
experiment's preparation and warm-up first, so that its images resemble those of the trials; its student is untrained. If the
experiment has collected images, some of these are held out too, and every trial excludes them (``collected.exclude``).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from raydfkd.errors import DataError
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run import collecting
from raydfkd.seeds import derive_seed
from raydfkd.types import BufferSummary, Synthesizer, SyntheticBatch

COLLECTED_SHARE = 5
"""At most one in this many collected images is held out."""


def make_held_out(config: ExperimentConfig, num_images: int, seed: int, device: torch.device) -> SyntheticBatch:
    """Makes ``num_images`` held-out images, identical for the same seed and device.

    Args:
        config: the sweep's base experiment.
        seed: the sweep's seed.
        device: device to make them on.

    Raises:
        RaydfkdError: teacher, collected images or a source are unusable.
    """
    own_seed = derive_seed(seed, "held out")
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"seed": own_seed})})
    teacher = builder.build_frozen_teacher(config)
    builder.audit(config, teacher)
    parts: list[SyntheticBatch] = []
    collected = collecting.collect(config, teacher, device)
    # Without sources there are no other images to hold out.
    most = num_images // 2 if config.sources else num_images
    share = 0 if collected is None else min(most, len(collected) // COLLECTED_SHARE)
    if collected is not None and config.collected is not None and share >= 2:
        fewer = config.collected.model_copy(update={"num_images": share})
        held = collecting.collect(config.model_copy(update={"collected": fewer}), teacher, device)
        assert held is not None
        parts.append(held.batch)
    elif not config.sources:
        raise DataError(f"{len(collected or ())} collected images are too few to hold some out: use objective.kind evaluation")
    left = num_images - sum(map(len, parts))
    images = None if collected is None else collected.batch
    for number, source in enumerate(config.sources):
        wanted = left // len(config.sources) + (number < left % len(config.sources))
        synthesizer = builder.build_synthesizer(config, source, 0, device, images)
        if wanted:
            parts.append(_synthesize(config, synthesizer, wanted))
    return _joined(parts)


def _synthesize(config: ExperimentConfig, synthesizer: Synthesizer, wanted: int) -> SyntheticBatch:
    """The last ``wanted`` images of a warm-up followed by as many batches as needed."""
    while synthesizer.prepare() is not None:
        pass
    num_batches = config.schedule.warmup_batches + math.ceil(wanted / config.synthesis_batch_size)
    made: list[SyntheticBatch] = []
    counts, size = np.zeros(config.task.num_classes, np.int64), 0
    for number in range(num_batches):
        batch = synthesizer.step(BufferSummary(size, counts, number))
        counts, size = counts + batch.class_counts(len(counts)), size + len(batch)
        made = [*made, batch][-math.ceil(wanted / config.synthesis_batch_size) :]
    return SyntheticBatch.concat(made).take(slice(-wanted, None))


def _joined(parts: list[SyntheticBatch]) -> SyntheticBatch:
    sources = list(dict.fromkeys(part.source for part in parts))
    return SyntheticBatch.concat(
        parts,
        source="+".join(sources),
        generator_id="held_out",
        student_version=-1,
        priorities=None,
        metrics={f"num_{name}": float(sum(len(part) for part in parts if part.source == name)) for name in sources},
    )

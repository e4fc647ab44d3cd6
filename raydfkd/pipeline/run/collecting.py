"""A run's collected images: read and labelled once, then kept in its directory for every process and every resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.replay.arrow import from_parquet, to_parquet
from raydfkd.run_dir import RunDir, write_atomically
from raydfkd.seeds import derive_seed
from raydfkd.tasks import build_task
from raydfkd.types import SyntheticBatch

if TYPE_CHECKING:
    import torch

    from raydfkd.data.collected import CollectedImages
    from raydfkd.models.teachers.teacher import FrozenTeacher

MUCH_INFLATION = 100
"""Above this, collected images are drawn so much more often than synthetic ones that a student memorises them."""


def collect(config: ExperimentConfig, teacher: FrozenTeacher, device: torch.device) -> CollectedImages | None:
    """Reads and labels the collected images; None if the experiment has none.

    Raises:
        DataError: see ``data.collected.collect``.
        ConfigError: the pinned table cannot hold them.
    """
    if config.collected is None:
        return None
    from raydfkd.data.collected import collect as read_and_label

    seed = derive_seed(config.runtime.seed, "collected")
    collected = read_and_label(config.collected, build_task(config.task), teacher, seed, device, config.runtime.bf16)
    pinned = config.replay.pinned
    if pinned is not None and len(collected) > pinned.capacity:
        raise ConfigError(
            f"{len(collected)} images were collected and replay.pinned.capacity is {pinned.capacity}: raise it, or choose "
            "fewer with collected.num_images"
        )
    return collected


def warnings_of(config: ExperimentConfig, collected: CollectedImages) -> list[str]:
    """Warnings about these images for the user, before a long run."""
    found = []
    if collected.num_skipped:
        found.append(f"{collected.num_skipped} collected images could not be read and were skipped")
    if missing := collected.missing_classes:
        classes = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        found.append(f"the teacher assigns no collected image to class {classes}: a GAN cannot learn what these look like")
    if config.replay.pinned is not None and config.replay.pinned_fraction is None:
        inflation = config.replay.inflation_of(len(collected))
        if inflation > MUCH_INFLATION:
            found.append(
                f"each of {len(collected)} collected images counts {inflation:g} times in the mix: the student may memorise "
                "them; collect more, or lower replay.inflation"
            )
    return found


def write(run: RunDir, collected: CollectedImages) -> None:
    write_atomically(run.collected_path, to_parquet(collected.batch))


def read(run: RunDir) -> SyntheticBatch | None:
    """The run's collected images, None if there are none.

    Raises:
        DataError: the file is damaged.
    """
    return from_parquet(run.collected_path.read_bytes()) if run.collected_path.exists() else None

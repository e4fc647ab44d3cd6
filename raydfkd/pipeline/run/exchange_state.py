"""Building an exchange from an experiment, and its state on disk. Imports no torch, to keep the replay actor small."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import CheckpointError, DataError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.exchange import Exchange
from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.rate_limiter import RateLimiter
from raydfkd.replay.snapshot import read_snapshot, write_snapshot
from raydfkd.run_dir import write_atomically
from raydfkd.seeds import derive_seed


def build_rate_limiters(config: ExperimentConfig) -> dict[str, RateLimiter]:
    """Each student's limiter: strict alternation in lockstep, a ratio or only a minimum size when decoupled."""
    return {name: _build_rate_limiter(config, student.batch_size) for name, student in config.students.items()}


def _build_rate_limiter(config: ExperimentConfig, sample_size: int) -> RateLimiter:
    schedule, batch_size = config.schedule, config.synthesis_batch_size
    if schedule.mode == "lockstep":
        return RateLimiter.lockstep(
            schedule.warmup_batches,
            schedule.batches_per_round,
            batch_size,
            schedule.student_steps_per_round,
            sample_size,
        )
    return RateLimiter(
        schedule.samples_per_insert,
        schedule.warmup_batches * batch_size,
        schedule.error_buffer,
        insert_chunk=batch_size,
        sample_chunk=schedule.batches_per_request * sample_size,
    )


def build_exchange(config: ExperimentConfig) -> Exchange:
    """An empty buffer with its limiters."""
    buffer = ReplayBuffer(
        config.replay,
        config.task.num_classes,
        config.schedule.total_steps,
        tuple(config.students),
        np.random.default_rng(derive_seed(config.runtime.seed, "replay")),
    )
    return Exchange(config, buffer, build_rate_limiters(config))


def save_exchange(
    folder: Path,
    exchange: Exchange,
    get_batch: Callable[..., Any] | None = None,
    lock: AbstractContextManager[Any] | None = None,
) -> None:
    """Writes buffer and counts; ``get_batch`` and ``lock`` as in ``write_snapshot``."""
    arguments: dict[str, Any] = {} if get_batch is None else {"get_batch": get_batch}
    write_snapshot(folder / "replay", exchange.buffer, lock=lock, **arguments)
    write_atomically(folder / "exchange.json", json.dumps(_listed(exchange.state_dict())) + "\n")


def load_exchange(folder: Path, exchange: Exchange, put: Callable[[Any], Any] = lambda batch: batch) -> None:
    """Restores buffer and counts; ``put`` converts each batch to the payload kept in the buffer.

    Raises:
        CheckpointError: snapshot or counts are missing, truncated or damaged.
        DataError: they belong to a different buffer.
    """
    try:
        state, shards = read_snapshot(folder / "replay")
    except DataError as error:
        raise CheckpointError(f"{error}: remove the folder {folder} to resume from the previous checkpoint") from error
    exchange.buffer.load_state_dict(state, {shard_id: put(batch) for shard_id, batch in shards})
    try:
        counts = json.loads((folder / "exchange.json").read_text(encoding="utf-8"))
        for own in counts.values():
            own["limiter"] = {name: np.array(value) for name, value in own["limiter"].items()}
        exchange.load_state_dict(counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {folder} has no readable exchange.json ({error}): resume from another one"
        ) from error


def _listed(state: dict[str, Any]) -> dict[str, Any]:
    return {k: _listed(v) if isinstance(v, dict) else v.item() if hasattr(v, "item") else v for k, v in state.items()}

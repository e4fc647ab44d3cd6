from collections.abc import Callable

import numpy as np
import pytest

from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import ReplayConfig, SelectorConfig, TableConfig
from raydfkd.types import SyntheticBatch

NUM_CLASSES = 5


def _batch(
    n: int, seed: int = 0, source: str = "ssdkd", priorities: np.ndarray | None = None, student_version: int = 0
) -> SyntheticBatch:
    rng = np.random.default_rng(seed)
    return SyntheticBatch(
        images=rng.integers(0, 256, (n, 3, 4, 4), dtype=np.uint8),
        targets=rng.integers(0, NUM_CLASSES, n),
        teacher_class=rng.integers(0, NUM_CLASSES, n, dtype=np.int32),
        teacher_confidence=rng.random(n, dtype=np.float32),
        source=source,
        generator_id=f"{source}-0",
        student_version=student_version,
        priorities=priorities,
        metrics={"loss": 0.5},
    )


def _buffer(
    capacity: int = 20,
    kind: str = "prioritized",
    consumers: tuple[str, ...] = ("small",),
    pinned: TableConfig | None = None,
    pinned_fraction: float | None = None,
    inflation: float | None = None,
    total_steps: int = 101,
    seed: int = 0,
    **table: object,
) -> ReplayBuffer:
    sampler = table.pop("sampler", SelectorConfig(kind=kind))
    synthetic = TableConfig(capacity=capacity, sampler=sampler, **table)
    config = ReplayConfig(synthetic=synthetic, pinned=pinned, pinned_fraction=pinned_fraction, inflation=inflation)
    return ReplayBuffer(config, NUM_CLASSES, total_steps, consumers, np.random.default_rng(seed))


@pytest.fixture
def make_batch() -> Callable[..., SyntheticBatch]:
    return _batch


@pytest.fixture
def make_buffer() -> Callable[..., ReplayBuffer]:
    """Builds a buffer of 5 classes; its payloads in these tests are the batches themselves."""
    return _buffer

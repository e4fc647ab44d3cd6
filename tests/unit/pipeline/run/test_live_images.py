"""Which images a finished run's report shows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from raydfkd.pipeline.run.outcome import _live_images
from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import ReplayConfig, TableConfig
from raydfkd.types import SyntheticBatch


def batch(first: int, n: int, source: str) -> SyntheticBatch:
    """Images of one pixel, ``first``, ``first + 1`` ..., whose class is a third of it; the pinned ones have no priorities."""
    pixels = np.arange(first, first + n)
    return SyntheticBatch(
        images=pixels.astype(np.uint8).reshape(n, 1, 1, 1),
        targets=pixels,
        teacher_class=(pixels // 3).astype(np.int32),
        teacher_confidence=np.ones(n, np.float32),
        source=source,
        generator_id=source,
        student_version=0,
        priorities=None if source == "collected" else np.ones(n, np.float32),
    )


def test_the_images_shown_are_those_still_in_the_buffer() -> None:
    config = ReplayConfig(synthetic=TableConfig(capacity=6), pinned=TableConfig(capacity=2))
    buffer = ReplayBuffer(config, 9, 10, ("s",), np.random.default_rng(0))
    for made in (batch(0, 2, "collected"), batch(10, 4, "fast"), batch(20, 4, "ssdkd")):
        buffer.insert(made, made)
    images, classes, sources = _live_images(SimpleNamespace(buffer=buffer))  # type: ignore[arg-type]
    held = [0, 1, 12, 13, 20, 21, 22, 23]
    assert images.ravel().tolist() == held
    assert classes.tolist() == [pixel // 3 for pixel in held]
    assert sources.tolist() == ["collected"] * 2 + ["fast"] * 2 + ["ssdkd"] * 4

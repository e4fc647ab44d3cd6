"""The student's copy of the buffer's pixels."""

from __future__ import annotations

import numpy as np
import torch

from raydfkd.distillation.device_mirror import DeviceMirror


def images(num: int, first: int) -> np.ndarray:
    return np.broadcast_to(np.arange(first, first + num, dtype=np.uint8)[:, None, None, None], (num, 1, 2, 2)).copy()


def test_rows_lie_in_their_slots_and_evicted_rows_are_left_out() -> None:
    mirror = DeviceMirror(6, (1, 2, 2), torch.device("cpu"))
    mirror.apply(np.array([4, -1, 0], np.int32), np.array([10, 11, 6]), images(3, 1))
    found, keys = mirror.gather(np.array([0, 4, 4, 1], np.int32))
    assert found.dtype == torch.uint8
    assert found[:, 0, 0, 0].tolist() == [3, 1, 1, 0]
    assert keys.tolist() == [6, 10, 10, -1]


def test_a_slot_is_taken_over_by_the_next_tenant_and_an_empty_shard_changes_nothing() -> None:
    mirror = DeviceMirror(3, (1, 2, 2), torch.device("cpu"))
    mirror.apply(np.array([0, 1, 2], np.int32), np.array([0, 1, 2]), images(3, 1))
    mirror.apply(np.array([1], np.int32), np.array([4]), images(1, 9))
    mirror.apply(np.array([-1, -1], np.int32), np.array([7, 8]), images(2, 50))
    found, keys = mirror.gather(np.arange(3))
    assert found[:, 0, 0, 0].tolist() == [1, 9, 3]
    assert keys.tolist() == [0, 4, 2]


def test_what_is_applied_is_copied() -> None:
    mirror, pixels = DeviceMirror(1, (1, 2, 2), torch.device("cpu")), images(1, 5)
    pixels.setflags(write=False)  # as it comes out of an object store
    mirror.apply(np.array([0], np.int32), np.array([0]), pixels)
    assert mirror.gather(np.array([0]))[0].flatten().tolist() == [5] * 4

import numpy as np
import torch

from raydfkd.distillation.device_mirror import DeviceMirror


def test_rows_land_in_their_slots_and_evicted_rows_nowhere() -> None:
    mirror = DeviceMirror(6, (1, 2, 2), torch.device("cpu"))
    images = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)
    mirror.apply(np.array([4, -1, 0], dtype=np.int32), np.array([10, 11, 12]), images)
    gathered, keys = mirror.gather(np.array([0, 4, 5]))
    np.testing.assert_array_equal(gathered[:2].numpy(), images[[2, 0]])
    assert keys.tolist() == [12, 10, -1]


def test_a_shard_without_live_rows_changes_nothing() -> None:
    mirror = DeviceMirror(2, (1, 1, 1), torch.device("cpu"))
    mirror.apply(np.array([-1], dtype=np.int32), np.array([7]), np.full((1, 1, 1, 1), 9, np.uint8))
    gathered, keys = mirror.gather(np.array([0, 1]))
    assert int(gathered.sum()) == 0
    assert keys.tolist() == [-1, -1]

import numpy as np
import pytest

from raydfkd.replay.mirror import Mirror


def test_rows_land_in_their_slots_and_evicted_rows_nowhere() -> None:
    mirror = Mirror(6, (1, 2, 2))
    images = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)
    mirror.apply(np.array([4, -1, 0], dtype=np.int32), np.array([10, 11, 12]), images)
    gathered, keys = mirror.gather(np.array([0, 4, 5]))
    np.testing.assert_array_equal(gathered[:2], images[[2, 0]])
    assert keys.tolist() == [12, 10, -1]


def test_an_empty_mirror_says_so() -> None:
    with pytest.raises(ValueError, match="apply a shard first"):
        Mirror(4, (1, 2, 2)).gather(np.array([0]))

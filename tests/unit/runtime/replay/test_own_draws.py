"""A round that a student's worker draws itself, from the mirror and the priorities that it was told."""

from __future__ import annotations

import numpy as np
import torch
from replay_rig import config

from raydfkd.distillation.device_mirror import DeviceMirror, mirror_refusal
from raydfkd.replay.buffer import DrawTable
from raydfkd.replay.config import SelectorConfig
from raydfkd.runtime.replay.own_draws import OwnDraws

CPU = torch.device("cpu")


def begun(step: int = 0) -> tuple[OwnDraws, int]:
    base = config()
    sampler = SelectorConfig(kind="prioritized")
    synthetic = base.replay.synthetic.model_copy(update={"sampler": sampler, "capacity": 6})
    settings = base.model_copy(update={"replay": base.replay.model_copy(update={"synthetic": synthetic, "pinned": None})})
    shape = settings.task.image_shape
    mirror = DeviceMirror(6, shape, CPU)
    images = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None], (6, *shape)).copy()
    mirror.apply(np.arange(6, dtype=np.int32), np.arange(6) + 60, images)
    own = OwnDraws(settings, settings.student_name, mirror, CPU)
    own.begin(DrawTable(np.array([1.0, 0, 1, 1, 1, 1]), np.array([3, 3, 2, 2, 1, 1], np.int32)), step)
    return own, settings.student.batch_size


def test_batches_are_the_mirrors_images_and_repeat_with_the_step() -> None:
    (own, size), (again, _), (other, _) = begun(), begun(), begun(step=5)
    batch = own.batch(0)
    assert torch.equal(batch.images[:, 0, 0, 0], batch.keys.to(torch.uint8))
    assert torch.equal(batch.ages, torch.tensor([3, 3, 2, 2, 1, 1], dtype=torch.int32)[batch.keys])
    assert len(batch.keys) == size
    assert 1 not in batch.keys
    assert torch.equal(again.batch(0).keys, batch.keys)
    assert not all(torch.equal(other.batch(5).keys, own.batch(n).keys) for n in (1, 2, 3))


def test_new_priorities_count_from_the_next_batch_on() -> None:
    own, _ = begun()
    own.update(torch.tensor([0, 2, 3, 4, 5]), torch.tensor([1e9, 0, 0, 0, 0]))
    assert set(own.batch(1).keys.tolist()) == {0}


def test_a_mirror_may_take_half_of_what_is_free() -> None:
    shape = (3, 32, 32)
    assert mirror_refusal(5000, shape, 2 * 5000 * 3072) is None
    refusal = mirror_refusal(5000, shape, 2 * 5000 * 3072 - 2)
    assert refusal is not None
    assert refusal.startswith("a mirror of the buffer takes 0.0 GiB and the student's GPU has 0.0 GiB free: ")

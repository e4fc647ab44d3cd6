"""Random histories of a buffer, checked after every step against what a list of rows would hold."""

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raydfkd.distillation.device_mirror import DeviceMirror
from raydfkd.errors import ReplayFullError
from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import ReplayConfig, SelectorConfig, TableConfig
from raydfkd.types import SyntheticBatch

NUM_CLASSES = 3
SHAPE = (1, 1, 2)
BYTES = 270
"""Of 18 an item, or 30 with a histogram: the largest batch of 9 fits."""


class BufferMachine(RuleBasedStateMachine):
    @initialize(
        sampler=st.sampled_from(["uniform", "prioritized", "class_balanced"]),
        remover=st.sampled_from(["fifo", "lowest_priority"]),
        max_age=st.sampled_from([None, 3]),
        seed=st.integers(0, 9),
        num_positions=st.sampled_from([None, 1, 40]),
    )
    def build(self, sampler: str, remover: str, max_age: int | None, seed: int, num_positions: int | None) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_positions = num_positions
        self.config = ReplayConfig(
            synthetic=TableConfig(
                capacity=11,
                capacity_bytes=BYTES,
                sampler=SelectorConfig(kind=sampler),
                remover=SelectorConfig(kind=remover),
                max_item_age_batches=max_age,
            ),
            pinned=TableConfig(capacity=6),
            pinned_fraction=0.4,
        )
        self.buffer = self.new_buffer()
        self.mirror = DeviceMirror(self.buffer.total_slots, SHAPE, torch.device("cpu"))
        self.cursor = -1
        self.pixels: dict[int, np.ndarray] = {}
        self.positions: dict[int, np.ndarray] = {}
        self.dropped = 0

    def new_buffer(self) -> ReplayBuffer:
        return ReplayBuffer(self.config, NUM_CLASSES, 50, ("a", "b"), np.random.default_rng(0))

    @rule(n=st.integers(1, 9), pinned=st.booleans(), own_priorities=st.booleans())
    def insert(self, n: int, pinned: bool, own_priorities: bool) -> None:
        images = self.rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8)
        histogram = self.rng.multinomial(self.num_positions or 1, self.rng.dirichlet(np.ones(NUM_CLASSES)), n).astype(np.int32)
        batch = SyntheticBatch(
            images=images,
            targets=np.zeros(n, np.int64),
            teacher_class=histogram.argmax(axis=1).astype(np.int32),
            teacher_confidence=np.ones(n, np.float32),
            source="collected" if pinned else "ssdkd",
            generator_id="g",
            student_version=0,
            priorities=self.rng.random(n, dtype=np.float32) if own_priorities else None,
            class_histogram=None if self.num_positions is None else histogram,
        )
        size = self.buffer.size
        try:
            self.buffer.insert(batch, images)
        except ReplayFullError:
            assert pinned
            assert self.buffer.size == size
            return
        assert n <= self.buffer.size <= size + n
        (view,) = self.buffer.shards_after(self.buffer.num_shards - 2)
        assert not set(view.keys.tolist()) & set(self.pixels)
        self.pixels.update(zip(view.keys.tolist(), images, strict=True))
        self.positions.update(zip(view.keys.tolist(), histogram, strict=True))

    @precondition(lambda self: self.buffer.size > 0)
    @rule(num_batches=st.integers(1, 3), consumer=st.sampled_from(["a", "b"]))
    def sample_and_update(self, num_batches: int, consumer: str) -> None:
        self.catch_up()
        sample = self.buffer.sample(consumer, num_batches, 5, 7)
        assert set(sample.keys.ravel().tolist()) <= self.live_keys()
        images, keys = self.mirror.gather(sample.slots.ravel())
        np.testing.assert_array_equal(keys, sample.keys.ravel())
        np.testing.assert_array_equal(images.numpy(), [self.pixels[int(k)] for k in keys])
        assert self.buffer.update(consumer, sample.keys, self.rng.random(sample.keys.shape)) == 0

    @rule(n=st.integers(1, 20))
    def update_any_key_that_ever_was(self, n: int) -> None:
        if not self.pixels:
            return
        keys = self.rng.choice(np.array(list(self.pixels)), size=n)
        gone = sum(int(k) not in self.live_keys() for k in keys)
        self.dropped += gone
        assert self.buffer.update("a", keys, self.rng.random(n)) == gone
        assert self.buffer.num_dropped_updates == self.dropped

    @rule(which=st.integers(0, 30))
    def forget(self, which: int) -> None:
        rows = sum(int((v.slots >= 0).sum()) for v in self.buffer.shards_after(-1) if v.shard_id == which)
        assert self.buffer.forget_shard(which) == rows

    @rule()
    def restore(self) -> None:
        payloads = {view.shard_id: view.payload for view in self.buffer.shards_after(-1)}
        restored = self.new_buffer()
        restored.load_state_dict(self.buffer.state_dict(), payloads)
        if self.buffer.size:
            np.testing.assert_array_equal(restored.sample("b", 2, 4, 3).keys, self.buffer.sample("b", 2, 4, 3).keys)
        self.buffer = restored

    @rule()
    def catch_up(self) -> None:
        for view in self.buffer.shards_after(self.cursor):
            self.mirror.apply(view.slots, view.keys, view.payload)
            self.cursor = view.shard_id

    def live_keys(self) -> set[int]:
        return {int(k) for view in self.buffer.shards_after(-1) for k in view.keys[view.slots >= 0]}

    @invariant()
    def counts_agree(self) -> None:
        views = self.buffer.shards_after(-1)
        slots = np.concatenate([view.slots[view.slots >= 0] for view in views] or [np.empty(0, np.int32)])
        assert len(np.unique(slots)) == len(slots) == self.buffer.size
        assert all((view.slots >= 0).any() for view in views)
        for table in self.buffer.tables.values():
            storage = table.storage
            assert storage.size == storage.live.sum() <= storage.capacity
            held = [self.positions[int(k)] for k in storage.keys[storage.live]]
            np.testing.assert_array_equal(storage.class_counts, np.sum(held, axis=0) if held else np.zeros(NUM_CLASSES))
            assert storage.num_bytes == sum(shard.num_bytes for shard in storage.shards.values())
        assert self.buffer.tables["synthetic"].storage.num_bytes <= BYTES


TestBuffer = BufferMachine.TestCase
TestBuffer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

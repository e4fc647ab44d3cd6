"""A generator's life: leave, weights, batch, and its ends."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from replay_rig import batch

from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.run.exchange import NotYet, Ticket
from raydfkd.runtime.generators.generator_loop import GeneratorLoop
from raydfkd.types import BufferSummary, Preparation, SyntheticBatch

SUMMARY = BufferSummary(0, np.zeros(10, np.int64), 0)
OVER = NotYet("over", "no more")


class Synthesizer:
    """Makes numbered batches."""

    def __init__(self, slices: int = 0) -> None:
        self.made = 0
        self.weights = torch.zeros(2)
        self.versions: list[int] = []
        self.slices = slices
        self.prepared = 0

    def prepare(self) -> Preparation | None:
        if self.prepared == self.slices:
            return None
        self.prepared += 1
        return Preparation(self.prepared, self.slices, 0.5)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        self.made += 1
        self.weights += 1  # in place, as an optimizer does it
        return batch(self.made)

    def load_student(self, weights: np.ndarray, version: int) -> None:
        self.versions.append(version)

    def state_dict(self) -> dict[str, Any]:
        return {"made": self.made, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError("not here")


def loop(
    answers: list[Ticket | NotYet],
    newest: Callable[[int], tuple[int, np.ndarray | None]] = lambda known: (0, None if known == 0 else np.zeros(1)),
    tell: Callable[[str], None] = lambda line: None,
    wait_timeout_s: float = 5.0,
    note: Callable[[str, Preparation | None], None] = lambda stream, prepared: None,
    slices: int = 0,
) -> tuple[GeneratorLoop, Synthesizer]:
    synthesizer, waiting = Synthesizer(slices), iter(answers)
    return (
        GeneratorLoop("inversion-0", synthesizer, lambda stream: (next(waiting), 0.25), newest, note, tell, wait_timeout_s),
        synthesizer,
    )


def unpacked(generator: GeneratorLoop) -> tuple[int, list[float], int]:
    """Of a packed state: the batches made and the weights as the synthesizer knew them, and the batches as the loop counts."""
    packed, num_batches = generator.packed_state()
    state = torch.load(io.BytesIO(packed), weights_only=True)
    return state["made"], state["weights"].tolist(), num_batches


def ticket(number: int, min_version: int = 0) -> Ticket:
    return Ticket(number, SUMMARY, min_version)


def test_a_batch_for_each_ticket_with_its_waits() -> None:
    generator, synthesizer = loop([ticket(0), NotYet("limiter", "wait"), NotYet("limiter", "wait"), ticket(1), OVER])
    batches = list(generator.batches("stream"))
    assert len(batches) == synthesizer.made == 2
    assert [made.metrics["generator_wait_limiter_s"] for made in batches] == [0.25, 0.75]
    assert all(made.metrics["seconds"] >= 0 and made.metrics["generator_wait_weights_s"] >= 0 for made in batches)
    assert unpacked(generator) == (2, [2.0, 2.0], 2)


def test_it_takes_weights_once_and_waits_for_those_that_its_ticket_asks_for() -> None:
    published = iter([0, 0, 0, 1, 1, 2])

    def newest(known: int) -> tuple[int, np.ndarray | None]:
        version = next(published)
        return version, None if version == known else np.zeros(1)

    generator, synthesizer = loop([ticket(0), ticket(1, 1), ticket(2, 1), OVER], newest)
    assert len(list(generator.batches("stream"))) == 3
    assert synthesizer.versions == [0, 1]


def test_weights_that_never_come_are_named() -> None:
    generator, _ = loop([ticket(0, 3)], wait_timeout_s=0.05)
    with pytest.raises(WaitTimeoutError, match=r"generator inversion-0 waited 0 s for student weights 3 and has 0: "):
        list(generator.batches("stream"))


def test_its_state_can_be_had_while_it_waits_for_weights_and_draining_ends_the_wait() -> None:
    generator, synthesizer = loop([ticket(0, 3)], wait_timeout_s=30.0)
    made: list[SyntheticBatch] = []
    thread = threading.Thread(target=lambda: made.extend(generator.batches("stream")), daemon=True)
    thread.start()
    assert unpacked(generator) == (0, [0.0, 0.0], 0)
    generator.drain()
    thread.join(60)
    assert not thread.is_alive()
    assert made == []
    assert synthesizer.made == 0


def test_a_state_is_of_one_moment_although_the_next_batch_begins_while_it_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, synthesizer = loop([ticket(0), ticket(1), OVER])
    batches = generator.batches("stream")
    next(batches)
    stream = threading.Thread(target=lambda: next(batches), daemon=True)
    save = torch.save

    def save_late(state: object, file: io.BytesIO) -> None:
        stream.start()
        stream.join(0.2)  # long enough for the next batch, if nothing holds it back
        save(state, file)

    monkeypatch.setattr(torch, "save", save_late)
    assert unpacked(generator) == (1, [1.0, 1.0], 1)
    stream.join(60)
    assert not stream.is_alive()
    assert synthesizer.weights.tolist() == [2.0, 2.0]


def test_it_prepares_before_it_asks_for_leave_and_tells_how_far_it_is() -> None:
    noted: list[tuple[str, int | None]] = []
    generator, _ = loop(
        [ticket(0), OVER], note=lambda stream, prepared: noted.append((stream, prepared and prepared.done)), slices=3
    )
    assert len(list(generator.batches("stream"))) == 1
    assert noted == [("stream", 1), ("stream", 2), ("stream", 3), ("stream", None)]
    again, _ = loop([OVER])
    assert list(again.batches("stream")) == []


def test_draining_ends_the_preparation() -> None:
    def drain_after_two(stream: str, prepared: Preparation | None) -> None:
        if prepared is not None and prepared.done == 2:
            generator.drain()

    generator, synthesizer = loop([], note=drain_after_two, slices=9)
    assert list(generator.batches("stream")) == []
    assert synthesizer.prepared == 2


def test_a_newer_stream_ends_an_older() -> None:
    generator, synthesizer = loop([ticket(0), ticket(1), OVER])
    older = generator.batches("older")
    next(older)
    newer = generator.batches("newer")
    next(newer)
    assert list(older) == []
    assert list(newer) == []
    assert synthesizer.made == 2


def test_a_drained_one_stops_after_the_batch_in_hand() -> None:
    generator, synthesizer = loop([ticket(number) for number in range(9)])
    batches = generator.batches("stream")
    next(batches)
    generator.drain()
    assert list(batches) == []
    assert synthesizer.made == 1


def test_a_long_wait_for_leave_is_told_and_goes_on() -> None:
    lines: list[str] = []
    many = threading.Event()

    def tell(line: str) -> None:
        lines.append(line)
        many.set()

    generator, synthesizer = loop(
        [NotYet("limiter", "the students must draw")] * 5 + [ticket(0), OVER], tell=tell, wait_timeout_s=0
    )
    assert len(list(generator.batches("stream"))) == synthesizer.made == 1
    assert lines[0] == "generator inversion-0 has waited 0 s for admission: the students must draw"

"""The replay actor's behaviour, without Ray: waits, streams, attempts, delivery, lost pixels, snapshots."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replay_rig import BATCH_SIZE, batch, config, fill, request, service

from raydfkd.distillation.device_mirror import DeviceMirror
from raydfkd.errors import RunFailedError
from raydfkd.pipeline.run.exchange import NotYet, SampleReply, Ticket

FREE = {"mode": "decoupled"}


def in_a_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs ``work``; the list will hold what it returned or raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except RunFailedError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def test_a_student_waits_until_the_buffer_is_warm_and_no_longer() -> None:
    replay, records = service(config(FREE))
    replay.register("small", "first", 0, 1, 0, 0)
    thread, outcome = in_a_thread(lambda: replay.sample(request(0), 600.0))
    stream = fill(replay, 1)
    thread.join(0.2)
    assert thread.is_alive()
    replay.insert(stream, batch(1), batch(1))
    thread.join(60)
    reply, images, waited_s = outcome[0]
    assert isinstance(reply, SampleReply)
    assert images is None
    assert waited_s > 0
    assert [record["num_images"] for record in records.of("synthesis")] == [BATCH_SIZE] * 2
    assert records.of("synthesis")[0]["seconds"] == 0.1


def test_a_wait_that_was_in_vain_gives_its_reason() -> None:
    replay, _ = service(config())
    replay.register("small", "first", 0, 1, 0, 0)
    answer, _, waited_s = replay.sample(request(0), 0.05)
    assert isinstance(answer, NotYet)
    assert answer.cause == "limiter"
    assert "0 images are in the buffer" in answer.reason
    assert waited_s >= 0.04


def test_an_abort_wakes_students_with_its_reason_and_generators_with_a_refusal() -> None:
    replay, _ = service(config())
    replay.register("small", "first", 0, 1, 0, 0)
    stream = fill(replay, 3)
    student, told = in_a_thread(lambda: replay.sample(request(6), 600.0))
    generator, refused = in_a_thread(lambda: replay.admit(stream, 0, 1, 600.0))
    time.sleep(0.1)
    replay.abort("the teacher left")
    replay.abort("and so did the student")
    student.join(60), generator.join(60)
    assert str(told[0]) == "the teacher left"
    assert refused[0][0].cause == "over"
    with pytest.raises(RunFailedError, match="the teacher left"):
        replay.sample(request(0), 0.0)


def test_generators_are_told_at_once_that_there_is_no_more_leave() -> None:
    replay, _ = service(config())
    stream = fill(replay, 2)
    generator, refused = in_a_thread(lambda: replay.admit(stream, 0, 1, 600.0))
    time.sleep(0.1)
    replay.stop_admitting()
    generator.join(60)
    assert refused[0][0].cause == "over"


def test_beyond_the_warm_up_generators_wait_for_the_students_start() -> None:
    replay, _ = service(config(FREE))
    stream = fill(replay, 2)
    generator, outcome = in_a_thread(lambda: replay.admit(stream, 0, 1, 600.0))
    generator.join(0.1)
    assert generator.is_alive()
    replay.register("small", "first", 0, 1, 0, 0)
    generator.join(60)
    assert isinstance(outcome[0][0], Ticket)


def test_a_closed_streams_tickets_go_to_the_next() -> None:
    replay, _ = service(config())
    dead, heir = replay.open_stream("inversion-0"), replay.open_stream("inversion-0")
    assert dead != heir
    lost, _ = replay.admit(dead, 0, 1, 0.0)
    assert isinstance(lost, Ticket)
    replay.end_stream(dead)
    refusal, _ = replay.admit(dead, 0, 1, 600.0)
    assert isinstance(refusal, NotYet)
    assert refusal.cause == "over"
    again, _ = replay.admit(heir, 0, 1, 0.0)
    assert isinstance(again, Ticket)
    assert again.number == lost.number


def test_waits_for_leave_count_from_the_students_first_draw() -> None:
    replay, _ = service(config())
    replay.register("small", "first", 0, 1, 0, 0)
    stream = fill(replay, 3)
    _, before_s = replay.admit(stream, 0, 1, 0.1)
    assert before_s == 0
    replay.sample(request(0), 0.0)
    _, after_s = replay.admit(stream, 0, 1, 0.1)
    assert 0.09 < after_s < 5


def test_a_worker_that_was_replaced_must_end() -> None:
    replay, _ = service(config(FREE))
    replay.register("small", "first", 0, 1, 0, 0)
    fill(replay, 2)
    replay.register("small", "second", 0, 1, 0, 0)
    answer, _, _ = replay.sample(request(0), 600.0)
    assert isinstance(answer, NotYet)
    assert answer.cause == "over"
    with pytest.raises(RunFailedError, match="replaced by a newer one"):
        replay.register("small", "first", 0, 1, 0, 0)
    assert isinstance(replay.sample(request(0, attempt="second"), 0.0)[0], SampleReply)


def test_gathered_images_are_the_mirrors() -> None:
    drawn = []
    for cursor in (-1, None):
        replay, _ = service(config(FREE, capacity=24))
        replay.register("small", "first", 0, 1, 0, 0)
        fill(replay, 7)
        reply, images, _ = replay.sample(request(0, cursor=cursor), 0.0)
        assert isinstance(reply, SampleReply)
        if cursor is not None:
            mirror = DeviceMirror(24, (1, 4, 4), torch.device("cpu"))
            for shard in reply.shards:
                mirror.apply(shard.slots, shard.keys, shard.payload.images)
            images = mirror.gather(reply.sample.slots.reshape(-1))[0].numpy().reshape(1, BATCH_SIZE, 1, 4, 4)
        assert images is not None
        drawn.append(images)
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_pixels_that_were_lost_are_forgotten_and_drawn_no_more() -> None:
    lost: set[int] = set()

    def get(payload: Any) -> Any:
        return None if payload.images[0, 0, 0, 0] in lost else payload

    replay, records = service(config(FREE), get=get)
    replay.register("small", "first", 0, 1, 0, 0)
    fill(replay, 3)
    lost.add(1)
    step = 0
    for _ in range(10):
        reply, images, _ = replay.sample(request(step, cursor=None), 0.0)
        if isinstance(reply, NotYet):
            assert reply.cause == "over"
            replay.register("small", "first", 0, 1, step, 0)
            continue
        assert images is not None
        assert not (images[..., 0, 0, 0] == 1).any()
        step += 1
    assert replay.stats()[1]["size"] == 2 * BATCH_SIZE
    assert [record["message"] for record in records.of("event")] == ["8 images were lost with the node that held them"]


def test_a_snapshot_leaves_out_what_was_lost(tmp_path: Path) -> None:
    settings = config(FREE)
    replay, _ = service(settings, get=lambda payload: None if payload.images[0, 0, 0, 0] == 1 else payload)
    replay.register("small", "first", 0, 1, 0, 0)
    fill(replay, 3)
    replay.save(tmp_path)
    restored, _ = service(settings)
    restored.restore(tmp_path)
    assert restored.size == 2 * BATCH_SIZE


def test_a_restored_service_goes_on_where_the_snapshot_was_taken(tmp_path: Path) -> None:
    settings = config(FREE)
    replay, _ = service(settings)
    replay.register("small", "first", 0, 1, 0, 0)
    stream = fill(replay, 3)
    replay.keep_snapshots(tmp_path, 0.05)
    deadline = time.monotonic() + 60
    while not (tmp_path / "exchange.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    replay.close()
    time.sleep(0.2)
    fill(replay, 1, stream)
    restored, _ = service(settings)
    restored.restore(tmp_path)
    assert restored.stats()[1]["inserts"] == 3 * BATCH_SIZE
    assert restored.admit(stream, 0, 1, 0.0)[0].cause == "over", "a stream of the dead service's is none of this one's"
    restored.register("small", "first", 0, 1, 4, 2)
    assert isinstance(restored.sample(request(4), 0.0)[0], SampleReply)


def test_a_snapshot_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    replay, records = service(config(FREE))
    (tmp_path / "file").write_text("")
    replay.keep_snapshots(tmp_path / "file", 0.01)
    deadline = time.monotonic() + 60
    while not records.of("event") and time.monotonic() < deadline:
        time.sleep(0.01)
    replay.close()
    assert "snapshot could not be written" in records.of("event")[0]["message"]


def test_nothing_is_made_up_or_lost_between_many_threads() -> None:
    settings = config({"mode": "decoupled", "samples_per_insert": 2.0, "error_buffer": 64.0}, capacity=48)
    replay, _ = service(settings)
    made, seen = [0, 0], {}

    def generate(turn: int) -> None:
        stream = replay.open_stream(f"inversion-{turn}")
        while True:
            answer, _ = replay.admit(stream, turn, 2, 10.0)
            if isinstance(answer, NotYet):
                return
            new = batch(made[turn] * 2 + turn, f"inversion-{turn}")
            made[turn] += 1
            replay.insert(stream, new, new)

    generators = [in_a_thread(lambda turn=turn: generate(turn))[0] for turn in range(2)]  # type: ignore[misc]
    replay.register("small", "first", 0, 1, 0, 0)
    for step in range(100):
        reply, images, _ = replay.sample(request(step, cursor=None), 600.0)
        assert isinstance(reply, SampleReply)
        assert images is not None
        for key, image in zip(reply.sample.keys[0].tolist(), images[0], strict=True):
            identity = (int(image[0, 0, 0]), int(image[0, 0, 1]))
            assert seen.setdefault(key, identity) == identity, "a key is one image's"
    replay.stop_admitting()
    for generator in generators:
        generator.join(60)
    stats = replay.stats()[1]
    assert (stats["inserts"], stats["samples"]) == (sum(made) * BATCH_SIZE, 100 * BATCH_SIZE)
    assert abs(2.0 * (stats["inserts"] - 2 * BATCH_SIZE) - stats["samples"]) <= 64 + 2 * BATCH_SIZE
    assert max(number for number, _ in seen.values()) < 256 > 2 * max(made)


def test_after_a_loss_a_worker_that_fell_behind_catches_up_alone_and_then_shares_again() -> None:
    """One had its part of step 4 from the service that died, and waits for the other in a collective."""
    replay, _ = service(config(FREE))
    replay.register("small", "first", 1, 2, 4, 2)
    fill(replay, 3)
    answer, _, _ = replay.sample(request(4, rank=1), 0.0)
    assert isinstance(answer, NotYet)
    assert answer.cause == "peers"
    part, _, _ = replay.sample(request(4, rank=1, alone=True), 0.0)
    assert isinstance(part, SampleReply)
    assert part.sample.keys.shape == (1, BATCH_SIZE // 2)
    replay.register("small", "first", 0, 2, 5, 2)
    first, outcome = in_a_thread(lambda: replay.sample(request(5, rank=0), 600.0))
    second, _, _ = replay.sample(request(5, rank=1), 600.0)
    first.join(60)
    assert isinstance(second, SampleReply)
    assert isinstance(outcome[0][0], SampleReply)
    assert replay.stats()[1]["samples"] == 2 * BATCH_SIZE, "one draw for the one that was behind, one for both"

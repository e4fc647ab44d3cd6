"""Who may go on and what they get: lockstep, turns, tickets, staleness, the workers' barrier, restarts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from exchange_rig import SIZE, Rig, batch_of, cause, experiment, request, sampled

from raydfkd.pipeline.run.exchange import NotYet, SampleReply, Ticket
from raydfkd.pipeline.run.exchange_state import build_exchange


def test_lockstep_alternates_as_the_papers_loop_does() -> None:
    """Warm-up of 2, then in each of 3 rounds: 2 batches made, 2 steps trained; nothing in any other order."""
    rig = Rig.of(batches_per_round=2)
    done = []
    while not rig.finished():
        if rig.poll(0):
            assert cause(rig.admit()) in ("limiter", "weights"), "no synthesis while the student may train"
            assert rig.consume(0)
            done.append("t")
        else:
            assert isinstance(rig.admit(), Ticket)
            rig.deliver()
            done.append("s")
    assert "".join(done) == "ss" + "sstt" * 3
    assert rig.exchange.buffer.num_inserts == 8 * SIZE
    assert rig.exchange.limiters["s"].state_dict()["samples"] == 6 * 4


def test_the_student_waits_for_the_whole_rounds_batches() -> None:
    rig = Rig.of(batches_per_round=2)
    rig.make(3)
    assert cause(rig.exchange.try_sample(request(0))) == "limiter"
    rig.make(1)
    sampled(rig, request(0))


def test_generators_take_turns_and_each_sees_only_its_own() -> None:
    rig = Rig.of(generators=3)
    assert cause(rig.admit(1)) == cause(rig.admit(2)) == "turn"
    assert rig.admit(0).number == 0
    assert cause(rig.admit(0)) == "turn"
    rig.deliver(0)
    assert [rig.admit(1).number, rig.exchange.num_pending] == [1, 1]


def test_decoupled_generators_take_no_turns() -> None:
    rig = Rig.of(generators=3, mode="decoupled")
    assert [rig.admit(2).number, rig.admit(2).number, rig.admit(0).number] == [0, 1, 2]


def test_a_round_needs_the_rounds_weights() -> None:
    rig = Rig.of()
    rig.make(3)
    for step in (0, 1):
        sampled(rig, request(step))
    assert cause(rig.admit()) == "weights"
    assert cause(rig.exchange.try_sample(request(2, version=1))) == "limiter"
    ticket = rig.admit()
    assert (ticket.number, ticket.min_version) == (3, 1), "asking with version 1 has told of it"


@pytest.mark.parametrize(("lag", "batches"), [(0, 3), (1, 4), (2, 5)])
def test_the_staleness_bound_holds_generators_back(lag: int, batches: int) -> None:
    """Warm-up 2; batch number n >= 2 is of round n - 2 and needs weights n - 2 - lag; published are weights 0."""
    rig = Rig.of(mode="decoupled", max_staleness_rounds=lag)
    rig.make(batches)
    assert cause(rig.admit()) == "weights"
    sampled(rig, request(0))
    assert cause(rig.admit()) == "weights"
    for step in (1, 2):
        rig.exchange.try_sample(request(step, version=step // 2))
    ticket = rig.admit()
    assert (ticket.number, ticket.min_version) == (batches, 1)


def test_without_a_bound_generators_run_free() -> None:
    rig = Rig.of(mode="decoupled")
    rig.make(50)
    assert rig.exchange.buffer.size == 12


def test_the_ratio_holds_both_sides() -> None:
    """2 draws an image: past the 2 warm-up batches 12 draws ahead at most."""
    rig = Rig.of(mode="decoupled", samples_per_insert=2, error_buffer=12)
    assert cause(rig.exchange.try_sample(request(0))) == "limiter"
    rig.make(3)
    assert cause(rig.admit()) == "limiter"
    for step in range(5):
        sampled(rig, request(step))
    assert cause(rig.exchange.try_sample(request(5))) == "limiter"
    assert isinstance(rig.admit(), Ticket)


def test_tickets_that_are_out_count_as_inserted() -> None:
    rig = Rig.of(generators=2, batches_per_round=2, warmup_batches=2)
    rig.make(2)
    assert isinstance(rig.admit(0), Ticket)
    assert isinstance(rig.admit(1), Ticket)
    assert cause(rig.admit(0)) == "limiter"
    assert rig.exchange.num_pending == 2


def test_a_group_sees_the_buffer_as_it_was_before_it() -> None:
    """Two generators of one round in whatever order: same summaries, but each its own number."""
    rig = Rig.of(generators=2, batches_per_round=2)
    rig.make(2)
    first = rig.admit(0)
    rig.deliver(0)
    second = rig.admit(1)
    assert (first.summary.size, second.summary.size) == (8, 8)
    np.testing.assert_array_equal(first.summary.class_counts, second.summary.class_counts)
    assert (first.summary.num_batches, second.summary.num_batches) == (2, 3)
    rig.deliver(1)
    for step in (0, 1):
        sampled(rig, request(step))
    rig.exchange.try_sample(request(2, version=1))
    assert rig.admit(0).summary.size == 12


def test_the_next_group_waits_until_the_one_before_is_in() -> None:
    rig = Rig.of(generators=2, warmup_batches=2)
    assert rig.admit(0).number == 0
    assert cause(rig.admit(1)) == "data"
    rig.deliver(0)
    assert rig.admit(1).number == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_in_lockstep_the_buffer_is_the_same_whoever_delivers_first(order: tuple[int, int]) -> None:
    rig = Rig.of(generators=2, batches_per_round=2)
    rig.make(2)
    rig.admit(0)
    rig.admit(1)
    for index in order:
        rig.deliver(index)
    shards = rig.exchange.buffer.shards_after(-1)
    assert [int(shard.payload.images[0, 0, 0, 0]) for shard in shards] == [1, 2, 3], "by number; number 0 was evicted"
    assert [shard.payload.generator_id for shard in shards] == ["a-1", "a-0", "a-1"]


def test_a_dead_generators_tickets_come_back_and_are_made_by_its_successor() -> None:
    rig = Rig.of(generators=2, batches_per_round=2)
    rig.make(2)
    rig.admit(0)
    rig.admit(1)
    assert rig.die(0) == 1
    assert rig.exchange.num_pending == 1
    assert rig.die(0) == 0
    rig.deliver(1)
    assert rig.exchange.buffer.num_batches == 2, "number 3 waits for number 2"
    assert cause(rig.exchange.try_sample(request(0))) == "limiter"
    assert rig.admit(0).number == 2
    rig.deliver(0)
    assert rig.exchange.buffer.num_batches == 4
    sampled(rig, request(0))


def test_a_batch_that_comes_after_its_ticket_was_taken_back_stands_in_for_it() -> None:
    """Under a number of its own it would take the room of the batch that is missing, and both sides would wait for ever."""
    rig = Rig.of()
    rig.make(2)
    rig.admit()
    rig.die(0, late=True)
    assert rig.exchange.buffer.num_batches == 3
    sampled(rig, request(0))


def test_a_batch_without_any_ticket_is_taken_too() -> None:
    rig = Rig.of(mode="decoupled")
    rig.exchange.insert(batch_of("a-9"), batch_of("a-9"))
    assert (rig.exchange.num_tickets, rig.exchange.num_pending, rig.exchange.buffer.num_batches) == (1, 0, 1)


def test_the_next_draw_waits_for_all_workers() -> None:
    rig = Rig.of(workers=3, batch_size=6)
    rig.make(3)
    assert cause(rig.exchange.try_sample(request(0, 0))) == "peers"
    assert cause(rig.exchange.try_sample(request(0, 2))) == "peers"
    assert cause(rig.exchange.try_sample(request(0, 2))) == "peers"
    assert rig.exchange.limiters["s"].state_dict()["samples"] == 0
    assert sampled(rig, request(0, 1)).sample.keys.shape == (1, 2)
    assert rig.exchange.limiters["s"].state_dict()["samples"] == 6, "one draw for all"
    assert cause(rig.exchange.try_sample(request(1, 1))) == "peers"
    sampled(rig, request(0, 0))
    sampled(rig, request(0, 2))


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_the_global_batch_does_not_depend_on_the_number_of_workers_or_who_asks_first(workers: int) -> None:
    whole = Rig.of(batch_size=6, mode="decoupled", batches_per_request=2)
    whole.make(3)
    expected = sampled(whole, request(0, num=2)).sample
    for order in (range(workers), reversed(range(workers))):
        rig = Rig.of(workers=workers, batch_size=6, mode="decoupled", batches_per_request=2)
        rig.make(3)
        ranks = list(order)
        for rank in ranks[:-1]:
            assert cause(rig.exchange.try_sample(request(0, rank, num=2))) == "peers"
        parts = {rank: sampled(rig, request(0, rank, num=2)).sample for rank in reversed(ranks)}
        for name in ("keys", "slots", "importance_weights", "ages"):
            found = np.empty_like(getattr(expected, name))
            for rank, part in parts.items():
                found[:, rank::workers] = getattr(part, name)
            np.testing.assert_array_equal(found, getattr(expected, name))


def test_priorities_are_taken_in_rank_order_and_once() -> None:
    rig = Rig.of(workers=2)
    rig.make(3)
    for rank in (0, 1):
        rig.exchange.try_sample(request(0, rank))
    sampled(rig, request(0, 0))
    key = int(rig.exchange.buffer.shards_after(-1)[-1].keys[0])
    rig.exchange.try_sample(request(1, 1, found=[(key, 7.0)]))
    sampled(rig, request(1, 0, found=[(key, 5.0)]))
    priorities = rig.exchange.buffer.tables["synthetic"].priorities
    slot = key % rig.exchange.buffer.total_slots
    assert priorities[0, slot] == 7.0, "rank 1's comes last although it asked first"
    rig.exchange.buffer.update("s", np.array([key]), np.array([3.0]))
    sampled(rig, request(1, 1, found=[(key, 7.0)]))
    assert priorities[0, slot] == 3.0, "asking again does not bring old findings back"


def test_findings_are_not_lost_while_the_draw_must_wait() -> None:
    rig = Rig.of()
    rig.make(3)
    for step in (0, 1):
        sampled(rig, request(step))
    key = int(rig.exchange.buffer.shards_after(-1)[0].keys[0])
    assert cause(rig.exchange.try_sample(request(2, version=1, found=[(key, 9.0)]))) == "limiter"
    assert rig.exchange.buffer.tables["synthetic"].priorities[0, key % 12] == 9.0
    assert rig.exchange.student_versions["s"] == 1


def test_replies_bring_what_the_mirror_lacks() -> None:
    rig = Rig.of(mode="decoupled")
    rig.make(3)
    assert [s.shard_id for s in sampled(rig, request(0)).shards] == [0, 1, 2]
    assert [s.shard_id for s in sampled(rig, request(1, cursor=1)).shards] == [2]
    assert sampled(rig, request(2, cursor=2)).shards == []


def test_a_worker_without_a_mirror_learns_where_the_images_lie() -> None:
    rig = Rig.of(mode="decoupled")
    rig.make(4)
    reply = sampled(rig, request(0, cursor=None))
    assert reply.shards == []
    assert reply.places is not None
    for keys, shard_ids, rows in zip(reply.sample.keys, reply.places.shard_ids, reply.places.rows, strict=True):
        for key, shard_id, row in zip(keys, shard_ids, rows, strict=True):
            view = next(v for v in rig.exchange.buffer.shards_after(-1) if v.shard_id == shard_id)
            assert view.keys[row] == key
            assert reply.places.payloads[shard_id] is view.payload


def test_a_restart_takes_back_what_was_drawn_beyond_the_checkpoint() -> None:
    rig = Rig.of()
    rig.make(3)
    for step in (0, 1):
        sampled(rig, request(step))
    rig.exchange.try_sample(request(2, version=1))
    rig.make(1)
    for step in (2, 3):
        sampled(rig, request(step, version=1))
    rig.start_students(2)
    assert rig.exchange.limiters["s"].state_dict()["samples"] == 2 * 4
    assert rig.exchange.student_versions["s"] == 1
    assert cause(rig.exchange.try_sample(request(4, version=2))) == "over", "of the attempt before"
    assert cause(rig.exchange.try_sample(request(3, version=1, attempt="attempt 2"))) == "peers", "not its turn"
    sampled(rig, request(2, version=1, attempt="attempt 2"))
    assert cause(rig.admit()) == "limiter", "the batch of this round is in already"


def test_a_worker_that_comes_back_to_its_attempt_asks_again_for_what_it_had() -> None:
    """As after a restart of the replay actor: the draws for its peers stay as they were."""
    rig = Rig.of(workers=2)
    rig.make(3)
    rig.exchange.try_sample(request(0, 0))
    sampled(rig, request(0, 1))
    rig.exchange.register("s", 2, 0, 0, "attempt 1", 1)
    assert isinstance(rig.exchange.try_sample(request(0, 0)), SampleReply)
    before = rig.exchange.limiters["s"].state_dict()["samples"]
    reply = sampled(rig, request(0, 1, alone=True))
    assert reply.sample.keys.shape == (1, 2)
    assert rig.exchange.limiters["s"].state_dict()["samples"] == before, "drawn again, counted once"


def test_who_never_registered_is_told_to() -> None:
    exchange = build_exchange(experiment())
    assert cause(exchange.try_sample(request(0))) == "over"


def test_nothing_changes_where_the_answer_is_not_yet() -> None:
    rig = Rig.of(workers=2)
    asked = [request(0, 0), request(1, 0), request(0, 0, attempt="other")]
    rig.exchange.try_sample(asked[0])
    before = rig.exchange.progress()
    for again in asked:
        assert isinstance(rig.exchange.try_sample(again), NotYet)
    assert rig.exchange.progress() == before


def test_progress_changes_whenever_somebody_elses_answer_may() -> None:
    rig = Rig.of(workers=2, generators=2)
    seen = [rig.exchange.progress()]
    for act in (
        lambda: rig.admit(0), lambda: rig.deliver(0), lambda: rig.admit(1), lambda: rig.die(1), lambda: rig.admit(1),
        lambda: rig.deliver(1), lambda: rig.admit(0), lambda: rig.deliver(0),
        lambda: rig.exchange.try_sample(request(0, 0)), lambda: rig.exchange.try_sample(request(0, 1)),
        lambda: rig.exchange.try_sample(request(0, 0)) and rig.exchange.try_sample(request(1, 0)),
    ):  # fmt: skip
        act()
        seen.append(rig.exchange.progress())
    assert all(before != after for before, after in itertools.pairwise(seen))


def test_figures_for_the_log() -> None:
    rig = Rig.of()
    rig.make(3)
    stats = rig.exchange.stats()
    assert (stats["size"], stats["inserts"], stats["capacity"]) == (12, 12, 12)
    assert sum(stats["class_counts"]) == 12

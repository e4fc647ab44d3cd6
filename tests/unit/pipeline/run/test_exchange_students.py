"""Two students at one exchange: who holds whom, and who is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exchange_rig import SIZE, batch_of, cause

from raydfkd.distillation.few_shot.netgraft import NetGraftConfig
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.run.exchange import Exchange
from raydfkd.pipeline.run.exchange_state import build_exchange, load_exchange, save_exchange
from raydfkd.pipeline.run.messages import NotYet, SampleReply, SampleRequest, Ticket

SIZES = {"s": 4, "t": 2}


def experiment(opponent: str | None = None, sizes: dict[str, int] = SIZES, **schedule: Any) -> ExperimentConfig:
    return build_experiment(
        {
            "task": {"num_classes": 2, "image_shape": [1, 4, 4]},
            "teacher": {"model": "x"},
            "sources": {"a": {"method": "fast", "batch_size": SIZE, "student": opponent}},
            "replay": {"synthetic": {"capacity": 12, "sampler": {"kind": "prioritized"}}},
            "students": {name: {"model": "x", "batch_size": size} for name, size in sizes.items()},
            "schedule": {"warmup_batches": 2, "rounds": 3, "student_steps_per_round": 2, **schedule},
            "runtime": {"runner": "ray"},
        }
    )


def start(exchange: Exchange, *students: str, step: int = 0, attempt: str = "one") -> None:
    for name in students:
        exchange.register(name, 1, step, step // 2, attempt)


def ask(exchange: Exchange, student: str, step: int, attempt: str = "one", found: dict[int, float] | None = None) -> Any:
    found = found or {}
    keys, priorities = np.array(list(found), np.int64), np.array(list(found.values()), np.float32)
    return exchange.try_sample(SampleRequest(student, 0, 1, -1, step, step // 2, keys, priorities, attempt))


def take(exchange: Exchange, student: str, *steps: int, attempt: str = "one") -> None:
    for step in steps:
        assert isinstance(ask(exchange, student, step, attempt), SampleReply)


def admit(exchange: Exchange, student: str | None = None) -> Ticket | NotYet:
    return exchange.try_admit("a-0", 0, 1, student)


def make(exchange: Exchange, num: int) -> None:
    for _ in range(num):
        ticket = admit(exchange)
        assert isinstance(ticket, Ticket), ticket
        exchange.insert(batch_of("a-0", ticket.number), None)


def reason(answer: Any) -> str:
    assert isinstance(answer, NotYet), answer
    return answer.reason


def test_the_generators_wait_for_a_student_in_its_few_shot_training_from_their_first_batch_on() -> None:
    """The last batches of the warm-up may be made against it."""
    config = experiment()
    trained = config.students["t"].model_copy(update={"few_shot": NetGraftConfig()})
    exchange = build_exchange(config.model_copy(update={"students": {**config.students, "t": trained}}))
    start(exchange, "s")
    assert reason(admit(exchange)) == "student 't' has not started yet"
    start(exchange, "t")
    make(exchange, 2)


def test_beyond_the_warm_up_the_generators_wait_for_every_student_to_start() -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s")
    make(exchange, 2)
    assert reason(admit(exchange)) == "student 't' has not started yet"
    assert "the generators wait for student 't', at step 0" in reason(ask(exchange, "s", 0))
    start(exchange, "t")
    make(exchange, 1)


def test_in_lockstep_a_round_ends_when_every_student_has_taken_its_steps_and_asked_for_the_next() -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s", "t")
    make(exchange, 3)
    take(exchange, "s", 0, 1)
    assert cause(ask(exchange, "s", 2)) == "limiter"
    assert reason(admit(exchange)) == "12 images inserted, student 't', at step 0, must draw more first"
    assert "the generators wait for student 't', at step 0" in reason(ask(exchange, "s", 2)), "who is waited for is named"
    take(exchange, "t", 0, 1)
    told = reason(admit(exchange))
    assert told == "batch 3 needs weights 1 of student 't', published are 0", "what it found in its last step may matter"
    assert "the generators wait for student 't', at step 1" in reason(ask(exchange, "s", 2))
    assert reason(ask(exchange, "t", 2)).endswith("before the next draw")
    ticket = admit(exchange)
    assert isinstance(ticket, Ticket)
    assert (ticket.number, ticket.min_version) == (3, 1)


def test_each_students_limiter_counts_its_own_draws_over_the_same_inserts() -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s", "t")
    make(exchange, 3)
    take(exchange, "s", 0, 1)
    take(exchange, "t", 0)
    states = {name: limiter.state_dict() for name, limiter in exchange.limiters.items()}
    counts = {name: (state["inserts"], state["samples"]) for name, state in states.items()}
    assert counts == {"s": (12, 2 * 4), "t": (12, 1 * 2)}


def test_the_ratio_holds_for_each_student_and_the_slowest_holds_the_generators() -> None:
    exchange = build_exchange(experiment(sizes={"s": 4, "t": 4}, mode="decoupled", samples_per_insert=2, error_buffer=12))
    start(exchange, "s", "t")
    make(exchange, 3)
    take(exchange, "s", 0, 1, 2, 3, 4)
    assert cause(ask(exchange, "s", 5)) == "limiter", "no student runs ahead of the images"
    assert reason(admit(exchange)) == "12 images inserted, student 't', at step 0, must draw more first"
    take(exchange, "t", 0)
    assert isinstance(admit(exchange), Ticket)


def test_staleness_counts_the_student_that_the_source_plays_against() -> None:
    exchange = build_exchange(experiment("t", mode="decoupled", max_staleness_rounds=0))
    start(exchange, "s", "t")
    make(exchange, 2)
    assert isinstance(admit(exchange, "t"), Ticket)
    exchange.insert(batch_of("a-0"), None)
    take(exchange, "s", 0, 1, 2)
    assert reason(admit(exchange, "t")) == "batch 3 needs weights 1 of student 't', published are 0"
    take(exchange, "t", 0, 1, 2)
    assert isinstance(admit(exchange, "t"), Ticket)
    assert exchange.stats()["staleness_rounds"] == 1.0, "all images in the buffer are of version 0, and its student has 1"


def test_new_images_priorities_are_those_of_the_student_that_their_source_plays_against() -> None:
    exchange = build_exchange(experiment("t"))
    start(exchange, "s", "t")
    make(exchange, 1)
    keys = exchange.buffer.shards_after(-1)[0].keys
    exchange.buffer.update("s", keys, np.full(4, 9.0))
    make(exchange, 1)
    assert exchange.buffer.analysis("s")["priorities"].tolist() == [9.0] * 8, "its own largest"
    assert exchange.buffer.analysis("t")["priorities"].tolist() == [1.0] * 8, "those that came with the batch"


def test_findings_go_to_the_student_that_made_them() -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s", "t")
    make(exchange, 3)
    take(exchange, "s", 0)
    key = int(exchange.buffer.shards_after(-1)[0].keys[0])
    ask(exchange, "s", 1, found={key: 5.0})
    assert exchange.buffer.analysis("s")["priorities"].max() == 5.0
    assert exchange.buffer.analysis("t")["priorities"].max() == 1.0


@pytest.mark.parametrize("order", ["st", "ts"])
def test_what_a_student_draws_does_not_depend_on_who_asks_first(order: str) -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s", "t")
    make(exchange, 3)
    drawn = {name: ask(exchange, name, 0).sample.keys.tolist() for name in order}
    alone = build_exchange(experiment(sizes={"s": 4}))
    start(alone, "s")
    make(alone, 3)
    assert drawn["s"] == ask(alone, "s", 0).sample.keys.tolist(), "the first student's are those that it would draw alone"
    again = build_exchange(experiment())
    start(again, "s", "t")
    make(again, 3)
    assert drawn["t"] == ask(again, "t", 0).sample.keys.tolist()


def test_a_student_that_goes_back_holds_the_others_until_it_has_caught_up() -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s", "t")
    make(exchange, 3)
    for name in "st":
        take(exchange, name, 0, 1)
        ask(exchange, name, 2)
    make(exchange, 1)
    take(exchange, "s", 2, 3)
    start(exchange, "t", step=0, attempt="two")
    assert reason(ask(exchange, "t", 2)) == "the student's workers have been restarted since"
    assert cause(ask(exchange, "s", 4)) == "limiter"
    reasons = set()
    for step in range(4):
        assert cause(admit(exchange)) == "limiter", "images of rounds that it has not begun anew would come too early"
        reasons.add(reason(ask(exchange, "s", 4)))
        take(exchange, "t", step, attempt="two")
    assert len(reasons) == 3, "how far it is is told, so that nobody takes the wait for a standstill"
    assert cause(ask(exchange, "t", 4, attempt="two")) == "limiter"
    make(exchange, 1)
    take(exchange, "s", 4)


def test_a_checkpoint_needs_every_student_at_its_step_and_in_its_present_attempt() -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s", "t")
    assert reason(exchange.try_meet("s", 4)) == "student 't', at step 0 to reach the checkpoint of step 4"
    before = exchange.progress()
    assert reason(exchange.try_meet("s", 4)), "asking again changes nothing"
    assert exchange.progress() == before
    assert exchange.try_meet("t", 4) is None
    assert exchange.try_meet("s", 4) is None
    start(exchange, "t", attempt="two")
    assert exchange.try_meet("s", 4) is not None
    assert exchange.try_meet("t", 2) is not None, "another step"


def test_a_student_at_a_checkpoint_holds_nobody_up_when_the_buffer_was_lost_and_restored() -> None:
    """It does not draw, and so does not register anew, until the other has come; the other needs images for that."""
    exchange = build_exchange(experiment())  # as an older snapshot would leave it
    assert exchange.try_meet("s", 4) is not None
    start(exchange, "t", step=2)
    make(exchange, 4)
    take(exchange, "t", 2, 3)
    assert cause(admit(exchange)) == "weights", "the next round needs both"
    assert exchange.try_meet("t", 4) is None


def test_other_workers_of_a_student_at_a_checkpoint_are_told_for_whom_it_waits() -> None:
    exchange = build_exchange(experiment())
    for rank in (0, 1):
        exchange.register("s", 2, 4, 2, "one", rank)
    start(exchange, "t")
    exchange.try_meet("s", 4)
    request = SampleRequest("s", 1, 1, -1, 4, 2, np.empty(0, np.int64), np.empty(0, np.float32), "one")
    told = reason(exchange.try_sample(request))
    assert told == "student workers 0 have not asked for step 4 yet; student 't', at step 0 has not reached it"


def test_what_is_saved_goes_on_for_every_student(tmp_path: Any) -> None:
    exchange = build_exchange(experiment())
    start(exchange, "s", "t")
    for number in range(3):
        ticket = admit(exchange)
        assert isinstance(ticket, Ticket)
        batch = batch_of("a-0", number)
        exchange.insert(batch, batch)
    take(exchange, "s", 0, 1)
    take(exchange, "t", 0)
    exchange.buffer.update("t", exchange.buffer.shards_after(-1)[0].keys, np.full(4, 7.0))
    save_exchange(tmp_path, exchange)
    restored = build_exchange(experiment())
    load_exchange(tmp_path, restored)
    assert restored.state_dict() == exchange.state_dict()
    for name, step in (("s", 2), ("t", 1)):
        np.testing.assert_array_equal(
            restored.buffer.analysis(name)["priorities"], exchange.buffer.analysis(name)["priorities"]
        )
        assert restored.student_steps[name] == step - 1
    for one in (exchange, restored):
        start(one, "t", step=1, attempt="again")
    drawn = [ask(one, "t", 1, "again").sample.keys.tolist() for one in (exchange, restored)]
    assert drawn[0] == drawn[1]

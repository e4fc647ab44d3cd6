"""All students of a run end before the same round, however far apart they are when the stop is asked for."""

from __future__ import annotations

import random

from raydfkd.runtime.students.stop_agreement import StopAgreement


def test_one_student_ends_at_its_next_round() -> None:
    stop = StopAgreement()
    assert not stop.ends_before("a", 0)
    stop.asked = True
    assert stop.ends_before("a", 1)


def test_one_that_was_restarted_alone_ends_at_once() -> None:
    stop = StopAgreement()
    assert not any(stop.ends_before("a", number) for number in range(5))
    stop.asked = True
    assert stop.ends_before("a", 2)


def test_who_is_behind_goes_on_to_where_the_foremost_ends() -> None:
    stop = StopAgreement()
    assert not any(stop.ends_before("fast", number) for number in range(4))
    assert not stop.ends_before("slow", 0)
    stop.asked = True
    assert not stop.ends_before("slow", 1)
    assert stop.ends_before("fast", 4)
    assert [stop.ends_before("slow", number) for number in (2, 3, 4)] == [False, False, True]


def ends(seed: int) -> set[int]:
    """Before which rounds three students ended that ask in random order, and some of which are restarted."""
    rng = random.Random(seed)
    stop, place, ended = StopAgreement(), dict.fromkeys("abc", 0), {}
    asked_at = rng.randrange(1, 30)
    for turn in range(10_000):
        if len(ended) == len(place):
            break
        stop.asked = stop.asked or turn >= asked_at
        name = rng.choice(sorted(place.keys() - ended.keys()))
        if rng.random() < 0.05:
            place[name] = rng.randrange(place[name] + 1)  # restarted from an earlier checkpoint
        elif stop.ends_before(name, place[name]):
            ended[name] = place[name]
        else:
            place[name] += 1
    assert len(ended) == len(place)
    return set(ended.values())


def test_in_whatever_order_they_ask_and_whoever_is_restarted_all_end_before_the_same_round() -> None:
    assert [seed for seed in range(500) if len(ends(seed)) != 1] == []

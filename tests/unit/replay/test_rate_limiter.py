from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydfkd.errors import RateLimiterError
from raydfkd.replay.rate_limiter import RateLimiter


def test_a_ratio_holds_the_two_sides_together() -> None:
    limiter = RateLimiter(2.0, 10, 8.0, insert_chunk=2, sample_chunk=4)
    assert not limiter.can_sample(1)
    assert limiter.can_insert(14)  # (10 + 4) * 2 - 0 <= 10 * 2 + 8
    assert not limiter.can_insert(15)
    limiter.record_insert(10)
    assert limiter.can_sample(8)  # 10 * 2 - 8 >= 10 * 2 - 8
    assert not limiter.can_sample(9)
    limiter.record_sample(8)
    assert limiter.can_insert(8)
    assert not limiter.can_insert(9)
    assert not limiter.can_sample(1)


def test_without_a_ratio_only_the_first_sample_waits() -> None:
    limiter = RateLimiter(None, 5, None, insert_chunk=1, sample_chunk=1)
    limiter.record_insert(4)
    assert not limiter.can_sample(1)
    limiter.record_insert(1)
    assert limiter.can_sample(10**9)
    assert limiter.can_insert(10**9)


def test_lockstep_alternates_whole_rounds() -> None:
    limiter = RateLimiter.lockstep(batches_before=2, batches_per_round=3, batch_size=4, steps_per_round=5, sample_size=6)
    limiter.record_insert(8)
    assert not limiter.can_sample(1)
    for _ in range(3):
        assert not limiter.can_sample(1)
        assert limiter.can_insert(4)
        limiter.record_insert(4)
    assert not limiter.can_insert(1)
    assert limiter.can_sample(30)
    assert not limiter.can_sample(31)
    limiter.record_sample(24)
    assert not limiter.can_insert(1)
    limiter.record_sample(6)
    assert not limiter.can_sample(1)
    assert limiter.can_insert(12)
    assert not limiter.can_insert(13)


CASES: dict[str, tuple[Callable[[], RateLimiter], str]] = {
    "buffer below one insert": (lambda: RateLimiter(4, 10, 39, insert_chunk=10, sample_chunk=1), "use at least 40"),
    "buffer below one sample": (lambda: RateLimiter(1, 10, 54, insert_chunk=10, sample_chunk=100), "use at least 55"),
    "no buffer": (lambda: RateLimiter(1, 10, None, insert_chunk=1, sample_chunk=1), "needs an error_buffer"),
    "infinite buffer": (lambda: RateLimiter(1, 10, float("inf"), insert_chunk=1, sample_chunk=1), "needs an error_buffer"),
    "buffer without ratio": (lambda: RateLimiter(None, 10, 5, insert_chunk=1, sample_chunk=1), "would have no effect"),
    "zero ratio": (lambda: RateLimiter(0, 10, 5, insert_chunk=1, sample_chunk=1), "a number above 0"),
    "nan ratio": (lambda: RateLimiter(float("nan"), 10, 5, insert_chunk=1, sample_chunk=1), "a number above 0"),
    "vanishing ratio": (lambda: RateLimiter(1e-9, 10, 5, insert_chunk=1, sample_chunk=1), "0.000001 or more"),
    "zero minimum": (lambda: RateLimiter(1, 0, 5, insert_chunk=1, sample_chunk=1), "min_size_to_sample is 0"),
    "empty inserts": (lambda: RateLimiter(1, 1, 5, insert_chunk=0, sample_chunk=1), "insert_chunk is 0"),
    "fewer batches than none": (lambda: RateLimiter.lockstep(1, -1, 4, 1, 4), "batches_per_round=-1"),
    "rounds that draw nothing": (lambda: RateLimiter.lockstep(1, 1, 4, 0, 4), "steps_per_round is 0"),
    "negative warm-up": (lambda: RateLimiter.lockstep(-1, 1, 4, 1, 4), "batches_before=-1"),
}


@pytest.mark.parametrize("case", CASES)
def test_settings_that_would_deadlock_are_refused(case: str) -> None:
    build, message = CASES[case]
    with pytest.raises(RateLimiterError, match=message):
        build()


def test_the_smallest_buffer_that_is_advised_is_accepted() -> None:
    RateLimiter(4, 10, 40, insert_chunk=10, sample_chunk=1)
    RateLimiter(1, 10, 55, insert_chunk=10, sample_chunk=100)


@settings(max_examples=150, deadline=None)
@given(
    ratio=st.one_of(st.sampled_from([0.1, 0.3, 1 / 3, 1.0, 2.5]), st.floats(0.01, 50)),
    min_size=st.integers(1, 40),
    insert_chunk=st.integers(1, 9),
    sample_chunk=st.integers(1, 30),
    slack=st.floats(0, 5),
    moves=st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=120),
)
def test_a_ratio_never_breaks_its_bounds_and_never_shuts_both_gates(
    ratio: float, min_size: int, insert_chunk: int, sample_chunk: int, slack: float, moves: list[tuple[bool, int]]
) -> None:
    needed = max(ratio * insert_chunk, (ratio * insert_chunk + sample_chunk) / 2)
    error_buffer = needed + slack + 1e-4  # the limiter's ratio is a fraction: it may differ by 5e-7 an item
    limiter = RateLimiter(ratio, min_size, error_buffer, insert_chunk=insert_chunk, sample_chunk=sample_chunk)
    inserts = samples = 0
    for inserting, n in moves:
        if inserting and limiter.can_insert(chunk := min(n, insert_chunk)):
            limiter.record_insert(chunk)
            inserts += chunk
        elif not inserting and limiter.can_sample(chunk := min(n, sample_chunk)):
            limiter.record_sample(chunk)
            samples += chunk
        assert limiter.can_insert(insert_chunk) or limiter.can_sample(sample_chunk)
        surplus = (inserts - min_size) * ratio - samples
        assert inserts >= min_size or samples == 0
        assert inserts <= min_size or surplus <= error_buffer + 1e-2
        assert samples == 0 or surplus >= -error_buffer - 1e-2


@settings(max_examples=150, deadline=None)
@given(
    before=st.integers(0, 4),
    per_round=st.integers(1, 4),
    batch_size=st.integers(1, 6),
    steps=st.integers(1, 6),
    sample_size=st.integers(1, 6),
    moves=st.lists(st.booleans(), max_size=150),
)
def test_lockstep_never_overlaps_rounds_and_never_shuts_both_gates(
    before: int, per_round: int, batch_size: int, steps: int, sample_size: int, moves: list[bool]
) -> None:
    limiter = RateLimiter.lockstep(before, per_round, batch_size, steps, sample_size)
    batches = taken = 0
    for inserting in moves:
        if inserting and limiter.can_insert(batch_size):
            limiter.record_insert(batch_size)
            batches += 1
        elif not inserting and limiter.can_sample(sample_size):
            limiter.record_sample(sample_size)
            taken += 1
        # Exactly one gate is open: there is never a choice, which is what makes lockstep repeatable.
        assert limiter.can_insert(batch_size) != limiter.can_sample(sample_size)
        whole_rounds = max(0, batches - before) // per_round
        assert (whole_rounds - 1) * steps <= taken <= whole_rounds * steps


def test_a_restored_limiter_goes_on_where_it_was() -> None:
    limiter, restored = (RateLimiter(2.0, 10, 8.0, insert_chunk=2, sample_chunk=4) for _ in range(2))
    limiter.record_insert(12)
    limiter.record_sample(9)
    restored.load_state_dict(limiter.state_dict())
    assert limiter.can_insert(6)  # (12 + 6 - 10) * 2 - 9 <= 8
    for one in (limiter, restored):
        assert [n for n in range(1, 30) if one.can_insert(n)] == list(range(1, 7))
        assert [n for n in range(1, 30) if one.can_sample(n)] == [1, 2, 3]  # 12 * 2 - 9 - 3 >= 10 * 2 - 8

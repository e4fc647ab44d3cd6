"""Batch, buffer and schedule for a budget of time: what they add up to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydfkd.pipeline.proposal.machine import Machine
from raydfkd.pipeline.proposal.sizing import (
    BATCHES,
    CAPACITY,
    ENOUGH_STEPS,
    FEWEST_ROUNDS,
    RESERVED,
    SHARE_OF_MEMORY,
    WARMUP_SHARE,
    Costs,
    Duration,
    fewest_minutes,
    no_time,
    sizes_for,
    sizes_for_images,
)
from raydfkd.pipeline.proposal.student_choice import candidates, family_of, named

LAPTOP = Machine(cores=2, gpus=0, memory_bytes=24 * 2**30)
CIFAR = 3 * 32 * 32


def costs(synthesis_s: float, step_s: float, activation_bytes: int = 10**6) -> Costs:
    return Costs(Duration(0.0, synthesis_s), Duration(0.0, step_s), activation_bytes)


@given(
    synthesis_s=st.floats(1e-5, 1.0),
    step_s=st.floats(1e-5, 1.0),
    minutes=st.floats(0.1, 1000.0),
    generators=st.integers(1, 4),
)
def test_a_schedule_never_takes_longer_than_the_time(
    synthesis_s: float, step_s: float, minutes: float, generators: int
) -> None:
    sizes = sizes_for(costs(synthesis_s, step_s), minutes, LAPTOP, 10, CIFAR, generators)
    if sizes is None:
        assert fewest_minutes(costs(synthesis_s, step_s)) > minutes * 0.8
        return
    assert sizes.seconds <= 60 * minutes * (1 - RESERVED) * (1 + 1e-9)
    assert sizes.rounds >= FEWEST_ROUNDS
    warmup_s = sizes.warmup_batches * sizes.batch * synthesis_s
    assert sizes.warmup_batches == 1 or warmup_s <= WARMUP_SHARE * 60 * minutes
    assert sizes.batch <= sizes.capacity <= max(CAPACITY, sizes.batch)


def test_a_larger_batch_is_chosen_as_soon_as_there_are_enough_steps() -> None:
    chosen = [sizes_for(costs(1e-3, 1e-3), minutes, LAPTOP, 10, CIFAR) for minutes in (0.1, 5, 10, 100)]
    batches = [one.batch for one in chosen if one is not None]
    assert batches == sorted(batches)
    assert (batches[0], batches[-1]) == (BATCHES[-1], BATCHES[0])
    for one in chosen[1:]:
        assert one is not None
        assert one.steps >= ENOUGH_STEPS


def test_where_images_are_expensive_the_student_has_at_least_half_of_the_time() -> None:
    sizes = sizes_for(costs(synthesis_s=0.05, step_s=1e-3), 30, LAPTOP, 10, CIFAR)
    assert sizes is not None
    assert sizes.steps_per_round == 50


def test_images_that_are_not_kept_last_for_their_steps_alone() -> None:
    sizes = sizes_for(costs(synthesis_s=0.05, step_s=1e-3), 30, LAPTOP, 10, CIFAR, fresh_steps=5)
    assert sizes is not None
    assert (sizes.steps_per_round, sizes.warmup_batches, sizes.capacity) == (5, 1, 5 * sizes.batch)
    made_s = sizes.batches * 5 * sizes.batch * 0.05
    assert made_s + sizes.steps * sizes.batch * 1e-3 <= 60 * 30 * (1 - RESERVED) * (1 + 1e-9)


@given(images=st.integers(1, 10**7), fresh_steps=st.sampled_from([None, 1, 5, 10]))
def test_so_many_student_images_are_as_many_whatever_is_kept(images: int, fresh_steps: int | None) -> None:
    kept, sizes = (sizes_for_images(images, LAPTOP, 10, CIFAR, steps) for steps in (None, fresh_steps))
    if kept is None or sizes is None:
        assert kept is sizes is None
        assert images < 20 * BATCHES[-1] * FEWEST_ROUNDS
        return
    assert sizes.steps * sizes.batch == kept.steps * kept.batch
    assert images - 20 * kept.batch < kept.steps * kept.batch <= images
    assert kept.batch == BATCHES[-1] or images // kept.batch >= ENOUGH_STEPS


def test_a_batch_and_a_buffer_fit_into_memory() -> None:
    small = Machine(cores=2, gpus=0, memory_bytes=2**30)
    sizes = sizes_for(costs(1e-4, 1e-4, activation_bytes=8 * 2**20), 60, small, 1000, 3 * 224 * 224)
    assert sizes is not None
    assert sizes.batch * 8 * 2**20 <= SHARE_OF_MEMORY * 2**30 < 2 * sizes.batch * 8 * 2**20
    assert sizes.capacity * 3 * 224 * 224 <= SHARE_OF_MEMORY * 2**30


def test_no_time_says_how_much_would_do() -> None:
    slow = costs(1.0, 1.0)
    assert sizes_for(slow, 10, LAPTOP, 10, CIFAR) is None
    enough = fewest_minutes(slow)
    assert sizes_for(slow, enough * 1.01, LAPTOP, 10, CIFAR) is not None
    assert f"{enough:.2g}; give --minutes" in str(no_time(slow, 10))


def test_a_duration_goes_through_what_was_measured() -> None:
    line = Duration.through({8: 1.0, 64: 2.12})
    assert (line.of(8), line.of(64)) == (pytest.approx(1.0), pytest.approx(2.12))
    assert Duration.through({8: 1.0}).of(256) == pytest.approx(32.0)
    noisy = Duration.through({8: 3.0, 64: 2.0})  # the small one was disturbed
    assert 0 < noisy.of(8) <= noisy.of(64) <= noisy.of(256)
    assert noisy.of(64) == pytest.approx(2.0)


def test_a_student_is_of_the_teachers_family_or_usual_for_the_images() -> None:
    assert family_of("wrn_28_10") == ("wrn_28_1", "wrn_16_1")
    assert family_of("torchvision:resnet50") == ("torchvision:resnet34", "torchvision:resnet18")
    assert family_of("hf:org/name") == family_of("their_nets:grey") == ()
    first = candidates("resnet56", 860_000, 10, (3, 32, 32))[0]
    assert (first.model, first.why) == ("resnet32", "of the teacher's family")
    assert candidates("hf:org/name", 90_000_000, 10, (3, 64, 64))[0].model == "torchvision:resnet18"
    assert candidates("hf:org/name", 90_000_000, 10, (1, 64, 64))[0].model == "mobilenet_v2"
    assert all(one.params <= 50_000 for one in candidates("wrn_16_2", 700_000, 10, (3, 32, 32), max_params=50_000))
    assert candidates("their_nets:grey", 500, 10, (1, 8, 8))[0].model == "small_cnn_4", "none is smaller than such a teacher"
    with pytest.raises(Exception, match="at most 10 parameters: the smallest, small_cnn_4, has"):
        candidates("their_nets:grey", 500, 10, (1, 8, 8), max_params=10)
    assert named("small_cnn_8", 10, (1, 8, 8)).why == "as you named it"

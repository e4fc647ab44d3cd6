"""A round's draws in one request: the same as one by one, or left to the student's worker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exchange_rig import SIZE, batch_of, experiment

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.exchange import Exchange, SampleReply, SampleRequest
from raydfkd.pipeline.run.exchange_state import build_exchange
from raydfkd.replay.config import SelectorConfig
from raydfkd.types import Sample

STEPS = 4


def configured(kind: str, **schedule: Any) -> ExperimentConfig:
    config = experiment(student_steps_per_round=STEPS, **schedule)
    synthetic = config.replay.synthetic.model_copy(update={"sampler": SelectorConfig(kind=kind)})  # type: ignore[arg-type]
    return config.model_copy(update={"replay": config.replay.model_copy(update={"synthetic": synthetic})})


def filled(config: ExperimentConfig) -> Exchange:
    exchange = build_exchange(config)
    exchange.register("s", 1, 0, 0)
    for number in range(3):
        exchange.try_admit("a-0", 0, 1)
        batch = batch_of("a-0", number)
        exchange.insert(batch, batch)
    return exchange


def drawn(exchange: Exchange, step: int, num_batches: int, **given: Any) -> SampleReply:
    empty = np.empty(0, np.int64), np.empty(0, np.float32)
    answer = exchange.try_sample(SampleRequest("s", 0, num_batches, -1, step, 0, *empty, **given))
    assert isinstance(answer, SampleReply), answer
    return answer


@pytest.mark.parametrize("kind", ["uniform", "class_balanced", "prioritized"])
def test_draws_of_a_round_are_those_of_its_steps(kind: str) -> None:
    whole = drawn(filled(configured(kind)), 0, STEPS).sample
    one_by_one = filled(configured(kind))
    singles = Sample.concat([drawn(one_by_one, step, 1).sample for step in range(STEPS)])
    for name in ("keys", "slots", "importance_weights", "ages"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(singles, name), err_msg=name)
    assert whole.keys.shape == (STEPS, 4)


def test_who_may_ask_for_a_whole_round() -> None:
    uniform, prioritized = configured("uniform"), configured("prioritized")
    assert [uniform.batches_to_request(step, mirrored=True) for step in (0, 1, 3, 4)] == [4, 3, 1, 4]
    assert uniform.batches_to_request(0, mirrored=False) == 1
    assert prioritized.batches_to_request(0, mirrored=True) == 1
    assert prioritized.batches_to_request(0, mirrored=True, draws_itself=True) == 4
    decoupled = configured("uniform", mode="decoupled", batches_per_request=2)
    assert [decoupled.batches_to_request(step, mirrored) for step in (0, 3) for mirrored in (True, False)] == [2, 2, 2, 2]
    assert (prioritized.leaves_draws, uniform.leaves_draws) == (True, False)
    assert not configured("prioritized", mode="decoupled").leaves_draws


def test_a_worker_that_draws_itself_gets_the_table_and_the_draws_count() -> None:
    exchange = filled(configured("prioritized"))
    exchange.buffer.update("s", np.array([1, 2]), np.array([5.0, 0.0]))
    reply = drawn(exchange, 0, STEPS, draws_itself=True)
    assert reply.table is not None
    expected = np.r_[np.ones(12), 0][:12] + 1e-6
    expected[[1, 2]] = [5.0 + 1e-6, 1e-6]
    np.testing.assert_allclose(reply.table.values, expected**0.6, rtol=1e-6)
    assert reply.table.ages.tolist() == [2] * SIZE + [1] * SIZE + [0] * SIZE
    assert reply.sample.keys.shape == (STEPS, 0)
    assert [shard.shard_id for shard in reply.shards] == [0, 1, 2]
    assert exchange.buffer.num_samples == STEPS * 4
    assert exchange.limiters["s"].state_dict()["samples"] == STEPS * 4


def test_only_prioritized_draws_are_left() -> None:
    with pytest.raises(ValueError, match="only prioritized draws"):
        drawn(filled(configured("uniform")), 0, STEPS, draws_itself=True)

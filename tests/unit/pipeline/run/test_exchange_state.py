"""The exchange on disk: what is saved goes on as the original, and what is damaged is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exchange_rig import SIZE, Rig, experiment, request, sampled

from raydfkd.errors import CheckpointError, RateLimiterError
from raydfkd.pipeline.run.exchange import Exchange, SampleReply
from raydfkd.pipeline.run.exchange_state import build_exchange, build_rate_limiters, load_exchange, save_exchange


def advanced() -> Rig:
    """One round done, and the first step of the second."""
    rig = Rig.of(mode="decoupled", samples_per_insert=1, error_buffer=20)
    rig.make(4)
    for step in range(3):
        sampled(rig, request(step, version=step // 2))
    return rig


def test_what_is_saved_goes_on_as_the_original(tmp_path: Path) -> None:
    rig = advanced()
    save_exchange(tmp_path, rig.exchange)
    restored = build_exchange(rig.config)
    load_exchange(tmp_path, restored)
    assert (restored.student_step, restored.student_versions["s"]) == (2, 1)
    assert restored.num_tickets == 4
    assert restored.limiters["s"].state_dict() == rig.exchange.limiters["s"].state_dict()
    for exchange in (rig.exchange, restored):
        exchange.register("s", 1, 3, 1, "again")
    one, other = (e.try_sample(request(3, version=1, attempt="again")) for e in (rig.exchange, restored))
    assert isinstance(one, SampleReply)
    assert isinstance(other, SampleReply)
    np.testing.assert_array_equal(one.sample.keys, other.sample.keys)
    np.testing.assert_array_equal(other.shards[-1].payload.images, one.shards[-1].payload.images)


def test_tickets_that_were_out_are_made_again_after_a_restore(tmp_path: Path) -> None:
    rig = advanced()
    rig.admit()
    save_exchange(tmp_path, rig.exchange)
    restored = build_exchange(rig.config)
    load_exchange(tmp_path, restored)
    assert (restored.num_tickets, restored.num_pending) == (4, 0)


def test_the_count_of_inserts_is_the_buffers(tmp_path: Path) -> None:
    """While a snapshot is written generators go on, so that the counts may be of a moment later."""
    rig = advanced()
    save_exchange(tmp_path, rig.exchange)
    counts = json.loads((tmp_path / "exchange.json").read_text())
    counts["s"]["limiter"]["inserts"] += 3 * SIZE
    (tmp_path / "exchange.json").write_text(json.dumps(counts))
    restored = build_exchange(rig.config)
    load_exchange(tmp_path, restored)
    assert restored.limiters["s"].state_dict()["inserts"] == restored.buffer.num_inserts == 4 * SIZE


def test_payloads_pass_through_put(tmp_path: Path) -> None:
    rig = advanced()
    save_exchange(tmp_path, rig.exchange)
    restored = build_exchange(rig.config)
    load_exchange(tmp_path, restored, put=lambda batch: ("ref", batch.generator_id))
    assert [view.payload for view in restored.buffer.shards_after(-1)] == [("ref", "a-0")] * 3


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"s": {"limiter": 3}}'])
def test_damaged_counts_are_one_sentence(tmp_path: Path, damage: str) -> None:
    rig = advanced()
    save_exchange(tmp_path, rig.exchange)
    if damage:
        (tmp_path / "exchange.json").write_text(damage)
    else:
        (tmp_path / "exchange.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no readable exchange\.json"):
        load_exchange(tmp_path, build_exchange(rig.config))


def test_limits_under_which_both_would_wait_are_refused_before_anything_starts() -> None:
    with pytest.raises(RateLimiterError, match="use at least"):
        build_rate_limiters(experiment(mode="decoupled", samples_per_insert=2, error_buffer=1))
    assert isinstance(build_exchange(experiment()), Exchange)

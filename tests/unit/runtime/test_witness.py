"""The witness of the fault tests sees what happens, and would tell what must not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from replay_rig import BATCH_SIZE, batch, config

from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.rate_limiter import RateLimiter
from raydfkd.testing import witness
from raydfkd.testing.witness import FOLDER, Witnessed

GOOD: dict[str, list[dict[str, Any]]] = {
    "buffer": [{"epoch": "a", "keys": [0, 1], "images": [10, 11]}, {"epoch": "b", "restored": [1]},
               {"epoch": "b", "keys": [2], "images": [12]}],
    "limiter": [{"inserts": 2, "samples": 0, "kept": True}],
    "student": [{"step": 0, "keys": [0, 1], "images": [10, 11]}, {"step": 1, "keys": [2, 2], "images": [12, 12]}],
}  # fmt: skip


def told(folder: Path, **changed: list[dict[str, Any]]) -> Witnessed:
    for kind, notes in {**GOOD, **changed}.items():
        (folder / f"{kind}-1.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    return Witnessed(folder)


def test_what_is_as_it_should_be_passes_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    witnessed = told(tmp_path)
    assert witnessed.broken() == []
    assert (witnessed.num_epochs, witnessed.steps) == (2, [0, 1])
    (tmp_path / "student-2.jsonl").write_text('{"step": 2, "keys": [7')
    assert Witnessed(tmp_path).broken() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"student": [{"step": 0, "keys": [0], "images": [99]}]}, "1 images that students saw were never inserted"),
        ({"student": [{"step": 0, "keys": [5], "images": [10]}]}, "1 images that students saw were never inserted"),
        ({"buffer": [*GOOD["buffer"], {"epoch": "b", "keys": [1], "images": [13]}]}, "epoch b gave a key twice"),
        ({"limiter": [{"inserts": 9, "samples": 0, "kept": False}]}, "the limiter's bound was passed 1 times, first at"),
        ({"student": []}, "nothing was witnessed"),
    ],
)
def test_each_breach_is_told(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    (line,) = told(tmp_path, **changed).broken()
    assert line.startswith(expected)


def test_inserts_restores_and_a_passed_bound_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Buffer(ReplayBuffer):
        pass

    class Limiter(RateLimiter):
        pass

    monkeypatch.setenv(FOLDER, str(tmp_path))
    witness._watch_buffer(SimpleNamespace(ReplayBuffer=Buffer))
    witness._watch_limiter(SimpleNamespace(RateLimiter=Limiter))
    made = [Buffer(config().replay, 10, 100, ("small",), np.random.default_rng(0)) for _ in range(2)]
    made[0].insert(batch(0), "pixels")
    made[0].insert(batch(1), "pixels")
    keys = {int(key) for view in made[0].shards_after(-1) for key in view.keys}
    made[1].load_state_dict(made[0].state_dict(), {0: "pixels", 1: "pixels"})
    limiter = Limiter(None, BATCH_SIZE, None, insert_chunk=BATCH_SIZE, sample_chunk=BATCH_SIZE)
    limiter.record_sample(BATCH_SIZE)  # before anything is in
    limiter.record_insert(BATCH_SIZE)
    limiter.record_sample(BATCH_SIZE)
    witnessed = Witnessed(tmp_path)
    assert {key for key, _ in witnessed.inserted} == keys
    assert len(witnessed.inserted) == len(keys) == 2 * BATCH_SIZE
    assert witnessed.num_epochs == 2
    assert [line.split(",")[0] for line in witnessed.broken()] == [
        "the limiter's bound was passed 1 times",
        "nothing was witnessed",
    ]

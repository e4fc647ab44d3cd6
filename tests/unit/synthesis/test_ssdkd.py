"""SSD-KD's synthesis: FastDFKD with phi, no more and no less."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import torch
from tiny_synthesis import make, same, summary, weights_of
from torch.nn import functional as F

from raydfkd.losses.inversion import modulating_weights
from raydfkd.synthesis.ssdkd import SSDKDSynthesizer
from raydfkd.types import BufferSummary

SKEWED = summary(50, [40, 30, 10, 5, 5, 4, 3, 2, 1, 0])
OFF = {"diversity": False, "difficulty": False}


def test_with_both_switches_off_it_is_fast_bit_for_bit() -> None:
    fast, ssdkd = make("fast"), make("ssdkd", **OFF)
    for _ in range(3):
        expected, found = fast.step(SKEWED), ssdkd.step(SKEWED)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.priorities, expected.priorities)
        assert found.metrics == expected.metrics
    assert same(weights_of(fast), weights_of(ssdkd))
    assert (expected.source, found.source) == ("fast", "ssdkd")


def test_each_switch_changes_what_is_learnt() -> None:
    variants = [
        OFF,
        {"diversity": True, "difficulty": False},
        {"diversity": False, "difficulty": True},
        {"diversity": True, "difficulty": True},
        {"diversity": True, "difficulty": True, "difficulty_gamma": 1.0},
        {**OFF, "target": "teacher"},
    ]
    learnt = []
    for settings in variants:
        synthesizer = make("ssdkd", **settings)
        synthesizer.step(SKEWED)
        learnt.append(weights_of(synthesizer))
    for one, other in itertools.combinations(range(len(variants)), 2):
        assert not same(learnt[one], learnt[other]), (variants[one], variants[other])


def test_phi_is_eq_3_of_the_buffers_histogram() -> None:
    synthesizer = make("ssdkd", difficulty_gamma=1.5)
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    expected = modulating_weights(
        logits, torch.from_numpy(SKEWED.class_counts), 100, diversity=True, difficulty=True, gamma=1.5
    )
    targets = torch.arange(20) % 10
    torch.testing.assert_close(synthesizer.task_weights(logits, targets, SKEWED), expected)
    aimed = make("ssdkd", difficulty_gamma=1.5, difficulty_of="target").task_weights(logits, targets, SKEWED)
    assert aimed is not None
    hardness = (1 - logits.softmax(1).gather(1, targets[:, None]).squeeze(1)) ** 1.5
    rarity = 1 - torch.from_numpy(SKEWED.class_counts)[logits.argmax(1)] / 100
    torch.testing.assert_close(aimed, (hardness * rarity).float())


def test_an_empty_buffer_leaves_only_the_difficulty() -> None:
    """At the first call there is no rare class, so diversity alone is FastDFKD."""
    fast, diverse = make("fast"), make("ssdkd", diversity=True, difficulty=False)
    np.testing.assert_array_equal(fast.step(summary(0)).images, diverse.step(summary(0)).images)
    assert same(weights_of(fast), weights_of(diverse))


def test_a_buffer_of_one_class_silences_the_task_term_of_that_class() -> None:
    synthesizer = make("ssdkd", difficulty=False)
    logits = F.one_hot(torch.tensor([4, 4, 2]), 10).float()
    weights = synthesizer.task_weights(logits, torch.zeros(3, dtype=torch.int64), summary(5, [0, 0, 0, 0, 60, 0, 0, 0, 0, 0]))
    assert weights is not None
    assert weights.tolist() == [0.0, 0.0, 1.0]


def test_the_target_is_random_or_the_teachers_choice() -> None:
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    drawn = torch.arange(6)
    random, teacher = make("ssdkd"), make("ssdkd", target="teacher")
    assert torch.equal(random.task_targets(logits, drawn), drawn)
    assert torch.equal(teacher.task_targets(logits, drawn), logits.argmax(1))


def test_the_teachers_choice_gives_a_task_loss_below_log_k() -> None:
    """The cross-entropy to one's own argmax is at most log K; to random classes of a decided teacher it is more."""
    chosen = make("ssdkd", target="teacher", **OFF).step(SKEWED).metrics["one_hot_loss"]
    random = make("ssdkd", **OFF).step(SKEWED).metrics["one_hot_loss"]
    assert chosen < np.log(10) < random


def test_a_read_only_histogram_is_fine() -> None:
    """What comes through an object store is read-only, and torch warns of sharing such memory."""
    counts = SKEWED.class_counts.copy()
    counts.setflags(write=False)
    synthesizer = make("ssdkd")
    assert isinstance(synthesizer, SSDKDSynthesizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        synthesizer.step(BufferSummary(100, counts, 50))

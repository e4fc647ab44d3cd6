"""The selection rule: its words written out as a loop, and invariants of any input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydfkd.data.selection import class_quotas, most_confident, select_balanced, select_transfer_set


@st.composite
def candidates(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """(classes, K, total): sizes that leave classes without candidates, with few, with exactly the quota and with many."""
    num_classes = draw(st.integers(2, 7))
    counts = draw(st.lists(st.integers(0, 25), min_size=num_classes, max_size=num_classes))
    classes = np.repeat(np.arange(num_classes), counts)
    order = np.random.default_rng(draw(st.integers(0, 9))).permutation(len(classes))
    return classes[order], num_classes, draw(st.integers(0, 80))


@settings(max_examples=120, deadline=None)
@given(candidates(), st.integers(0, 3))
def test_every_word_of_the_rule_holds(given_: tuple[np.ndarray, int, int], seed: int) -> None:
    classes, num_classes, total = given_
    chosen = select_balanced(classes, num_classes, total, seed)
    assert chosen.dtype == np.int64
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, select_balanced(classes, num_classes, total, seed))
    if len(classes) == 0:
        assert len(chosen) == 0
        return
    assert len(chosen) == total
    got = np.bincount(classes[chosen], minlength=num_classes)
    there = np.bincount(classes, minlength=num_classes)
    times = np.bincount(chosen, minlength=len(classes))
    target = total / np.count_nonzero(there)
    for k in range(num_classes):
        uses = times[classes == k]
        if there[k] == 0:
            assert got[k] == 0  # skipped; the rest have its share
            continue
        assert got[k] in (int(np.floor(target)), int(np.ceil(target)))
        if there[k] >= got[k]:
            assert uses.max(initial=0) <= 1  # a subset without replacement
        else:
            assert uses.max() - uses.min() <= 1  # repeated evenly
            assert uses.min() >= 1


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_quotas_add_up_and_differ_by_one_at_most(given_: tuple[np.ndarray, int, int]) -> None:
    classes, num_classes, total = given_
    counts = np.bincount(classes, minlength=num_classes)
    quotas = class_quotas(counts, total)
    assert quotas.sum() == (total if counts.sum() else 0)
    present = quotas[counts > 0]
    assert len(present) == 0 or present.max() - present.min() <= 1
    more, less = quotas > quotas[counts > 0].min(initial=0), (quotas == quotas[counts > 0].min(initial=0)) & (counts > 0)
    if more.any() and less.any():
        assert counts[more].min() >= counts[less].max()  # the remainder is the largest classes'


def test_by_hand() -> None:
    """Classes 0 to 3 have 5, 2, 0 and 3 candidates: 9 images are 3 for each of three classes."""
    classes = np.array([0, 1, 0, 3, 0, 3, 1, 0, 3, 0])
    chosen = select_balanced(classes, 4, 9)
    times = np.bincount(chosen, minlength=10)
    assert sorted(times[[1, 6]]) == [1, 2]
    assert times[[3, 5, 8]].tolist() == [1, 1, 1]
    assert times[[0, 2, 4, 7, 9]].sum() == 3
    assert class_quotas(np.array([5, 2, 0, 3]), 11).tolist() == [4, 3, 0, 4]


def test_subsets_are_random_and_every_candidate_is_as_likely() -> None:
    classes = np.zeros(20, dtype=np.int64)
    times = sum(np.bincount(select_balanced(classes, 2, 5, seed), minlength=20) for seed in range(400))
    assert times.sum() == 2000
    # Binomial with 400 tries at 1/4: 100 +- 8.7 each, 4.5 deviations for all twenty.
    assert times.min() > 61
    assert times.max() < 139


def test_small_natural_sets_are_used_whole() -> None:
    classes = np.array([0, 0, 0, 1])
    assert select_transfer_set(classes, 2, 4, keep_small=True).tolist() == [0, 1, 2, 3]
    for kept in (select_transfer_set(classes, 2, 4), select_transfer_set(np.repeat(classes, 2), 2, 4, keep_small=True)):
        assert len(kept) == 4
    assert select_transfer_set(classes, 2, 4).tolist().count(3) == 2


@pytest.mark.parametrize(("classes", "total"), [([0, 2], 3), ([-1, 0], 3), ([0, 1], -1)])
def test_classes_that_are_none_are_refused(classes: list[int], total: int) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 2\)"):
        select_balanced(np.array(classes), 2, total)


def written_out(classes: list[int], num_classes: int, total: int) -> list[int]:
    """The paper's rule as a loop over classes: how many images each shall have."""
    groups = [[i for i, c in enumerate(classes) if c == k] for k in range(num_classes)]
    seen = [k for k in range(num_classes) if groups[k]]
    shares = [0] * num_classes
    for k in seen:
        shares[k] = total // len(seen)
    for k in sorted(seen, key=lambda k: (-len(groups[k]), k))[: total - sum(shares)]:
        shares[k] += 1
    return shares


@pytest.mark.parametrize(
    "counts",
    [
        [0, 3, 6, 9],  # none, few, exactly its part of 18, and many
        [6, 6, 6, 0],
        [0, 0, 0, 1],
        [1, 1, 1, 18],
        [5, 7, 0, 6],  # 6 is one below, exactly and one above
        [18, 0, 0, 0],
    ],
)
def test_classes_with_none_few_exactly_their_part_and_many(counts: list[int]) -> None:
    classes = np.random.default_rng(1).permutation(np.repeat(np.arange(4), counts))
    chosen = select_balanced(classes, 4, 18, seed=2)
    wanted = written_out(classes.tolist(), 4, 18)
    assert np.bincount(classes[chosen], minlength=4).tolist() == wanted
    for k, (there, share) in enumerate(zip(counts, wanted, strict=True)):
        uses = sorted(np.bincount(chosen, minlength=len(classes))[classes == k].tolist())
        whole, more = divmod(share, there) if there else (0, 0)
        # Each as often as every other or once more; where there are as many as wanted, each once; where more, a subset.
        assert uses == [whole] * (there - more) + [whole + 1] * more


def test_what_a_class_lacks_its_own_images_repeat_and_what_is_missing_the_others_share() -> None:
    assert written_out([0, 0, 2], 3, 10) == [5, 0, 5]
    classes = np.array([0, 0, 2])
    assert np.bincount(select_balanced(classes, 3, 10), minlength=3)[2] == 5


def test_the_surest_are_chosen_and_of_equals_the_first() -> None:
    confidences = np.array([0.5, 0.9, 0.2, 0.9, 0.7], np.float32)
    assert most_confident(confidences, 1).tolist() == [1]
    assert most_confident(confidences, 3).tolist() == [1, 3, 4]
    assert most_confident(confidences, 9).tolist() == [0, 1, 2, 3, 4]

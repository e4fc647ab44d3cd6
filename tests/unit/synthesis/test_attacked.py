"""The attack as a stage behind another synthesizer: batch size, what is kept, priorities, state, and the builder's part."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_synthesis import CLASSES, SHAPE, build_teacher, make, summary

from raydfkd.synthesis.attacked import AttackedSynthesizer
from raydfkd.synthesis.boundary import AttackedImages
from raydfkd.synthesis.fast import FastConfig
from raydfkd.synthesis.method import SynthesisContext
from raydfkd.synthesis.procedural.synthesizer import ProceduralConfig
from raydfkd.types import BufferSummary, Preparation

ATTACK: dict[str, Any] = {
    "norm": "l2", "mixup": False, "keep_originals": True, "share": 0.8, "threshold": 0.9, "step_size": 0.1
}  # fmt: skip


def attacked(method: str = "fast", **attack: Any) -> AttackedSynthesizer:
    inner = make(method, batch_size=20)
    config = FastConfig(batch_size=20, boundary_attack={**ATTACK, **attack})
    context = SynthesisContext("inversion-0", 3, 3, 20.0, bf16=False)
    return AttackedSynthesizer(inner, config, inner.teacher, context, torch.device("cpu"))


def test_a_batch_keeps_its_size_and_the_attacked_images_stay_in_it() -> None:
    synthesizer, plain = attacked(), make(batch_size=20)
    batch, untouched = synthesizer.step(summary()), plain.step(summary())
    pairs = round(batch.metrics["attack_pairs"] * batch.metrics["attacked_images"])
    assert batch.metrics["attacked_images"] == 4  # 0.8 of 20, four for each
    assert pairs > 0
    assert batch.metrics["attack_crossed"] >= batch.metrics["attack_pairs"]
    assert batch.metrics["loss"] == untouched.metrics["loss"]
    for array in (batch.images, batch.targets, batch.teacher_class, batch.teacher_confidence, batch.priorities):
        assert array is not None
        assert len(array) == 20
    assert batch.images.shape == (20, *SHAPE)
    originals = [any((image == one).all() for one in untouched.images) for image in batch.images]
    assert originals == [False] * (4 * pairs) + [True] * (20 - 4 * pairs)
    with torch.no_grad():
        judged = build_teacher()(torch.from_numpy(batch.images).float() / 255).argmax(1)
    np.testing.assert_array_equal(judged.numpy(), batch.teacher_class)
    assert untouched.priorities is not None
    assert batch.priorities is not None
    np.testing.assert_array_equal(batch.priorities[: 4 * pairs], untouched.priorities.max())


@pytest.mark.parametrize(
    ("class_balanced", "held", "expected"),
    [
        (True, [100, 0, 0], (24, 16)),  # all that the attack made of the class that lacks
        (True, [0, 100, 0], (40, 0)),
        (True, [0, 0, 0], (24, 16)),
        (False, [100, 0, 0], (24, 16)),  # all that the attack made, and the rest as it comes
        (False, [0, 100, 0], (24, 16)),
    ],
)
def test_a_class_balanced_source_and_its_attack_together_make_the_buffer_even(
    class_balanced: bool, held: list[int], expected: tuple[int, int]
) -> None:
    """The source makes 40 images of class 0; the attack makes of 10 of them 16 of class 0 and 16 of class 1."""
    config = ProceduralConfig(batch_size=40, class_balanced=class_balanced, boundary_attack=ATTACK)
    context = SynthesisContext("render-0", 3, 3, 20.0, bf16=False)
    inner = make("fast", batch_size=40)
    whole = replace(inner.step(summary()), teacher_class=np.zeros(40, np.int32))
    inner.step = lambda held: whole  # type: ignore[method-assign]
    synthesizer = AttackedSynthesizer(inner, config, inner.teacher, context, torch.device("cpu"))
    classes = np.repeat([0, 1], 16)
    synthesizer.attack = lambda images, classes_of, rng: AttackedImages(  # type: ignore[assignment]
        np.full((32, *SHAPE), 7, np.uint8), classes, classes, np.ones(32, np.float32), np.arange(32) // 4, 8, 8
    )
    found = synthesizer.step(BufferSummary(sum(held), np.array(held), 0))
    assert tuple(np.bincount(found.teacher_class, minlength=2)) == expected
    made = (found.images == 7).all((1, 2, 3))
    assert made.sum() == (16 if expected[1] == 0 else 32), "of a class, what the attack made comes first"


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("found", [20, 12, 0])
def test_attacked_images_are_left_out_unless_a_batch_would_lack_images(found: int, balanced: bool) -> None:
    """Of 20 images 5 are attacked; with 20 made of them the batch is these, with 12 it has 8 that were not attacked, or with a
    balanced source as many as make its classes even."""
    synthesizer, plain = attacked(keep_originals=False, share=1.0), make(batch_size=20).step(summary())
    synthesizer.balanced = balanced
    whole = replace(plain, teacher_class=np.arange(20, dtype=np.int32) % CLASSES)
    synthesizer.inner.step = lambda held: whole  # type: ignore[method-assign]
    rows: list[np.ndarray] = []

    def attack(images: np.ndarray, classes: np.ndarray, rng: Any) -> AttackedImages:
        rows.append(images)
        nothing = np.zeros(found, np.int64)
        return AttackedImages(np.full((found, *SHAPE), 7, np.uint8), nothing, nothing.astype(np.int32),
                              np.ones(found, np.float32), nothing, 5, 5)  # fmt: skip

    synthesizer.attack = attack  # type: ignore[assignment]
    batch = synthesizer.step(summary())
    assert len(batch) == 20
    made = (batch.images == 7).all((1, 2, 3))
    assert 0 <= made.sum() <= found
    assert balanced or made.sum() == found
    kept = {image.tobytes() for image in batch.images[~made]}
    assert kept <= {image.tobytes() for image in plain.images}
    assert len(kept & {image.tobytes() for image in rows[0]}) == (5 if found == 0 else 0)


def test_without_priorities_there_are_none() -> None:
    synthesizer = attacked()
    inner_step = synthesizer.inner.step

    def step(held: Any) -> Any:
        return replace(inner_step(held), priorities=None)

    synthesizer.inner.step = step  # type: ignore[method-assign]
    assert synthesizer.step(summary()).priorities is None


def test_a_restored_stage_goes_on_bit_for_bit() -> None:
    one = attacked()
    one.step(summary())
    state = copy.deepcopy(one.state_dict())  # else it goes on with its synthesizer
    expected = one.step(summary(1))
    other = attacked()
    other.load_state_dict(state)
    found = other.step(summary(1))
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.targets, expected.targets)
    other.load_state_dict(state)  # the attack's own draws are part of it
    other.rng.manual_seed(99)
    assert (other.step(summary(1)).images != expected.images).any()


def test_preparation_and_weights_are_the_inner_ones() -> None:
    synthesizer = attacked()
    told: list[Any] = []
    synthesizer.inner.prepare = lambda: Preparation(1, 2, 0.5)  # type: ignore[method-assign]
    synthesizer.inner.load_student = lambda weights, version: told.append((weights, version))  # type: ignore[method-assign]
    synthesizer.load_student(np.zeros(3), 7)
    assert synthesizer.prepare() == Preparation(1, 2, 0.5)
    assert told[0][1] == 7


@pytest.mark.parametrize(
    ("share", "deeper", "size", "attacked_images"), [(0.8, 5.0, 20, 4), (0.8, 0.0, 20, 8), (1.0, 5.0, 20, 5), (0.5, 5.0, 8, 1)]
)
def test_how_many_are_attacked(share: float, deeper: float, size: int, attacked_images: int) -> None:
    config = FastConfig(batch_size=size, boundary_attack={"share": share, "deeper_steps": deeper})
    assert config.boundary_attack is not None
    assert config.boundary_attack.num_attacked(size) == attacked_images


def test_a_batch_without_room_is_refused() -> None:
    with pytest.raises(ValidationError, match="is less than the 4 images of one attack"):
        FastConfig(batch_size=4, boundary_attack={"share": 0.8})


def test_all_classes_are_within_the_task() -> None:
    batch = attacked(share=1.0).step(summary())
    assert batch.teacher_class.min() >= 0
    assert batch.teacher_class.max() < CLASSES

"""The boundary attack, both ways: on linear teachers against their boundary and a scalar bold driver, and its invariants on a
network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_synthesis import CLASSES, SHAPE, build_teacher
from torch import Tensor, nn

from raydfkd.augment.mixup import mixup
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis import boundary
from raydfkd.synthesis.boundary import (
    AttackedImages,
    AttackSettings,
    BoundaryAttack,
    BoundaryAttackConfig,
    BoundaryPairs,
    attack_settings,
    boundary_attack,
)

NUM_VALUES = 16
ON_NETWORK: dict[str, dict[str, Any]] = {
    "l2": {"norm": "l2", "threshold": 0.7, "step_size": 8 / 255},
    "linf": {"norm": "linf", "threshold": 0.7, "step_size": 1 / 255},
}
NORMS = ["l2", "linf"]


def settings(**changes: Any) -> AttackSettings:
    plain: dict[str, Any] = {"norm": "l2", "threshold": 1.1, "step_size": 0.02, "radius": math.inf, "growth": 1.1}
    plain |= {"shrink": 0.5, "num_steps": 60, "deeper_steps": 5.0}
    return AttackSettings(**{**plain, **changes})


class LinearTeacher:
    """Two classes: the lead of class 1 is ``scale`` times the signed distance from the plane (x - 1/2) . normal = 0."""

    def __init__(self, scale: float) -> None:
        normal = torch.randn(NUM_VALUES, generator=torch.Generator().manual_seed(2))
        self.normal = normal / normal.norm()
        self.scale = scale

    def distance(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.normal

    def __call__(self, images: Tensor) -> Tensor:
        lead = self.scale * self.distance(images)
        return torch.stack([torch.zeros_like(lead), lead], 1)

    def at(self, distances: list[float]) -> Tensor:
        """Images at signed distances from the plane."""
        return (0.5 + torch.tensor(distances)[:, None] * self.normal).view(-1, 1, 4, 4)


def bold_driver(distance: float, scale: float, s: AttackSettings, way: float = 1.0) -> tuple[float, float, float, int] | None:
    """The same attack in one dimension, in which a step goes ``way`` times its size.

    (before, after, step, steps tried), or None if the budget ends.
    """

    def confidence(d: float) -> float:
        return 1 / (1 + math.exp(-abs(scale * d)))

    step = s.step_size
    for tried in range(1, s.num_steps + 1):
        proposed = distance + step * way
        if proposed > 0 and confidence(proposed) < s.threshold and confidence(distance) < s.threshold:
            return distance, proposed, step, tried
        if proposed < 0:
            distance, step = proposed, step * s.growth
        else:
            step *= s.shrink
    return None


@pytest.mark.parametrize(("scale", "threshold"), [(5.0, 1.1), (40.0, 0.7), (40.0, 0.55), (200.0, 0.6)])
def test_on_a_linear_teacher_it_is_a_bold_driver_in_one_dimension(scale: float, threshold: float) -> None:
    teacher = LinearTeacher(scale)
    starts = [-0.31, -0.17, -0.05, -0.011]
    chosen = settings(threshold=threshold)
    images = teacher.at(starts)
    pairs = boundary_attack(teacher, images, torch.ones(4, dtype=torch.long), chosen)
    expected = [bold_driver(start, scale, chosen) for start in starts]
    assert pairs.origins_M.tolist() == [0, 1, 2, 3]
    for i, reference in enumerate(expected):
        assert reference is not None
        before, after, step, tried = reference
        assert before < 0 < after
        assert float(teacher.distance(pairs.before)[i]) == pytest.approx(before, abs=2e-5)
        assert float(teacher.distance(pairs.after)[i]) == pytest.approx(after, abs=2e-5)
        assert float(pairs.step_sizes_M[i]) == pytest.approx(step, rel=1e-4)
        assert int(pairs.num_steps_N[i]) == tried
    # It goes straight to the plane: nothing but the distance has changed.
    way = teacher.distance(pairs.after) - teacher.distance(images)
    sideways = (pairs.after - images).flatten(1) - way[:, None] * teacher.normal
    assert float(sideways.abs().max()) < 1e-5


@pytest.mark.parametrize(("scale", "threshold"), [(5.0, 1.1), (40.0, 0.7), (40.0, 0.55), (200.0, 0.6)])
def test_bim_takes_the_same_step_in_every_value(scale: float, threshold: float) -> None:
    """The distance grows by the step times the normal's L1 length, whatever the gradient's length is."""
    teacher = LinearTeacher(scale)
    starts = [-0.31, -0.17, -0.05, -0.011]
    chosen = settings(norm="linf", threshold=threshold, step_size=0.005, deeper_steps=1.0)
    images = teacher.at(starts)
    pairs = boundary_attack(teacher, images, torch.ones(4, dtype=torch.long), chosen)
    way = float(teacher.normal.abs().sum())
    assert pairs.origins_M.tolist() == [0, 1, 2, 3]
    for i, start in enumerate(starts):
        reference = bold_driver(start, scale, chosen, way)
        assert reference is not None
        before, after, step, tried = reference
        assert float(teacher.distance(pairs.before)[i]) == pytest.approx(before, abs=2e-5)
        assert float(teacher.distance(pairs.after)[i]) == pytest.approx(after, abs=2e-5)
        assert float(pairs.step_sizes_M[i]) == pytest.approx(step, rel=1e-4)
        assert int(pairs.num_steps_N[i]) == tried
    signs = teacher.normal.sign().view(1, 4, 4)
    torch.testing.assert_close((pairs.after - pairs.before) * signs, pairs.step_sizes_M.view(4, 1, 1, 1).expand(4, 1, 4, 4))
    # The deeper copies take one step of the first size, and not of the last.
    torch.testing.assert_close((pairs.deeper_after - pairs.after) * signs, torch.full((4, 1, 4, 4), 0.005))
    torch.testing.assert_close((pairs.deeper_before - pairs.before) * signs, torch.full((4, 1, 4, 4), -0.005))


def test_no_value_leaves_the_radius() -> None:
    teacher = LinearTeacher(5.0)
    way = float(teacher.normal.abs().sum())
    images, targets = teacher.at([-0.4 * way * 0.05, -1.5 * way * 0.05]), torch.ones(2, dtype=torch.long)
    free, bounded = (
        boundary_attack(teacher, images, targets, settings(norm="linf", step_size=0.01, radius=radius, deeper_steps=0.0))
        for radius in (math.inf, 0.05)
    )
    assert free.origins_M.tolist() == [0, 1]
    assert bounded.origins_M.tolist() == [0], "the second is further away than the radius reaches"
    assert float((bounded.after - images[:1]).abs().max()) <= 0.05 + 1e-6


def test_an_accepted_step_makes_the_next_one_longer_and_a_refused_one_shorter() -> None:
    """Without a threshold the first crossing counts: the way is a geometric series of growth 1.25."""
    teacher, chosen = LinearTeacher(5.0), settings(growth=1.25)
    pairs = boundary_attack(teacher, teacher.at([-0.3]), torch.tensor([1]), chosen)
    tried = int(pairs.num_steps_N[0])
    way = [0.02 * (1.25**n - 1) / 0.25 for n in (tried - 1, tried)]
    assert way[0] < 0.3 < way[1]
    assert float(teacher.distance(pairs.before)[0]) == pytest.approx(-0.3 + way[0], abs=1e-5)
    assert float(pairs.step_sizes_M[0]) == pytest.approx(0.02 * 1.25 ** (tried - 1), rel=1e-5)
    # The teacher is sure wherever it is not within 0.005: of the first step, that much is left after two halvings.
    sharp = LinearTeacher(100.0)
    close = boundary_attack(sharp, sharp.at([-0.004]), torch.tensor([1]), settings(threshold=1 / (1 + math.exp(-0.5))))
    assert close.num_steps_N.tolist() == [3]
    assert float(close.step_sizes_M[0]) == pytest.approx(0.02 / 4, rel=1e-5)


def test_deeper_copies_go_some_last_steps_into_their_own_class() -> None:
    teacher, chosen = LinearTeacher(5.0), settings(deeper_steps=3.0)
    pairs = boundary_attack(teacher, teacher.at([-0.1, -0.07]), torch.tensor([1, 1]), chosen)
    moved = teacher.distance(pairs.deeper_before) - teacher.distance(pairs.before)
    torch.testing.assert_close(moved, -3 * pairs.step_sizes_M, rtol=0, atol=1e-5)
    moved = teacher.distance(pairs.deeper_after) - teacher.distance(pairs.after)
    torch.testing.assert_close(moved, 3 * pairs.step_sizes_M, rtol=0, atol=1e-5)


def test_no_pair_where_there_is_none_to_find() -> None:
    teacher = LinearTeacher(5.0)
    images = teacher.at([-0.3, 0.2, -0.3])
    short = boundary_attack(teacher, images, torch.ones(3, dtype=torch.long), settings(num_steps=3))
    assert short.num_steps_N.tolist() == [3, 0, 3]  # the second is in the target class already
    assert len(short.origins_M) == len(short.before) == len(short.deeper_after) == 0
    flat = boundary_attack(lambda x: x.flatten(1)[:, :2] * 0, images, torch.ones(3, dtype=torch.long), settings())
    assert len(flat.origins_M) == 0


# On a network


def sharp_teacher() -> FrozenTeacher:
    """So sure that without a threshold some pairs would be of probabilities around 0.9."""
    teacher = build_teacher()
    with torch.no_grad():
        teacher.model.fc.weight.mul_(40)  # type: ignore[union-attr, attr-defined, operator]
    return teacher


def network_attack(
    norm: str = "l2", num: int = 24, seed: int = 0, **changes: Any
) -> tuple[FrozenTeacher, Tensor, Tensor, BoundaryPairs]:
    teacher = sharp_teacher()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num, *SHAPE, generator=generator) ** 3
    with torch.no_grad():
        targets = (teacher(images).argmax(1) + torch.randint(1, CLASSES, (num,), generator=generator)) % CLASSES
    chosen = settings(**{**ON_NETWORK[norm], **changes})
    return teacher, images, targets, boundary_attack(teacher, images, targets, chosen)


@pytest.mark.parametrize("norm", NORMS)
def test_every_pair_straddles_the_boundary_within_the_threshold(norm: str) -> None:
    teacher, images, targets, pairs = network_attack(norm)
    aims = targets[pairs.origins_M]
    assert len(aims) > 8
    with torch.no_grad():
        before, after = teacher(pairs.before), teacher(pairs.after)
    assert (after.argmax(1) == aims).all()
    assert (before.argmax(1) != aims).all()
    for logits in (before, after):
        assert float(logits.softmax(1).max()) < 0.7
    gap = (pairs.after - pairs.before).flatten(1).norm(p=2 if norm == "l2" else math.inf, dim=1)
    assert (gap <= pairs.step_sizes_M * (1 + 1e-4)).all()
    for made in (pairs.before, pairs.after, pairs.deeper_before, pairs.deeper_after):
        assert made.shape == (len(aims), *SHAPE)
        assert float(made.min()) >= 0
        assert float(made.max()) <= 1
    assert not pairs.after.requires_grad
    assert not images.requires_grad
    assert teacher.model.fc.weight.grad is None  # type: ignore[union-attr, attr-defined]


def test_a_smaller_threshold_brings_the_pair_closer_to_the_boundary() -> None:
    gaps = []
    for threshold in (1.1, 0.6):
        *_, pairs = network_attack(threshold=threshold)
        gaps.append(float((pairs.after - pairs.before).flatten(1).norm(dim=1).mean()))
    assert gaps[1] < gaps[0]


def test_deeper_copies_are_surer_of_their_class() -> None:
    teacher, _, _, pairs = network_attack(deeper_steps=0.2)  # a long step may well end in a third class
    with torch.no_grad():
        for side, deeper in ((pairs.before, pairs.deeper_before), (pairs.after, pairs.deeper_after)):
            own = teacher(side).argmax(1, keepdim=True)
            rise = teacher(deeper).softmax(1).gather(1, own) - teacher(side).softmax(1).gather(1, own)
            assert float((rise > 0).float().mean()) > 0.9


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_is_its_images_one_at_a_time(norm: str) -> None:
    teacher, images, targets, pairs = network_attack(norm, num=10)
    chosen = settings(**ON_NETWORK[norm])
    alone = [boundary_attack(teacher, images[i : i + 1], targets[i : i + 1], chosen) for i in range(10)]
    found = [i for i, one in enumerate(alone) if len(one.origins_M)]
    assert pairs.origins_M.tolist() == found
    assert pairs.num_steps_N.tolist() == [int(one.num_steps_N[0]) for one in alone]
    for name in ("before", "after", "deeper_before", "deeper_after", "step_sizes_M"):
        together = torch.cat([getattr(alone[i], name) for i in found])
        torch.testing.assert_close(getattr(pairs, name), together, rtol=0, atol=2e-4)


# The settings, and images as they are stored


def test_defaults_follow_classes_and_size() -> None:
    assert attack_settings(BoundaryAttackConfig(), 100, 3072) == AttackSettings(
        "linf", 0.9, 1 / 255, math.inf, 1.1, 0.5, 50, 1.0
    )
    config = BoundaryAttackConfig(norm="l2")
    assert attack_settings(config, 10, 3072).threshold == 0.6
    assert attack_settings(config, 100, 3072).threshold == 0.5
    assert attack_settings(config, 10, 3072).step_size == pytest.approx(0.2174, abs=1e-4)
    assert attack_settings(config, 10, 3072).deeper_steps == 5
    given = BoundaryAttackConfig(
        threshold=0.8, step_size=0.3, radius=0.1, step_growth=1.3, step_shrink=0.25, num_steps=9, deeper_steps=2
    )
    assert attack_settings(given, 10, 3072) == AttackSettings("linf", 0.8, 0.3, 0.1, 1.3, 0.25, 9, 2.0)
    with pytest.raises(ValidationError, match="norm l2 does not use radius"):
        BoundaryAttackConfig(norm="l2", radius=0.1)


def stored_attack(seed: int = 0, num: int = 24, **changes: Any) -> tuple[BoundaryAttack, np.ndarray, AttackedImages]:
    teacher = sharp_teacher()
    images = np.random.default_rng(5).integers(0, 256, (num, *SHAPE)).astype(np.uint8)
    with torch.no_grad():
        classes = teacher(torch.from_numpy(images).float() / 255).argmax(1).int().numpy()
    config = BoundaryAttackConfig(**{**ON_NETWORK["l2"], "mixup": False, **changes})
    attack = BoundaryAttack(config, teacher, torch.device("cpu"), bf16=False)
    return attack, classes, attack(images, classes, torch.Generator().manual_seed(seed))


def test_stored_pairs_hold_as_bytes() -> None:
    attack, classes, made = stored_attack()
    pairs = len(made.images) // 4
    assert made.num_pairs == pairs > 5
    assert made.num_attacked == 24
    assert pairs <= made.num_crossed
    assert made.images.dtype == np.uint8
    assert made.images.shape == (4 * pairs, *SHAPE)
    with torch.no_grad():
        probabilities = attack.teacher(torch.from_numpy(made.images).float() / 255).softmax(1)
    confidence, predicted = probabilities.max(1)
    np.testing.assert_array_equal(predicted.numpy(), made.teacher_class)
    np.testing.assert_allclose(confidence.numpy(), made.teacher_confidence, rtol=1e-4)
    assert (made.teacher_confidence[: 2 * pairs] < 0.7).all()
    origins = made.origins.reshape(4, pairs)
    assert (origins == origins[0]).all()
    targets, judged = made.targets.reshape(4, pairs), made.teacher_class.reshape(4, pairs)
    assert (judged[1] == targets[1]).all()
    assert (judged[0] != targets[1]).all()
    assert (targets[0] == classes[origins[0]]).all()
    assert (targets[2] == targets[0]).all()
    assert (targets[3] == targets[1]).all()
    assert (targets[0] != targets[1]).all()


def test_targets_are_every_other_class_and_a_seed_repeats() -> None:
    *_, one = stored_attack(1, deeper_steps=0.0)
    *_, again = stored_attack(1, deeper_steps=0.0)
    *_, other = stored_attack(2, deeper_steps=0.0)
    assert len(one.images) == 2 * one.num_pairs
    np.testing.assert_array_equal(one.images, again.images)
    assert one.images.shape != other.images.shape or (one.images != other.images).any()
    assert len(np.unique(one.targets[one.num_pairs :])) > 4


def test_a_teacher_that_never_changes_its_mind_gives_no_pair() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(math.prod(SHAPE), CLASSES)
            nn.init.zeros_(self.fc.weight)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(images.flatten(1))

    teacher = FrozenTeacher(Stubborn(), CLASSES, SHAPE, (0.5,), (0.5,))
    with torch.no_grad():
        own = teacher(torch.zeros(1, *SHAPE)).argmax(1)
    attack = BoundaryAttack(BoundaryAttackConfig(num_steps=4, mixup=False), teacher, torch.device("cpu"), bf16=False)
    made = attack(np.zeros((3, *SHAPE), np.uint8), own.repeat(3).numpy(), torch.Generator())
    assert (made.num_pairs, made.num_crossed, len(made.images), made.num_attacked) == (0, 0, 0, 3)
    assert made.images.shape == (0, *SHAPE)


def test_mixtures_are_attacked_towards_another_class_than_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    attack_all = boundary_attack

    def recorded(logits: Any, images: Tensor, targets: Tensor, chosen: AttackSettings) -> BoundaryPairs:
        seen.append((images, targets))
        return attack_all(logits, images, targets, chosen)

    monkeypatch.setattr(boundary, "boundary_attack", recorded)
    attack, classes, made = stored_attack(mixup=True, norm="linf", step_size=None)
    pixels = np.random.default_rng(5).integers(0, 256, (24, *SHAPE)).astype(np.uint8)
    images, targets = seen[0]
    torch.testing.assert_close(images, mixup(torch.from_numpy(pixels) / 255, True, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        mixed_classes = attack.teacher(images).argmax(1)
    assert (targets != mixed_classes).all()
    assert (mixed_classes.numpy() != classes).any()
    near = slice(0, made.num_pairs)
    assert (made.targets[near] == mixed_classes.numpy()[made.origins[near]]).all()

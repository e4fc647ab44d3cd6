"""The boundary attack: images pushed to the teacher's decision boundary (Frank and Davis, CVPR 2025).

Each image goes towards another class, with a step size of its own (bold driver), until a step crosses the boundary while the
teacher is unsure on both sides of it. The images on both sides are the pair; copies of them are moved a step back into their
own classes. The paper leaves open how an image goes; two ways are here (``AttackConfig.norm``):

* ``linf``, the first author's later code: targeted BIM. x' = clip(x - a sign(grad CE(T(x), target))), within a ball around
  the image and [0,1]. A step that does not cross is taken, and a grows; one that crosses while a side is sure is taken back,
  and a shrinks.
* ``l2``, ours, of our results before that code was known: x' = x + a g, with g the normalised gradient of the target's
  margin. A step after which the margin is no larger is taken back too.

What else the paper leaves open is marked "ours".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.augment import mixup as mixing
    from raydfkd.models import precision
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, precision = deferred("torch"), deferred("raydfkd.models.precision")
    mixing = deferred("raydfkd.augment.mixup")

Logits = Callable[["Tensor"], "Tensor"]
"""Float images [N,C,H,W] in [0,1] to logits [N,K], independently per image, with a gradient to the images."""

Norm = Literal["linf", "l2"]

FEW_CLASSES = 10
GPU_STEPS_BETWEEN_SELECTIONS = 10
"""On a CPU images that are done leave the attack after every step; on a GPU, which each selection makes the host wait for, they
stay for up to so many more, in which nothing happens to them."""
_TINY = 1e-12


class AttackConfig(Settings):
    """The boundary attack: images are pushed to where the teacher changes its mind, and those on both sides are kept."""

    norm: Norm = "linf"
    """linf: every value of the image takes steps of one size, up or down (BIM); l2: steps have a Euclidean length."""
    num_steps: int = Field(50, ge=1)
    """Maximum steps tried on each image."""
    threshold: float | None = Field(None, gt=0, le=1)
    """Largest probability that the teacher may give to any class on either side; null: 0.9, and for l2 0.6, or 0.5 above 10
    classes."""
    step_size: float | None = Field(None, gt=0)
    """First step, of pixels in [0,1]: of each value, or the Euclidean length; null: one grey level in every value."""
    radius: float | None = Field(None, gt=0)
    """linf: largest change of a value before the pair, of pixels in [0,1]; null: no limit."""
    step_growth: float = Field(1.1, ge=1)
    """Factor for the step size after an accepted step."""
    step_shrink: float = Field(0.5, gt=0, lt=1)
    """Factor for the step size after a rejected step."""
    deeper_steps: float | None = Field(None, ge=0)
    """Each side has a copy that goes back into its own class, by this many first steps (linf) or last ones (l2); 0: no such
    copies; null: 1, and for l2 5."""
    mixup: bool = True
    """Attack mixtures of two images, one lambda ~ U(0, 1) an image, and not the images themselves."""
    keep_originals: bool = False
    """Whether attacked images may be chosen too, beside what the attack makes of them."""

    @model_validator(mode="after")
    def _radius_is_of_linf(self) -> Self:
        if self.norm == "l2":
            self.refuse_idle("norm l2", "radius")
        return self

    @property
    def num_deeper_steps(self) -> float:
        if self.deeper_steps is not None:
            return self.deeper_steps
        return 1.0 if self.norm == "linf" else 5.0

    @property
    def images_per_attack(self) -> int:
        """Images made from one attacked image."""
        return 4 if self.num_deeper_steps > 0 else 2


class BoundaryAttackConfig(AttackConfig):
    """The attack on some images of each batch."""

    share: float = Field(1.0, gt=0, le=1)
    """Largest share of a batch that the attack's images take; 0.8 with keep_originals: an image and the four made from it."""

    def num_attacked(self, batch_size: int) -> int:
        """Images of a batch that are attacked."""
        return int(self.share * batch_size) // self.images_per_attack


@dataclass(frozen=True)
class BoundaryPairs:
    """M pairs, in the order of their original images.

    Attributes:
        origins_M: int64, which image each was made from.
        before, after: [M,C,H,W] in [0,1]: the last image before the target class was the teacher's choice, and the first after.
        deeper_before, deeper_after: the same, moved further into their own class.
        step_sizes_M: size of the step between the two.
        num_steps_N: int64, steps tried on each image.
    """

    origins_M: Tensor
    before: Tensor
    after: Tensor
    deeper_before: Tensor
    deeper_after: Tensor
    step_sizes_M: Tensor
    num_steps_N: Tensor


@dataclass(frozen=True)
class AttackSettings:
    """``AttackConfig`` with defaults resolved.

    Attributes:
        norm: how an image goes.
        threshold: largest softmax probability allowed on either side.
        step_size: the first step's size (of pixels in [0,1]).
        radius: linf: largest change of a value; infinite: no limit.
        growth, shrink: what a step's size is multiplied by after an accepted and a rejected one.
        num_steps: maximum per image.
        deeper_steps: size of the deeper copies' step, in first (linf) or last (l2) steps.
    """

    norm: Norm
    threshold: float
    step_size: float
    radius: float
    growth: float
    shrink: float
    num_steps: int
    deeper_steps: float


def attack_settings(config: AttackConfig, num_classes: int, num_values: int) -> AttackSettings:
    """With the defaults for such classes and images of ``num_values`` channels x pixels.

    Those of linf are the first author's code's, whose runs' radius is not known: none (ours). Those of l2 are ours.
    """
    threshold, step_size = 0.9, 1 / 255
    if config.norm == "l2":
        threshold, step_size = 0.6 if num_classes <= FEW_CLASSES else 0.5, math.sqrt(num_values) / 255
    return AttackSettings(
        config.norm,
        threshold if config.threshold is None else config.threshold,
        step_size if config.step_size is None else config.step_size,
        math.inf if config.radius is None else config.radius,
        config.step_growth,
        config.step_shrink,
        config.num_steps,
        config.num_deeper_steps,
    )


@dataclass
class _Verdict:
    """Margin of the target over every other class [N], the way to it [N,C,H,W], the largest probability [N]."""

    leads: Tensor
    directions: Tensor
    confidences: Tensor


@dataclass
class _Attack:
    """Images under attack, one row each; ``active`` rows are not done yet. Rows are independent."""

    rows: Tensor
    starts: Tensor
    images: Tensor
    targets: Tensor
    steps: Tensor
    verdict: _Verdict
    active: Tensor

    def select_active(self) -> None:
        """Drops the rows that are done."""
        kept, verdict = self.active, self.verdict
        self.rows, self.starts, self.images = self.rows[kept], self.starts[kept], self.images[kept]
        self.targets, self.steps, self.active = self.targets[kept], self.steps[kept], kept[kept]
        self.verdict = _Verdict(verdict.leads[kept], verdict.directions[kept], verdict.confidences[kept])


@dataclass
class _Crossings:
    """For each of N images whether it has a pair, and if so the pair."""

    found_N: Tensor
    before: Tensor
    after: Tensor
    steps_N: Tensor

    def add(self, attack: _Attack, crossed: Tensor, proposed: Tensor) -> None:
        """The pairs of the rows that have crossed in this step."""
        rows = attack.rows
        self.found_N[rows] |= crossed
        for kept, new in ((self.before, attack.images), (self.after, proposed)):
            kept[rows] = torch.where(_each(crossed), new, kept[rows])
        self.steps_N[rows] = torch.where(crossed, attack.steps, self.steps_N[rows])


def boundary_attack(logits: Logits, images: Tensor, targets_N: Tensor, settings: AttackSettings) -> BoundaryPairs:
    """Attacks every image towards its target class, all at once.

    A step is accepted if the target is not yet predicted, with l2 only if its margin grew besides; the next one is longer. It
    is rejected, and the next one shorter, if the boundary was crossed while the teacher is too sure on either side. An image
    already classified as the target, or out of steps, gives no pair.

    Args:
        logits: the teacher.
        images: float [N,C,H,W] in [0,1].
        targets_N: int64, on the same device.
    """
    images = images.detach()
    every = torch.arange(len(images), device=images.device)
    first = _judge(logits, images, targets_N, settings.norm)
    steps = images.new_full((len(images),), settings.step_size)
    attack = _Attack(every, images, images, targets_N, steps, first, first.leads < 0)
    found = _Crossings(torch.zeros_like(attack.active), images.clone(), images.clone(), torch.zeros_like(steps))
    num_steps_N = torch.zeros_like(every)
    between = 1 if images.device.type == "cpu" else GPU_STEPS_BETWEEN_SELECTIONS
    for step in range(settings.num_steps):
        if step % between == 0:
            attack.select_active()
            if len(attack.rows) == 0:
                break
        num_steps_N[attack.rows] += attack.active
        _advance(logits, attack, found, settings)
    return _pairs(logits, images, found, num_steps_N, settings)


def _advance(logits: Logits, attack: _Attack, found: _Crossings, settings: AttackSettings) -> None:
    """One step of every active row; rows with a pair are done."""
    now = attack.verdict
    proposed = attack.images + _each(attack.steps) * now.directions
    if settings.radius < math.inf:
        proposed = torch.maximum(torch.minimum(proposed, attack.starts + settings.radius), attack.starts - settings.radius)
    proposed = proposed.clamp(0, 1)
    then = _judge(logits, proposed, attack.targets, settings.norm)
    unsure = (then.confidences < settings.threshold) & (now.confidences < settings.threshold)
    crossed = (then.leads > 0) & unsure & attack.active
    accepted = then.leads < 0
    if settings.norm == "l2":
        accepted = accepted & (then.leads > now.leads)
    found.add(attack, crossed, proposed)
    attack.images = torch.where(_each(accepted), proposed, attack.images)
    attack.steps = attack.steps * torch.where(accepted, settings.growth, settings.shrink)
    attack.verdict = _Verdict(
        torch.where(accepted, then.leads, now.leads),
        torch.where(_each(accepted), then.directions, now.directions),
        torch.where(accepted, then.confidences, now.confidences),
    )
    attack.active = attack.active & ~crossed


def _judge(logits: Logits, images: Tensor, targets_N: Tensor | None, norm: Norm) -> _Verdict:
    """For the target classes, or without them for each image's own class."""
    leaf = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        scores = logits(leaf).float()
        targets = scores.argmax(1) if targets_N is None else targets_N
        own = scores.gather(1, targets[:, None]).squeeze(1)
        leads = own - scores.scatter(1, targets[:, None], -math.inf).amax(1)
        climbed = leads if norm == "l2" else own - scores.logsumexp(1)  # minus the cross-entropy
        (gradient,) = torch.autograd.grad(climbed.sum(), leaf)
    if norm == "l2":
        ways = gradient / _each(gradient.flatten(1).norm(dim=1).clamp_min(_TINY))
    else:
        ways = gradient.sign()
    return _Verdict(leads.detach(), ways, scores.detach().softmax(1).amax(1))


def _pairs(logits: Logits, images: Tensor, found: _Crossings, num_steps_N: Tensor, settings: AttackSettings) -> BoundaryPairs:
    rows = found.found_N.nonzero().flatten()
    before, after, steps = found.before[rows], found.after[rows], found.steps_N[rows]
    deeper_before, deeper_after = before, after
    if len(rows) and settings.deeper_steps > 0:
        both = torch.cat([before, after])
        ways = _judge(logits, both, None, settings.norm).directions
        units = steps if settings.norm == "l2" else torch.full_like(steps, settings.step_size)
        deeper = (both + _each(torch.cat([units, units]) * settings.deeper_steps) * ways).clamp(0, 1)
        deeper_before, deeper_after = deeper.chunk(2)
    return BoundaryPairs(rows, before, after, deeper_before, deeper_after, steps, num_steps_N)


def _each(values_N: Tensor) -> Tensor:
    return values_N.view(-1, 1, 1, 1)


@dataclass(frozen=True)
class AttackedImages:
    """The attack's images from a batch, as stored, with the teacher's predictions. R images in groups of equal length: all
    before, all after, then the deeper copies of each, if any.

    Attributes:
        images: uint8 [R,C,H,W].
        targets: int64 [R], each image's intended class.
        teacher_class, teacher_confidence: int32 and float32 [R].
        origins: int64 [R], index of each image's original in the batch.
        num_attacked, num_crossed: images attacked, and those that gave a pair before it was rounded to bytes.
    """

    images: np.ndarray
    targets: np.ndarray
    teacher_class: np.ndarray
    teacher_confidence: np.ndarray
    origins: np.ndarray
    num_attacked: int
    num_crossed: int

    @property
    def num_pairs(self) -> int:
        return len(np.unique(self.origins))


class BoundaryAttack:
    """Attacks stored images: draws their targets, and keeps the pairs that hold once rounded to bytes.

    Args:
        config: its settings.
        teacher: frozen, with an input gradient; on ``device``.
        bf16: bfloat16 autocast where the device has it.
    """

    def __init__(self, config: AttackConfig, teacher: FrozenTeacher, device: torch.device, bf16: bool = True) -> None:
        self.config = config
        self.teacher = teacher
        self.device = device
        self.bf16 = bf16
        self.settings = attack_settings(config, teacher.num_classes, math.prod(teacher.image_shape))

    def __call__(self, images: np.ndarray, teacher_class: np.ndarray, generator: torch.Generator) -> AttackedImages:
        """Attacks each image, or its mixture, once, towards a random class other than its own.

        Args:
            images: uint8 [N,C,H,W].
            teacher_class: int [N], the teacher's choice.
            generator: a CPU generator.
        """
        classes = torch.from_numpy(teacher_class.astype(np.int64))
        start = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float().div_(255)
        if self.config.mixup:
            start = mixing.mixup(start, True, generator)
            classes = self._classes_of(start)
        shifts = torch.randint(1, self.teacher.num_classes, (len(classes),), generator=generator)
        targets = (classes + shifts) % self.teacher.num_classes
        with precision.autocast(self.device, self.bf16):
            pairs = boundary_attack(self.teacher, start, targets.to(self.device), self.settings)
        groups = [pairs.before, pairs.after]
        if self.settings.deeper_steps > 0:
            groups += [pairs.deeper_before, pairs.deeper_after]
        return self._stored(groups, pairs.origins_M, targets, classes)

    def _classes_of(self, images: Tensor) -> Tensor:
        """The teacher's, int64 on the CPU."""
        with torch.no_grad(), precision.autocast(self.device, self.bf16):
            return self.teacher(images).argmax(1).cpu()

    def _stored(self, groups: list[Tensor], origins_M: Tensor, targets: Tensor, classes: Tensor) -> AttackedImages:
        """The groups as uint8, without pairs where rounding changed a side's class or made the teacher too sure."""
        num_pairs, origins = len(origins_M), origins_M.cpu()
        stored = (torch.cat(groups) * 255).round_().to(torch.uint8)
        # Not every network accepts an empty batch.
        confidences, predicted = torch.empty(0), torch.empty(0, dtype=torch.int32)
        if num_pairs:
            confidences, classes_now = self.teacher.logits_of(stored, self.bf16).softmax(1).max(1)
            confidences, predicted = confidences.cpu(), classes_now.int().cpu()
        aims = targets[origins]
        sure = confidences >= self.settings.threshold
        before, after = slice(0, num_pairs), slice(num_pairs, 2 * num_pairs)
        holds = (predicted[before] != aims) & (predicted[after] == aims) & ~sure[before] & ~sure[after]
        kept = holds.repeat(len(groups))
        # The near side must keep the image's class.
        wanted = torch.cat([classes[origins], aims]).repeat(len(groups) // 2)
        return AttackedImages(
            images=stored.cpu().contiguous()[kept].numpy(),
            targets=wanted[kept].numpy(),
            teacher_class=predicted[kept].numpy(),
            teacher_confidence=confidences[kept].numpy(),
            origins=origins.repeat(len(groups))[kept].numpy(),
            num_attacked=len(targets),
            num_crossed=num_pairs,
        )

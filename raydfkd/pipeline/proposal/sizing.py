"""How large batch, buffer and schedule are for a budget of time, from measured costs: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from raydfkd.errors import ConfigError
from raydfkd.pipeline.proposal.machine import Machine

BATCHES = (256, 128, 64, 32, 16)
ENOUGH_STEPS, ENOUGH_BATCHES = 400, 40
"""Student steps, and batches of images that a generator has learned from, below which a smaller batch and so more of them are
better: with the papers' batch of 256 a student of CIFAR-10 is half as good as its teacher by then
(experiments/results/cifar10_wrn16_2_wrn16_1)."""
MOST_STEPS = 40_000
"""As many as the longest schedules of the papers (200 epochs of 50,000 images, 256 a batch)."""
FEWEST_ROUNDS = 4
STEPS_PER_ROUND = (20, 200)
"""Fewest and most student steps after each batch of images: the papers' T_kd is 20."""
WARMUP_BATCHES, WARMUP_SHARE = 20, 0.25
"""Batches before the student's first step, as in the papers, unless they take more than this share of the time."""
CAPACITY, CAPACITY_PER_CLASS = 5000, 50
"""Images in the buffer: SSD-KD's data scale, and what is left of it for each class where there are many."""
SHARE_OF_MEMORY = 0.25
"""What a batch's activations may take, and also what the buffer may."""
RESERVED = 0.1
"""Share of the time for start, evaluation, checkpoints and report."""


@dataclass(frozen=True)
class Duration:
    """Seconds that a batch takes: ``fixed_s + batch * image_s``."""

    fixed_s: float
    image_s: float

    def of(self, batch: int) -> float:
        return self.fixed_s + batch * self.image_s

    @classmethod
    def through(cls, measured: Mapping[int, float]) -> Duration:
        """The line through the measured seconds of the smallest and of the largest batch; of one alone, through zero."""
        (few, few_s), (many, many_s) = min(measured.items()), max(measured.items())
        slope = (many_s - few_s) / (many - few) if many > few else many_s / many
        slope = min(max(slope, few_s / few / 10), many_s / many)  # on a busy machine, either may be far off
        return cls(max(0.0, many_s - many * slope), slope)


@dataclass(frozen=True)
class Costs:
    """Measured.

    Attributes:
        synthesis: of a batch of images.
        step: of a student step.
        activation_bytes: memory that the networks need to train on one image.
    """

    synthesis: Duration
    step: Duration
    activation_bytes: int


@dataclass(frozen=True)
class Sizes:
    """The numbers of an experiment.

    Attributes:
        batch: images made at once, and of a student step.
        capacity: of the buffer, images.
        warmup_batches, rounds, steps_per_round: the schedule's.
        seconds: how long the run takes by the measured costs.
    """

    batch: int
    capacity: int
    warmup_batches: int
    rounds: int
    steps_per_round: int
    seconds: float

    @property
    def steps(self) -> int:
        return self.rounds * self.steps_per_round

    @property
    def batches(self) -> int:
        return self.warmup_batches + self.rounds


def sizes_for(
    costs: Costs,
    minutes: float,
    machine: Machine,
    num_classes: int,
    image_bytes: int,
    generators: int = 1,
    fresh_steps: int | None = None,
) -> Sizes | None:
    """The largest batch with which a student gets enough steps in so many minutes, or the smallest one with fewer; None if
    even that has no time for ``FEWEST_ROUNDS``.

    Args:
        generators: that work beside the student, each as fast as the measured one; 1: the two take turns.
        fresh_steps: student steps on each batch of images, none of which is kept; None: images are kept.
    """
    budget_s = minutes * 60 * (1 - RESERVED)
    room = SHARE_OF_MEMORY * machine.memory_bytes
    fitting = [batch for batch in BATCHES if batch * costs.activation_bytes <= room] or [BATCHES[-1]]
    tried = [_schedule(costs, batch, budget_s, generators, fresh_steps) for batch in fitting]
    chosen = next((one for one in tried if one.steps >= ENOUGH_STEPS and one.batches >= ENOUGH_BATCHES), tried[-1])
    if chosen.rounds < FEWEST_ROUNDS:
        return None
    return _with_capacity(chosen, room, num_classes, image_bytes, fresh_steps)


def sizes_for_images(
    images: int, machine: Machine, num_classes: int, image_bytes: int, fresh_steps: int | None = None
) -> Sizes | None:
    """The same for a student that sees so many images, however long it takes: the largest batch that gives it enough steps,
    and as many of these steps, the papers' T_kd a round, as T_kd divides; None without time for ``FEWEST_ROUNDS``."""
    fewest, _ = STEPS_PER_ROUND
    batch = next((batch for batch in BATCHES if images // batch >= ENOUGH_STEPS), BATCHES[-1])
    of_kept = images // batch // fewest
    if of_kept < FEWEST_ROUNDS:
        return None
    per_round = fewest if fresh_steps is None else fresh_steps
    rounds = of_kept * fewest // per_round
    warmup = 1 if fresh_steps is not None else max(1, min(WARMUP_BATCHES, int(WARMUP_SHARE * rounds)))
    chosen = Sizes(batch, 0, warmup, rounds, per_round, 0.0)
    return _with_capacity(chosen, SHARE_OF_MEMORY * machine.memory_bytes, num_classes, image_bytes, fresh_steps)


def _with_capacity(chosen: Sizes, room: float, num_classes: int, image_bytes: int, fresh_steps: int | None) -> Sizes:
    """What is kept of the images: the newest ones, or those of one batch."""
    if fresh_steps is not None:
        return replace(chosen, capacity=fresh_steps * chosen.batch)
    made = chosen.batches * chosen.batch
    wanted = max(CAPACITY, CAPACITY_PER_CLASS * num_classes)
    return replace(chosen, capacity=max(chosen.batch, min(wanted, made, int(room / image_bytes))))


def fewest_minutes(costs: Costs) -> float:
    """The budget from which ``sizes_for`` gives sizes."""
    least = BATCHES[-1]
    batch_s, steps = costs.synthesis.of(least), _schedule(costs, least, 0.0, 1, None).steps_per_round
    rounds_s = FEWEST_ROUNDS * (batch_s + steps * costs.step.of(least))
    needed = max(rounds_s + batch_s, rounds_s / (1 - WARMUP_SHARE))
    return needed / (1 - RESERVED) / 60


def no_time(costs: Costs, minutes: float) -> ConfigError:
    """The sentence for a budget that is too small."""
    needed = fewest_minutes(costs)
    more = math.ceil(needed) if needed >= 1 else math.ceil(needed * 100) / 100
    return ConfigError(
        f"{minutes:g} minutes are no time for this teacher here: the shortest run takes about {needed:.2g}; give "
        f"--minutes {more:g} or more, a faster --student, or a smaller --image-size if the teacher takes it"
    )


def _schedule(costs: Costs, batch: int, budget_s: float, generators: int, fresh_steps: int | None) -> Sizes:
    """As many rounds as fit; of the steps in a round so many that the student has at least half of the time, or those of its
    fresh images."""
    batch_s, step_s = costs.synthesis.of((fresh_steps or 1) * batch), costs.step.of(batch)
    fewest, most = STEPS_PER_ROUND
    steps = min(most, max(fewest, math.ceil(batch_s / generators / step_s))) if fresh_steps is None else fresh_steps
    round_s = batch_s + steps * step_s if generators == 1 else max(batch_s / generators, steps * step_s)
    warmup = 1 if fresh_steps is not None else max(1, min(WARMUP_BATCHES, int(WARMUP_SHARE * budget_s / batch_s)))
    left_s = max(0.0, budget_s - warmup * batch_s)
    rounds = min(int(left_s / round_s), max(FEWEST_ROUNDS, MOST_STEPS // steps))
    return Sizes(batch, 0, warmup, rounds, steps, rounds * round_s + warmup * batch_s)

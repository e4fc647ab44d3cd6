"""How synthesis and distillation alternate, and whether they can keep pace: settings under which one would wait forever, or go
short, are refused."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydfkd.replay.config import TableConfig
from raydfkd.settings import Budget, Settings


class ScheduleConfig(Settings):
    """How synthesis and distillation alternate."""

    mode: Literal["lockstep", "decoupled"] = "lockstep"
    """lockstep alternates strictly as the papers do; decoupled lets generators and students run at their own speeds."""
    warmup_batches: Annotated[int, Budget()] = Field(20, ge=0)
    """Batches that only fill the buffer before the student's first step (0 only without sources)."""
    rounds: Annotated[int, Budget()] = Field(200, ge=0)
    """Rounds of synthesis and distillation; each student publishes its weights after each. 0 only without sources: students
    stay as they start, or as few_shot makes them."""
    batches_per_round: int = Field(1, ge=0)
    """Batches synthesized in each round (lockstep; 0: all images come from the warm-up), or per round on average
    (decoupled with samples_per_insert)."""
    student_steps_per_round: int = Field(20, ge=1)
    """Optimizer steps of each student in each round (T_kd in SSD-KD)."""
    samples_per_insert: float | None = Field(None, gt=0)
    """decoupled: draws per inserted image that the rate limiter enforces, for each student; null: generators never wait for
    students."""
    error_buffer: float | None = Field(None, gt=0)
    """decoupled with samples_per_insert: how many draws the two sides may deviate from it."""
    prefetch: int = Field(0, ge=0)
    """decoupled: requests in flight while the student trains (priorities lag by that many)."""
    batches_per_request: int = Field(1, ge=1)
    """decoupled: training batches drawn per request (priorities lag by that many)."""
    max_staleness_rounds: int | None = Field(None, ge=0)
    """decoupled: maximum age, in rounds, of the student weights that a batch may start with; null: no bound. lockstep: 0."""

    @model_validator(mode="after")
    def _refuse_idle_settings(self) -> ScheduleConfig:
        if self.mode == "lockstep":
            free = ("samples_per_insert", "error_buffer", "prefetch", "batches_per_request", "max_staleness_rounds")
            self.refuse_idle("lockstep", *free, otherwise="choose mode decoupled")
        elif self.batches_per_round == 0:
            raise ValueError("mode decoupled synthesizes continuously: batches_per_round 0 needs mode lockstep")
        if self.samples_per_insert is not None and self.error_buffer is None:
            raise ValueError("samples_per_insert needs error_buffer: by how many draws the two sides may deviate from it")
        if self.samples_per_insert is None:
            self.refuse_idle("samples_per_insert null", "error_buffer")
        return self

    @property
    def total_steps(self) -> int:
        return self.rounds * self.student_steps_per_round


def refuse_standstill(schedule: ScheduleConfig, made: int, size: int) -> None:
    """Refuses bounds on ratio and staleness that together would deadlock generators and students.

    While v is the newest version of the weights that generators have, they may make the batches of rounds up to v + lag.
    The draws that these allow must cover the students' round v and the batches they request in advance.

    Args:
        made, size: images of a synthesized batch, and of a student's.

    Raises:
        ValueError: they would wait for each other.
    """
    ratio, buffer, lag = schedule.samples_per_insert, schedule.error_buffer, schedule.max_staleness_rounds
    if ratio is None or buffer is None or lag is None:
        return
    allowed = ratio * schedule.batches_per_round * made
    needed = schedule.student_steps_per_round * size
    ahead = (schedule.batches_per_request * (schedule.prefetch + 1) - 1) * size
    lacking = max(needed * (v + 1) + ahead - allowed * (v + 1 + lag) for v in (0, schedule.rounds - 1))
    if lacking > buffer:
        raise ValueError(
            f"schedule.max_staleness_rounds {lag} with samples_per_insert {ratio:g} would make generators and students "
            f"wait for each other forever: a round draws {needed} images and its {schedule.batches_per_round} batches "
            f"allow {allowed:g}; raise batches_per_round (to {math.ceil(needed / allowed * schedule.batches_per_round)}), "
            f"max_staleness_rounds, or error_buffer to at least {math.ceil(lacking)}"
        )


def refuse_too_few_draws(schedule: ScheduleConfig, table: TableConfig, made: int, size: int) -> None:
    """Refuses a synthetic table whose items may be drawn less often than the schedule draws.

    Args:
        made, size: images of a synthesized batch, and of the largest student's.

    Raises:
        ValueError: a student would go short.
    """
    if table.max_draws is None:
        return
    allowed = f"replay.synthetic.max_draws {table.max_draws}"
    if schedule.mode == "lockstep":
        drawn = schedule.student_steps_per_round * size
        inserted = schedule.batches_per_round * made
        if drawn > table.max_draws * inserted:
            raise ValueError(
                f"{allowed} lets a round draw {table.max_draws * inserted} images, and it draws {drawn}: raise "
                "batches_per_round or the sources' batch_size, or lower student_steps_per_round"
            )
        if table.capacity < inserted:
            raise ValueError(
                f"replay.synthetic.capacity {table.capacity} evicts images of a round's {inserted} before they are drawn, "
                f"as {allowed} asks: raise it to {inserted}"
            )
    elif schedule.samples_per_insert is None or schedule.samples_per_insert > table.max_draws:
        raise ValueError(f"{allowed} needs schedule.samples_per_insert of no more than that: set it")
    elif schedule.error_buffer is not None and schedule.error_buffer > table.max_draws * schedule.warmup_batches * made:
        raise ValueError(
            f"{allowed} gives {table.max_draws * schedule.warmup_batches * made} draws of the warm-up's images, fewer than "
            f"schedule.error_buffer {schedule.error_buffer:g}: lower it, or raise warmup_batches"
        )

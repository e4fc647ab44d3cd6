"""Whatever happens in whatever order, somebody can always go on, and the counts add up."""

from __future__ import annotations

from typing import Any

from exchange_rig import SIZE, Rig, check_counts, experiment
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raydfkd.errors import ConfigError, RateLimiterError

GENERATORS = st.integers(0, 2)
WORKERS = st.integers(0, 2)


@st.composite
def schedules(draw: Any) -> dict[str, Any]:
    per_round, steps = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    chosen = {
        "workers": draw(st.sampled_from([1, 2, 3])),
        "generators": draw(st.integers(1, 3)),
        "batch_size": 6,
        "warmup_batches": draw(st.integers(1, 3)),
        "rounds": draw(st.integers(1, 4)),
        "batches_per_round": per_round,
        "student_steps_per_round": steps,
    }
    if draw(st.booleans()):
        return chosen
    chosen |= {
        "mode": "decoupled",
        "prefetch": draw(st.integers(0, 3)),
        "batches_per_request": draw(st.integers(1, 3)),
        "max_staleness_rounds": draw(st.sampled_from([None, 0, 1])),
    }
    if draw(st.booleans()):
        ratio = draw(st.sampled_from([0.5, 1.0, 2.0, 5.0]))
        # From the least that the limiter takes; the experiment's own check refuses what the staleness bound needs beyond.
        least = max(ratio * SIZE, (ratio * SIZE + 6 * chosen["batches_per_request"]) / 2)
        chosen |= {"samples_per_insert": ratio, "error_buffer": least + draw(st.sampled_from([0, 1, 20, 60]))}
    return chosen


def possible(chosen: dict[str, Any]) -> bool:
    try:
        Rig(experiment(**chosen))
    except (ConfigError, RateLimiterError):
        return False
    return True


class Liveness(RuleBasedStateMachine):
    late = False

    @initialize(chosen=schedules().filter(possible))
    def begin(self, chosen: dict[str, Any]) -> None:
        self.rig = Rig(experiment(**chosen))

    @rule(which=GENERATORS)
    def admit(self, which: int) -> None:
        rig = self.rig
        index = which % len(rig.names)
        before = rig.exchange.progress()
        answer = rig.admit(index)
        if hasattr(answer, "number"):
            assert answer.min_version <= rig.exchange.student_versions["s"]
            numbers = [ticket.number for held in rig.tickets.values() for ticket in held]
            assert len(numbers) == len(set(numbers)), "two make the same batch"
        else:
            assert rig.exchange.progress() == before, "a refusal changes nothing"

    @precondition(lambda self: any(self.rig.tickets.values()))
    @rule(which=GENERATORS)
    def deliver(self, which: int) -> None:
        holders = [index for index, name in enumerate(self.rig.names) if self.rig.tickets[name]]
        self.rig.deliver(holders[which % len(holders)])

    @rule(which=GENERATORS, late=st.booleans())
    def die(self, which: int, late: bool) -> None:
        index = which % len(self.rig.names)
        held = len(self.rig.tickets[self.rig.names[index]])
        self.late |= late and held > 0
        assert self.rig.die(index, late) == held

    @rule(which=WORKERS)
    def poll(self, which: int) -> None:
        self.rig.poll(which % len(self.rig.workers))

    @rule(which=WORKERS)
    def consume(self, which: int) -> None:
        self.rig.consume(which % len(self.rig.workers))

    @precondition(lambda self: self.rig.num_attempts < 4)
    @rule(back=st.integers(0, 2))
    def restart_students(self, back: int) -> None:
        """From the beginning of this round or of one shortly before it."""
        per_round = self.rig.schedule.student_steps_per_round
        self.rig.start_students(max(0, self.rig.step // per_round - back) * per_round)

    @invariant()
    def counts_add_up(self) -> None:
        if hasattr(self, "rig"):
            check_counts(self.rig)

    @invariant()
    def lockstep_makes_no_batch_before_its_round(self) -> None:
        rig = getattr(self, "rig", None)
        if rig is None or not rig.exchange.lockstep or self.late or rig.num_attempts > 1:
            return
        rounds_drawn = rig.exchange.limiters["s"].state_dict()["samples"] // (rig.schedule.student_steps_per_round * 6)
        allowed = rig.schedule.warmup_batches + (rounds_drawn + 1) * rig.schedule.batches_per_round
        assert rig.exchange.buffer.num_batches + rig.exchange.num_pending <= allowed

    def teardown(self) -> None:
        rig = getattr(self, "rig", None)
        if rig is None:
            return
        rig.run_to_the_end()
        check_counts(rig)
        drawn = rig.schedule.total_steps * rig.config.student.batch_size
        assert rig.exchange.limiters["s"].state_dict()["samples"] == drawn
        if rig.exchange.lockstep and not self.late:
            made = rig.schedule.warmup_batches + rig.schedule.rounds * rig.schedule.batches_per_round
            assert made <= rig.exchange.buffer.num_batches + rig.exchange.num_pending <= made + rig.schedule.batches_per_round


Liveness.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
TestLiveness = Liveness.TestCase

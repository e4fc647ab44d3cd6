"""Who joins and who leaves when the number of generators changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raydfkd.runtime.generators.roster import Member, Roster


def started(roster: Roster, *names: str) -> None:
    """Gives a process that runs to each of the named members."""
    for member in roster.members():
        if member.name in names:
            member.actor, member.pid = object(), 1


def names(members: list[Member]) -> list[str]:
    return [member.name for member in members]


def wanted(roster: Roster) -> list[str]:
    return [member.name for member in roster.members() if member.wanted]


def test_a_run_begins_with_what_is_wanted_and_keeps_the_states_of_those_retired_before() -> None:
    roster = Roster({"a": 1, "b-1": 2}, {"a-0": b"0", "a-2": b"2", "b-1-1": b"1", "other-0": b""})
    assert wanted(roster) == ["a-0", "b-1-0", "b-1-1"]
    assert names(roster.members("a")) == ["a-0", "a-1", "a-2"]
    assert [member.state for member in roster.members()] == [b"0", None, b"2", None, b"1"]
    assert not any(member.added for member in roster.members())
    joining, leaving = roster.set_target("a", 3)
    assert (names(joining), leaving) == (["a-1", "a-2"], [])
    assert [member.state for member in joining] == [None, b"2"], "it goes on from what it had"
    assert all(member.added for member in joining)


def test_pending_ones_leave_first_and_then_the_youngest() -> None:
    roster = Roster({"a": 2}, {})
    roster.set_target("a", 5)
    started(roster, "a-0", "a-1", "a-2", "a-4")  # a-3 has found no place
    assert names(roster.set_target("a", 4)[1]) == ["a-3"]
    assert names(roster.set_target("a", 2)[1]) == ["a-4", "a-2"]
    joining, _ = roster.set_target("a", 3)
    assert names(joining) == ["a-2"], "the lowest number comes back first"
    assert names(roster.set_target("a", 1)[1]) == ["a-2", "a-1"], "who came back is younger than who stayed"


def test_the_phases_of_a_generators_life() -> None:
    [member] = Roster({"a": 1}, {}).members()
    assert member.phase == "pending"
    member.actor, member.placed, member.building = object(), object(), object()
    assert member.phase == "pending"
    member.placed = None
    assert member.phase == "starting"
    member.building, member.pid = None, 7
    assert member.phase == "running"
    member.wanted = False
    assert member.phase == "draining"
    member.wanted, member.draining_since = True, 1.0
    assert member.phase == "draining", "one that was told to end ends before it comes back"
    member.state = b"learnt"
    member.forget_actor()
    assert (member.phase, member.pid, member.state) == ("pending", None, b"learnt")
    member.wanted = False
    assert member.phase is None


def test_counts_are_by_source_and_phase() -> None:
    roster = Roster({"a": 2, "b": 1}, {})
    started(roster, "a-0", "a-1")
    roster.set_target("a", 1)
    assert roster.counts("a") == {"target": 1, "running": 1, "starting": 0, "pending": 0, "draining": 1}
    assert roster.counts("b") == {"target": 1, "running": 0, "starting": 0, "pending": 1, "draining": 0}


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=12), st.randoms(use_true_random=False))
def test_the_target_is_always_met_and_no_name_is_given_twice(targets: list[int], chance: object) -> None:
    roster = Roster({"a": 2}, {})
    for target in targets:
        for member in roster.members():
            if chance.random() < 0.5:  # type: ignore[attr-defined]
                member.actor = object() if member.wanted else None
        joining, leaving = roster.set_target("a", target)
        assert roster.targets() == {"a": target}
        assert len(wanted(roster)) == target
        assert not (joining and leaving)
        assert len({member.name for member in roster.members()}) == len(roster.members())
        assert names(roster.members()) == [f"a-{index}" for index in range(len(roster.members()))]
    assert len(roster.members()) <= max([2, *targets]), "retired places are used again before new ones are made"

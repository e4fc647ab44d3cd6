"""The pool's decisions, one look at a time: scaling, draining, what finds no place, and deaths in between."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from pool_rig import Cluster, experiment, fake_cluster, pool_of, tend
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from raydfkd.errors import ConfigError, RunFailedError
from raydfkd.runtime.generators import generator_pool
from raydfkd.runtime.generators.autoscale_policy import Waits
from raydfkd.runtime.generators.roster import PHASES
from raydfkd.synthesis.method import AutoscaleConfig


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return fake_cluster(monkeypatch)


def test_scaling_up_starts_more_and_says_who_waits(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment())
    assert tend(pool) == {"inversion-0": "running"}
    assert pool.scale(None, 4, "raydfkd scale")["inversion"]["target"] == 4
    assert cluster.targets == {"inversion": 4}
    states = {"inversion-0": "running", "inversion-1": "running", "inversion-2": "pending", "inversion-3": "pending"}
    assert tend(pool) == states
    assert tend(pool) == states
    assert cluster.events() == [
        "inversion scaled from 1 to 4 generators (raydfkd scale)",
        "2 of 4 generators of inversion lack resources (2 run): each needs 1 CPU and no node has that free; "
        "they start as soon as one does",
    ], "told once"
    cluster.num_places = 3
    assert tend(pool)["inversion-2"] == "running"
    assert cluster.killed == []
    assert pool.pids() == {"inversion-0": 100, "inversion-1": 101, "inversion-2": 102, "inversion-3": None}
    told = [record for record in cluster.records if record["kind"] == "generators"]
    assert [told[0][phase] for phase in PHASES] == [1, 0, 0, 0]
    assert [told[-1][phase] for phase in PHASES] == [3, 0, 1, 0]
    assert all(one != other for one, other in itertools.pairwise(told)), "a record tells of a change"
    assert told[-1]["generators"][2:] == [
        {"name": "inversion-2", "state": "running", "pid": 102, "restarts": 0},
        {"name": "inversion-3", "state": "pending", "pid": None, "restarts": 0},
    ]


def test_scaling_down_takes_those_without_a_place_first_and_drains_the_youngest(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment())
    pool.scale("inversion", 3)
    tend(pool)
    one, two = cluster.newest("inversion-1"), cluster.newest("inversion-2")
    one.busy, one.made = True, 7
    pool.scale("inversion", 1)
    assert tend(pool) == {"inversion-0": "running", "inversion-1": "draining"}
    assert cluster.killed == [two], "it had nothing in hand"
    assert (two.drained, one.drained, cluster.newest("inversion-0").drained) == (False, True, False)
    one.busy, one.made = False, 8
    assert tend(pool, 1) == {"inversion-0": "running"}
    assert cluster.killed == [two, one]
    assert cluster.events()[-1] == "generator inversion-1 has ended after 8 batches; its state is kept"
    assert "inversion-1" not in cluster.streams


def test_one_that_comes_back_goes_on_from_what_it_had_learnt(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(2))
    cluster.newest("inversion-1").busy = True
    pool.scale("inversion", 1)
    tend(pool)
    pool.scale("inversion", 2)
    assert tend(pool)["inversion-1"] == "draining", "it was told to end, and does so before it comes back"
    assert len(cluster.created) == 2
    first = cluster.newest("inversion-1")
    first.busy, first.made = False, 9
    assert tend(pool) == {"inversion-0": "running", "inversion-1": "running"}
    assert cluster.killed == [first]
    assert cluster.newest("inversion-1").began_with == b"inversion-1 learnt 9"


def test_a_checkpoint_holds_the_retired_too_and_they_come_back_from_it(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(2))
    cluster.newest("inversion-1").made = 3
    pool.scale("inversion", 1)
    tend(pool)
    pool.save(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved" / "generators").iterdir()) == ["inversion-0.pt", "inversion-1.pt"]
    resumed = pool_of(cluster, tmp_path, experiment(1), restore_from=tmp_path / "saved")
    assert tend(resumed) == {"inversion-0": "running"}, "as many as the settings say"
    resumed.scale("inversion", 2)
    tend(resumed)
    assert "inversion scaled from 1 to 2 generators, 1 of them from their earlier state" in cluster.events()
    assert cluster.newest("inversion-1").began_with == b"inversion-1 learnt 3"
    resumed.save(tmp_path / "again")
    assert (tmp_path / "again" / "generators" / "inversion-1.pt").exists()


def test_a_restarted_pool_has_as_many_as_were_wanted_last(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(1), targets={"inversion": 2})
    assert tend(pool) == {"inversion-0": "running", "inversion-1": "running"}


def test_a_drain_that_does_not_end_is_ended(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(cluster, tmp_path, experiment(2))
    cluster.newest("inversion-1").busy = True
    pool.scale("inversion", 1)
    tend(pool)
    now = generator_pool.time.monotonic()
    monkeypatch.setattr(generator_pool.time, "monotonic", lambda: now + 61)
    tend(pool)
    assert cluster.killed == [cluster.newest("inversion-1")]
    assert cluster.events()[-1] == "generator inversion-1 did not finish its batch in 60 s and is ended without it"


def test_one_that_dies_while_it_drains_is_not_replaced(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(2))
    cluster.newest("inversion-1").made = 4
    pool.save(tmp_path / "saved")
    dying = cluster.newest("inversion-1")
    dying.busy = True
    pool.scale("inversion", 1)
    tend(pool)
    dying.dead = True
    assert tend(pool) == {"inversion-0": "running"}
    assert len(cluster.created) == 2
    pool.scale("inversion", 2)
    tend(pool)
    assert cluster.newest("inversion-1").began_with == b"inversion-1 learnt 4", "its last known state"


def test_one_that_dies_at_work_is_replaced_from_its_last_state(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(1))
    cluster.newest("inversion-0").made = 5
    pool.save(tmp_path / "saved")
    cluster.newest("inversion-0").dead = True
    assert tend(pool) == {"inversion-0": "running"}
    assert cluster.newest("inversion-0").began_with == b"inversion-0 learnt 5"
    [event] = [record for record in cluster.records if record["kind"] == "event"]
    assert event["restart"]
    assert event["message"].startswith("generator inversion-0 died and was restarted from its state of 0 s ago")


def test_a_death_with_the_node_is_told_apart(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(1))
    lost = cluster.newest("inversion-0")
    lost.dead, lost.death = True, RayActorError(error_msg="The actor died because its node has died. Node Id: 3f")
    tend(pool)
    assert cluster.events()[-1].startswith("generator inversion-0 died with its node and was restarted from its initial state")


def test_one_that_cannot_be_reached_for_a_moment_is_not_replaced(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(1))
    mute = cluster.newest("inversion-0")
    mute.dead, mute.death = True, ActorUnavailableError("the connection broke", None)
    tend(pool)
    mute.dead = False
    assert tend(pool) == {"inversion-0": "running"}
    assert cluster.created == [mute]
    assert cluster.killed == []


def test_one_that_dies_too_often_ends_the_run(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(1))
    for _ in range(3):
        cluster.newest("inversion-0").dead = True
        tend(pool)
    cluster.newest("inversion-0").dead = True
    with pytest.raises(RunFailedError, match=r"inversion-0 died 4 times, which is more than runtime\.max_restarts 3"):
        tend(pool)


def test_a_replay_actor_that_came_back_gets_the_streams_again_but_not_of_those_that_end(
    cluster: Cluster, tmp_path: Path
) -> None:
    pool = pool_of(cluster, tmp_path, experiment(2))
    cluster.newest("inversion-1").busy = True
    pool.scale("inversion", 1)
    tend(pool)
    cluster.streams.clear()
    tend(pool)
    assert list(cluster.streams) == ["inversion-0"]


def refused() -> RayTaskError:
    return RayTaskError("build", "Traceback", ValueError("no memory is left on the GPU"))


def test_one_more_that_cannot_be_built_leaves_the_run_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(1))
    cluster.refusal = refused()
    pool.scale("inversion", 2)
    assert tend(pool) == {"inversion-0": "running"}
    assert cluster.targets == {"inversion": 1}
    assert cluster.events()[-1] == (
        "generator inversion-1 failed with ValueError: no memory is left on the GPU; "
        "it was an additional one, so the run continues without it"
    )


def test_one_of_the_first_that_cannot_be_built_ends_the_run(cluster: Cluster, tmp_path: Path) -> None:
    cluster.refusal = refused()
    with pytest.raises(RayTaskError):
        pool_of(cluster, tmp_path, experiment(1))


def test_a_number_that_is_refused_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    pool = pool_of(cluster, tmp_path, experiment(1))
    for source, target in ((None, 0), ("nosuch", 2), (None, -3)):
        with pytest.raises(ConfigError):
            pool.scale(source, target)
    assert pool.scale(None, 1)["inversion"]["target"] == 1
    assert cluster.events() == [], "nor does the number that it is already"


def test_waits_scale_a_source_one_step_at_a_time_with_the_reason(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = AutoscaleConfig(min=1, max=2, window_s=10, cooldown_s=30)
    now = [generator_pool.time.monotonic()]
    monkeypatch.setattr(generator_pool.time, "monotonic", lambda: now[0])
    pool = pool_of(cluster, tmp_path, experiment(1, autoscale=bounds))
    cluster.measured = Waits(0.5, 0.0)
    targets = []
    for _ in range(7):
        now[0] += 20
        targets.append(len(tend(pool)))
        if len(targets) == 4:
            cluster.measured = Waits(0.0, 0.7)
    assert targets == [1, 2, 2, 2, 1, 1, 1]
    lines = [line for line in cluster.events() if "scaled" in line]
    assert lines == [
        "inversion scaled from 1 to 2 generators (autoscale: over 10 s students waited 50% of their time, its generators 0%)",
        "inversion scaled from 2 to 1 generators "
        "(autoscale: over 10 s students waited 0% of their time, its generators 70%: one fewer is enough)",
    ]

"""What a cluster cannot place is refused with need, have and a remedy."""

from __future__ import annotations

import re

import pytest
from replay_rig import config

from raydfkd.errors import ResourceError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.resources import gpu_share
from raydfkd.runtime.preflight import decide_gpus, demands, preflight, refusal_of, refusal_of_workers

LAPTOP = {"CPU": 2.0, "memory": 1e9}
GPU_NODE = {"CPU": 8.0, "GPU": 1.0}


def actors(count: int, **need: float) -> list[tuple[str, dict[str, float]]]:
    return [(f"generator inversion-{index}", dict(need)) for index in range(count)]


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [
        (actors(2, CPU=1.0), [LAPTOP]),
        (actors(4, CPU=0.5), [LAPTOP]),
        ([*actors(10, CPU=0.1), ("student worker 0", {"CPU": 1.0})], [LAPTOP]),
        ([*actors(2, CPU=1.0, GPU=0.5), ("student worker 0", {"CPU": 1.0, "GPU": 1.0})], [GPU_NODE, GPU_NODE]),
        ([*actors(2, CPU=4.0), ("student worker 0", {"CPU": 8.0, "GPU": 1.0})], [GPU_NODE, {"CPU": 8.0}]),
        (actors(1, CPU=2.0), [{"CPU": 1.0}, LAPTOP]),
        (actors(1, CPU=1.0, gen_node=1.0), [LAPTOP, {"CPU": 1.0, "gen_node": 1.0}]),
    ],
)
def test_what_fits_is_not_refused(wanted: list[tuple[str, dict[str, float]]], nodes: list[dict[str, float]]) -> None:
    assert refusal_of(wanted, nodes) is None


def test_too_few_cpus() -> None:
    assert refusal_of(actors(3, CPU=1.0), [LAPTOP]) == (
        "generator inversion-2 cannot be placed: the run needs 3 CPU and the cluster has 2 CPU; lower "
        "sources.*.num_generators, students.*.num_workers or their resources.num_cpus, or add nodes "
        "(a local Ray offers runtime.num_cpus, or all of the machine's)"
    )


def test_gpus_that_do_not_exist() -> None:
    refusal = refusal_of([("student worker 0", {"CPU": 1.0, "GPU": 2.0})], [GPU_NODE, LAPTOP])
    assert refusal is not None
    assert refusal.startswith("student worker 0 cannot be placed: the run needs 2 GPU and the cluster has 1 GPU; lower ")
    assert "resources.num_gpus, or add nodes" in refusal


def test_an_actor_that_no_single_node_can_hold() -> None:
    refusal = refusal_of(actors(1, CPU=3.0), [LAPTOP, LAPTOP])
    assert refusal is not None
    assert "no node has 3 CPU left for it, although the cluster's total would suffice" in refusal


def test_a_custom_resource_is_named_as_it_is_set() -> None:
    refusal = refusal_of(actors(1, CPU=1.0, gen_node=1.0), [LAPTOP])
    assert refusal is not None
    assert "the run needs 1 gen_node and the cluster has 0 gen_node" in refusal
    assert "resources.custom.gen_node" in refusal


def test_above_one_gpu_must_be_whole() -> None:
    refusal = refusal_of(actors(1, CPU=1.0, GPU=1.5), [GPU_NODE, {"CPU": 8.0, "GPU": 4.0}])
    assert refusal == "generator inversion-0 asks for 1.5 GPUs: above one, an actor's num_gpus must be a whole number"


def test_an_actor_of_the_run_that_is_sent_to_a_node_that_is_not_there() -> None:
    demanded = demands(config(placement={"replay": {"buffer_node": 1}}))
    assert demanded[-1] == ("the replay actor", {"buffer_node": 1.0})
    refusal = refusal_of(demanded, [{"CPU": 8.0}])
    assert refusal == (
        "the replay actor cannot be placed: the run needs 1 buffer_node and the cluster has 0 buffer_node; "
        "change runtime.placement, or add nodes"
    )
    assert refusal_of(demanded, [{"CPU": 8.0}, {"buffer_node": 1.0}]) is None


def test_an_elastic_student_needs_room_for_its_fewest_workers() -> None:
    fixed = config({"mode": "decoupled"})
    few = fixed.student.model_copy(update={"min_workers": 1, "num_workers": 4})
    elastic = fixed.model_copy(update={"students": {"small": few}})
    assert [name for name, _ in demands(elastic)] == ["generator inversion-0", "student worker 0"]


def with_workers(num_gpus: float, num_workers: int, device: str = "auto", sync_batch_norm: bool = False) -> ExperimentConfig:
    base = config()
    settings = base.student.model_dump() | {
        "num_workers": num_workers,
        "sync_batch_norm": sync_batch_norm,
        "resources": {"num_gpus": num_gpus},
    }
    student = type(base.student).model_validate(settings)
    runtime = base.runtime.model_copy(update={"device": device})
    return base.model_copy(update={"students": {"small": student}, "runtime": runtime})


def test_workers_that_may_share_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": GPU_NODE}])
    message = (
        "students.small has 2 workers with 0.5 GPU each, which may be placed on one GPU, where NCCL refuses them: set "
        "students.small.resources.num_gpus above 0.5, or num_workers to 1"
    )
    with pytest.raises(ResourceError, match=re.escape(message)):
        preflight(with_workers(0.5, 2))
    for num_gpus, num_workers in ((0.5, 1), (0.6, 2), (1, 2), (0, 2)):
        assert refusal_of_workers(with_workers(num_gpus, num_workers)) is None


def test_synchronized_batch_norm_on_the_cpu_is_refused() -> None:
    assert refusal_of_workers(with_workers(1, 2, "cpu", sync_batch_norm=True)) == (
        "students.small.sync_batch_norm does not run with runtime.device cpu: set runtime.device to auto or cuda, or leave "
        "sync_batch_norm out"
    )
    assert refusal_of_workers(with_workers(1, 2, "cpu")) is None
    assert refusal_of_workers(with_workers(1, 2, "cuda", sync_batch_norm=True)) is None


def test_a_share_is_a_whole_gpu_or_an_equal_part_of_one() -> None:
    assert [gpu_share(gpus, actors) for gpus, actors in ((0, 3), (1, 1), (1, 2), (1, 3), (2, 3), (3, 2), (4, 9))] == [
        0, 1, 0.5, 0.333, 0.5, 1, 0.333,
    ]  # fmt: skip
    assert gpu_share(1, 3, whole=True) == 0
    assert gpu_share(4, 3, whole=True) == 1


def test_auto_divides_what_nobody_asks_for_by_number_and_says_so() -> None:
    asked = config()
    assert [resources.num_gpus for resources in asked.resources] == ["auto", "auto"]
    decided, told = decide_gpus(asked, 1)
    assert [resources.num_gpus for resources in decided.resources] == [0.5, 0.5]
    assert (
        told
        == "of the cluster's 1 GPUs, 1 are left for 2 generators and student workers with num_gpus auto: these get 0.5 each"
    )
    decided, told = decide_gpus(with_workers(1, 1), 1)
    assert [resources.gpus for resources in decided.resources] == [1, 0]
    assert told is not None
    assert told.endswith("0 are left for 1 generators and student workers with num_gpus auto: these run on CPUs")
    decided, told = decide_gpus(asked, 0)
    assert [resources.num_gpus for resources in decided.resources] == [0, 0]
    assert told is None
    on_cpu = asked.model_copy(update={"runtime": asked.runtime.model_copy(update={"device": "cpu"})})
    assert [resources.num_gpus for resources in decide_gpus(on_cpu, 4)[0].resources] == [0, 0]

"""The experiment's tree: each refusal, defaults that hang together, and what is written reads back equal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment, load_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run.exchange_state import build_rate_limiters
from raydfkd.seeds import derive_seed

TREE: dict[str, Any] = {
    "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
    "teacher": {"model": "small_cnn_8"},
    "sources": {"inversion": {"method": "ssdkd", "batch_size": 16}},
    "replay": {"synthetic": {"capacity": 64}},
    "students": {"small": {"model": "small_cnn_4", "batch_size": 8}},
    "schedule": {"rounds": 4, "student_steps_per_round": 6},
}


def build(*overrides: str) -> ExperimentConfig:
    return build_experiment(copy.deepcopy(TREE), overrides)


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("the experiment: ")


DECOUPLED = "schedule.mode=decoupled"
PLACED = "runtime.placement={replay: {buffer_node: 1}}"
ELASTIC = (
    DECOUPLED,
    "students.small.min_workers=1",
    "students.small.num_workers=2",
    "students.small.resources.custom={student_node: 1}",
)
RATIO = (DECOUPLED, "schedule.samples_per_insert=3", "schedule.error_buffer=200")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["task.image_shape=[1, 9, 8]"], "task: image_shape [1, 9, 8] must be [channels, height, width], sizes multiples of 4"),
        (["task.image_shape=[0, 8, 8]"], "task: image_shape [0, 8, 8] must be"),
        (["task.num_classes=1"], "task.num_classes is 1: it must be greater than or equal to 2"),
        (["sources={}"], "nothing fills the buffer: give sources"),
        (["students={}"], "students is {}: "),
        (["students.a/b={model: small_cnn_8}"], "student 'a/b' cannot be used in file names: use up to 100 letters, "),
        (["students={../../x: {model: small_cnn_8}}"], "student '../../x' cannot be used in file names"),
        (["sources={../../x: {method: ssdkd}}"], "source '../../x' cannot be used in file names: use up to 100 letters"),
        (["sources={%s: {method: ssdkd}}" % ("x" * 101)], f"source '{'x' * 101}' cannot be used in file names"),
        (["sources.inversion.student=big"], "sources.inversion.student 'big' is not a student of this run: use small"),
        (
            [*RATIO, "students.other={model: small_cnn_8, batch_size: 16}"],
            "schedule.samples_per_insert holds for each student, but the students draw different numbers per step (small 8",
        ),
        (
            ["runtime.runner=local", "students.other={model: small_cnn_8, num_workers: 2}"],
            "runtime.runner local has one student worker",
        ),
        (["sources.more={method: fast, batch_size: 8}"], "sources have batch sizes [8, 16]: the schedule counts batches"),
        (["replay.synthetic.capacity=15"], "replay.synthetic.capacity 15 holds less than one synthesized batch of 16"),
        (["runtime.runner=local", DECOUPLED], "runtime.runner local runs in one process and therefore in lockstep"),
        (["runtime.runner=local", "students.small.num_workers=2"], "runtime.runner local has one student worker"),
        (["runtime.runner=local", PLACED], "runtime.runner local does not use placement: leave it out"),
        (
            ["runtime.placement={replay: {CPU: 1}}"],
            "runtime: replay is {'CPU': 1.0}: give custom resources and amounts above 0",
        ),
        (["runtime.placement={pool: {}}"], "runtime: pool is {}: give custom resources and amounts above 0"),
        ([*ELASTIC, "schedule.mode=lockstep"], "students.small.min_workers needs schedule.mode decoupled"),
        ([*ELASTIC, "students.small.num_workers=1"], "students.small: min_workers 1 must be below num_workers 1"),
        ([*ELASTIC, "students.small.resources.custom={}"], "students.small: min_workers needs whole resources.custom"),
        ([*ELASTIC, "students.small.resources.custom={node: 0.5}"], "students.small: min_workers needs whole resources.custom"),
        (
            [*ELASTIC, "students.small.num_workers=4"],
            "students.small: batch_size 8 is not divisible by workers x accumulation_steps = 3 (min_",
        ),
        (["students.small.resize_period_s=5"], "students.small: a student without min_workers does not use resize_period_s"),
        (
            ["students.small.num_workers=3"],
            "students.small: batch_size 8 is not divisible by workers x accumulation_steps = 3:",
        ),
        (["schedule.samples_per_insert=2"], "schedule: lockstep does not use samples_per_insert: leave it out or choose"),
        (
            ["schedule.prefetch=1", "schedule.batches_per_request=2", "schedule.max_staleness_rounds=0"],
            "schedule: lockstep does not use prefetch, batches_per_request, max_staleness_rounds",
        ),
        ([DECOUPLED, "schedule.samples_per_insert=2"], "schedule: samples_per_insert needs error_buffer"),
        ([DECOUPLED, "schedule.error_buffer=2"], "schedule: samples_per_insert null does not use error_buffer"),
        (
            ["sources.inversion.method=wish"],
            "unknown sources.inversion.method 'wish': known are cmi, dafl, ddad, deep_inversion, degan, dfad, dfq, fast, ",
        ),
        (["sources.inversion.method=fast", "sources.inversion.diversity=true"], "unknown key sources.inversion.diversity"),
        (["students.small.optimizer.schedule=one_cycle"], "students.small.optimizer: one_cycle needs warmup_steps above 0"),
        (["replay.synthetic.sampler={kind: fifo}"], "replay.synthetic: sampler kind 'fifo' draws the same items every time"),
        (["runtime.sead=1"], "unknown key runtime.sead: did you mean 'seed'?"),
        (["teacher=null"], "teacher is None: "),
        (["evaluation.dataset.kind=digitz"], "unknown evaluation.dataset.kind 'digitz': did you mean 'digits'?"),
    ],
)
def test_each_refusal_says_what_is_wrong(overrides: list[str], told: str) -> None:
    assert refusal(*overrides).startswith(told)


def test_several_sources_and_generators_take_turns_in_order() -> None:
    config = build("sources.more={method: fast, batch_size: 16, num_generators: 2}")
    assert config.generators == [("inversion", 0), ("more", 0), ("more", 1)]
    assert (config.student_name, config.student.model, config.synthesis_batch_size) == ("small", "small_cnn_4", 16)


def test_derived_figures() -> None:
    config = build()
    assert config.schedule.total_steps == 24
    assert config.evaluation_period_steps == 2
    assert build("evaluation={dataset: {kind: digits}, period_steps: 7}").evaluation_period_steps == 7
    assert build("schedule.rounds=1", "schedule.student_steps_per_round=3").evaluation_period_steps == 1


def test_a_limit_of_draws_that_starves_the_students_is_refused_and_its_advice_helps() -> None:
    """A round draws 48 images and makes 16, or 64, which is the table's capacity."""
    once = "replay.synthetic.max_draws=1"
    assert refusal(once).startswith("replay.synthetic.max_draws 1 lets a round draw 16 images, and it draws 48: raise")
    build(once, "schedule.batches_per_round=3")
    build(once, "schedule.student_steps_per_round=2")
    build("replay.synthetic.max_draws=3")
    told = refusal(once, "schedule.batches_per_round=5")
    assert told.startswith("replay.synthetic.capacity 64 evicts images of a round's 80 before they are drawn")
    build(once, "schedule.batches_per_round=5", "replay.synthetic.capacity=80")
    assert "needs schedule.samples_per_insert of no more than that" in refusal(once, *RATIO)
    ratio = (once, DECOUPLED, "schedule.samples_per_insert=1")
    told = refusal(*ratio, "schedule.error_buffer=33", "schedule.warmup_batches=2")
    assert "gives 32 draws of the warm-up's images, fewer than schedule.error_buffer 33: lower it" in told
    build(*ratio, "schedule.error_buffer=32", "schedule.warmup_batches=2")


def test_a_staleness_bound_that_starves_the_students_is_refused_and_its_advice_helps() -> None:
    """A round draws 48 images; its one batch of 16 allows 16 x 1 draws, so each round the students fall 32 behind."""
    tight = (DECOUPLED, "schedule.samples_per_insert=1", "schedule.error_buffer=40", "schedule.max_staleness_rounds=1")
    told = refusal(*tight)
    assert "would make generators and students wait for each other forever: a round draws 48 images" in told
    assert "batches_per_round (to 3)" in told
    assert "error_buffer to at least 112" in told  # 4 rounds x 48 - 5 x 16
    build(*tight, "schedule.batches_per_round=3")
    build(*tight, "schedule.error_buffer=112")
    build(*tight, "schedule.max_staleness_rounds=6")
    assert "at least 112" in refusal(*tight, "schedule.error_buffer=111")


def test_requests_in_flight_count_for_the_staleness_bound() -> None:
    """lag 0 and a matching ratio: 48 drawn and allowed a round; two requests of 2 batches are 3 x 2 - 1 batches of 8 ahead."""
    exact = (*RATIO, "schedule.max_staleness_rounds=0", "schedule.prefetch=2", "schedule.batches_per_request=2")
    build(*exact)
    build(*exact, "schedule.error_buffer=48")
    assert "error_buffer to at least 40" in refusal(*exact, "schedule.error_buffer=39")


def test_the_limiter_is_the_schedules() -> None:
    lockstep = build_rate_limiters(build("schedule.warmup_batches=2"))["small"]
    assert (lockstep.can_insert(3 * 16), lockstep.can_insert(3 * 16 + 1)) == (True, False)  # the warm-up and the first round
    lockstep.record_insert(48)
    assert (lockstep.can_sample(6 * 8), lockstep.can_sample(6 * 8 + 1)) == (True, False)
    free = build_rate_limiters(build(DECOUPLED, "schedule.warmup_batches=2"))["small"]
    assert free.can_insert(10**9)
    assert not free.can_sample(1)
    ratio = build_rate_limiters(build(*RATIO, "schedule.warmup_batches=2"))["small"]
    most = (3 * 32 + 200) // 3
    assert (ratio.can_insert(most), ratio.can_insert(most + 1)) == (True, False)


def test_seeds_of_components_differ_and_repeat() -> None:
    seeds = [
        derive_seed(seed, *names)
        for seed in (0, 1)
        for names in (("replay",), ("student", "small"), ("generator", "a", 0), ("generator", "a", 1), ("generator", "a-1"))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "replay") == derive_seed(0, "replay")


def test_paths_are_made_absolute_beside_the_file_and_else_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, here = tmp_path / "experiments", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    (here / "only_here.pt").write_text("")
    (folder / "both.pt").write_text("")
    (here / "both.pt").write_text("")
    monkeypatch.chdir(here)
    tree = copy.deepcopy(TREE)
    tree["teacher"]["checkpoint"], tree["students"]["small"]["checkpoint"] = "both.pt", "only_here.pt"
    tree["evaluation"] = {"dataset": {"kind": "parquet", "path": "nowhere.parquet"}}
    (folder / "a.yaml").write_text(yaml.safe_dump(tree))
    config = load_experiment(folder / "a.yaml")
    assert config.teacher.checkpoint == folder / "both.pt"
    assert config.student.checkpoint == here / "only_here.pt"
    assert config.evaluation is not None
    assert config.evaluation.dataset.path == str(folder / "nowhere.parquet")
    exported = load_experiment(folder / "a.yaml", ["teacher={model: net.pt2}"])
    assert exported.teacher.model == str(folder / "net.pt2")
    assert load_experiment(folder / "a.yaml").teacher.model == "small_cnn_8"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        RATIO,
        ("students.small.optimizer.schedule=constant",),
        ("replay.synthetic.sampler.kind=class_balanced",),
        ("replay.synthetic.sampler={kind: prioritized, importance_exponent_final: null}",),
        ("collected={dataset: {kind: digits}}", "replay.pinned={capacity: 5}", "replay.pinned_fraction=0.5"),
        ("replay.synthetic.remover.kind=lowest_priority", "replay.synthetic.capacity_bytes=100000"),
        ("sources.inversion={method: fast, batch_size: 16, adversarial_weight: 0}",),
        ("sources.inversion.difficulty=false",),
        ("evaluation.dataset.kind=digits",),
        ("students.small.checkpoint=a.pt", "runtime.out=x/y"),
    ],
)
def test_what_is_written_reads_back_equal(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = build(*overrides)
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert load_experiment(tmp_path / "config.yaml") == config

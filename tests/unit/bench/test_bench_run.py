"""A whole bench on digits: equal budgets, ends and their reasons, going on, and what a folder holds of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raydfkd.bench import bench_run
from raydfkd.bench.bench_dir import BenchDir
from raydfkd.bench.bench_outcome import leaders
from raydfkd.bench.bench_run import chosen_methods, run_bench
from raydfkd.bench.plan import Bench, BenchBudget, Plan, plan_for
from raydfkd.errors import ConfigError, RunFailedError, RunInUseError, UnknownNameError
from raydfkd.ownership import owned
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.run.recorder import Watcher
from raydfkd.synthesis.methods import METHODS

IMAGES = 16 * 20 * 4
BUDGET = BenchBudget(images=IMAGES)


def by_name(outcome: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {method["method"]: method for method in outcome["methods"]}


def test_methods_spend_equal_images_and_what_is_not_allowed_is_named(base: ExperimentConfig, tmp_path: Path) -> None:
    told: list[str] = []
    outcome = run_bench(base, ["fast", "dfq", "hidfd"], BUDGET, tmp_path / "bench", tell=told.append)
    found = by_name(outcome)
    assert {name: method["end"] for name, method in found.items()} == {
        "fast": "finished", "dfq": "finished", "hidfd": "skipped",
    }  # fmt: skip
    assert "name them in collected" in found["hidfd"]["reason"]
    for name in ("fast", "dfq"):
        records = list(BenchDir(tmp_path / "bench").run(name).metrics("throughput"))
        assert sum(record["images_distilled_since"] for record in records) == IMAGES
        assert found[name]["student_images"] == IMAGES
        assert found[name]["curve"][-1]["student_images"] == IMAGES
        assert found[name]["last"] == found[name]["curve"][-1]["last"]
        seconds = [point["trained_s"] for point in found[name]["curve"]]
        assert seconds == sorted(seconds)
    assert found["dfq"]["images_synthesized"] == IMAGES + 10 * 16, "each image is seen once, after one batch of warm-up"
    assert json.loads((tmp_path / "bench/result.json").read_text()) == json.loads(json.dumps(outcome))
    page = (tmp_path / "bench/bench.html").read_text()
    assert "name them in collected" in page
    assert "<svg" in page
    again: list[str] = []
    assert run_bench(base, ["fast", "dfq"], BUDGET, tmp_path / "bench", tell=again.append) == outcome
    assert again == [f"{name}: ended before, {tmp_path / 'bench/methods' / name}" for name in ("fast", "dfq")]


def test_a_bench_that_was_stopped_goes_on(base: ExperimentConfig, tmp_path: Path) -> None:
    class Stops(Watcher):
        def update(self, record: dict[str, Any]) -> None:
            if record["kind"] == "distillation" and record["step"] >= 40:
                raise KeyboardInterrupt

    @contextmanager
    def shown(name: str, config: ExperimentConfig) -> Iterator[Watcher]:
        yield Stops() if name == "dfq" else Watcher()

    folder = BenchDir(tmp_path / "bench")
    with pytest.raises(KeyboardInterrupt):
        run_bench(base, ["fast", "dfq", "zskt"], BUDGET, folder.path, display=shown)
    assert folder.manifest()["state"] == "stopped"
    assert [folder.entry(name).get("end", "none") for name in ("fast", "dfq", "zskt")] == ["finished", None, "none"]
    assert "not ended" in (folder.path / "bench.html").read_text()
    finished = folder.run("fast").result_path.stat().st_mtime_ns
    outcome = run_bench(base, ["fast", "dfq"], BUDGET, folder.path)
    assert {method["end"] for method in outcome["methods"]} == {"finished"}
    assert folder.run("fast").result_path.stat().st_mtime_ns == finished
    events = [record["message"] for record in folder.run("dfq").metrics("event")]
    assert any(message.startswith("resumed from") for message in events)
    assert by_name(outcome)["dfq"]["student_images"] == IMAGES
    assert outcome["state"] == "finished"


def test_a_collapse_is_stopped_and_marked_and_the_next_method_follows(
    base: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unguided(bench: Bench, name: str, budget: BenchBudget) -> Plan:
        plan = plan_for(bench, name, budget)
        if name != "fast":
            return plan
        tree = plan.config.model_dump(mode="json")
        tree["sources"]["images"] |= {f"{loss}_weight": 0 for loss in ("bn", "one_hot", "adversarial")}
        tree["schedule"] |= {"rounds": 4 * tree["schedule"]["rounds"], "student_steps_per_round": 5}
        return Plan(build_experiment(tree))

    monkeypatch.setattr(bench_run, "plan_for", unguided)
    found = by_name(run_bench(base, ["fast", "dfq"], BUDGET, tmp_path / "bench"))
    assert (found["fast"]["end"], found["dfq"]["end"]) == ("collapsed", "finished")
    assert "few classes" in found["fast"]["reason"]
    assert found["fast"]["student_images"] < found["dfq"]["student_images"] == IMAGES
    assert "collapsed" in (tmp_path / "bench/bench.html").read_text()


def test_a_spent_budget_cuts_a_run_off_with_the_figures_so_far(
    base: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run, "plan_for", lambda bench, name, _: plan_for(bench, name, BenchBudget(images=100 * IMAGES)))
    (fast,) = run_bench(base, ["fast"], BenchBudget(minutes=0.02), tmp_path / "bench")["methods"]
    assert fast["end"] == "budget"
    assert fast["trained_s"] >= 1.2
    assert fast["student_steps"] < fast["total_steps"]
    assert "the budget was spent at" in fast["reason"]


def test_a_failure_is_recorded_and_tried_again(base: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RunFailedError("student 'student' diverged")

    with monkeypatch.context() as broken:
        broken.setattr(bench_run, "distill", fails)
        (fast,) = run_bench(base, ["fast"], BUDGET, tmp_path / "bench")["methods"]
        assert (fast["end"], fast["reason"], fast["last"]) == ("failed", "student 'student' diverged", None)
    (fast,) = run_bench(base, ["fast"], BUDGET, tmp_path / "bench")["methods"]
    assert (fast["end"], fast["reason"]) == ("finished", None)


def test_a_folder_is_of_one_bench_and_of_one_process(base: ExperimentConfig, tmp_path: Path) -> None:
    run_bench(base, [], BUDGET, tmp_path / "bench")
    with pytest.raises(ConfigError, match=r"is of budget images 1280, and this command asks for images 99"):
        run_bench(base, [], BenchBudget(images=99), tmp_path / "bench")
    other = base.model_copy(update={"runtime": base.runtime.model_copy(update={"seed": 4})})
    with pytest.raises(ConfigError, match="is of seed 3, and this command asks for 4"):
        run_bench(other, [], BUDGET, tmp_path / "bench")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with owned(tmp_path / "bench", what="the bench"):
            held.set()
            done.wait(60)

    other_command = threading.Thread(target=hold)
    other_command.start()
    assert held.wait(60)
    try:
        with pytest.raises(RunInUseError, match=r"bench directory .* is in use by process"):
            run_bench(base, [], BUDGET, tmp_path / "bench")
    finally:
        done.set()
        other_command.join()


def test_methods_are_named_in_a_list() -> None:
    assert chosen_methods("fast, dfad") == ["fast", "dfad"]
    assert chosen_methods("all") == list(METHODS)
    with pytest.raises(UnknownNameError, match="did you mean 'fast'"):
        chosen_methods("fats")
    with pytest.raises(ConfigError, match="names fast twice"):
        chosen_methods("fast,fast")
    with pytest.raises(ConfigError, match="names no method"):
        chosen_methods(",")


def test_who_leads_depends_on_what_is_spent() -> None:
    def method(name: str, *points: tuple[float, float]) -> dict[str, Any]:
        return {"method": name, "curve": [{"trained_s": at, "student_images": 100 * at, "last": last} for at, last in points]}

    methods = [method("quick", (5, 0.5), (60, 0.6)), method("slow", (14, 0.2), (60, 0.9)), method("none")]
    expected = [(0.1, "quick", 0.5), (0.25, "quick", 0.5), (0.5, "quick", 0.5), (1.0, "slow", 0.9)]
    for budget in ({"minutes": 1.0, "images": None}, {"minutes": None, "images": 6000}):
        assert [(one["share"], one["method"], one["last"]) for one in leaders(methods, budget)] == expected

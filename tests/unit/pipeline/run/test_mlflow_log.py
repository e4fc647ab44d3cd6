"""Records at an MLflow server, with a fake client in its place."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from raydfkd.errors import ConfigError
from raydfkd.pipeline.run import mlflow_log
from raydfkd.pipeline.run.mlflow_log import MlflowLog, flatten
from raydfkd.run_dir import RunDir


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    key: str
    value: str


class FakeClient:
    """What MLflow's client does of which raydfkd makes use."""

    made: list[FakeClient]
    error: Exception | None = None

    def __init__(self, tracking_uri: str) -> None:
        self.uri, self.calls = tracking_uri, []  # type: ignore[var-annotated]
        type(self).made.append(self)

    def get_experiment_by_name(self, name: str) -> None:
        if self.error is not None:
            raise self.error

    def create_experiment(self, name: str) -> str:
        return f"id of {name}"

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.calls.append(("create_run", experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("log_batch", run_id, list(metrics), list(params)))

    def set_terminated(self, run_id: str, status: str) -> None:
        self.calls.append(("set_terminated", run_id, status))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    fake, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    kind = type("Client", (FakeClient,), {"made": [], "error": None})
    fake.MlflowClient, entities.Metric, entities.Param = kind, Metric, Param  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return kind


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path / "my-run")
    made.update_manifest(state="running")
    return made


def test_a_run_is_made_once_and_goes_on_when_resumed(client: type[FakeClient], run: RunDir) -> None:
    log = MlflowLog("http://host", run, {"task": {"num_classes": 10}, "runtime": {"out": "x" * 900}})
    log.take([("replay/size", 5), ("replay/bytes", 1.5)], 7)
    log.close(finished=False)
    [made] = client.made
    assert made.uri == "http://host"
    assert made.calls[0] == ("create_run", "id of raydfkd", "my-run")
    assert made.calls[1][3] == [("task.num_classes", "10"), ("runtime.out", "x" * 500)]
    assert [(m.key, m.value, m.step) for m in made.calls[2][2]] == [("replay/size", 5.0, 7), ("replay/bytes", 1.5, 7)]
    assert made.calls[3] == ("set_terminated", "r1", "KILLED")
    resumed = MlflowLog("http://host", run, {})
    resumed.close(finished=True)
    assert [call[0] for call in client.made[1].calls] == ["set_terminated"]
    assert client.made[1].calls[-1] == ("set_terminated", "r1", "FINISHED")


def test_values_wait_for_some_seconds_and_go_together(
    client: type[FakeClient], run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(mlflow_log.time, "monotonic", lambda: now[0])
    log = MlflowLog("http://host", run, {})
    log.take([("a", 1.0)], 1)
    assert not any(call[0] == "log_batch" for call in client.made[0].calls)
    now[0] += 6
    log.take([("a", 2.0)] * 1500, 2)
    sizes = [len(call[2]) for call in client.made[0].calls if call[0] == "log_batch"]
    assert sizes == [1000, 501]


def test_a_server_that_goes_away_does_not_end_the_run(
    client: type[FakeClient], run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    log = MlflowLog("http://host", run, {})
    client.error = OSError("no route to host")
    log.take([("a", 1.0)], 1)
    log.close(finished=True)
    log.close(finished=True)
    assert [r.message for r in caplog.records] == [
        "MLflow no longer accepts records; metrics.jsonl still has them all: no route to host"
    ]


def test_a_server_that_is_not_there_is_refused_at_the_start(client: type[FakeClient], run: RunDir) -> None:
    client.error = OSError("connection refused\nlong story")
    with pytest.raises(ConfigError, match=r"^MLflow rejects runtime.mlflow_uri 'http://host' \(connection refused\): check it"):
        MlflowLog("http://host", run, {})


def test_without_mlflow_one_sentence_says_what_to_install(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"^runtime.mlflow_uri needs MLflow, which is not installed: pip install 'raydfkd\[m"):
        MlflowLog("http://host", run, {})


def test_settings_are_flattened_to_dotted_keys() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}}, "d": [1, 2]})) == {"a.b.c": 1, "d": [1, 2]}

"""Mirroring a run's records to an MLflow server. MLflow is optional and imported only here, when a run uses it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

from raydfkd.errors import ConfigError
from raydfkd.run_dir import RunDir

logger = logging.getLogger(__name__)

EXPERIMENT = "raydfkd"
SEND_PERIOD_S = 5.0
MOST_IN_A_BATCH = 1000
MOST_PARAMS_IN_A_BATCH = 100
MOST_LETTERS = 500
"""MLflow's own limits per request."""


class MlflowLog:
    """One run at an MLflow server, in the experiment ``raydfkd``; a resumed run continues its MLflow run.

    If the server stops responding, mirroring ends with a warning; the run continues.

    Args:
        uri: of the tracking server, or a local store in MLflow's notation.
        run: the run directory; its manifest keeps MLflow's run id.
        params: settings to record with it.

    Raises:
        ConfigError: MLflow is not installed, or the server does not respond.
    """

    def __init__(self, uri: str, run: RunDir, params: dict[str, Any]) -> None:
        # By default MLflow retries for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as error:
            raise ConfigError(
                "runtime.mlflow_uri needs MLflow, which is not installed: pip install 'raydfkd[mlflow]', or leave it out"
            ) from error
        self._metric = Metric
        self._waiting: list[Any] = []
        self._sent_at = time.monotonic()
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            self._id = run.manifest().get("mlflow_run_id") if run.manifest_path.exists() else None
            if self._id is None:
                found = self._client.get_experiment_by_name(EXPERIMENT)
                experiment_id = self._client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
                self._id = self._client.create_run(experiment_id, run_name=run.path.name).info.run_id
                flat = [Param(name, str(value)[:MOST_LETTERS]) for name, value in flatten(params)]
                for first in range(0, len(flat), MOST_PARAMS_IN_A_BATCH):
                    self._client.log_batch(self._id, params=flat[first : first + MOST_PARAMS_IN_A_BATCH])
                run.update_manifest(mlflow_run_id=self._id)
        except Exception as error:  # From MLflow, its server or the network: in any case the user's address is at fault.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"MLflow rejects runtime.mlflow_uri {uri!r} ({reason}): check it, or leave it out") from error

    def take(self, scalars: Iterable[tuple[str, float]], step: int) -> None:
        """Records values by name; they are sent every few seconds."""
        now_ms = int(time.time() * 1000)
        self._waiting += [self._metric(name, float(value), now_ms, step) for name, value in scalars]
        if time.monotonic() - self._sent_at > SEND_PERIOD_S:
            self._send()

    def close(self, finished: bool) -> None:
        """Sends the rest, and records how the run ended."""
        self._send()
        if self._client is not None:
            self._guarded(lambda: self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED"))

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), MOST_IN_A_BATCH):
            batch = waiting[first : first + MOST_IN_A_BATCH]
            if self._client is not None:
                self._guarded(lambda batch=batch: self._client.log_batch(self._id, metrics=batch))

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # The run does not depend on MLflow.
            logger.warning("MLflow no longer accepts records; metrics.jsonl still has them all: %s", error)
            self._client = None


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value

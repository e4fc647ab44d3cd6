"""A cluster that asks for a token: a user who has another, and one who has it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny_experiment import experiment

from raydfkd.data.data_root import VARIABLE
from raydfkd.testing.command import run_command
from raydfkd.testing.waiting import wait_until

pytestmark = pytest.mark.slow

TOKEN, OTHER = "a" * 40, "b" * 40
START = "import sys; from ray.scripts.scripts import main; sys.exit(main())"


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """The address of a head with a token, on a port that Ray chooses."""
    with tempfile.TemporaryDirectory(prefix="rayt", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "log"
        options = ["--port=0", "--num-cpus=1", "--include-dashboard=false", f"--temp-dir={folder}/ray", "--block"]
        command = [sys.executable, "-c", START, "start", "--head", "--disable-usage-stats", *options]
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_raylet_start_wait_time_s": "180"}
        with log.open("w") as out:
            inherited = {name: value for name, value in os.environ.items() if name != VARIABLE}
            head = subprocess.Popen(command, stdout=out, stderr=out, env=inherited | settings)
        try:
            wait_until(lambda: "--address='" in log.read_text() or head.poll() is not None, 600, "the head has not started")
            yield log.read_text().partition("--address='")[2].partition("'")[0]
        finally:
            head.terminate()
            try:
                head.wait(30)
            except subprocess.TimeoutExpired:
                head.kill()


def test_a_wrong_token_is_refused_in_one_sentence(guarded: str, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(experiment(teacher, runtime={"address": guarded})))
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": OTHER, "RAY_NUM_REDIS_GET_RETRIES": "2"}
    done = run_command(["run", "exp.yaml", "--out", "new"], tmp_path, wrong)
    assert done.code == 2, done.err
    assert done.err.startswith(f"raydfkd: the Ray cluster at '{guarded}' refuses this shell (")
    assert done.err.endswith("a cluster with tokens requires RAY_AUTH_MODE=token and its token in RAY_AUTH_TOKEN\n")
    assert done.err.count("\n") == 1, done.err
    assert OTHER not in done.err
    assert not (tmp_path / "new").exists()


WHERE = """
import sys
import ray
from raydfkd.data.data_root import data_root
from raydfkd.pipeline.experiment.runtime_config import RuntimeConfig
from raydfkd.runtime.ray_session import session

class Joined:
    runtime = RuntimeConfig(address=sys.argv[1] or None, num_cpus=None if sys.argv[1] else 1)

with session(Joined()):
    print(ray.get(ray.remote(data_root).remote()))
"""


@pytest.mark.parametrize("is_joined", [False, True], ids=["local", "joined"])
def test_workers_look_for_named_data_where_the_run_was_started(guarded: str, tmp_path: Path, is_joined: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN} if is_joined else {}
    command = [sys.executable, "-c", WHERE, guarded if is_joined else ""]
    done = subprocess.run(command, cwd=tmp_path, env=environment | token, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == str(tmp_path / "data"), done.stderr

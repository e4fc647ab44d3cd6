"""Jobs on a real cluster of two nodes on this machine, each a ``ray start`` process: sent by raydfkd, and by Ray itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_S = 300
JOB_S = 900

pytestmark = [pytest.mark.e2e, pytest.mark.ray]

EXPERIMENT = """\
task: {kind: classification, num_classes: 10, image_shape: [1, 8, 8]}
teacher: {model: small_cnn_8, checkpoint: ../weights/teacher.safetensors}
sources:
  inversion:
    {method: ssdkd, batch_size: 16, steps_per_batch: 1, base_channels: 4, latent_dim: 8, resources: {num_threads: 1}}
replay:
  synthetic: {capacity: 64, sampler: {kind: prioritized}}
students:
  small: {model: small_cnn_8, batch_size: 16, resources: {num_threads: 1}}
schedule: {warmup_batches: 2, rounds: 3, student_steps_per_round: 2}
evaluation: {dataset: {kind: digits, max_images: 20}}
runtime: {runner: ray, bf16: false, device: cpu, log_period_steps: 1, checkpoint_period_rounds: 100, max_restarts: 0}
"""

BROKEN_STUDENT = """\
from raydfkd.models.classifiers.small import SmallCNN


class Broken(SmallCNN):
    def forward(self, images):
        if self.training:
            raise ZeroDivisionError("this student has a bug")
        return super().forward(images)


def build(num_classes, image_shape):
    return Broken(8, num_classes, image_shape[0])
"""


@dataclass(frozen=True)
class Cluster:
    """Where the dashboard is, a project folder to submit from, and storage that every node sees."""

    address: str
    project: Path
    storage: Path

    def run(self, *words: str, timeout_s: float = JOB_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=self.project, env=environment(), capture_output=True, text=True, timeout=timeout_s)

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(BIN / "raydfkd"), "submit", *arguments, "--address", self.address)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    path = os.pathsep.join((str(BIN), os.environ.get("PATH", "")))
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", **more}


def free_ports(count: int) -> list[int]:
    """Below those that the system gives away, so that none is taken between here and its use."""
    found: list[int] = []
    for port in range(20_100 + os.getpid() % 500 * 20, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    project, storage = folder / "project", folder / "storage"
    write_project(project)
    storage.mkdir()
    temp = tempfile.mkdtemp(prefix="rd", dir="/tmp")  # Ray's socket paths must be short
    gcs, dashboard, client, *agents = free_ports(7)
    common = ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
            f"--temp-dir={temp}", "--num-cpus=8"]  # fmt: skip
    worker = [f"--address=127.0.0.1:{gcs}", "--num-cpus=8", '--resources={"gen_node": 8}']
    started: list[subprocess.Popen[bytes]] = []
    address = f"http://127.0.0.1:{dashboard}"
    try:
        for number, options in enumerate((head, worker)):
            ports = [f"--dashboard-agent-listen-port={agents[2 * number]}", f"--metrics-export-port={agents[2 * number + 1]}"]
            log = (folder / f"node{number}.log").open("wb")
            words = [str(BIN / "ray"), "start", *options, *ports, *common]
            quick = environment(RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2")
            started.append(subprocess.Popen(words, env=quick, stdout=log, stderr=log, cwd=folder))
            deadline = time.monotonic() + START_S
            while not answers(f"{address}/api/version"):
                assert started[-1].poll() is None, (folder / f"node{number}.log").read_text()
                assert time.monotonic() < deadline, "no dashboard\n" + (folder / f"node{number}.log").read_text()
                time.sleep(0.2)
        yield Cluster(address, project, storage)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            process.wait(60)
        shutil.rmtree(temp, ignore_errors=True)


def write_project(project: Path) -> None:
    """A checkout whose teacher git does not track, with the experiment in a folder of its own."""
    for name in ("experiments", "weights"):
        (project / name).mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / ".gitignore").write_text("*.safetensors\n")
    (project / "experiments/exp.yaml").write_text(EXPERIMENT)
    (project / "broken_student.py").write_text(BROKEN_STUDENT)
    metadata = {"model": "small_cnn_8", "num_classes": "10", "image_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[0.3]"}
    save_weights(build_classifier("small_cnn_8", 10, (1, 8, 8)), project / "weights/teacher.safetensors", metadata)


def test_a_submitted_run_is_followed_and_fetched(cluster: Cluster) -> None:
    fetched = cluster.project / "fetched"
    words = ["experiments/exp.yaml", "runtime.seed=3", "--out", str(cluster.storage / "run"), "--id", "good"]
    done = cluster.submit(*words, "--fetch", str(fetched))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting Ray" in done.stdout
    assert "outcome" in done.stdout
    assert json.loads((fetched / "result.json").read_text())["student_steps"] == 6
    assert (fetched / "report.html").exists()
    again = cluster.submit(*words)
    assert again.returncode == 0
    assert "job good exists already" in again.stdout
    assert again.stdout.count("outcome") == 1
    other = cluster.submit("experiments/exp.yaml", "--out", str(cluster.storage / "other"), "--id", "good")
    assert other.returncode == 2
    assert "choose another --id" in other.stderr

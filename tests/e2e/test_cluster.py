"""Jobs on a real cluster of two nodes on this machine, each a ``ray start`` process: sent by raydfkd, and by Ray itself."""

from __future__ import annotations

import json
import os
import shlex
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

SHORT = [
    "schedule={mode: decoupled, rounds: 2, student_steps_per_round: 5, warmup_batches: 2}",
    "sources.inversion.steps_per_batch=1",
    "students.small.optimizer.warmup_steps=1",
    "evaluation.dataset.max_images=20",
    "runtime.max_restarts=0",
    "runtime.wait_timeout_s=900",
    "runtime.device=cpu",
]
"""Makes a matter of seconds of the README's run."""

BROKEN_STUDENT = """\
from raydfkd.models.classifiers.small import SmallCNN


class Broken(SmallCNN):
    passes = 0

    def forward(self, images):
        self.passes += self.training
        if self.passes > 4:
            raise ZeroDivisionError("this student has a bug")
        return super().forward(images)


def build(num_classes, image_shape):
    return Broken(16, num_classes, image_shape[0])
"""


@dataclass(frozen=True)
class Cluster:
    """Where the dashboard is, a project folder to submit from, and storage that every node sees."""

    address: str
    project: Path
    storage: Path

    def run(self, *words: str, timeout_s: float = JOB_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=self.project, env=environment(), capture_output=True, text=True, timeout=timeout_s)

    def typed(self, command: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Runs a README command as it stands, but for the address and what makes it short."""
        text = command.replace("http://127.0.0.1:8265", self.address).replace("$PWD", str(self.project))
        program, *words = shlex.split(text)
        return self.run(str(BIN / program), *words, *more)

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = (str(BIN / "raydfkd"), "submit", "experiments/smoke/digits_ssdkd.yaml", *SHORT, *arguments)
        return self.run(*words, "--address", self.address)


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
            process.wait(150)
        shutil.rmtree(temp, ignore_errors=True)


def write_project(project: Path) -> None:
    """What a checkout has of the README's run, with a teacher of random weights, which git does not track."""
    names = ("experiments/smoke/digits_ssdkd.yaml", "raydfkd/cli/demo.yaml", ".gitignore")
    for name in names:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / "broken_student.py").write_text(BROKEN_STUDENT)
    metadata = {"model": "small_cnn_32", "num_classes": "10", "image_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[0.3]"}
    teacher = project / "experiments/teachers/digits.safetensors"
    teacher.parent.mkdir()
    save_weights(build_classifier("small_cnn_32", 10, (1, 8, 8)), teacher, metadata)


def check_run(folder: Path) -> None:
    assert json.loads((folder / "result.json").read_text())["student_steps"] == 10
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_a_submitted_run_is_followed_and_fetched(cluster: Cluster) -> None:
    command = "raydfkd submit experiments/smoke/digits_ssdkd.yaml --address http://127.0.0.1:8265 --out $PWD/runs/submitted"
    fetched = cluster.project / "fetched"
    done = cluster.typed(command, *SHORT, "--id", "good", "--fetch", str(fetched))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting Ray" in done.stdout
    check_run(fetched)
    check_run(cluster.project / "runs/submitted")
    again = cluster.typed(command, *SHORT, "--id", "good")
    assert again.returncode == 0
    assert "job good exists already" in again.stdout
    assert again.stdout.count("starting Ray") == 1
    other = cluster.typed(command, *SHORT, "runtime.seed=1", "--id", "good")
    assert other.returncode == 2
    assert "choose another --id" in other.stderr


@pytest.mark.slow
def test_ray_s_own_submit(cluster: Cluster) -> None:
    command = (
        "ray job submit --address http://127.0.0.1:8265 -- raydfkd run $PWD/experiments/smoke/digits_ssdkd.yaml "
        "--out $PWD/runs/plain --address auto"
    )
    done = cluster.typed(command, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    check_run(cluster.project / "runs/plain")


@pytest.mark.slow
def test_rows_of_a_paper_are_jobs(cluster: Cluster) -> None:
    """On Ray, by name; the second time one is finished and the other, which failed and fails again, is sent again."""
    sets = [*SHORT[1:], "teacher.checkpoint=" + str(cluster.project / "experiments/teachers/digits.safetensors")]
    sets += ["runtime.runner=ray", "replay.synthetic.capacity=200", "sources.inversion.batch_size=50"]
    out = cluster.storage / "reproduced"
    words = [str(BIN / "raydfkd"), "reproduce", "laptop", "digits", "ssdkd", "--scale", "0.02", "--out", str(out)]
    words += [word for setting in sets for word in ("--set", setting)]
    broken = out / "laptop/digits/ssdkd/scale-0.02/seed1"
    broken.parent.mkdir(parents=True)
    broken.write_text("a file where the run directory should be")
    sent = cluster.run(*words, "--seeds", "0,1", "--address", cluster.address)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert sent.stdout.count(" sent: ") == 2
    status = [str(BIN / "ray"), "job", "logs", "--follow", "--address", cluster.address]
    logs = [cluster.run(*status, f"laptop-digits-ssdkd-0.02-seed{seed}").stdout for seed in (0, 1)]
    assert "page: " in logs[0], logs[0]
    result = json.loads((broken.with_name("seed0") / "result.json").read_text())
    assert result["reproduces"]["scale"] == 0.02
    assert result["runner"] == "ray"
    again = cluster.run(*words, "--seeds", "0,1", "--address", cluster.address)
    assert "seed 0: finished before" in again.stdout
    assert again.stdout.count(" sent: ") == 1
    cluster.run(*status, "laptop-digits-ssdkd-0.02-seed1")
    table = cluster.run(*words, "--seeds", "0")
    assert table.stdout.count("finished before") == 1, table.stdout + table.stderr
    [row] = json.loads((out / "laptop/digits/table-scale-0.02.json").read_text())["rows"]
    assert row["seeds"] == [0]


@pytest.mark.slow
def test_a_user_s_mistake_in_the_job_ends_with_2(cluster: Cluster) -> None:
    """Its command reserves something too, which puts it on either node."""
    missing = "teacher.checkpoint=/nowhere/teacher.safetensors"
    done = cluster.submit(missing, "--out", str(cluster.storage / "wrong"), "--entrypoint-num-cpus", "1", "--env", "MARK=1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "raydfkd: " in done.stdout
    assert "/nowhere/teacher.safetensors" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "ended with exit code 2" in done.stderr


@pytest.mark.slow
def test_a_failure_of_the_job_ends_with_1(cluster: Cluster) -> None:
    """The student's code is in the working directory alone."""
    words = ("students.small.model=broken_student:build", "--out", str(cluster.storage / "broken"), "--id", "broken")
    sent = cluster.submit(*words, "--no-wait")
    assert sent.returncode == 0
    assert f"stop it with: ray job stop broken --address {cluster.address}" in sent.stdout
    done = cluster.submit(*words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "this student has a bug" in done.stdout
    assert "SIGSEGV" not in done.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_the_job(cluster: Cluster) -> None:
    """A job that no node has room for: it waits, is left, and goes on waiting."""
    words = (*SHORT, "--out", str(cluster.storage / "left"), "--id", "left", "--entrypoint-resource", "nowhere=1")
    command = [str(BIN / "raydfkd"), "submit", "experiments/smoke/digits_ssdkd.yaml", *words, "--address", cluster.address]
    follower = subprocess.Popen(
        command, cwd=cluster.project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith("job left sent to")
    time.sleep(1)
    follower.send_signal(signal.SIGINT)
    _, told = follower.communicate(timeout=JOB_S)
    assert follower.returncode == 130
    assert "detached; job left continues" in told
    status = cluster.run(str(BIN / "ray"), "job", "status", "left", "--address", cluster.address)
    assert "PENDING" in status.stdout + status.stderr

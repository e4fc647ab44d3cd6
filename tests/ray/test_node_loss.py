"""Nodes of a simulated cluster go and come: the run completes, or its resume does, and nothing that it counts is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_cluster import STORIES

from raydfkd.runtime.ray_session import QUIET
from raydfkd.testing.faulty_networks import GATE
from raydfkd.testing.waiting import wait_until
from raydfkd.testing.witness import FOLDER

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
MARK = "RAYDFKD_TEST_CLUSTER"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For Ray's session: the paths of its sockets may not be long."""
    with tempfile.TemporaryDirectory(prefix="rayn", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize("story", STORIES)
def test_a_run_comes_through(story: str, tmp_path: Path, short_folder: Path) -> None:
    (tmp_path / "witness").mkdir()
    mark = uuid.uuid4().hex
    settings = {
        **QUIET,
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TMPDIR": str(short_folder),
        "RAY_raylet_start_wait_time_s": "120",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        GATE: str(tmp_path / "stop-at"),
        FOLDER: str(tmp_path / "witness"),
        MARK: mark,
    }
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | settings
    script = [sys.executable, str(HERE / "simulated_cluster.py"), story, str(tmp_path)]
    try:
        done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr[-6000:]
        wait_until(lambda: not marked(mark), 300, lambda: f"processes are left: {marked(mark)}")
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Processes that were started with the mark in their environment, other than this one."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found

"""What this process has of its machine: affinity, the quotas of control groups, and the threads that follow from both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raydfkd import resources
from raydfkd.resources import available_cpus, use_threads


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


def machine(root: Path, groups: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_quotas_it_is_the_affinity(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 8
    assert available_cpus(machine(tmp_path, "0::/\n", cpu_max="max 100000\n")) == 8


def test_a_containers_quota_limits_it_and_so_does_that_of_a_group_above(tmp_path: Path) -> None:
    assert available_cpus(machine(tmp_path / "a", "0::/\n", cpu_max="250000 100000\n")) == 3, "2.5 CPUs feed three threads"
    assert available_cpus(machine(tmp_path / "b", "0::/pod/box\n", pod__cpu_max="100000 100000\n")) == 1
    assert available_cpus(machine(tmp_path / "c", "0::/\n", cpu_max="9900000 100000\n")) == 8
    assert available_cpus(machine(tmp_path / "d", "0::/\n", cpu_max="1000 100000\n")) == 1


def test_version_1_has_other_files(tmp_path: Path) -> None:
    files = {"cpu__box__cpu_cfs_quota_us": "200000\n", "cpu__box__cpu_cfs_period_us": "100000\n"}
    assert available_cpus(machine(tmp_path / "a", "4:memory:/x\n1:cpu:/box\n", **files)) == 2
    files["cpu__box__cpu_cfs_quota_us"] = "-1\n"
    assert available_cpus(machine(tmp_path / "b", "1:cpu:/box\n", **files)) == 8


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_are_as_asked_and_otherwise_at_most_the_cpus(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_cpus", lambda: 2)
    torch.set_num_threads(4)
    use_threads(None)
    assert torch.get_num_threads() == 2
    use_threads(3)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    use_threads(None)
    assert torch.get_num_threads() == 1, "of the caller's, or OMP_NUM_THREADS"


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_leave_the_cores_to_other_processes(given: dict[str, str], expected: str) -> None:
    """Two runs on two cores took 35 times as long as one where they spun."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | given
    code = "import raydfkd, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == [expected, "False"]

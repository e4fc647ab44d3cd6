"""The one Ray of the session, and what every test here runs on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from tiny_experiment import save_teacher

from raydfkd.run_dir import write_atomically
from raydfkd.runtime.ray_session import NAMESPACE, PATIENT, QUIET
from raydfkd.testing import witness as witness_module
from raydfkd.testing.faulty_networks import GATE
from raydfkd.testing.waiting import wait_until


@pytest.fixture(scope="session")
def gate_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where gated students look how far they may go. Every process of the session inherits its name."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("gate") / "stop-at"
        patch.setenv(GATE, str(path))
        yield path


@pytest.fixture
def gate(gate_file: Path) -> Iterator[Callable[[float], None]]:
    """Says before which of their steps gated students stop."""

    def stop_at(step: float) -> None:
        write_atomically(gate_file, str(step))

    stop_at(float("inf"))
    yield stop_at
    stop_at(float("inf"))


@pytest.fixture(scope="session")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all processes of runs note what went into buffers and came out of them."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("witness")
        patch.setenv(witness_module.FOLDER, str(path))
        yield path


@pytest.fixture
def witness(notes: Path, ray_instance: None) -> Path:
    """The folder of the notes, without those of earlier tests, for ``Witnessed``."""
    for path in notes.iterdir():
        path.unlink()
    return notes


@pytest.fixture(scope="session")
def ray_instance(gate_file: Path, notes: Path) -> Iterator[None]:
    """Eight CPUs on paper: actors are placed by them, and use as little as their settings say."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, **PATIENT, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # actors of test modules are imported
        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=300 << 20,
            namespace=NAMESPACE,
            runtime_env={"worker_process_setup_hook": "raydfkd.testing.witness.install"},
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights: nothing here is about accuracy."""
    return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Equal thread counts make equal sums, here and in the actors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_actor_left(ray_instance: None) -> Iterator[None]:
    """Whatever a test started is gone soon after it."""
    from tiny_experiment import live_actors

    yield
    wait_until(lambda: not live_actors(), 300, lambda: f"actors are left: {live_actors()}")


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.ray)

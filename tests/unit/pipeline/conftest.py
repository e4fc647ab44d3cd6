"""What this folder's runs need: a teacher, and one thread, because sums repeat only with the same number of threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import train_teacher


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")

"""A student with BatchNorm on two workers that synchronize it learns what it learns on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.distiller import Distiller
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.weight_vector import float_state

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SHAPE, BATCH_SIZE, NUM_STEPS = (3, 16, 16), 8, 5
ALONE: dict[str, Any] = {
    "model": "small_cnn_8",
    "batch_size": BATCH_SIZE,
    "crop_padding": 0,
    "flip": False,
    "optimizer": {"lr": 0.2},
    "objective": {"temperature": 2.0},
}
PAIR = {**ALONE, "num_workers": 2, "resources": {"num_gpus": 1}}


def train(rank: int, world_size: int, settings: dict[str, Any], device: str, folder: str) -> None:
    """Some steps on this worker's part of each batch; leaves ``rank.pt``: the last priorities, and the student's state.

    Through gloo, which lets two workers share a GPU.
    """
    if world_size > 1:
        store = distributed.FileStore(f"{folder}/store", world_size)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(build_classifier("small_cnn_8", 10, SHAPE))
    with torch.no_grad():
        networks[0].fc.weight.mul_(100)  # so that it is sure of something
    teacher = FrozenTeacher(networks[0], 10, SHAPE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    config = StudentConfig.model_validate(settings)
    distiller = Distiller(config, teacher, networks[1], 10, torch.device(device), bf16=False)
    if world_size > 1:
        distiller.wrap_learner(DistributedDataParallel)
    draws = torch.Generator().manual_seed(2)
    for _ in range(NUM_STEPS):
        # Of very different brightness, so that half a batch has other statistics than the whole.
        images = (
            torch.rand(BATCH_SIZE, 1, 1, 1, generator=draws) * torch.rand(BATCH_SIZE, *SHAPE, generator=draws) * 255
        ).byte()
        weights = torch.rand(BATCH_SIZE, generator=draws)
        output = distiller.step(images[rank::world_size].to(device), weights[rank::world_size].to(device))
    state = torch.cat([tensor.detach().flatten() for tensor in float_state(distiller.student)])
    torch.save((output.priorities_B.cpu(), state.cpu()), Path(folder, f"{rank}.pt"))
    if world_size > 1:
        distributed.destroy_process_group()


def trained(folder: Path, world_size: int, settings: dict[str, Any], device: str = "cuda") -> tuple[Tensor, Tensor]:
    """The last priorities of the whole batch [B], and the first worker's parameters and running statistics [P]."""
    folder.mkdir()
    multiprocessing.spawn(train, (world_size, settings, device, str(folder)), nprocs=world_size)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    priorities = torch.empty(BATCH_SIZE)
    for rank, (part, _) in enumerate(found):
        priorities[rank::world_size] = part
    return priorities, found[0][1]


def test_two_workers_learn_what_one_learns(tmp_path: Path) -> None:
    alone, state = trained(tmp_path / "alone", 1, ALONE)
    together, state_together = trained(tmp_path / "together", 2, {**PAIR, "sync_batch_norm": True})
    torch.testing.assert_close(together, alone, rtol=1e-2, atol=5e-3)
    torch.testing.assert_close(state_together, state, rtol=1e-2, atol=5e-3)
    apart, state_apart = trained(tmp_path / "apart", 2, PAIR)
    assert (apart - alone).abs().max() > 0.05
    assert (state_apart - state).abs().max() > 0.02

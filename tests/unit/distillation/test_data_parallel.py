"""Several workers of a student: when gradients are reduced, and BatchNorm over the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_distillation import drawn, make, parameters, student_config
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from raydfkd.distillation.data_parallel import synchronize_batch_norm
from raydfkd.errors import ConfigError
from raydfkd.models import flat_weights

SYNCHRONIZED: dict[str, Any] = {"num_workers": 2, "sync_batch_norm": True, "resources": {"num_gpus": 1}}


@pytest.fixture
def one_worker() -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("parts", [1, 4])
def test_gradients_are_reduced_once_a_step(one_worker: None, parts: int) -> None:
    alone, parallel = make(accumulation_steps=parts), make(accumulation_steps=parts)
    reduced: list[int] = []

    def reduce(bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        reduced.append(bucket.index())
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    def wrap(learner: nn.Module) -> nn.Module:
        wrapped = DistributedDataParallel(learner)
        wrapped.register_comm_hook(None, lambda state, bucket: reduce(bucket))
        return wrapped

    parallel.wrap_learner(wrap)
    for number in range(3):
        alone.step(*drawn(number))
        parallel.step(*drawn(number))
    assert reduced == [0, 0, 0]
    torch.testing.assert_close(parameters(parallel.student), parameters(alone.student))


def test_an_objective_that_differentiates_the_student_within_its_loss_is_reduced_too(one_worker: None) -> None:
    alone, parallel = (make(norm=True, objective={"kind": "msarc"}, optimizer={"lr": 0.01}) for _ in range(2))
    parallel.wrap_learner(DistributedDataParallel)
    before = parameters(alone.student)
    for number in range(2):
        alone.step(*drawn(number))
        parallel.step(*drawn(number))
    assert not torch.equal(parameters(alone.student), before)
    torch.testing.assert_close(parameters(parallel.student), parameters(alone.student))


def test_layers_become_those_that_torch_would_make() -> None:
    found = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3, momentum=0.3)), nn.BatchNorm1d(3).eval())
    reference = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(found))
    synchronize_batch_norm(found)
    for mine, theirs in zip(found.modules(), reference.modules(), strict=True):
        assert type(mine) is type(theirs)
        assert vars(mine).keys() == vars(theirs).keys()
    assert [type(layer) for layer in found.modules()].count(nn.SyncBatchNorm) == 2
    assert (found[1][0].momentum, found[2].training) == (0.3, False)


def test_hooks_and_weights_stay() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Identity())
    before, names, seen = flat_weights(network), list(network.state_dict()), []
    network[0].register_forward_hook(lambda layer, taken, given: seen.append(given.shape))
    synchronize_batch_norm(network)
    network(torch.rand(2, 3, 4, 4))
    assert seen == [(2, 3, 4, 4)]
    assert list(network.state_dict()) == names
    assert (flat_weights(network)[:6] == before[:6]).all()


def test_a_layer_that_does_more_than_normalise_is_refused() -> None:
    class NormAndAct(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match=r"the layer 'stem\.bn' is a NormAndAct: leave sync_batch_norm out, or choose"):
        synchronize_batch_norm(nn.ModuleDict({"stem": nn.ModuleDict({"bn": NormAndAct(3)})}))


def test_student_and_objective_are_synchronized() -> None:
    objective = {"kind": "semckd"}
    plain, found = make(norm=True, objective=objective), make(norm=True, objective=objective, **SYNCHRONIZED)

    def count(network: nn.Module, layer: type[nn.Module]) -> int:
        return sum(type(each) is layer for each in network.modules())

    for before, after in ((plain.student, found.student), (plain.objective.trained, found.objective.trained)):
        expected = count(before, nn.BatchNorm2d)
        assert expected > 0
        assert count(before, nn.SyncBatchNorm) == 0
        assert count(after, nn.SyncBatchNorm) == expected


def test_where_there_is_no_other_worker_nothing_changes() -> None:
    plain, found = make(norm=True, num_workers=2), make(norm=True, **SYNCHRONIZED)
    for number in range(2):
        plain.step(*drawn(number))
        found.step(*drawn(number))
    assert torch.equal(parameters(found.student), parameters(plain.student))
    assert torch.equal(parameters(found.student_ema), parameters(plain.student_ema))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SYNCHRONIZED, "num_workers": 1}, "num_workers 1 does not use sync_batch_norm: leave it out"),
        ({**SYNCHRONIZED, "resources": {}}, "sync_batch_norm needs workers with GPUs.*set resources.num_gpus to 1"),
    ],
)
def test_where_it_cannot_be_synchronized_it_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        student_config(**settings)

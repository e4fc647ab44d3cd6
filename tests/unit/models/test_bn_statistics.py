"""BatchNormStatistics against torch.var_mean, and what it does when not capturing."""

import copy

import pytest
import torch
from torch import nn

from raydfkd.errors import TeacherError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.batch_moments import batch_moments
from raydfkd.models.teachers.bn_statistics import BatchNormStatistics


def reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    variance, mean = torch.var_mean(x.float(), dim=[0, *range(2, x.ndim)], correction=0)
    return mean, variance


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 5, 7), (9, 5), (1, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_equal_var_mean(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 2).to(dtype)
    layouts = [x, x.contiguous(memory_format=torch.channels_last)] if x.ndim == 4 else [x]
    for laid_out in layouts:
        mean, variance = batch_moments(laid_out)
        assert mean.dtype == variance.dtype == torch.float32
        torch.testing.assert_close(mean, reference(x)[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, reference(x)[1], rtol=1e-4, atol=1e-5)


def test_gradient_is_exact() -> None:
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(batch_moments, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_equals_var_mean_in_channels_last(dtype: torch.dtype) -> None:
    source = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(2)) + 1
    grads = []
    for moments in (batch_moments, reference):
        x = source.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        mean, variance = moments(x)
        (mean.square().sum() + (variance - 2).norm()).backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
        grads.append(x.grad.float())
    # In bfloat16 the gradient is one multiply-add a*x + b whose two terms nearly cancel: 1% of the largest entry.
    rtol, atol = (1e-2, 1e-2 * float(grads[1].abs().max())) if dtype == torch.bfloat16 else (1e-4, 1e-5)
    torch.testing.assert_close(*grads, rtol=rtol, atol=atol)


def test_lists_align_with_the_layers_of_wrn_16_2() -> None:
    model = build_classifier("wrn_16_2", 10, (3, 8, 8)).eval()
    statistics = BatchNormStatistics(model)
    inputs: dict[str, torch.Tensor] = {}
    for name in statistics.names:
        model.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: inputs.update({name: args[0].clone()}))
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    with statistics.capture():
        model(images)
    assert (len(statistics.batch), sum(statistics.widths)) == (13, 912)
    for name, (mean, variance), (running_mean, _), width in zip(
        statistics.names, statistics.batch, statistics.running, statistics.widths, strict=True
    ):
        assert mean.shape == variance.shape == running_mean.shape == (width,)
        assert not running_mean.requires_grad
        torch.testing.assert_close(mean, reference(inputs[name])[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, reference(inputs[name])[1], rtol=1e-4, atol=1e-5)
    sum(mean.sum() + variance.sum() for mean, variance in statistics.batch).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_statistics_under_bfloat16_autocast_are_float32() -> None:
    model = build_classifier("small_cnn_4", 3, (1, 8, 8)).eval()
    statistics = BatchNormStatistics(model)
    with statistics.capture(), torch.autocast("cpu", torch.bfloat16):
        model(torch.rand(4, 1, 8, 8))
    assert all(m.dtype == v.dtype == torch.float32 for m, v in statistics.batch)


def test_nothing_is_read_outside_capture_even_after_an_error() -> None:
    model = build_classifier("small_cnn_4", 3, (1, 8, 8)).eval()
    statistics = BatchNormStatistics(model)
    with statistics.capture():
        model(torch.rand(2, 1, 8, 8))
    kept = statistics.batch
    model(torch.rand(2, 1, 8, 8))
    assert all(one is other for one, other in zip(statistics.batch[0], kept[0], strict=True))
    with pytest.raises(RuntimeError), statistics.capture():
        model(torch.rand(2, 5, 8, 8))
    model(torch.rand(2, 1, 8, 8))
    with pytest.raises(TeacherError, match="3 BatchNorm layers were not reached"):
        _ = statistics.batch


def test_the_hooks_are_registered_once_and_a_copy_of_the_network_has_its_own() -> None:
    model = build_classifier("small_cnn_4", 3, (1, 8, 8)).eval()
    statistics = BatchNormStatistics(model)
    for _ in range(3):
        with statistics.capture():
            model(torch.rand(2, 1, 8, 8))
            copy.deepcopy(model)(torch.rand(2, 1, 8, 8) + 5)
    assert sum(len(layer._forward_pre_hooks) for layer in model.modules()) == 3
    assert statistics.batch[0][0].abs().max() < 3
    statistics.remove()
    assert sum(len(layer._forward_pre_hooks) for layer in model.modules()) == 0


def test_capture_replaces_and_remove_forgets() -> None:
    model = build_classifier("small_cnn_4", 3, (1, 8, 8)).eval()
    statistics = BatchNormStatistics(model)
    seen = []
    for scale in (0.1, 1.0):
        with statistics.capture() as same:
            model(torch.full((2, 1, 8, 8), scale))
        seen.append(same.batch[0][0])
    assert not torch.equal(*seen)
    statistics.remove()
    with pytest.raises(TeacherError):
        _ = statistics.batch


def test_a_model_without_batch_norm_is_refused() -> None:
    with pytest.raises(TeacherError, match="no BatchNorm"):
        BatchNormStatistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))

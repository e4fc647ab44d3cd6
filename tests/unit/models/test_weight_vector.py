"""The flat weight vector: same network after a round trip, whatever the layout, and errors for other networks."""

import numpy as np
import pytest
import torch

import raydfkd.models
from raydfkd.models import flat_weights, load_flat_weights
from raydfkd.models.catalog import build_classifier


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = build_classifier("wrn_10_1", 3, (1, 8, 8))
    model(torch.rand(4, 1, 8, 8))  # moves the running statistics
    return model


def test_round_trip_includes_running_statistics_and_ignores_layout() -> None:
    source, target = network(1).to(memory_format=torch.channels_last), network(2)
    vector = flat_weights(source)
    assert vector.dtype == np.float32
    num_params = sum(p.numel() for p in source.parameters())
    assert vector.shape == (num_params + 2 * 240,)  # 240 channels in WRN-10-1's BatchNorm layers
    vector.setflags(write=False)  # as it comes from an object store
    load_flat_weights(target, vector)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(target.eval()(images), source.eval()(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(flat_weights(target), vector)


def test_vector_is_a_copy_both_ways() -> None:
    model = network(1)
    vector = flat_weights(model)
    before = vector.copy()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    np.testing.assert_array_equal(vector, before)
    load_flat_weights(model, vector)
    vector[:] = 0
    np.testing.assert_array_equal(flat_weights(model), before)


def test_loading_keeps_the_parameter_objects_an_optimizer_holds() -> None:
    model = network(1)
    before = list(model.parameters())
    load_flat_weights(model, flat_weights(network(2)))
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: np.append(v, 0), lambda v: v.reshape(1, -1)])
def test_wrong_length(change) -> None:  # type: ignore[no-untyped-def]
    model = network(1)
    with pytest.raises(ValueError, match="weight vector has shape"):
        load_flat_weights(model, change(flat_weights(model)))


def test_a_module_without_state_has_an_empty_vector() -> None:
    assert flat_weights(torch.nn.ReLU()).shape == (0,)
    load_flat_weights(torch.nn.ReLU(), np.zeros(0, dtype=np.float32))


def test_package_has_no_other_lazy_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'flat_weight'"):
        _ = raydfkd.models.flat_weight

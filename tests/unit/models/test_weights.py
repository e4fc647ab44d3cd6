"""Weights files: what loads, and every way in which one can be wrong."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from raydfkd.errors import CheckpointError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import load_weights, read_metadata, save_weights


class Malicious:
    """Its pickle creates a file when it is loaded without restriction."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.marker), "w")


def network(seed: int = 0, name: str = "small_cnn_4", num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_classifier(name, num_classes, (1, 8, 8))


def same_state(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_safetensors_round_trip_with_metadata_and_channels_last(tmp_path: Path) -> None:
    source = network(1).to(memory_format=torch.channels_last)
    save_weights(source, tmp_path / "w.safetensors", {"accuracy": "0.9"})
    target = network(2)
    load_weights(target, tmp_path / "w.safetensors")
    assert same_state(source, target)
    assert read_metadata(tmp_path / "w.safetensors") == {"accuracy": "0.9"}
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(network(1), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="str"):
        save_weights(network(2), path, {"accuracy": 0.9})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
    ],
    ids=["plain", "state_dict", "module-prefix", "without-counters"],
)
def test_torch_files(tmp_path: Path, suffix: str, wrap: Callable[[dict], dict]) -> None:
    source, target = network(1), network(2)
    torch.save(wrap(source.state_dict()), tmp_path / f"w{suffix}")
    load_weights(target, tmp_path / f"w{suffix}")
    assert same_state(source, target)


def test_missing_file(tmp_path: Path) -> None:
    for read in (lambda path: load_weights(network(), path), read_metadata):
        with pytest.raises(CheckpointError, match="there is no weights file"):
            read(tmp_path / "none.safetensors")


@pytest.mark.parametrize("protocol", [None, 0, 2, 4], ids=["torch zip", "bare pickle 0", "bare pickle 2", "bare pickle 4"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(tmp_path: Path, protocol: int | None) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    if protocol is None:
        torch.save({"state_dict": Malicious(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(marker), protocol))
    with pytest.raises(CheckpointError, match="could run code; it was rejected and nothing in it was run"):
        load_weights(network(), path)
    assert not marker.exists()
    # The file is a real attack: an unrestricted load runs it.
    torch.load(path, weights_only=False) if protocol is None else pickle.loads(path.read_bytes())
    assert marker.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"Save model\.state_dict\(\)"):
        load_weights(network(), tmp_path / "model.pt")


def test_another_architecture_says_how_and_changes_nothing(tmp_path: Path) -> None:
    save_weights(network(0, "wrn_10_1"), tmp_path / "w.safetensors")
    target = network(1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(target, tmp_path / "w.safetensors")
    assert "does not match the architecture of this SmallCNN" in str(caught.value)
    assert "15 missing, first 'features.0.weight'" in str(caught.value)
    assert "unexpected, first 'block1.layer.0.bn1.bias'" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_a_larger_network_of_the_same_family_is_not_loaded_in_part(tmp_path: Path) -> None:
    save_weights(network(0, "wrn_16_1"), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"WideResNet: \d+ unexpected, first 'block1.layer.1.bn1.bias'$"):
        load_weights(network(1, "wrn_10_1"), tmp_path / "w.safetensors")


def test_another_number_of_classes_shows_both_shapes(tmp_path: Path) -> None:
    save_weights(network(0, num_classes=5), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"2 of another shape, first 'fc.weight' \(file \[5, 8\], model \[3, 8\]\)"):
        load_weights(network(), tmp_path / "w.safetensors")


def test_a_head_of_another_number_of_classes_stays_as_it_is_and_the_rest_is_loaded(tmp_path: Path) -> None:
    source, target = network(0, num_classes=5), network(1)
    save_weights(source, tmp_path / "w.safetensors")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert load_weights(target, tmp_path / "w.safetensors", head="fc") == ["fc.weight", "fc.bias"]
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("fc.") else source.state_dict()[name])


def test_a_head_of_as_many_classes_is_loaded(tmp_path: Path) -> None:
    source, target = network(0), network(1)
    save_weights(source, tmp_path / "w.safetensors")
    assert load_weights(target, tmp_path / "w.safetensors", head="fc") == []
    assert same_state(source, target)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: {**s, "fc.weight": torch.zeros(5, 9)},
            r"1 of another shape, first 'fc.weight' \(file \[5, 9\], model \[3, 8\]\)",
        ),
        (lambda s: {**s, "fc.bias": torch.tensor(0.0)}, r"1 of another shape, first 'fc.bias'"),
        (lambda s: {n: t for n, t in s.items() if n != "fc.bias"}, r"1 missing, first 'fc.bias'"),
        (lambda s: {**s, "fc.scale": torch.zeros(5)}, r"1 unexpected, first 'fc.scale'"),
        (lambda s: {**s, "features.0.weight": torch.zeros(2, 1, 3, 3)}, r"1 of another shape, first 'features.0.weight'"),
    ],
    ids=["features", "scalar", "missing", "unexpected", "body"],
)
def test_a_head_may_differ_in_the_number_of_classes_alone(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], told: str
) -> None:
    torch.save(change(network(0, num_classes=5).state_dict()), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=told):
        load_weights(network(), tmp_path / "w.pt", head="fc")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("keep", [0, 4, 300, -10])
def test_truncated_file(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / name
    save_weights(network(), path) if name.endswith("safetensors") else torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="copy it again"):
        load_weights(network(), path)
    if name.endswith("safetensors"):
        with pytest.raises(CheckpointError, match="copy it again"):
            read_metadata(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"model": {"a": 1}}])
def test_a_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="does not hold a state_dict"):
        load_weights(network(), tmp_path / "w.pt")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    for content in (b"<html>not found</html>", b"PK\x03\x04 and then nothing", bytes(1000)):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"w\.pt"):
            load_weights(network(), tmp_path / "w.pt")


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"suffix '\.h5'; allowed are \.safetensors"):
        load_weights(network(), tmp_path / "w.h5")


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


OPTIMIZER = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1, momentum=0.9)
OPTIMIZER.param_groups[0]["params"][0].sum().backward()
OPTIMIZER.step()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"net": prefixed("module.", state), "acc": 95.5, "epoch": 199},
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"state_dict": prefixed("model.", state), "pytorch-lightning_version": "2.4"},
        lambda state: {"state_dict": prefixed("model.", state) | {"criterion.weight": torch.ones(3)}},
        lambda state: prefixed("_orig_mod.", state),
        lambda state: prefixed("module._orig_mod.", state),
        lambda state: {name.replace("features.", "features._orig_mod."): tensor for name, tensor in state.items()},
        lambda state: {"model": prefixed("module.student.", state)},
        lambda state: {"ema": state, "step": torch.tensor(3)},
        lambda state: {"whatever": {"inner": state}},
        lambda state: {"model": state, "ema": prefixed("module.", {n: t + 1 for n, t in state.items()})},
        lambda state: prefixed("module.", state) | {"n_averaged": torch.tensor(9)},
        lambda state: {"state_dict": prefixed("module.", state), "best_acc1": np.float64(93.1), "curve": np.arange(3)},
        lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
        lambda state: {"state_dict": state, "optimizer": OPTIMIZER.state_dict()},
        lambda state: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
    ],
)
def test_weights_as_training_programs_store_them(tmp_path: Path, wrap: Callable[[dict], dict]) -> None:
    source, target = network(1), network(2)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    for name, tensor in target.state_dict().items():
        torch.testing.assert_close(tensor, source.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_the_usual_suffixes(tmp_path: Path) -> None:
    source, target = network(1), network(2)
    torch.save({"state_dict": prefixed("module.", source.state_dict())}, tmp_path / "resnet.th")
    load_weights(target, tmp_path / "resnet.th")
    assert same_state(source, target)


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda state: {"ema": state, "swa": state}, "holds several states that fit ('ema', 'swa'): save the one to use"),
        (
            lambda state: {"state_dict": prefixed("student.", state) | prefixed("teacher.", state)},
            "holds several states that fit ('state_dict.student', 'state_dict.teacher')",
        ),
        (
            lambda state: {"net": {"a": torch.ones(1)}, "head": {"b": torch.ones(1)}},
            "holds no state that fits this SmallCNN; it holds 'net' (1 tensors, first 'a'), 'head' (1 tensors, first 'b')",
        ),
        (lambda state: {"epoch": 3, "lr": 0.1}, "does not hold a state_dict (names to tensors), alone or under a key, its keys "
         "are 'epoch', 'lr'"),
    ],
)  # fmt: skip
def test_what_a_file_holds_is_told_where_nothing_can_be_chosen(tmp_path: Path, wrap: Callable[[dict], dict], told: str) -> None:
    torch.save(wrap(network().state_dict()), tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as raised:
        load_weights(network(), tmp_path / "w.pth")
    assert told in str(raised.value)


@pytest.mark.filterwarnings("ignore::FutureWarning:torch.jit", "ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_program_is_named_so(tmp_path: Path) -> None:
    torch.jit.trace(network().eval(), torch.zeros(2, 1, 8, 8)).save(str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match=r"is a TorchScript program .*: save its state_dict\(\), or export"):
        load_weights(network(), tmp_path / "w.pt")

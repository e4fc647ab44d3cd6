"""Pruning by L1 norm: which filters stay, what goes with the others, and which networks can be pruned at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydfkd.errors import CheckpointError, ConfigError, TeacherError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers.pruning import (
    draw_anew,
    find_chain,
    rebuild_pruned,
    shrink,
    strongest_filters,
    widths_of,
)

SHAPE = (3, 8, 8)
CLASSES = 5


def trained_like(network: nn.Module) -> nn.Module:
    """With BatchNorm entries and biases that differ, as after training."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for entry in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert entry is not None
                nn.init.uniform_(entry, 0.5, 1.5)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias)
    return network.eval()


class Flattened(nn.Module):
    """No BatchNorm, activations in place, and a head that takes every position."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2)
        self.hidden, self.out = nn.Linear(8 * 9, 7), nn.Linear(7, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.second(self.first(images).relu_()).relu_()
        return self.out(self.hidden(torch.flatten(x, 1)).relu())


class Branched(nn.Module):
    """All convolutions fit behind one another, but the output of the first is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        return self.fc((x + self.second(x).relu()).mean((2, 3)))


class Sequence(nn.Sequential):
    pass


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return trained_like(Flattened(CLASSES) if name == "flattened" else build_classifier(name, CLASSES, SHAPE))


def pruned(full: nn.Module, ratio: float, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    chain = find_chain(full, SHAPE)
    kept = strongest_filters(full, chain, ratio, **options)
    return shrink(copy.deepcopy(full), chain, kept).eval(), kept


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_filters_of_largest_l1_norm_stay_with_all_that_belongs_to_them(ratio: float) -> None:
    full = network("vgg8_bn")
    small, kept = pruned(full, ratio)
    inputs = torch.arange(3)
    for block in range(5):
        conv, norm = full.get_submodule(f"block{block}.0"), full.get_submodule(f"block{block}.1")
        after, norm_after = small.get_submodule(f"block{block}.0"), small.get_submodule(f"block{block}.1")
        assert isinstance(conv, nn.Conv2d)
        rows = kept[f"block{block}.0"]
        sums = conv.weight.abs().sum((1, 2, 3))
        assert len(rows) == round((1 - ratio) * len(sums))
        lost = torch.ones(len(sums), dtype=torch.bool).index_fill_(0, rows, False)
        assert sums[rows].min() >= sums[lost].max()
        assert torch.equal(after.weight, conv.weight[rows][:, inputs])
        assert torch.equal(after.bias, conv.bias[rows])
        for entry in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(getattr(norm_after, entry), getattr(norm, entry)[rows])
        inputs = rows
    assert torch.equal(small.get_submodule("classifier").weight, full.get_submodule("classifier").weight[:, inputs])
    assert all(parameter.requires_grad for parameter in small.parameters())


@pytest.mark.parametrize("name", ["vgg8_bn", "small_cnn_8", "flattened"])
def test_an_unpruned_network_computes_the_same_function(name: str) -> None:
    full = network(name)
    small, _ = pruned(full, 0.0)
    images = torch.randn(4, *SHAPE)
    assert torch.equal(small(images), full(images))
    assert small.state_dict().keys() == full.state_dict().keys()


@pytest.mark.parametrize("name", ["vgg8_bn", "small_cnn_8", "flattened"])
def test_a_pruned_network_is_the_full_one_whose_lost_filters_nothing_reads(name: str) -> None:
    full = network(name)
    small, kept = pruned(full, 0.5)
    chain = find_chain(full, SHAPE)
    for layer, rows in kept.items():
        behind = full.get_submodule([*chain.convolutions[1:], chain.head][chain.convolutions.index(layer)])
        lost = torch.ones(full.get_submodule(layer).out_channels, dtype=torch.bool).index_fill_(0, rows, False)
        with torch.no_grad():
            behind.weight.unflatten(1, (len(lost), -1))[:, lost] = 0
    images = torch.randn(4, *SHAPE)
    torch.testing.assert_close(small(images), full(images), rtol=1e-4, atol=1e-5)


def test_layers_chooses_which_convolutions_lose_filters() -> None:
    full = network("vgg8_bn")
    _, kept = pruned(full, 0.5, layers=["block3", "block4.0"])
    assert [len(rows) for rows in kept.values()] == [64, 128, 256, 256, 256]
    with pytest.raises(ConfigError, match=r"pruned\.layers names 'block5', and no convolution is there: they are block0\.0, "):
        pruned(full, 0.5, layers=["block5"])


def test_one_filter_stays_at_least() -> None:
    _, kept = pruned(network("small_cnn_8"), 0.999)
    assert {len(rows) for rows in kept.values()} == {1}


def test_drawn_weights_are_as_spread_as_those_of_a_network_of_that_width() -> None:
    full = network("vgg8_bn")
    small, _ = pruned(full, 0.5)
    torch.manual_seed(3)
    draw_anew(small)
    for name, layer in small.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert float(layer.weight.detach().std()) == pytest.approx((2 / (9 * layer.out_channels)) ** 0.5, rel=0.1), name
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.running_var, torch.ones(layer.num_features)), name


def test_a_description_rebuilds_the_form() -> None:
    full = network("vgg8_bn")
    small, kept = pruned(full, 0.75)
    rebuilt = rebuild_pruned(build_classifier("vgg8_bn", CLASSES, SHAPE), widths_of(kept), SHAPE)
    rebuilt.load_state_dict(small.state_dict())
    images = torch.randn(2, *SHAPE)
    assert torch.equal(rebuilt.eval()(images), small(images))
    for damaged in ("{", "{}", '{"block0.0": 900}'):
        with pytest.raises(CheckpointError, match="give a file that raydfkd wrote"):
            rebuild_pruned(build_classifier("vgg8_bn", CLASSES, SHAPE), damaged, SHAPE)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ("wrn_10_1", "does not take all that the one before gives"),
        ("mobilenet_v2", "does not take all that the one before gives"),
        (Branched(), "the outputs of its filters are used in more than one place"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)), "no Conv2d layers can be found in it"),
        (Sequence(nn.Conv2d(3, CLASSES, 8), nn.Flatten()), "no linear layer takes the output of its last convolution"),
        (Sequence(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8), nn.Flatten(), nn.Linear(288, CLASSES)), "do not fit together"),
    ],
)
def test_a_network_that_cannot_be_pruned_is_refused(refused: str | nn.Module, reason: str) -> None:
    with pytest.raises(TeacherError, match=f"cannot be pruned, because .*{reason}.*: choose a teacher whose convolutions"):
        find_chain(build_classifier(refused, CLASSES, SHAPE) if isinstance(refused, str) else refused, SHAPE)

"""Filters pruned by their L1 norm (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017).

A network can be pruned if its convolutions follow one another without branches and a linear layer follows the last: then a
filter's output goes into one layer only, and a filter that goes takes with it its BatchNorm entries and its input channel of
the next layer. That this holds is tried on the network itself, whatever its class.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydfkd.errors import CheckpointError, ConfigError, TeacherError
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.classifiers.initialization import initialize_fan_out
from raydfkd.models.features import probe_images
from raydfkd.models.precision import evaluating

Kept = dict[str, Tensor]
"""By a convolution's dotted name: int64 [c], the filters that stay, in ascending order."""

TOLERANCE = 1e-3
"""Of the pruned network's logits, relative to the largest."""


@dataclass(frozen=True)
class ConvChain:
    """A network's convolutions in the order of their use.

    Attributes:
        convolutions: dotted names.
        norms: by convolution, the BatchNorm layers between it and the next.
        head: name of the linear layer that takes the last one's output.
    """

    convolutions: tuple[str, ...]
    norms: dict[str, tuple[str, ...]]
    head: str


def find_chain(network: nn.Module, image_shape: ImageShape) -> ConvChain:
    """The network's convolutions; it is tried on two images of noise.

    Raises:
        TeacherError: it cannot be pruned.
    """
    chain = _chain(network, image_shape)
    random = torch.Generator().manual_seed(0)
    half = {name: _some_half(_conv(network, name).out_channels, random) for name in chain.convolutions}
    images = probe_images(network, image_shape)
    pruned = shrink(copy.deepcopy(network), chain, half)
    try:
        with torch.no_grad(), evaluating(network), evaluating(pruned):
            found, expected = pruned(images), _masked(network, chain, half, images)
    except RuntimeError as error:
        raise _refusal(network, "its layers do not fit together with fewer filters") from error
    if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE * max(1e-6, float(expected.abs().max()))):
        raise _refusal(network, "the outputs of its filters are used in more than one place")
    return chain


def strongest_filters(network: nn.Module, chain: ConvChain, ratio: float, layers: Sequence[str] | None = None) -> Kept:
    """What stays when the share ``ratio`` of filters with the smallest sum of absolute weights goes from each convolution.

    Biases do not count. At least one filter stays; of equal ones the first.

    Args:
        ratio: in [0,1).
        layers: dotted names of convolutions, or of parts of the network, that lose filters; None: all do.

    Raises:
        ConfigError: there is no convolution of such a name.
    """
    for layer in () if layers is None else layers:
        if not any(_is_below(name, layer) for name in chain.convolutions):
            named = ", ".join(chain.convolutions)
            raise ConfigError(f"pruned.layers names {layer!r}, and no convolution is there: they are {named}")
    kept = {}
    for name in chain.convolutions:
        norms = _conv(network, name).weight.detach().double().abs().sum((1, 2, 3))
        loses = layers is None or any(_is_below(name, layer) for layer in layers)
        number = max(1, len(norms) - round(ratio * len(norms))) if loses else len(norms)
        kept[name] = torch.sort(norms, descending=True, stable=True).indices[:number].sort().values.cpu()
    return kept


def shrink(network: nn.Module, chain: ConvChain, kept: Kept) -> nn.Module:
    """Removes all other filters, in place, and what belongs to them in the layers behind; returns the network."""
    inputs: Tensor | None = None
    for name in chain.convolutions:
        conv, rows = _conv(network, name), kept[name].to(_conv(network, name).weight.device)
        _take(conv, "weight", rows)
        _take(conv, "bias", rows)
        if inputs is not None:
            _take(conv, "weight", inputs, axis=1)
            conv.in_channels = len(inputs)
        width, conv.out_channels = conv.out_channels, len(rows)
        for norm in chain.norms[name]:
            layer: Any = network.get_submodule(norm)
            for entry in ("weight", "bias", "running_mean", "running_var"):
                _take(layer, entry, rows)
            layer.num_features = len(rows)
        inputs = rows
    head = network.get_submodule(chain.head)
    assert isinstance(head, nn.Linear), "a chain ends with it"
    assert inputs is not None, "a chain has convolutions"
    positions = head.in_features // width
    columns = (inputs[:, None] * positions + torch.arange(positions, device=inputs.device)).flatten()
    _take(head, "weight", columns, axis=1)
    head.in_features = len(columns)
    return network


def draw_anew(network: nn.Module) -> nn.Module:
    """Weights from torch's global generator as VGG draws them (Simonyan and Zisserman 2015; He et al. 2015), in place.

    The network's class would draw them for its full width.
    """
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    initialize_fan_out(network, linear_std=0.01)
    return network


def widths_of(kept: Kept) -> str:
    """The number of filters of each convolution, as JSON for a weights file's header."""
    return json.dumps({name: len(rows) for name, rows in kept.items()})


def rebuild_pruned(network: nn.Module, widths: str, image_shape: ImageShape) -> nn.Module:
    """A network of full width shrunk to ``widths``, to load a file's weights into: no teacher is needed for that.

    Raises:
        CheckpointError: ``widths`` is damaged, or of a different network.
    """
    try:
        numbers = json.loads(widths)
        chain = find_chain(network, image_shape)
        return shrink(network, chain, {name: torch.arange(int(numbers[name])) for name in chain.convolutions})
    except (ValueError, KeyError, TypeError, IndexError, TeacherError) as error:
        raise CheckpointError(
            f"the weights' description of their pruned filters does not fit ({error}): give a file that raydfkd wrote"
        ) from error


def _chain(network: nn.Module, image_shape: ImageShape) -> ConvChain:
    """The convolutions as they are called, of which each must take what the one before gives."""
    used = _order_of_use(network, image_shape)
    first_linear = next((i for i, name in enumerate(used) if isinstance(network.get_submodule(name), nn.Linear)), len(used))
    names = [name for name in used if isinstance(network.get_submodule(name), nn.Conv2d)]
    if not names:
        raise _refusal(network, "no Conv2d layers can be found in it")
    norms: dict[str, tuple[str, ...]] = {}
    width = image_shape[0]
    for name in used[:first_linear]:
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            if layer.in_channels != width or layer.groups != 1:
                raise _refusal(network, f"its convolution {name!r} does not take all that the one before gives")
            width, norms[name] = layer.out_channels, ()
        elif not norms or layer.num_features != width:
            raise _refusal(network, f"its BatchNorm {name!r} does not follow a convolution")
        else:
            last = next(reversed(norms))
            norms[last] = (*norms[last], name)
    if list(norms) != names or len(set(used)) < len(used):
        raise _refusal(network, "its convolutions do not follow one another, each used once")
    head = network.get_submodule(used[first_linear]) if first_linear < len(used) else None
    if not isinstance(head, nn.Linear) or head.in_features % width:
        raise _refusal(network, "no linear layer takes the output of its last convolution")
    return ConvChain(tuple(names), norms, used[first_linear])


def _order_of_use(network: nn.Module, image_shape: ImageShape) -> list[str]:
    """Names of convolutions, BatchNorm and linear layers in the order in which a forward pass calls them."""
    used: list[str] = []
    handles = [
        layer.register_forward_hook(lambda *_, name=name: used.append(name))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    try:
        with torch.no_grad(), evaluating(network):
            network(probe_images(network, image_shape))
    finally:
        for handle in handles:
            handle.remove()
    return used


def _some_half(number: int, random: torch.Generator) -> Tensor:
    """Different filters of each layer, so that adding two layers' outputs shows."""
    return torch.randperm(number, generator=random)[: (number + 1) // 2].sort().values


def _masked(network: nn.Module, chain: ConvChain, kept: Kept, images: Tensor) -> Tensor:
    """The network's output if each layer saw zeros in place of the filters that go: what a pruned network must give."""

    def masking(rows: Tensor, width: int) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
        mask = torch.zeros(width).index_fill_(0, rows, 1.0)

        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            by_filter = inputs[0].unflatten(1, (width, -1))
            return (by_filter * mask.to(by_filter).view(1, -1, *[1] * (by_filter.ndim - 2))).flatten(1, 2)

        return hook

    behind = [*chain.convolutions[1:], chain.head]
    handles = [
        network.get_submodule(after).register_forward_pre_hook(masking(kept[name], _conv(network, name).out_channels))
        for name, after in zip(chain.convolutions, behind, strict=True)
    ]
    try:
        output: Tensor = network(images)
        return output
    finally:
        for handle in handles:
            handle.remove()


def _take(layer: nn.Module, entry: str, rows: Tensor, axis: int = 0) -> None:
    """Keeps ``rows`` of a layer's parameter or buffer, if it has it; a parameter is trained afterwards."""
    values = getattr(layer, entry)
    if values is None:
        return
    taken = values.detach().index_select(axis, rows)
    setattr(layer, entry, nn.Parameter(taken) if isinstance(values, nn.Parameter) else taken)


def _conv(network: nn.Module, name: str) -> nn.Conv2d:
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return layer


def _is_below(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _refusal(network: nn.Module, reason: str) -> TeacherError:
    return TeacherError(
        f"this {type(network).__name__} cannot be pruned, because {reason}: choose a teacher whose convolutions follow one "
        "another without branches, such as vgg11_bn, or name the student's model instead of pruned"
    )

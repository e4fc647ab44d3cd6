"""What feature-based distillation reads from a classifier in one forward pass: stage maps, pooled feature, head.

Networks of the catalog, and any other with ``forward_maps`` and ``pool_and_classify``, provide their maps. For others
they are captured with forward hooks on named layers, which :func:`stage_layers` finds where possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from raydfkd.errors import RaydfkdError, first_line
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.layer_capture import Role, capture, error_of, executed_layers
from raydfkd.models.network_output import Feature, FeatureShapes, MapClassifier, NetworkOutput, join_outputs
from raydfkd.models.precision import evaluating

__all__ = [
    "Feature",
    "FeatureReader",
    "FeatureShapes",
    "MapClassifier",
    "NetworkOutput",
    "capture",
    "find_head",
    "join_outputs",
    "require_linear_head",
    "stage_layers",
]

PROBE_BATCH_SIZE = 2
"""Number of images with which a network is probed."""


class FeatureReader(nn.Module):
    """A classifier whose forward pass, of normalised images [B,C,H,W], gives a :class:`NetworkOutput`.

    Makes no copy: its parameters are the network's. Compile or wrap it as a whole. Hooks, if needed, are registered on
    the network once, here, and record nothing outside a pass of this reader.

    Args:
        needs: what to read besides the logits.
        layers: dotted names of the layers whose outputs are the maps, in order; None: those that the network provides, or
            that ``stage_layers`` finds.
        head: dotted name of the linear layer that takes the embedding; None: the last one with ``num_classes`` outputs.
        role: what messages call the network.
        frozen: train() and eval() do not affect the network.

    Raises:
        TeacherError, ConfigError (of a student): there are no such layers.
    """

    def __init__(
        self,
        network: nn.Module,
        needs: frozenset[Feature],
        num_classes: int,
        image_shape: ImageShape,
        *,
        layers: Sequence[str] | None = None,
        head: str | None = None,
        role: Role = "student",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.needs = needs
        self.image_shape = image_shape
        self.frozen = frozen
        self._head = probed_head(network, head, num_classes, image_shape, role)
        if needs & {"embedding", "head"}:
            require_linear_head(network, self._head, role)
        self._gives_maps = layers is None and isinstance(network, MapClassifier)
        names: tuple[str, ...] = ()
        if "maps" in needs and not self._gives_maps:
            names = tuple(layers) if layers is not None else stage_layers(network, image_shape, self._head, role)
        self.layers = names
        """Names of the hooked layers whose outputs are the maps."""
        self._role = role
        hooked_head = [self._head] if "embedding" in needs and self._head is not None else []
        self._capture = None if self._gives_maps or not needs else capture(network, names, inputs_of=hooked_head, role=role)
        if "maps" in needs and layers is not None:
            self._require_maps()

    def forward(self, images: Tensor) -> NetworkOutput:
        return self._with_gradients(images) if "gradients" in self.needs else self._read(images)

    def _with_gradients(self, images: Tensor) -> NetworkOutput:
        """Also where the caller has switched gradients off, as around a teacher.

        Raises:
            TeacherError, ConfigError (of a student): an operation of the network has no derivative.
        """
        with torch.enable_grad():
            output = self._read(images.detach().requires_grad_())
            try:
                gradients = torch.autograd.grad(output.logits.max(1).values.sum(), output.maps)
            except RuntimeError as error:
                raise error_of(self._role)(
                    f"the {self._role}'s logits have no gradient with respect to its stage maps ({first_line(error)}): choose "
                    "an objective that does not need it"
                ) from error
        return replace(output.detached(), gradients=tuple(each.float().mean((2, 3)) for each in gradients))

    def _read(self, images: Tensor) -> NetworkOutput:
        if not self.needs:
            return NetworkOutput(self.network(images))
        head_weight = self._head_layer().weight if "head" in self.needs else None
        if self._capture is not None:
            logits, values = self._capture(images)
            maps, rest = values[: len(self.layers)], values[len(self.layers) :]
            return NetworkOutput(logits, maps, rest[0] if rest else None, head_weight)
        assert isinstance(self.network, MapClassifier)
        all_maps = self.network.forward_maps(images)
        return NetworkOutput(
            self.network.pool_and_classify(all_maps[-1]),
            tuple(all_maps) if "maps" in self.needs else (),
            all_maps[-1].mean((2, 3)) if "embedding" in self.needs else None,
            head_weight,
        )

    def train(self, mode: bool = True) -> FeatureReader:
        return self if self.frozen else super().train(mode)

    def shapes(self) -> FeatureShapes:
        """Shapes of the maps and of the embedding; probes the network."""
        head = None if self._head is None else self.network.get_submodule(self._head)
        width = head.in_features if isinstance(head, nn.Linear) else None
        maps = self._probe().maps if "maps" in self.needs else ()
        return FeatureShapes(tuple((x.shape[1], x.shape[2], x.shape[3]) for x in maps), width)

    def remove_hooks(self) -> None:
        """Restores the network; the reader cannot be used afterwards."""
        if self._capture is not None:
            self._capture.remove()

    @torch.no_grad()
    def _probe(self) -> NetworkOutput:
        with evaluating(self.network):
            return self(probe_images(self.network, self.image_shape))

    def _require_maps(self) -> None:
        for name, value in zip(self.layers, self._probe().maps, strict=True):
            if not isinstance(value, Tensor) or value.ndim != 4:
                got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise error_of(self._role)(
                    f"the {self._role}'s layer {name!r} gives {got} for {PROBE_BATCH_SIZE} images; a map is [B,C,H,W]: "
                    "name another layer in its feature_layers"
                )

    def _head_layer(self) -> nn.Linear:
        assert self._head is not None
        head = self.network.get_submodule(self._head)
        assert isinstance(head, nn.Linear)
        return head


def find_head(
    model: nn.Module,
    name: str | None,
    num_classes: int,
    role: Role = "teacher",
    executed: Mapping[str, object] | None = None,
    output: object = None,
) -> str | None:
    """The dotted name of the classifier head: ``name`` if given, else the last Linear with ``num_classes`` outputs, if any;
    where ``output`` has positions, the last convolution with as many.

    Args:
        executed: outputs of the layers that a forward pass calls, in its order, which alone count; None: all, as defined.
        output: what the network gave in that pass; a layer that gave the same is the head, whatever is called after it.

    Raises:
        TeacherError, ConfigError (of a student): there is no layer ``name``.
    """
    if name is None:
        layers = dict(model.named_modules())
        called = layers if executed is None else executed
        linears = [n for n in called if isinstance(layers[n], nn.Linear) and layers[n].out_features == num_classes]
        if not linears and isinstance(output, Tensor) and output.ndim == 4:
            linears = [n for n in called if isinstance(layers[n], nn.Conv2d) and layers[n].out_channels == num_classes]
        same = [n for n in linears if executed is not None and _equal(executed[n], output)]
        return (same or linears or [None])[-1]
    known = dict(model.named_modules())
    if not name or name not in known:
        linears = [n for n, layer in known.items() if isinstance(layer, nn.Linear)]
        raise error_of(role)(f"the {role} has no layer {name!r} for its classifier_head; its Linear layers are {linears}")
    return name


def _equal(x: object, y: object) -> bool:
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and torch.equal(x, y)


@torch.no_grad()
def probed_head(
    network: nn.Module, name: str | None, num_classes: int, image_shape: ImageShape, role: Role = "student"
) -> str | None:
    """As :func:`find_head`, among the layers that a forward pass in evaluation mode calls."""
    if find_head(network, name, num_classes, role) is None or name is not None:
        return name
    with evaluating(network):
        output, executed = executed_layers(network, probe_images(network, image_shape))
    return find_head(network, None, num_classes, role, executed, output)


def require_linear_head(model: nn.Module, head: str | None, role: Role) -> nn.Linear:
    """The head as a layer. Raises TeacherError or ConfigError if there is none or it is not linear."""
    layer = None if head is None else model.get_submodule(head)
    if isinstance(layer, nn.Linear):
        return layer
    if layer is None:
        raise error_of(role)(
            f"the {role} has no Linear layer that gives its logits; name its classifier_head to use its features"
        )
    raise error_of(role)(f"the {role}'s classifier_head {head!r} is a {type(layer).__name__}; it must be a Linear layer")


def stage_layers(model: nn.Module, image_shape: ImageShape, head: str | None, role: Role = "student") -> tuple[str, ...]:
    """Layers of a convolutional network, in order, with one output map per resolution; the last one is the pooled map.

    Probes the network: the last map is the layer output whose mean over pixels is the head's input; before it, each
    resolution is represented by the last of its least nested layers.

    Raises:
        TeacherError, ConfigError (of a student): no layer's output is pooled into the head.
    """
    if head is None:
        raise _no_maps(role, "it has no Linear layer that gives its logits")
    names = [name for name, _ in model.named_modules() if name]
    order: list[str] = []
    take = capture(model, names, inputs_of=[head], role=role, order=order, required=False)
    try:
        with torch.no_grad(), evaluating(model):
            _, values = take(probe_images(model, image_shape))
    finally:
        take.remove()
    outputs, embedding = dict(zip(names, values, strict=False)), values[-1]
    maps = [(name, outputs[name]) for name in order if isinstance(outputs[name], Tensor) and outputs[name].ndim == 4]
    pooled = [(name, x) for name, x in maps if isinstance(embedding, Tensor) and is_pooled(x, embedding)]
    if not pooled:
        raise _no_maps(role, "the mean over pixels of no layer's output is what its classifier_head takes")
    largest = max(_pixels(x) for _, x in pooled)
    last = _outermost([name for name, x in pooled if _pixels(x) == largest])
    by_size: dict[tuple[int, int], list[str]] = {}
    for name, x in maps[: [name for name, _ in maps].index(last)]:
        if _pixels(x) > largest:
            by_size.setdefault((x.shape[2], x.shape[3]), []).append(name)
    return (*(_outermost(group) for group in by_size.values()), last)


def probe_images(model: nn.Module, image_shape: ImageShape) -> Tensor:
    """A few images of normal noise on the network's device, always the same."""
    parameter = next(iter(model.parameters()), None)
    images = torch.randn(PROBE_BATCH_SIZE, *image_shape, generator=torch.Generator().manual_seed(0))
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


def _no_maps(role: Role, reason: str) -> RaydfkdError:
    return error_of(role)(
        f"the {role}'s stage maps cannot be found ({reason}); name the layers whose outputs [B,C,H,W] they are in its "
        "feature_layers, the stem's first and the pooled one last, or choose an objective that reads only logits"
    )


def is_pooled(x: Tensor, embedding: Tensor) -> bool:
    """Whether ``embedding`` [B,d] is the mean over pixels of the map ``x`` [B,C,H,W]."""
    pooled = x.mean((2, 3))
    return pooled.shape == embedding.shape and torch.allclose(pooled, embedding, rtol=1e-3, atol=1e-5)


def _pixels(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def _outermost(names: list[str]) -> str:
    depth = min(name.count(".") for name in names)
    return [name for name in names if name.count(".") == depth][-1]

"""The teacher: a trained network that nothing in a run can change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from raydfkd.errors import TeacherError
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.exported import ScriptedClassifier
from raydfkd.models.features import Feature, FeatureReader, find_head
from raydfkd.models.layer_capture import executed_layers, first_input
from raydfkd.models.network_output import give_logits
from raydfkd.models.precision import autocast, in_float32
from raydfkd.models.teachers.output_kind import OutputKind, give_logits_of, kind_of

PROBE_BATCH_SIZE = 3
"""Not 1 or 2, which an exported program with a fixed batch size is likely to have."""

GLARING = 1000.0


class Normalization(nn.Module):
    """Images in [0,1] to a network's input: (images - mean) / std per channel, in one pass."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scale = (1.0 / self.std).view(1, -1, 1, 1)
        return torch.addcmul(-self.mean.view(1, -1, 1, 1) * scale, images, scale)


def pixels_of(stored: torch.Tensor) -> torch.Tensor:
    """uint8 images [B,C,H,W] converted for networks: float32 in [0,1], channels last."""
    return stored.float().div(255).contiguous(memory_format=torch.channels_last)


class FrozenTeacher(nn.Module):
    """A network permanently in evaluation mode, taking float images [B,C,H,W] in [0,1] and giving logits [B,K], or
    [B,K,H,W] of each pixel; ``positions`` are the axes behind the classes.

    The model is tried once. Where it gives probabilities, by a softmax at its end, their logarithms are the logits; of one
    logit or probability for two classes, logits of both are made; ``output_kind`` says what it gives. Where it gives an object,
    a tuple or a dict, the logits in it are taken. ``executed`` has the names of the layers that its forward pass calls, in the
    order in which they finish (None: it could not be tried): what it does not call does not count. ``train()`` does nothing, no
    weight has a gradient, BatchNorm buffers cannot move (if a layer of the wrapped model is put in training mode, the next call
    resets it). Gradients with respect to the images work.

    Args:
        model: the trained network, which takes normalised images; its weights are converted to float32.
        mean, std: one number per channel.
        classifier_head: dotted name of the layer whose input is the penultimate feature; if None, the last Linear layer with
            ``num_classes`` outputs that is called, or of logits of each pixel the last such convolution.
        feature_layers: dotted names of the layers whose outputs are the stage maps, the stem's first and the pooled one last;
            if None, the maps the model provides, or those of layers found by probing it.

    Raises:
        TeacherError: the arguments are inconsistent, or the head does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        image_shape: ImageShape,
        mean: Sequence[float],
        std: Sequence[float],
        classifier_head: str | None = None,
        feature_layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        if len(mean) != channels or len(std) != channels:
            raise TeacherError(
                f"the teacher's normalization has {len(mean)} means and {len(std)} stds for {channels}-channel images; "
                "give one number per channel"
            )
        if max(mean) > 1:
            raise TeacherError(
                f"the teacher's normalization has mean {list(mean)}, but pixels are scaled to [0,1]: divide mean and std by "
                "255 if they are of pixels from 0 to 255"
            )
        if min(std) <= 0:
            raise TeacherError(f"the teacher's normalization has std {list(std)}; every number must be above 0")
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.model = in_float32(ScriptedClassifier(model) if isinstance(model, torch.jit.ScriptModule) else model)
        self.normalization = Normalization(mean, std)
        self.feature_layers = feature_layers
        self.requires_grad_(False)
        nn.Module.train(self, False)
        self._layers = tuple(layer for layer in self.model.modules() if not isinstance(layer, torch.jit.ScriptModule))
        self.executed: tuple[str, ...] | None = None
        self.positions: tuple[int, ...] = ()
        self.output_kind: OutputKind = "logits"
        self._head_name = find_head(self.model, classifier_head, num_classes)
        with torch.random.fork_rng(devices=[]), suppress(Exception):  # the audit tries it again, and says what is wrong
            self._try_out(classifier_head)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Does nothing: a teacher stays in evaluation mode."""
        return self

    @torch.no_grad()
    def _try_out(self, head: str | None) -> None:
        device = next((parameter.device for parameter in self.model.parameters()), self.normalization.mean.device)
        images = torch.rand(PROBE_BATCH_SIZE, *self.image_shape, generator=torch.Generator().manual_seed(0))
        inputs = ((images - self.normalization.mean.view(-1, 1, 1)) / self.normalization.std.view(-1, 1, 1)).to(device)
        taken = inputs.clone()
        output, executed = executed_layers(self.model, taken)
        self.executed = tuple(executed)
        if not torch.equal(taken, inputs):
            self.model.register_forward_pre_hook(_copied)
        outputs = give_logits(self.model, output, self.num_classes)
        self._head_name = find_head(self.model, head, self.num_classes, executed=executed, output=outputs)
        if not isinstance(outputs, torch.Tensor) or not outputs.is_floating_point():
            return
        self.positions = tuple(outputs.shape[2:])
        kind = kind_of(outputs)
        if kind in ("sigmoid", "one probability"):
            # Logits of a few images may be between 0 and 1 by chance, those of glaring ones are not.
            kind = kind_of(self.model(GLARING * inputs))
        if kind not in ("one logit", "one probability") or (self.num_classes == 2 and outputs.numel() == len(images)):
            self.output_kind = kind
        give_logits_of(self.model, self.output_kind)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B,C,H,W] in [0,1] as the wrapped model expects them."""
        return self.normalization(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.ndim != 4 or images.shape[1] != self.image_shape[0]:
            raise TeacherError(f"the teacher takes images [B,{self.image_shape[0]},H,W], got {list(images.shape)}")
        if any(layer.training for layer in self._layers):
            self.model.eval()
        return self.model(self.normalization(images))

    @torch.no_grad()
    def logits_of(self, stored: torch.Tensor, bf16: bool) -> torch.Tensor:
        """Logits float32 of uint8 images [B,C,H,W] on the teacher's device; ``bf16``: by bfloat16 autocast where the device has
        it."""
        with autocast(stored.device, bf16):
            return self(pixels_of(stored)).float()

    def forward_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the penultimate features [B,d], of logits of each pixel [B,d,h,w], the input of the classifier head."""
        captured: list[torch.Tensor] = []
        handle = self.classifier_head.register_forward_pre_hook(
            lambda layer, args, kwargs: captured.append(first_input(args, kwargs)), with_kwargs=True
        )
        try:
            logits = self(images)
        finally:
            handle.remove()
        if not captured:
            raise TeacherError(
                f"the teacher's classifier head {self._head_name!r} is not used in its forward pass; name another"
            )
        return logits, captured[-1]

    def feature_reader(self, needs: frozenset[Feature]) -> FeatureReader:
        """A module that takes *normalised* images and gives the logits and the other requested outputs; equally frozen.

        Raises:
            TeacherError: the teacher cannot provide that; the message says which setting to give.
        """
        return FeatureReader(
            self.model,
            needs,
            self.num_classes,
            self.image_shape,
            layers=self.feature_layers,
            head=self._head_name,
            role="teacher",
            frozen=True,
        )

    @property
    def classifier_head(self) -> nn.Module:
        """The layer that turns penultimate features into logits. Raises TeacherError if there is none."""
        if self._head_name is None:
            raise TeacherError(
                "the teacher has no Linear layer that gives its logits; name its classifier_head to use its features"
            )
        return self.model.get_submodule(self._head_name)

    @property
    def has_classifier_head(self) -> bool:
        return self._head_name is not None

    @property
    def head_name(self) -> str | None:
        """Dotted name of the classifier head, if there is one."""
        return self._head_name

    def state_sha256(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all weights, buffers and the normalisation."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            _hash(digest, name, value)
        return digest.hexdigest()


def _hash(digest: hashlib._Hash, name: str, value: Any) -> None:
    """A tensor, or what a quantised layer has in its place: a tuple of tensors, or a plain value."""
    if isinstance(value, tuple | list):
        for part in value:
            _hash(digest, name, part)
    elif isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        tensor = tensor.dequantize() if tensor.is_quantized else tensor
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{name} {value!r}\n".encode())


def _copied(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """For a network that changes its images in place, which are the student's too."""
    return (args[0].clone(), *args[1:])

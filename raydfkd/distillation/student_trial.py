"""A student tried in training mode before a run starts: what would otherwise end the run at its first step."""

from __future__ import annotations

import torch
from torch import Tensor

from raydfkd.distillation.distiller import Distiller
from raydfkd.errors import ConfigError, RaydfkdError, described
from raydfkd.models.network_output import output_described
from raydfkd.models.precision import autocast, evaluating

BACKWARD_IMAGES = 8
"""Images of the backward pass, which needs much memory; what depends on the batch size shows in the forward pass."""


def try_student(distiller: Distiller, name: str, opponent: bool = False) -> list[str]:
    """One training-mode forward pass of the batch that a worker sees, and a backward pass of a few of its images.

    It leaves BatchNorm's running statistics changed: give it a distiller for this alone.

    Args:
        opponent: whether generators play against it, which takes the gradient of its logits to its images.

    Returns:
        What looks wrong, one sentence each.

    Raises:
        ConfigError: the student fails, gives something else than logits as its teacher's, or has no weight that learns.
    """
    config, teacher = distiller.config, distiller.teacher
    size = config.batch_size // (config.num_workers * config.accumulation_steps)
    pixels = torch.rand(size, *teacher.image_shape, generator=torch.Generator().manual_seed(0)).to(distiller.device)
    view = teacher.normalize(pixels)
    with torch.random.fork_rng(devices=[]), autocast(distiller.device, distiller.bf16):
        with torch.no_grad():
            output = _forward(distiller, view, name)
        require_logits(output, f"students.{name}", (size, teacher.num_classes, *teacher.positions))
        _require_gradient(distiller, view[:BACKWARD_IMAGES].requires_grad_(opponent), name)
        return _warnings(distiller, view[:BACKWARD_IMAGES].detach(), name)


@torch.no_grad()
def _warnings(distiller: Distiller, view: Tensor, name: str) -> list[str]:
    with evaluating(distiller.student):
        first, again = distiller.student(view), distiller.student(view)
    if isinstance(first, Tensor) and torch.equal(first, again):
        return []
    return [
        f"students.{name} gives other logits for the same images from call to call, in evaluation mode too, such as by a "
        "dropout that does not heed it (F.dropout without training=self.training): its accuracy and export have that noise"
    ]


def _forward(distiller: Distiller, view: Tensor, name: str) -> Tensor:
    try:
        return distiller.student(view)
    except RaydfkdError:
        raise
    except Exception as error:
        size = len(view)
        remedy = ": raise batch_size, or use fewer workers or accumulation_steps" if size == 1 else ""
        images = "1 image, the batch" if size == 1 else f"{size} images, the batch"
        raise ConfigError(
            f"students.{name} cannot be trained: in training mode, with {images} of a worker, its network ends with "
            f"{described(error)}{remedy}"
        ) from error


def require_logits(output: object, what: str, shape: tuple[int, ...]) -> None:
    """Raises ConfigError if what a network gives in training mode is not one tensor of logits of this shape, the number of
    images first."""
    if isinstance(output, Tensor) and output.shape == shape:
        return
    raise ConfigError(
        f"{what} cannot be trained: in training mode its network gives {output_described(output)} for {shape[0]} images; "
        f"it must give logits [{','.join(map(str, shape))}] alone, in both modes (leave out auxiliary heads, such as by "
        "torchvision's aux_logits=False, in a function that you name as its model)"
    )


def _require_gradient(distiller: Distiller, view: Tensor, name: str) -> None:
    weights = {key: weight for key, weight in distiller.student.named_parameters() if weight.requires_grad}
    gradients: tuple[Tensor | None, ...] = ()
    logits = _forward(distiller, view * 1, name)  # no leaf: it may change its images in place
    if weights and logits.requires_grad:
        try:
            inputs = [*weights.values(), *([view] if view.requires_grad else [])]
            gradients = torch.autograd.grad(logits.float().square().sum(), inputs, allow_unused=True)[: len(weights)]
        except (RuntimeError, NotImplementedError) as error:
            raise ConfigError(f"students.{name} cannot be trained: its backward pass ends with {described(error)}") from error
    unreached = [key for key, gradient in zip(weights, gradients or (None,) * len(weights), strict=True) if gradient is None]
    if len(unreached) == len(weights):
        raise ConfigError(
            f"students.{name} cannot be trained: none of its network's weights gets a gradient, because they have "
            "requires_grad False, its forward pass runs under no_grad, or an operation in it has no derivative"
        )
    if unreached and distiller.config.num_workers > 1:
        raise ConfigError(
            f"students.{name} cannot be trained by {distiller.config.num_workers} workers: {len(unreached)} weights take no "
            f"part in its logits, such as {unreached[0]!r}: leave them out, give them requires_grad False, or set num_workers "
            "to 1"
        )

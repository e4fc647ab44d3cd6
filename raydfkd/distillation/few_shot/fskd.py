"""FSKD: a pruned network's layers are fitted to the teacher's, one after the other, by least squares (Li et al., CVPR 2020).

Behind each convolution of the pruned student a 1x1 convolution Q without bias is put, and Q is what makes the student's maps
the teacher's: min_Q sum_n ||Q x_n - t_n||^2 over all pixels n of all images, with x_n [c] the student's output and t_n [c] that
of the filters of the teacher that were kept. Q is then absorbed into the convolution, W' = Q W and b' = Q b, and the next layer
is fitted to the outputs of the student as it now is (the paper's block-coordinate descent, one pass over the layers).

The fit is made before the BatchNorm and before any activation, where Q can be absorbed. Both networks are in evaluation mode,
so that the BatchNorm behind, whose entries are the teacher's, normalises with the teacher's statistics: the student's corrected
outputs are estimates of the very numbers that these statistics are of.

Deviations: the paper leaves open which Q is taken where several fit equally well (fewer pixels than filters, filters that give
the same); ours is the one nearest to the identity, so that what the images say nothing about stays as the teacher had it.
Images are not augmented, as in the authors' program.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from raydfkd.deferred import deferred
from raydfkd.distillation.few_shot.few_shot_method import FewShotConfig, FewShotEntry, FewShotParts, FewShotStep

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.models import precision
    from raydfkd.models.teachers import frozen_teacher
else:
    torch, nn = deferred("torch"), deferred("torch.nn")
    precision = deferred("raydfkd.models.precision")
    frozen_teacher = deferred("raydfkd.models.teachers.frozen_teacher")

CHUNK = 100
"""Images per forward pass."""
SMALLEST = 1e-6
"""Singular values below this share of the largest are taken for zero: maps are computed in float32."""


class FSKDConfig(FewShotConfig):
    """FSKD's 1x1 convolutions by least squares; it has no settings."""

    kind: Literal["fskd"] = "fskd"
    """Name of the method."""


class LeastSquares:
    """min_D ||X D^T - Y||_F with X, Y [n,c] given in parts, through the triangular factor of [X Y] (never its square, whose
    condition number would be squared too). float64 on the CPU."""

    def __init__(self) -> None:
        self._factor: Tensor | None = None

    def add(self, inputs_NC: Tensor, outputs_NC: Tensor) -> None:
        rows = torch.cat([inputs_NC, outputs_NC], 1).double().cpu()
        stacked = rows if self._factor is None else torch.cat([self._factor, rows])
        self._factor = torch.linalg.qr(stacked, mode="r").R

    def solve(self) -> tuple[Tensor, float, float]:
        """The smallest solution D [c,c]; ||Y||_F, which is the error at D = 0; and the error that is left."""
        assert self._factor is not None, "rows were added"
        inputs, outputs = self._factor.chunk(2, dim=1)
        solution = torch.linalg.lstsq(inputs, outputs, rcond=SMALLEST, driver="gelsd").solution
        return solution.T, float(outputs.norm()), float((inputs @ solution - outputs).norm())


def train(config: FSKDConfig, parts: FewShotParts) -> Iterator[FewShotStep]:
    """Fits the layers in order. A step is a layer; its errors are relative to the norm of the teacher's output there."""
    assert parts.kept is not None, "the settings require kept filters"
    teacher, student = parts.teacher.model, parts.student
    for number, (name, kept) in enumerate(parts.kept.items(), 1):
        conv = student.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        fit, scale = LeastSquares(), 0.0
        with torch.no_grad(), precision.evaluating(student):
            for images in parts.images.split(CHUNK):
                view = parts.teacher.normalize(frozen_teacher.pixels_of(images.to(parts.device)))
                wanted = _pixels(_output_of(teacher, name, view))[:, kept.to(parts.device)]
                found = _pixels(_output_of(student, name, view))
                fit.add(found, wanted - found)
                scale += float(wanted.double().square().sum())
            change, before, after = fit.solve()
            _absorb(conv, change)
        norm = max(scale**0.5, 1e-30)
        yield FewShotStep(number, len(parts.kept), {"error_before": before / norm, "error_after": after / norm})


def _absorb(conv: nn.Conv2d, change: Tensor) -> None:
    """W' = (1 + D) W and b' = (1 + D) b."""
    for weights in (conv.weight, conv.bias):
        if weights is not None:
            flat = weights.detach().double().cpu().flatten(1) if weights.ndim > 1 else weights.detach().double().cpu()[:, None]
            weights.copy_((flat + change @ flat).view(weights.shape))


def _pixels(maps: Tensor) -> Tensor:
    """Maps [B,C,H,W] as rows [B*H*W, C]."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


class _Reached(Exception):
    """No error: it ends a forward pass at the layer of interest."""


def _output_of(network: nn.Module, name: str, view: Tensor) -> Tensor:
    """The layer's output, before any layer behind it may change it in place; what is behind it is not computed."""
    kept: list[Tensor] = []

    def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
        kept.append(output)
        raise _Reached

    handle = network.get_submodule(name).register_forward_hook(keep)
    try:
        network(view)
    except _Reached:
        pass
    finally:
        handle.remove()
    return kept[0]


FEW_SHOT_METHOD = FewShotEntry(
    config=FSKDConfig,
    train=train,
    title="FSKD: 1x1 convolutions by least squares",
    paper="Li et al., CVPR 2020",
    needs_kept_filters=True,
)

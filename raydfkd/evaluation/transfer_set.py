"""Measures of how suitable images are for distillation, after the surrogate-dataset study, with wording.

They need only the teacher and the images, no labels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydfkd.errors import DataError, TeacherError
from raydfkd.evaluation.scores import class_entropy
from raydfkd.models.precision import autocast
from raydfkd.models.teachers.teacher import FrozenTeacher, pixels_of
from raydfkd.synthesis.boundary import AttackConfig, Logits, attack_settings, boundary_attack

CHUNK = 500
"""Maximum number of images in one forward pass of the teacher."""
CHUNK_PIXELS = CHUNK * 32 * 32
"""Maximum number of pixels in one pass: the boundary attack's activation memory for the backward pass grows with it."""
BISECTIONS = 10
MOST_PAIRED = 500
"""Maximum number of images sampled for pairwise feature comparison: 124,750 pairs."""
STARVED_SHARE = 0.1
"""A class is starved with fewer distinct images than this fraction of an equal share of all images (ours)."""
_MOST_NAMED = 12


@dataclass(frozen=True)
class TransferSetFigures:
    """Statistics of a set of N images.

    Attributes:
        num_images: N.
        class_counts: int64 [K], images by the teacher's class.
        class_entropy: H / log K of those, in [0,1]; the study's best sets are above .9, its worst at .1 to .6.
        distinct_class_counts: int64 [K], the counts without exact copies.
        confidences: float32 [N], the teacher's largest probability of each.
        diversity: mean cosine distance of the teacher's penultimate features over all pairs of images, in [0,2]; 0: all look
            alike to it. Of the logits where there is no such layer. None for one image.
        pair_distances: float32, these distances of all pairs of at most 500 images; empty for one image.
        boundary_distances: float32, for some images: L2 distance (pixels in [0,1]) towards the runner-up class at which the
            teacher's prediction changes; infinite where the attack failed. Empty if not requested.
    """

    num_images: int
    class_counts: np.ndarray
    class_entropy: float
    distinct_class_counts: np.ndarray
    confidences: np.ndarray
    diversity: float | None
    pair_distances: np.ndarray
    boundary_distances: np.ndarray

    @property
    def duplicate_share(self) -> float:
        """Share of images that are byte-for-byte copies of an earlier one."""
        return 1 - int(self.distinct_class_counts.sum()) / self.num_images

    @property
    def boundary_distance(self) -> float | None:
        """Median of the distances; None if there are none, infinite if most attacks failed."""
        return float(np.median(self.boundary_distances)) if len(self.boundary_distances) else None

    def rows(self) -> list[tuple[str, float | int | None]]:
        """(what, figure) of each scalar, for a table."""
        return [
            ("images", self.num_images),
            ("relative class entropy", self.class_entropy),
            ("classes without images", int((self.class_counts == 0).sum())),
            ("mean confidence of the teacher", float(self.confidences.mean())),
            ("median confidence", float(np.median(self.confidences))),
            ("mean cosine distance of features", self.diversity),
            ("share of exact duplicates", self.duplicate_share),
            ("median distance to the decision boundary", self.boundary_distance),
        ]


def inspect_images(
    teacher: FrozenTeacher, images: np.ndarray, device: torch.device, bf16: bool = True, num_attacked: int = 200, seed: int = 0
) -> TransferSetFigures:
    """The figures of images.

    Args:
        images: uint8 [N,C,H,W].
        num_attacked: number of randomly drawn images from which the distance to the boundary is estimated; 0: not estimated.

    Raises:
        DataError: there are no images.
        TeacherError: the teacher gives a class for each pixel.
    """
    if teacher.positions:
        raise TeacherError(
            "the teacher gives a class for each pixel, and these figures are of images that have one class each: the report of "
            "a run counts pixels"
        )
    if len(images) == 0:
        raise DataError("there are no images to inspect: give a non-empty data set or buffer")
    teacher = teacher.to(device).to(memory_format=torch.channels_last)
    drawn = np.random.default_rng(seed).permutation(len(images))
    in_sample = torch.zeros(len(images), dtype=torch.bool)
    in_sample[drawn[:MOST_PAIRED]] = True
    size = _chunk_size(images)
    classes, confidences, sample, total = [], [], [], None
    for chunk, paired in zip(torch.from_numpy(images).split(size), in_sample.split(size), strict=True):
        with torch.no_grad(), autocast(device, bf16):
            logits, features = _read(teacher, chunk.to(device))
        confidence, predicted = logits.softmax(1).max(1)
        classes.append(predicted.cpu().numpy())
        confidences.append(confidence.cpu().numpy())
        directions = _unit(features)
        sample.append(directions[paired.to(device)])
        part = directions.sum(0)
        total = part if total is None else total + part
    assert total is not None
    attacked = drawn[:num_attacked]
    with autocast(device, bf16):
        parts = torch.from_numpy(images[attacked]).split(size) if len(attacked) else ()
        distances = [boundary_distances(teacher, pixels_of(part.to(device))) for part in parts]
    classes_N = np.concatenate(classes)
    counts = np.bincount(classes_N, minlength=teacher.num_classes)
    return TransferSetFigures(
        num_images=len(images),
        class_counts=counts,
        class_entropy=class_entropy(counts),
        distinct_class_counts=np.bincount(classes_N[distinct_rows(images)], minlength=teacher.num_classes),
        confidences=np.concatenate(confidences),
        diversity=_mean_cosine_distance(float(total.square().sum()), len(images)),
        pair_distances=_pair_distances(torch.cat(sample)),
        boundary_distances=np.concatenate([np.empty(0, np.float32), *(part.cpu().numpy() for part in distances)]),
    )


def boundary_distances(logits: Logits, images: Tensor, num_steps: int = 50) -> Tensor:
    """Distance of each image from its nearest other class, as found by the boundary attack: an upper bound.

    The attack targets the runner-up class, ignoring the teacher's confidence; within the pair it finds, the boundary
    is located by bisection, since an attack step is often longer than the distance itself.

    Args:
        images: float [N,C,H,W] in [0,1].

    Returns:
        float32 [N], L2 over all pixels and channels; infinite where ``num_steps`` steps were not enough.
    """
    with torch.no_grad():
        scores = logits(images)
    runner_up = scores.topk(2, dim=1).indices[:, 1]
    settings = attack_settings(
        AttackConfig(norm="l2", num_steps=num_steps, deeper_steps=0.0), scores.shape[1], images[0].numel()
    )
    pairs = boundary_attack(logits, images, runner_up, dataclasses.replace(settings, threshold=math.inf))
    distances = images.new_full((len(images),), math.inf)
    on_boundary = _bisected(logits, pairs.before, pairs.after, runner_up[pairs.origins_M])
    distances[pairs.origins_M] = (on_boundary - images[pairs.origins_M]).flatten(1).norm(dim=1)
    return distances


@torch.no_grad()
def _bisected(logits: Logits, before: Tensor, after: Tensor, classes: Tensor) -> Tensor:
    """The point between ``before`` and ``after`` where the prediction becomes ``classes``, to 1/1000 of the distance."""
    for _ in range(BISECTIONS):
        middle = (before + after) / 2
        crossed = (logits(middle).argmax(1) == classes).view(-1, 1, 1, 1)
        before, after = torch.where(crossed, before, middle), torch.where(crossed, middle, after)
    return (before + after) / 2


def distinct_rows(images: np.ndarray) -> np.ndarray:
    """int64, the images that are not byte-for-byte copies of an earlier one."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    _, first = np.unique(rows.view(np.dtype((np.void, rows.shape[1]))), return_index=True)
    return np.sort(first)


def starved_classes(class_counts: np.ndarray, distinct_class_counts: np.ndarray) -> np.ndarray:
    """int64, classes with fewer distinct images than a tenth of an equal share of all images, smallest first.

    Copies count only towards the equal share: a class that is one image, repeated, counts as one image.

    Args:
        class_counts: int [K], with copies.
        distinct_class_counts: int [K], without.
    """
    distinct = np.asarray(distinct_class_counts)
    order = np.argsort(distinct, kind="stable")
    return order[distinct[order] < STARVED_SHARE * np.sum(class_counts) / len(distinct)]


def describe_starvation(
    class_counts: np.ndarray | Sequence[int],
    distinct_class_counts: np.ndarray | Sequence[int],
    names: Sequence[str] | None = None,
) -> str:
    """A sentence on the classes the teacher predicts too rarely for a student to learn them.

    Args:
        class_counts: int [K], with copies.
        distinct_class_counts: int [K], without.
        names: class names; class numbers are used without them.
    """
    counts, distinct = np.asarray(class_counts), np.asarray(distinct_class_counts)
    even = f"equal share of {counts.sum() / len(counts):,.0f} images"
    starved = starved_classes(counts, distinct)
    if len(starved) == 0:
        return f"No class is starved: each of the {len(counts)} has, without copies, at least a tenth of its {even}."
    missing, few = starved[distinct[starved] == 0], starved[distinct[starved] > 0]
    parts = []
    if len(missing):
        parts.append(f"the teacher predicts {_named(missing, names)} for no image at all")
    if len(few):
        told = _named(few, names, [_held(int(distinct[k]), int(counts[k])) for k in few])
        parts.append(f"{told} {'has' if len(few) == 1 else 'have'}, without copies, less than a tenth of an {even}")
    return (
        f"{len(starved)} of {len(counts)} classes {'is' if len(starved) == 1 else 'are'} starved: {'; '.join(parts)}. "
        "Add images that resemble them, balance the selection, or use the boundary attack."
    )


def _held(distinct: int, count: int) -> str:
    if distinct == count:
        return f"{count:,}"
    return f"{distinct:,} distinct image{'' if distinct == 1 else 's'}, repeated to {count:,}"


def _named(classes: np.ndarray, names: Sequence[str] | None, notes: Sequence[str] | None = None) -> str:
    texts = [str(k) if names is None else names[k] for k in classes.tolist()]
    if notes is not None:
        texts = [f"{text} ({note})" for text, note in zip(texts, notes, strict=True)]
    shown = ", ".join(texts[:_MOST_NAMED])
    more = f" and {len(texts) - _MOST_NAMED} others" if len(texts) > _MOST_NAMED else ""
    return f"class{'' if len(texts) == 1 else 'es'} {shown}{more}"


def _read(teacher: FrozenTeacher, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B,K] and features [B,D] of byte images, float32."""
    view = pixels_of(images)
    if not teacher.has_classifier_head:
        logits = teacher(view).float()
        return logits, logits
    logits, features = teacher.forward_features(view)
    return logits.float(), features.float()


def _chunk_size(images: np.ndarray) -> int:
    height, width = images.shape[2:]
    return max(1, min(CHUNK, CHUNK_PIXELS // (height * width)))


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.double(), dim=1)


def _mean_cosine_distance(squared_length: float, num: int) -> float | None:
    return None if num < 2 else 1 - (squared_length - num) / (num * (num - 1))


def _pair_distances(directions_MD: Tensor) -> np.ndarray:
    """Cosine distances of all pairs of unit rows, float32 [M (M - 1) / 2]."""
    distances = 1 - (directions_MD @ directions_MD.T).cpu().numpy()
    upper = np.triu_indices(len(directions_MD), 1)
    # Rounding makes the distance of some copies slightly negative.
    return distances[upper].clip(min=0).astype(np.float32)

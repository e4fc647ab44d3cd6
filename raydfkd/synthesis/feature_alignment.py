"""Feature alignment: synthetic images get the teacher's features of a few real or condensed ones of their class.

"Condensed Data Expansion Using Model Inversion for Knowledge Distillation" (arXiv 2408.13850), Eqs 2-4; the losses are in
``losses.alignment``. It adds weight * L_FA to the loss of any method that optimises images, or their generator, through the
teacher: before each of its steps a conditional discriminator takes one of its own, on the teacher's features of both kinds of
images, all of them seen through DiffAugment. The discriminator stays when a method draws its generator anew.

Where the paper is silent: the discriminator's optimizer is Adam with CMI's rate and betas; its class code is one-hot, or the
mean feature of the class as in AFHN, from which the paper takes the network; a synthetic image's class is the one its own
method aims at (Eq. 3's pseudo-label, which the paper's text leaves to the teacher), and the teacher's prediction for a method
without targets. What alignment costs is a pass of its own through the teacher, because the method's own pass must not see
DiffAugment, which would spoil its BatchNorm statistics. The collected images cost little beside it: the teacher is frozen, so
that the features of their augmented views are kept, and an eighth of those that a step draws is computed anew.

Besides its losses a step reports the share of each of the discriminator's three kinds of input that it told right before it
learned from them, and the distance between synthetic and collected images' features (``losses.frechet``), both of them as the
discriminator got them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError, TeacherError
from raydfkd.settings import Settings
from raydfkd.types import SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.augment import diff_augment
    from raydfkd.losses import alignment, frechet
    from raydfkd.models import features as probing
    from raydfkd.models import layer_capture, precision
    from raydfkd.models import weights as weight_files
    from raydfkd.models.discriminators import feature_discriminator
    from raydfkd.models.layer_capture import LayerCapture
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, diff_augment = deferred("torch"), deferred("raydfkd.augment.diff_augment")
    alignment, frechet = deferred("raydfkd.losses.alignment"), deferred("raydfkd.losses.frechet")
    probing = deferred("raydfkd.models.features")
    layer_capture, precision = deferred("raydfkd.models.layer_capture"), deferred("raydfkd.models.precision")
    weight_files = deferred("raydfkd.models.weights")
    feature_discriminator = deferred("raydfkd.models.discriminators.feature_discriminator")

CHUNK = 500
"""Prototypes per forward pass of the teacher before the first step."""
NUM_VIEWS = 4096
"""Augmented views of prototypes whose features are kept; of more prototypes than this, one view each."""
RENEWAL = 8
"""One in so many of the views that a step draws is augmented and taken through the teacher anew."""


Decay = Annotated[float, Field(ge=0, lt=1)]


class FeatureAlignmentConfig(Settings):
    """Condensed Data Expansion (arXiv 2408.13850): aligns generated images with the collected ones of their class."""

    weight: float = Field(1.0, gt=0)
    """Weight of the alignment loss in the generator's."""
    layer: str | None = None
    """Dotted name of the teacher's layer whose output is aligned, averaged over pixels; null: the penultimate features, which
    its classifier head takes."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of a batch's images that each step aligns, drawn at random; 1 as published, the less the faster."""
    class_code: Literal["one_hot", "class_mean"] = "one_hot"
    """How the discriminator is told a class: its number, or the mean feature of its collected images."""
    augmentation: tuple[Literal["color", "translation", "cutout"], ...] = ("color", "translation", "cutout")
    """DiffAugment operations on collected and generated images before the teacher; the paper does not say which."""
    hidden_dim: int = Field(1024, ge=1)
    """Width of the discriminator's hidden layer."""
    discriminator_steps: int = Field(1, ge=1)
    """Steps of the discriminator before each step of the generator."""
    discriminator_lr: float = Field(1e-3, gt=0)
    """Adam rate of the discriminator."""
    discriminator_betas: tuple[Decay, Decay] = (0.5, 0.999)
    """Adam's decay rates of the discriminator."""


class FeatureAlignment:
    """A discriminator with its optimizer and the prototypes it learns from; a part of one synthesizer.

    Args:
        config: its settings.
        teacher: frozen, on ``device``.
        prototypes: the collected images; their classes are the targets, and the teacher's where there is no target.
        seed: for initialisation and all draws.
        device: where all of it runs.
        bf16: the teacher runs in bfloat16 autocast where the device has it.

    Raises:
        ConfigError: see ``require_prototypes``.
        TeacherError: see ``feature_reader``.
    """

    def __init__(
        self,
        config: FeatureAlignmentConfig,
        teacher: FrozenTeacher,
        prototypes: SyntheticBatch,
        seed: int,
        device: torch.device,
        bf16: bool,
    ) -> None:
        # An image of many classes is of that of most of its pixels, of which some may never be: these then have no prototypes.
        every_class = prototypes.class_histogram is None or config.class_code == "class_mean"
        require_prototypes(prototypes, teacher.num_classes, teacher.image_shape, every_class)
        self.config, self.teacher, self.device, self.bf16 = config, teacher, device, bf16
        self.rng = torch.Generator().manual_seed(seed)
        self._capture = feature_reader(teacher, config.layer)
        self._images = torch.from_numpy(np.array(prototypes.images)).to(device)
        self._classes = torch.from_numpy(classes_of(prototypes).astype(np.int64)).to(device)
        features_NF = self._of_prototypes(torch.arange(len(self._images)), augmented=False)
        self.codes_KE = torch.eye(teacher.num_classes, device=device)
        if config.class_code == "class_mean":
            self.codes_KE = torch.stack([features_NF[self._classes == k].mean(0) for k in range(teacher.num_classes)])
        repeats = max(1, NUM_VIEWS // len(self._images)) if config.augmentation else 1
        self._prototype_of_view = torch.arange(len(self._images)).repeat(repeats)
        self._kept_views = None if config.augmentation else features_NF
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = (features_NF.shape[1], self.codes_KE.shape[1], config.hidden_dim)
            self.discriminator = feature_discriminator.FeatureDiscriminator(*sizes).to(device)
        parameters = self.discriminator.parameters()
        self._optimizer = torch.optim.Adam(parameters, config.discriminator_lr, config.discriminator_betas)

    def terms(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Trains the discriminator on these synthetic images; the generator's ``alignment_loss``, and what ``_train`` measures.

        Its gradient reaches the images, and neither teacher nor discriminator.

        Args:
            images: float [B,C,H,W] in [0,1], with the generator's graph.
            classes: int64 [B], their classes.
        """
        views = self._views  # made before any other draw of the first step
        if self.config.share < 1:
            count = max(1, round(self.config.share * len(images)))
            rows = torch.randperm(len(images), generator=self.rng)[:count].to(self.device)
            images, classes = images[rows], classes[rows]
        features = self._seen(images)
        trained = {}
        for _ in range(self.config.discriminator_steps):
            trained = self._train(features.detach(), classes, views)
        self.discriminator.requires_grad_(False)
        logits = self.discriminator(features, self.codes_KE[classes])
        self.discriminator.requires_grad_(True)
        return {"alignment_loss": alignment.alignment_loss(logits), **trained}

    @property
    def _views(self) -> Tensor:
        """Features [V,F] of augmented views of the prototypes, made when they are first needed: a check of the settings builds
        this too, and takes no step."""
        if self._kept_views is None:
            self._kept_views = self._of_prototypes(self._prototype_of_view, augmented=True)
        return self._kept_views

    def _train(self, synthetic_BF: Tensor, classes: Tensor, views: Tensor) -> dict[str, Tensor]:
        """One update of the discriminator; its loss and accuracies before it, and ``feature_distance``, detached."""
        drawn = torch.randint(len(views), (len(classes),), generator=self.rng)
        if self.config.augmentation:
            renewed = drawn[::RENEWAL]
            views[renewed.to(self.device)] = self._of_prototypes(self._prototype_of_view[renewed], augmented=True)
        real_BF = views[drawn.to(self.device)]
        theirs, num_classes = self._classes[self._prototype_of_view[drawn].to(self.device)], len(self.codes_KE)
        # A class other than the image's own, all equally likely.
        others = (theirs + torch.randint(1, num_classes, (len(theirs),), generator=self.rng).to(self.device)) % num_classes
        codes = self.codes_KE[torch.cat([theirs, classes, others])]
        logits = self.discriminator(torch.cat([real_BF, synthetic_BF, real_BF]), codes)
        loss = alignment.matching_loss(*logits.chunk(3))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        real, synthetic, mismatched = (logits.detach() > 0).float().view(3, -1).mean(1)
        return {
            "discriminator_loss": loss.detach(),
            "discriminator_real_accuracy": real,
            "discriminator_synthetic_accuracy": 1 - synthetic,
            "discriminator_mismatched_accuracy": 1 - mismatched,
            "feature_distance": frechet.class_frechet_distance(synthetic_BF, classes, real_BF, theirs, num_classes),
        }

    def _of_prototypes(self, rows: Tensor, augmented: bool) -> Tensor:
        """Features [N,F] of the prototypes at ``rows`` (int64 [N] on the CPU), each through DiffAugment or as it is."""
        read = self._seen if augmented else self._features
        with torch.no_grad():
            return torch.cat([read(self._images[some.to(self.device)].float().div(255)) for some in rows.split(CHUNK)])

    def _seen(self, images: Tensor) -> Tensor:
        """Features of images through DiffAugment."""
        return self._features(diff_augment.diff_augment(images, self.config.augmentation, self.rng))

    def _features(self, images: Tensor) -> Tensor:
        """The teacher's features, float32 [B,F], of images in [0,1]."""
        with precision.autocast(self.device, self.bf16):
            _, (features,) = self._capture(self.teacher.normalize(images.contiguous(memory_format=torch.channels_last)))
        return features.float().flatten(2).mean(2) if features.ndim > 2 else features.float()

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "views": self._views,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        weight_files.load_optimizer(self._optimizer, state["optimizer"])
        self._kept_views = state["views"].to(self.device, copy=True)
        self.rng.set_state(state["rng"].cpu())


def feature_reader(teacher: FrozenTeacher, layer: str | None) -> LayerCapture:
    """What gives the teacher's logits and the one feature to align, of normalised images.

    Raises:
        TeacherError: there is no such layer, or, without ``layer``, no classifier head.
    """
    if layer is not None:
        reader = layer_capture.capture(teacher.model, [layer], role="teacher")
        with torch.no_grad():
            _, (features,) = reader(probing.probe_images(teacher.model, teacher.image_shape))
        if not isinstance(features, torch.Tensor) or features.ndim < 2:
            raise TeacherError(
                f"the teacher's layer {layer!r} gives no features [B,F,...]: name another in feature_alignment.layer"
            )
        return reader
    head = teacher.head_name
    if head is None:
        raise TeacherError(
            "the teacher has no layer that gives its logits, whose input feature_alignment reads: name its "
            "classifier_head, or another layer in feature_alignment.layer"
        )
    return layer_capture.capture(teacher.model, (), inputs_of=[head], role="teacher")


def classes_of(prototypes: SyntheticBatch) -> np.ndarray:
    """int64 [N]: each image's own class, or, where it has none, the teacher's."""
    return np.where(prototypes.targets >= 0, prototypes.targets, prototypes.teacher_class)


def require_prototypes(
    prototypes: SyntheticBatch, num_classes: int, image_shape: tuple[int, int, int], every_class: bool = True
) -> None:
    """Refuses images with which generated ones cannot be aligned.

    Raises:
        ConfigError: they have another shape or more classes than the task, or a class has none and ``every_class`` needs some.
    """
    if prototypes.images.shape[1:] != tuple(image_shape):
        raise ConfigError(
            f"feature_alignment has collected images of shape {list(prototypes.images.shape[1:])} and the teacher takes "
            f"{list(image_shape)}: give images of its shape"
        )
    classes = classes_of(prototypes)
    if classes.max() >= num_classes:
        raise ConfigError(
            f"feature_alignment has a collected image of class {classes.max()} and the task has num_classes {num_classes}: "
            "give images of its classes"
        )
    missing = np.flatnonzero(np.bincount(classes, minlength=num_classes) == 0)
    if len(missing) and every_class:
        listed = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise ConfigError(
            f"feature_alignment has no collected image of class {listed}: collect some of every class, or read the data set's "
            "own labels with collected.labels=dataset"
        )

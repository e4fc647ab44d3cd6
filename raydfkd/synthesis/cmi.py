"""CMI: a generator drawn anew for each batch, whose images must differ from one another and from those of earlier batches.

Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021. Generator and latents minimise

    bn_weight * L_BN + one_hot_weight * CE(t, y) + adversarial_weight * L_adv + contrastive_weight * L_cr

The first three read a global view of each image (random crop, flip), L_cr (``losses.contrastive``) compares it with a local
view (resized crop, flip). L_cr sees an image as the teacher's instance feature: the inputs of its BatchNorm layers, each
averaged over the pixels, side by side. A projection head with an optimizer of its own turns features into unit vectors; both
views' unprojected features are kept for later batches to differ from, and are projected anew by the present head.

Where we deviate from the published code: kept features are in float16, half the memory; they are of the images as the best step
saw them, which is also what the code stores; the local view's crop is ``augment.resized_crop``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.synthesis.method import Method, SynthesisContext, SynthesisParts
from raydfkd.synthesis.teacher_inversion import LAYER_FIGURES, TargetedConfig, TargetedSynthesizer
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd import augment
    from raydfkd.losses import contrastive, inversion
    from raydfkd.models import features, generators, precision
    from raydfkd.models import weights as weight_files
    from raydfkd.models.discriminators import projection_head
    from raydfkd.models.generators.upsampling import LatentGenerator
    from raydfkd.models.teachers import bn_statistics
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, augment = deferred("torch"), deferred("raydfkd.augment")
    contrastive, inversion = deferred("raydfkd.losses.contrastive"), deferred("raydfkd.losses.inversion")
    features, generators = deferred("raydfkd.models.features"), deferred("raydfkd.models.generators")
    precision, weight_files = deferred("raydfkd.models.precision"), deferred("raydfkd.models.weights")
    projection_head = deferred("raydfkd.models.discriminators.projection_head")
    bn_statistics = deferred("raydfkd.models.teachers.bn_statistics")

ADAM_BETAS = (0.5, 0.999)
"""Of generator and latents; the head's are Adam's defaults."""


class CMIConfig(TargetedConfig):
    """CMI (Fang et al., IJCAI 2021): a new generator for each batch, with a contrastive loss against earlier batches."""

    method: Literal["cmi"] = "cmi"
    """Name of the synthesis method."""
    steps_per_batch: int = Field(200, ge=1)
    """Steps of generator and latents for each batch; the one of lowest loss gives its images."""
    generator: str = "standard"
    """Generator network: standard, large, or transposed for images of 64 to 128 pixels."""
    base_channels: int = Field(64, ge=4)
    """Channels of the generator's last hidden layer (ngf)."""
    latent_dim: int = Field(256, ge=1)
    """Width of the latent vector."""
    lr: float = Field(1e-3, gt=0)
    """Adam rate of generator, latents and projection head."""
    bn_weight: float = Field(1.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    one_hot_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the target class (0.5 where the paper starts from images made before)."""
    adversarial_weight: float = Field(0.5, ge=0)
    """Weight of the teacher-student disagreement; 0: the method's non-adversarial form."""
    contrastive_weight: float = Field(0.8, ge=0)
    """Weight of the contrastive loss; 0: none, and no local views."""
    contrastive_temperature: float = Field(0.1, gt=0)
    """Temperature of the contrastive loss."""
    projected_dim: int = Field(256, ge=1)
    """Width of the projected features."""
    bank_size: int = Field(40_960, ge=1)
    """Images of earlier batches whose features are kept, the newest ones."""
    num_negatives: int = Field(4096, ge=0)
    """Kept images, drawn at random, that each step compares with."""
    instance_layers: tuple[str, ...] | None = None
    """Dotted names of the teacher's layers whose inputs make the instance feature; null: every BatchNorm layer. The paper takes
    the four stages of a ResNet-34, whose BatchNorm layers together are 8,512 wide."""
    crop_padding: int = Field(4, ge=0)
    """Global view: random-crop padding in pixels."""
    least_area: float = Field(0.25, gt=0, le=1)
    """Local view: smallest share of the image's area that it shows."""
    flip: bool = True
    """Mirror both views at random."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        if self.contrastive_weight == 0:
            idle = ("contrastive_temperature", "projected_dim", "bank_size", "num_negatives", "instance_layers", "least_area")
            self.refuse_idle("contrastive_weight 0", *idle)
        return self

    def images_trained_on(self, batches: int) -> int:
        images = batches * self.steps_per_batch * self.batch_size
        local_views = images if self.contrastive_weight > 0 else 0
        return self.with_alignment(images) + local_views

    @property
    def reads_batch_norm(self) -> bool:
        return self.bn_weight > 0 or (self.contrastive_weight > 0 and self.instance_layers is None)


class FeatureBank:
    """The newest images' features of both views, unprojected.

    Args:
        capacity: images.
        width: d, of one view.
        device: where they are kept.
    """

    def __init__(self, capacity: int, width: int, device: torch.device) -> None:
        self._rows = torch.zeros(capacity, 2, width, dtype=torch.float16, device=device)
        self._num_added = 0

    def __len__(self) -> int:
        return min(self._num_added, len(self._rows))

    def add(self, features_B2d: Tensor) -> None:
        """Keeps these, (local, global) of each image, in place of the oldest."""
        newest = features_B2d[-len(self._rows) :]
        first = self._num_added + len(features_B2d) - len(newest)
        places = (first + torch.arange(len(newest), device=newest.device)) % len(self._rows)
        self._rows[places] = newest.to(self._rows.dtype)
        self._num_added += len(features_B2d)

    def draw(self, num: int, rng: torch.Generator) -> Tensor:
        """float32 [n,2,d] of n = ``num`` different images, or of all if there are fewer; ``rng`` is a CPU generator."""
        chosen = torch.randperm(len(self), generator=rng)[:num]
        return self._rows[chosen.to(self._rows.device)].float()

    def state_dict(self) -> dict[str, Any]:
        # A copy: what is written of a part of a tensor is the whole.
        return {"rows": self._rows[: len(self)].clone(), "num_added": self._num_added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows[: len(state["rows"])] = state["rows"].to(self._rows.device)
        self._num_added = state["num_added"]


class CMISynthesizer(TargetedSynthesizer):
    """One generator network, re-drawn for each batch, with the head and the bank that last.

    Args:
        config: the method's settings.
        parts: see ``InversionSynthesizer``; the teacher has BatchNorm layers (the builder has checked).
        generator: latents [B,latent_dim] to images [B,C,H,W] in [0,1]; its weights do not matter.
        context: see ``SynthesisContext``.
        device: where all of it runs.

    Raises:
        TeacherError: the teacher has no layer that ``instance_layers`` names.
    """

    config: CMIConfig

    def __init__(
        self,
        config: CMIConfig,
        parts: SynthesisParts,
        generator: LatentGenerator,
        context: SynthesisContext,
        device: torch.device,
    ) -> None:
        super().__init__(config, parts, context, device)
        self.generator = generator.to(device).to(memory_format=torch.channels_last).train()
        self.contrast = None
        if config.contrastive_weight > 0:
            self.contrast = _Contrast(config, self.teacher, context.seed, device)

    @classmethod
    def build(cls, config: CMIConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Self:
        """Builds it from the networks of a run.

        Raises:
            UnknownNameError, ConfigError: there is no such generator, or it cannot make such images.
            TeacherError: the teacher has no layer that ``instance_layers`` names.
            ConfigError, TeacherError: feature alignment lacks something.
        """
        with torch.random.fork_rng(devices=[]):
            generator = generators.build_generator(
                config.generator, parts.teacher.image_shape, config.latent_dim, config.base_channels
            )
        return cls(config, parts, generator, context, device)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        config, contrast = self.config, self.contrast
        self.generator.reset(self.rng)
        latents = torch.randn(config.batch_size, config.latent_dim, generator=self.rng).to(self.device).requires_grad_()
        targets = self._draw_targets().sort().values.to(self.device)
        optimizer = torch.optim.Adam([*self.generator.parameters(), latents], config.lr, ADAM_BETAS)
        best_loss, best_images, best_features, metrics = float("inf"), None, None, {}
        for _ in range(config.steps_per_batch):
            optimizer.zero_grad(set_to_none=True)
            images, features_B2d, loss, terms = self._loss(latents, targets)
            value = float(loss.detach())
            if best_images is None or value < best_loss:
                best_loss, best_images, best_features, metrics = value, images.detach(), features_B2d, terms
            loss.backward()
            optimizer.step()
            if contrast is not None:
                contrast.train_head()
        if contrast is not None:
            assert best_features is not None
            contrast.bank.add(best_features)
        assert best_images is not None
        return self._finish(best_images, targets, {"loss": best_loss, **metrics})

    def _loss(self, latents: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None, Tensor, dict[str, float]]:
        """Images, both views' features (detached), the loss, and its terms."""
        config, contrast = self.config, self.contrast
        adversarial = config.adversarial_weight > 0
        features_B2d = None
        with precision.autocast(self.device, self.context.bf16):
            images = self.generator(latents).float()
            view = self.teacher.normalize(augment.random_crop_flip(images, config.crop_padding, config.flip, self.rng))
            with self._reading_layers():
                if contrast is None:
                    teacher_logits = self.teacher.model(view)
                else:
                    teacher_logits, global_Bd = contrast.read(view)
            student_logits = self.student(view) if adversarial or self._is_gap_aware else None
            if contrast is not None:
                crop = augment.random_resized_crop_flip(images, config.least_area, config.flip, self.rng)
                _, local_Bd = contrast.read(self.teacher.normalize(crop))
                features_B2d = torch.stack([local_Bd, global_Bd], 1)
        aims = self.task.aims(targets, teacher_logits.detach())
        terms = {
            "bn_loss": self._bn_loss(teacher_logits),
            "one_hot_loss": self._class_loss(teacher_logits, student_logits, aims),
        }
        loss = config.bn_weight * terms["bn_loss"] + config.one_hot_weight * terms["one_hot_loss"]
        if adversarial and student_logits is not None:
            terms["adversarial_loss"] = inversion.adversarial_loss(student_logits, teacher_logits)
            loss = loss + config.adversarial_weight * terms["adversarial_loss"]
        if contrast is not None and features_B2d is not None:
            terms["contrastive_loss"] = contrast.loss(features_B2d, self.rng)
            loss = loss + config.contrastive_weight * terms["contrastive_loss"]
            features_B2d = features_B2d.detach()
        loss, terms = self._with_patches(loss, terms)
        loss, terms = self._aligned(loss, terms, images, aims)
        return images, features_B2d, loss, {name: float(term.detach()) for name, term in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state if self.contrast is None else state | self.contrast.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.contrast is not None:
            self.contrast.load_state_dict(state)


class _Contrast:
    """How images are compared: the teacher's instance features, the head, and the bank of earlier images' features."""

    def __init__(self, config: CMIConfig, teacher: FrozenTeacher, seed: int, device: torch.device) -> None:
        self.config = config
        layers = config.instance_layers or tuple(bn_statistics.batch_norm_layers(teacher))
        self._capture = features.capture(teacher.model, (), inputs_of=layers, role="teacher")
        with torch.no_grad():
            _, probed = self.read(torch.zeros(1, *teacher.image_shape, device=device))
        width = probed.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = projection_head.ProjectionHead(width, config.projected_dim).to(device)
        self._optimizer = torch.optim.Adam(self.head.parameters(), config.lr)
        self.bank = FeatureBank(config.bank_size, width, device)

    def read(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits [B,K] and instance features float32 [B,d] of normalised images [B,C,H,W]."""
        logits, inputs = self._capture(view)
        return logits, torch.cat([x.float().flatten(2).mean(2) if x.ndim > 2 else x.float() for x in inputs], 1)

    def loss(self, features_B2d: Tensor, rng: torch.Generator) -> Tensor:
        """L_cr of the current batch and of ``num_negatives`` kept images."""
        kept = self.bank.draw(self.config.num_negatives, rng)
        local_Md, global_Md = torch.cat([features_B2d, kept]).unbind(1)
        with torch.no_grad():
            global_MD = self.head(global_Md)
        return contrastive.contrastive_loss(
            self.head(local_Md), global_MD, len(features_B2d), self.config.contrastive_temperature
        )

    def train_head(self) -> None:
        """A step along the gradient that the loss has left."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {
            "head": self.head.state_dict(),
            "head_optimizer": self._optimizer.state_dict(),
            "bank": self.bank.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        weight_files.load_optimizer(self._optimizer, state["head_optimizer"])
        self.bank.load_state_dict(state["bank"])


METHOD = Method(
    config=CMIConfig,
    build=CMISynthesizer.build,
    title="CMI: a new generator for each batch, with a contrastive loss against earlier images",
    paper="Fang et al., IJCAI 2021",
    needs_batch_norm=True,
    needs_gradient=True,
    figures=LAYER_FIGURES,
)

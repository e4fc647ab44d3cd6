"""HiDFD's teacher-guided GAN: an ADC-GAN whose discriminator follows the teacher's features.

Hybrid Data-Free Knowledge Distillation (arXiv 2412.13525), Eqs 1 and 8-12; the losses are in ``losses.gan``. Where the paper
is silent or its code differs:

* In a discriminator step synthetic images have the classes of the real ones, so that blended pairs share a class. In a
  generator step classes are drawn uniformly from those that were collected, as the images will be: a rare class is
  trained as often as a frequent one.
* Real and synthetic images are normalised for the teacher with the teacher's own statistics.
* The averaged generator's decay grows as (1+n)/(10+n), where the code starts averaging at step 1,000.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.synthesis.gans.gan_synthesizer import GANConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from raydfkd.losses import gan
    from raydfkd.models import discriminators, generators, moving_average, precision
    from raydfkd.models import weights as weight_files
    from raydfkd.models.discriminators import residual_discriminator
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, F = deferred("torch"), deferred("torch.nn.functional")
    gan, moving_average = deferred("raydfkd.losses.gan"), deferred("raydfkd.models.moving_average")
    generators, precision = deferred("raydfkd.models.generators"), deferred("raydfkd.models.precision")
    weight_files = deferred("raydfkd.models.weights")
    discriminators, residual_discriminator = (
        deferred("raydfkd.models.discriminators"),
        deferred("raydfkd.models.discriminators.residual_discriminator"),
    )

ADAM_BETAS = (0.0, 0.999)


class GuidedGANConfig(GANConfig):
    """The networks, losses and rates of a teacher-guided GAN."""

    gan_batch_size: int = Field(100, ge=2)
    """Real images, and as many synthetic ones, in a GAN step (not given in the paper; its code uses 100)."""
    discriminator_steps: int = Field(1, ge=1)
    """Discriminator updates for each generator update."""
    adversarial_loss: Literal["hinge", "log"] = "hinge"
    """hinge as in ADC-GAN and the official code, log as the paper prints it."""
    class_weight: float = Field(1.0, ge=0)
    """Weight of the discriminative classifier's terms in both losses."""
    feature_blending: bool = True
    """Exchange real and synthetic features of a class between teacher and discriminator (Eq. 8)."""
    blending_probability: float = Field(0.7, ge=0, le=1)
    """q: share of discriminator updates with blending."""
    feature_transfer: bool = True
    """Match the discriminator's features to the teacher's (Eq. 9)."""
    guidance_weight: float = Field(0.1, ge=0)
    """lambda_d: weight of blending and transfer in the discriminator's loss."""
    class_smoothing: bool = True
    """Push the generator towards classes that it rarely makes (Eqs 10-12)."""
    smoothing_weight: float = Field(0.1, ge=0)
    """lambda_g: weight of class smoothing in the generator's loss."""
    class_count_momentum: float = Field(0.5, gt=0, le=1)
    """gamma: share of the newest batch in the running class counts (Eq. 10)."""
    generator_lr: float = Field(1e-4, gt=0)
    """Adam rate of the generator."""
    discriminator_lr: float = Field(4e-4, gt=0)
    """Adam rate of the discriminator and its projector."""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """Decay per GAN step of the averaged generator, which makes the images; it grows as (1+n)/(10+n) up to this."""
    latent_dim: int = Field(128, ge=1)
    """Width of the latent vector."""
    generator_channels: int = Field(64, ge=1)
    """Channel unit of the generator: 64 has the published widths."""
    discriminator_channels: int = Field(64, ge=1)
    """Channel unit of the discriminator: 64 has the published widths."""
    conditioning: Literal["per_layer", "shared", "hierarchical"] = "per_layer"
    """How the class reaches the generator's layers: a table in each, one shared embedding, or that with parts of the latent."""
    image_size: int | None = Field(None, ge=8)
    """Side at which the GAN works; its images are resized to the task's. null: the task's own."""
    flip: bool = True
    """Mirror real images at random before the discriminator sees them."""

    @model_validator(mode="after")
    def _refuse_idle_terms(self) -> Self:
        if not self.feature_blending:
            self.refuse_idle("feature_blending false", "blending_probability")
        if not (self.feature_blending or self.feature_transfer):
            self.refuse_idle("feature_blending and feature_transfer false", "guidance_weight")
        if not self.class_smoothing:
            self.refuse_idle("class_smoothing false", "smoothing_weight", "class_count_momentum")
        return self


class GuidedGAN:
    """Generator, averaged generator, discriminator and projector with their optimizers.

    Args:
        config: the method's settings.
        teacher: frozen; moved to ``device``.
        images: uint8 [N,C,H,W], the collected images.
        classes: int [N], their classes.
        seed: for initialisation and all draws.
        device: where all of it runs.
        bf16: bfloat16 autocast where the device has it.

    Raises:
        ConfigError: the GAN has no layout for images of that size.
        TeacherError: the teacher has no classifier head whose input could guide the discriminator.
    """

    def __init__(
        self,
        config: GuidedGANConfig,
        teacher: FrozenTeacher,
        images: Tensor,
        classes: Tensor,
        seed: int,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.config, self.device, self.bf16 = config, device, bf16
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self.num_steps = 0
        self.rng = torch.Generator().manual_seed(seed)
        self._images, self._classes = images.to(device), classes.long().to(device)
        self._present = torch.unique(self._classes)
        channels, height, width = teacher.image_shape
        side = config.image_size
        shape = (channels, height, width) if side is None else (channels, side, side)
        self._task_size, self._gan_size = (height, width), shape[1:]
        num_classes = teacher.num_classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = generators.build_conditional_generator(
                "residual", shape, num_classes, config.latent_dim, config.generator_channels, config.conditioning
            )
            discriminator = discriminators.build_discriminator("residual", shape, num_classes, config.discriminator_channels)
            projector = residual_discriminator.FeatureProjector(discriminator.feature_dim, self._teacher_width())
        self.generator = generator.to(device).to(memory_format=torch.channels_last).train()
        self.averaged = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last).train()
        self.projector = projector.to(device)
        self.class_counts = torch.full((num_classes,), config.gan_batch_size / num_classes, device=device)
        self._generator_optimizer = torch.optim.Adam(generator.parameters(), config.generator_lr, ADAM_BETAS)
        critics = [*discriminator.parameters(), *projector.parameters()]
        self._discriminator_optimizer = torch.optim.Adam(critics, config.discriminator_lr, ADAM_BETAS)

    def train_step(self) -> dict[str, Tensor]:
        """One generator update after its discriminator updates; returns their losses, detached."""
        terms = {}
        for _ in range(self.config.discriminator_steps):
            terms = self._discriminator_step()
        terms |= self._generator_step()
        self.num_steps += 1
        self._update_average()
        return terms

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Images [count,C,H,W] in [0,1] from the averaged generator at the task's size, and the requested classes."""
        classes = self._draw_classes(count)
        with torch.no_grad(), precision.autocast(self.device, self.bf16):
            images = self.averaged(self._draw_latents(count), classes)
        return self._for_teacher(images.float()).clamp(0, 1), classes

    def _discriminator_step(self) -> dict[str, Tensor]:
        config = self.config
        real, classes = self._draw_real()
        with torch.no_grad(), precision.autocast(self.device, self.bf16):
            synthetic = self.generator(self._draw_latents(len(real)), classes).float()
            _, teacher_features = self.teacher.forward_features(self._for_teacher(torch.cat([real, synthetic])))
        with precision.autocast(self.device, self.bf16):
            output = self.discriminator(torch.cat([real, synthetic]))
            features = self.projector(output.features)
        of_real, of_synthetic = output.adversarial.chunk(2)
        taught_real, taught_synthetic = teacher_features.float().chunk(2)
        own_real, own_synthetic = features.float().chunk(2)
        loss = gan.adversarial_discriminator_loss(of_real, of_synthetic, config.adversarial_loss)
        class_of_real, class_of_synthetic = output.class_logits.chunk(2)
        class_loss = gan.class_discriminator_loss(class_of_real, classes, class_of_synthetic, classes)
        total = loss + config.class_weight * class_loss
        terms = {
            "discriminator_loss": loss,
            "discriminator_class_loss": class_loss,
            "real_confidence": of_real.float().sigmoid().mean(),
            "synthetic_confidence": of_synthetic.float().sigmoid().mean(),
        }
        draw = torch.rand((), generator=self.rng).to(self.device)
        if config.feature_blending:
            terms["blending_loss"] = gan.feature_blending(
                taught_real, taught_synthetic, own_real, own_synthetic, draw, config.blending_probability
            )
            total = total + config.guidance_weight * terms["blending_loss"]
        if config.feature_transfer:
            terms["transfer_loss"] = gan.feature_transfer(taught_real, taught_synthetic, own_real, own_synthetic)
            total = total + config.guidance_weight * terms["transfer_loss"]
        self._discriminator_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._discriminator_optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _generator_step(self) -> dict[str, Tensor]:
        config = self.config
        classes = self._draw_classes(config.gan_batch_size)
        self.discriminator.requires_grad_(False)
        with precision.autocast(self.device, self.bf16):
            synthetic = self.generator(self._draw_latents(len(classes)), classes)
            output = self.discriminator(synthetic)
            # Without smoothing the teacher's predictions are only reported.
            with torch.set_grad_enabled(config.class_smoothing):
                teacher_logits = self.teacher(self._for_teacher(synthetic.float()))
        self.discriminator.requires_grad_(True)
        loss = gan.adversarial_generator_loss(output.adversarial, config.adversarial_loss)
        class_loss = gan.class_generator_loss(output.class_logits, classes)
        total = loss + config.class_weight * class_loss
        self.class_counts = gan.updated_class_counts(self.class_counts, teacher_logits, config.class_count_momentum)
        terms = {"generator_loss": loss, "generator_class_loss": class_loss, **self._class_figures(teacher_logits, classes)}
        if config.class_smoothing:
            terms["smoothing_loss"] = gan.class_regularization(teacher_logits, self.class_counts)
            total = total + config.smoothing_weight * terms["smoothing_loss"]
        self._generator_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._generator_optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _class_figures(self, teacher_logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """How often the teacher predicts the requested class, and the evenness of its predictions (1: even)."""
        shares = self.class_counts / self.class_counts.sum()
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum() / torch.log(torch.tensor(float(len(shares))))
        return {"class_hit_rate": (teacher_logits.argmax(1) == classes).float().mean(), "class_evenness": entropy}

    def _draw_real(self) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, len(self._images), (self.config.gan_batch_size,), generator=self.rng).to(self.device)
        images = self._images[chosen].float().div_(255)
        if self.config.flip:
            mirrored = (torch.rand(len(images), generator=self.rng) < 0.5).to(self.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if images.shape[2:] != self._gan_size:
            images = F.interpolate(images, self._gan_size, mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last), self._classes[chosen]

    def _draw_classes(self, count: int) -> Tensor:
        return self._present[torch.randint(0, len(self._present), (count,), generator=self.rng).to(self.device)]

    def _draw_latents(self, count: int) -> Tensor:
        return torch.randn(count, self.config.latent_dim, generator=self.rng).to(self.device)

    def _for_teacher(self, images: Tensor) -> Tensor:
        if images.shape[2:] == self._task_size:
            return images
        return F.interpolate(images, self._task_size, mode="bilinear", antialias=True)

    def _teacher_width(self) -> int:
        probe = torch.zeros(1, *self.teacher.image_shape, device=next(self.teacher.parameters()).device)
        with torch.no_grad():
            return self.teacher.forward_features(probe)[1].shape[1]

    def _update_average(self) -> None:
        averaged, newest = self.averaged.parameters(), self.generator.parameters()
        moving_average.update_average(averaged, newest, self.config.ema_decay, self.num_steps)
        # BatchNorm's own running averages, and the singular vectors, which belong to the newest weights.
        for mine, theirs in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "class_counts": self.class_counts,
            "num_steps": self.num_steps,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        weight_files.load_parts(self._parts(), state)
        self.class_counts = state["class_counts"].to(self.device)
        self.num_steps = state["num_steps"]
        self.rng.set_state(state["rng"].cpu())

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator,
            "averaged": self.averaged,
            "discriminator": self.discriminator,
            "projector": self.projector,
            "generator_optimizer": self._generator_optimizer,
            "discriminator_optimizer": self._discriminator_optimizer,
        }

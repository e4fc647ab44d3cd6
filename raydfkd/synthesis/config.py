"""Settings of the synthesis methods. No torch here: the configuration tree imports this file."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PUBLISHED_RATES = {2: (5e-3, 0.015), 5: (3e-3, 0.01), 10: (2e-3, 0.01)}
"""FastDFKD's (generator, latent) learning rates for 2, 5 and 10 steps a batch."""


class ResourcesConfig(BaseModel):
    """What one actor asks of the cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cpus: float = Field(1, gt=0)
    """CPUs reserved per actor (fractions allowed)."""
    num_gpus: float = Field(0, ge=0)
    """GPUs reserved per actor (fractions allowed)."""
    num_threads: int | None = Field(None, ge=1)
    """torch threads per actor; None: its CPUs, rounded up."""
    custom: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources per actor, e.g. {gen_node: 1}."""


class AttackConfig(BaseModel):
    """The boundary attack: images are pushed to where the teacher changes its mind, and those on both sides are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(50, ge=1)
    """Steps tried on each image at most."""
    threshold: float | None = Field(None, gt=0, le=1)
    """Largest probability that the teacher may give to any class on either side; null: 0.6, and 0.5 above 10 classes."""
    step_size: float | None = Field(None, gt=0)
    """Length of the first step (Euclidean, pixel value 255 being 1.0); null: one grey level in every value."""
    step_growth: float = Field(1.1, ge=1)
    """What a step's length is multiplied by after one that was accepted."""
    step_shrink: float = Field(0.5, gt=0, lt=1)
    """What it is multiplied by after one that was taken back."""
    deeper_steps: float = Field(5.0, ge=0)
    """Each side has a copy that goes this many last steps back into its own class; 0: there are no such copies."""

    @property
    def images_per_attack(self) -> int:
        """What comes of an attacked image."""
        return 4 if self.deeper_steps > 0 else 2


class BoundaryAttackConfig(AttackConfig):
    """The attack on some images of each batch."""

    share: float = Field(0.8, gt=0, le=1)
    """Largest share of a batch that the attack's images take; 0.8: an image and the four that come of it, as in the paper."""

    def num_attacked(self, batch_size: int) -> int:
        """Images of a batch that are attacked."""
        return int(self.share * batch_size) // self.images_per_attack


class AutoscaleConfig(BaseModel):
    """Adding and dropping generators of a source while the run goes on, by who waits for whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(1, ge=1)
    """Fewest generators."""
    max: int = Field(ge=1)
    """Most generators."""
    add_above: float = Field(0.1, gt=0, lt=1)
    """Share of their time that students wait for images, above which a generator is added (below half of it one may go)."""
    spare: float = Field(0.2, gt=0, lt=1)
    """Share of their time that generators must still wait after one is dropped; one is added only where they wait less."""
    window_s: float = Field(60.0, gt=0)
    """Seconds over which waits are measured."""
    cooldown_s: float = Field(60.0, ge=0)
    """Least seconds between two changes (never less than window_s)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"autoscale.min {self.min} is more than autoscale.max {self.max}: give min <= max")
        return self


class SynthesisConfig(BaseModel):
    """What every synthesis method has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    """Name of the synthesis method."""
    num_generators: int = Field(1, ge=1)
    """Generator actors that fill the buffer from this source, each with a network of its own."""
    resources: ResourcesConfig = ResourcesConfig()
    """What each generator actor asks of the cluster."""
    autoscale: AutoscaleConfig | None = None
    """decoupled, on Ray: let the run add and drop generators by itself; null: only `raydfkd scale` changes their number."""
    batch_size: int = Field(256, ge=1)
    """Images per batch that the buffer gets."""
    boundary_attack: BoundaryAttackConfig | None = None
    """Attack some images of each batch; null: none."""

    @model_validator(mode="after")
    def _attack_has_room(self) -> Self:
        attack = self.boundary_attack
        if attack is not None and attack.num_attacked(self.batch_size) == 0:
            raise ValueError(
                f"boundary_attack.share {attack.share:g} of batch_size {self.batch_size} has no room for the "
                f"{attack.images_per_attack} images that come of one: raise one of the two"
            )
        return self

    @model_validator(mode="after")
    def _begins_in_bounds(self) -> Self:
        bounds = self.autoscale
        if bounds is not None and not bounds.min <= self.num_generators <= bounds.max:
            raise ValueError(
                f"num_generators {self.num_generators} is outside autoscale {bounds.min} to {bounds.max}: a run begins with it"
            )
        return self


class FastConfig(SynthesisConfig):
    """FastDFKD (Fang et al., AAAI 2022): a meta-learned generator adapted for a few steps to each batch."""

    method: Literal["fast"] = "fast"
    """Name of the synthesis method."""
    student: str | None = None
    """Student that this source plays against: whose weights its generators get, and whose losses give new images their first
    priorities; null: the first one."""
    steps_per_batch: int = Field(2, ge=1)
    """Adaptation steps k of the generator for each batch (T_g in SSD-KD)."""
    meta: Literal["fomaml", "reptile", "sequential"] = "fomaml"
    """How the common generator learns from its adapted clone; sequential: no clone, one generator goes on."""
    generator: str = "standard"
    """Generator network: standard or large."""
    base_channels: int = Field(64, ge=4)
    """Channels of the generator's last hidden layer (ngf)."""
    latent_dim: int = Field(256, ge=1)
    """Width of the latent vector."""
    generator_lr: float | None = Field(None, gt=0)
    """Adam rate of the clone; None: the published rate for steps_per_batch (2, 5 or 10; the nearest for others)."""
    latent_lr: float | None = Field(None, gt=0)
    """Adam rate of the latents; None: the published rate for steps_per_batch."""
    bn_weight: float = Field(10.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    one_hot_weight: float = Field(0.4, ge=0)
    """Weight of the cross-entropy to the target class."""
    adversarial_weight: float = Field(1.1, ge=0)
    """Weight of the teacher-student disagreement."""
    bn_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of earlier calls' statistics in the BatchNorm loss; only the rest carries gradient."""
    adversarial_start_batches: int | None = Field(None, ge=0)
    """Batches (of the whole run) before the adversarial loss starts; None: one before the warm-up ends, as published."""
    reset_batches: int | None = Field(None, ge=0)
    """Batches (of the whole run) before the generator's first layer is drawn anew, once; None: warm-up + 119, as published."""
    reset_bn_weight_mean: float = 0.0
    """Mean of the redrawn first BatchNorm weight: 0 is what the published code does, 1 what it probably meant."""
    crop_padding: int = Field(4, ge=0)
    """Random-crop padding in pixels before the teacher sees an image during synthesis."""
    flip: bool = True
    """Mirror images at random before the teacher sees them during synthesis."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        if self.adversarial_weight == 0 and self.adversarial_start_batches is not None:
            raise ValueError("adversarial_weight 0 does not use adversarial_start_batches: leave it out")
        return self

    def rates(self) -> tuple[float, float]:
        """The (generator, latent) learning rates in force."""
        nearest = min(PUBLISHED_RATES, key=lambda k: abs(k - self.steps_per_batch))
        generator_lr, latent_lr = PUBLISHED_RATES[nearest]
        return (
            generator_lr if self.generator_lr is None else self.generator_lr,
            latent_lr if self.latent_lr is None else self.latent_lr,
        )


class SSDKDConfig(FastConfig):
    """SSD-KD (Liu et al., CVPR 2024): FastDFKD with modulated task loss and prioritized replay."""

    method: Literal["ssdkd"] = "ssdkd"  # type: ignore[assignment]
    """Name of the synthesis method."""
    diversity: bool = True
    """Weigh the task loss by the rarity of the predicted class in the buffer (Eq. 3, first factor)."""
    difficulty: bool = True
    """Weigh the task loss by the teacher's lack of confidence (Eq. 3, second factor)."""
    difficulty_gamma: float = Field(2.0, ge=0)
    """Exponent gamma of the difficulty factor; the paper does not give it, 2 is the focal loss's."""
    difficulty_of: Literal["prediction", "target"] = "prediction"
    """Whose probability says how hard an image is: that of the class the teacher sees (Eq. 3 read literally), or that of the
    class the task loss aims at (the focal loss; not the same with random targets)."""
    target: Literal["random", "teacher"] = "random"
    """Class in the task loss: uniform as in FastDFKD, or the teacher's own prediction as Eq. 2's text says."""

    @model_validator(mode="after")
    def _refuse_unused_gamma(self) -> Self:
        for name in ("difficulty_gamma", "difficulty_of"):
            if not self.difficulty and getattr(self, name) != SSDKDConfig.model_fields[name].default:
                raise ValueError(f"difficulty false does not use {name}: leave it out")
        return self


class HiDFDConfig(SynthesisConfig):
    """HiDFD (arXiv 2412.13525): a class-conditional GAN on few collected images, its discriminator guided by the teacher."""

    method: Literal["hidfd"] = "hidfd"
    """Name of the synthesis method."""
    pretrain_steps: int = Field(50_000, ge=0)
    """GAN steps before the first batch is delivered."""
    steps_per_batch: int = Field(0, ge=0)
    """GAN steps between two delivered batches; 0: the GAN stands still once it delivers, as in the paper."""
    gan_batch_size: int = Field(100, ge=2)
    """Real images, and as many synthetic ones, in a GAN step (the paper gives none, its code has 100)."""
    discriminator_steps: int = Field(1, ge=1)
    """Discriminator updates for each generator update."""
    adversarial_loss: Literal["hinge", "log"] = "hinge"
    """hinge as in ADC-GAN and the official code, log as the paper prints it."""
    class_weight: float = Field(1.0, ge=0)
    """Weight of the discriminative classifier's terms in both losses."""
    feature_blending: bool = True
    """Real and synthetic features of a class change places between teacher and discriminator (Eq. 8)."""
    blending_probability: float = Field(0.7, ge=0, le=1)
    """q: share of discriminator updates in which they do."""
    feature_transfer: bool = True
    """The discriminator's features follow the teacher's (Eq. 9)."""
    guidance_weight: float = Field(0.1, ge=0)
    """lambda_d: weight of blending and transfer in the discriminator's loss."""
    class_smoothing: bool = True
    """The generator is drawn to the classes it makes rarely (Eqs 10-12)."""
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
    def _refuse_ignored(self) -> Self:
        ignored = {
            "blending_probability": not self.feature_blending,
            "guidance_weight": not (self.feature_blending or self.feature_transfer),
            "smoothing_weight": not self.class_smoothing,
            "class_count_momentum": not self.class_smoothing,
        }
        # Not by model_fields_set: a saved experiment holds every field, and must run again.
        for name, unused in ignored.items():
            if unused and getattr(self, name) != HiDFDConfig.model_fields[name].default:
                raise ValueError(f"{name} is set but the term it belongs to is switched off: leave it out")
        if self.pretrain_steps == 0 and self.steps_per_batch == 0:
            raise ValueError("pretrain_steps and steps_per_batch are both 0, so the GAN would never be trained: raise one")
        return self

"""PRE-DFKD: a generator that makes what the student gets wrong, and a memory that makes again what it made before.

Binici et al., "Preventing Catastrophic Forgetting and Distribution Mismatch in Knowledge Distillation via Synthetic Data",
AAAI 2022. The novel generator minimises

    one_hot_weight * CE(t, argmax t) + entropy_weight * sum p log10 p + activation_weight * L_act
        + disagreement_weight * (1 - JS)

The memory, a variational autoencoder, minimises mean |image| + mean |teacher's logits| between what it is given and what it
reconstructs, plus kl_weight * KL to N(0,I). It is given novel images and its own. Latents of its own images are drawn from
N(0,I) and refined by one Adam step on the first two terms above plus ``losses.variational.latent_moments_loss``.

An iteration of the paper is one step of the generator and ten of the student, each on 1024 novel and 128 memory images that
no other step sees, four of them followed by a step of the memory. It stores no image. Here images reach the student through
the buffer, so an iteration is a batch: ``steps_per_batch`` steps of the generator, ``memory_steps_per_batch`` of the memory,
then ``batch_size`` images, a share ``memory_share`` of them from the memory. With batch_size and replay.synthetic.capacity
11520, a student batch_size of 1152, student_steps_per_round 10 and the objective l1, every student step draws from this
iteration's images alone, as published, but with replacement. A smaller batch_size, or a larger capacity, reuses images for
less synthesis.

Where we deviate: all memory steps of a batch come before its images and not between the student's steps; the student is in
evaluation mode while the generator trains, the paper's is in training mode; refining latents leaves no gradient in the
decoder, the paper's does; novel images of a memory step are drawn for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.synthesis.method import Frame, Method, SynthesisContext, SynthesisParts
from raydfkd.synthesis.teacher_inversion import InversionConfig, InversionSynthesizer, portions
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.losses import inversion, variational
    from raydfkd.models import precision
    from raydfkd.models import weights as weight_files
    from raydfkd.models.generators import memory_networks
else:
    torch = deferred("torch")
    inversion, variational = deferred("raydfkd.losses.inversion"), deferred("raydfkd.losses.variational")
    precision, weight_files = deferred("raydfkd.models.precision"), deferred("raydfkd.models.weights")
    memory_networks = deferred("raydfkd.models.generators.memory_networks")

MIN_BATCH_SIZE = 16
"""Of the generator, so that the memory gets two images of its own, the fewest that have a variance."""


class PreDFKDConfig(InversionConfig):
    """PRE-DFKD (Binici et al., AAAI 2022): a generator of novel images, and a memory that makes the earlier ones again."""

    method: Literal["predfkd"] = "predfkd"
    """Name of the synthesis method."""
    batch_size: int = Field(1152, ge=1)
    """Images per batch added to the buffer, novel and from the memory."""
    memory_share: float = Field(1 / 9, ge=0, lt=1)
    """Share of a batch that the memory makes: 128 of 1152 as published."""
    generator_batch_size: int = Field(1024, ge=MIN_BATCH_SIZE)
    """Novel images of a generator step. A memory step takes half as many novel images and an eighth as many of its own."""
    steps_per_batch: int = Field(1, ge=1)
    """Steps of the novel generator before each batch."""
    memory_steps_per_batch: int = Field(4, ge=1)
    """Steps of the memory before each batch."""
    base_channels: int = Field(64, ge=1)
    """Channels of the networks' narrowest hidden layers."""
    latent_dim: int = Field(1000, ge=1)
    """Width of the latent vectors."""
    generator_lr: float = Field(0.02, gt=0)
    """Adam rate of the novel generator."""
    memory_lr: float = Field(5e-4, gt=0)
    """Adam rate of the memory's encoder and decoder."""
    latent_lr: float = Field(0.02, gt=0)
    """Adam rate of the one step that refines the memory's latents."""
    one_hot_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    entropy_weight: float = Field(5.0, ge=0)
    """Weight of the negative entropy of the batch's mean prediction."""
    activation_weight: float = Field(0.1, ge=0)
    """Weight of the reward for large penultimate features; 0: the teacher's features are not read."""
    disagreement_weight: float = Field(1.0, ge=0)
    """Weight of 1 - JS between student and teacher."""
    kl_weight: float = Field(1e-5, ge=0)
    """Weight of the KL of the memory's latents to N(0,I)."""

    @model_validator(mode="after")
    def _memory_has_room(self) -> Self:
        if self.memory_share > 0 and self.num_remembered < 2:
            raise ValueError(
                f"memory_share {self.memory_share:g} of batch_size {self.batch_size} is less than two images: raise one of "
                "them, or set memory_share to 0"
            )
        return self

    def images_trained_on(self, batches: int) -> int:
        # A memory step has half a generator batch of novel images and an eighth of its own, which are refined before.
        memory = self.generator_batch_size * 3 // 4
        novel = self.with_alignment(self.steps_per_batch * self.generator_batch_size)
        return batches * (novel + self.memory_steps_per_batch * memory)

    @property
    def num_remembered(self) -> int:
        """Images of a batch that the memory makes."""
        return round(self.memory_share * self.batch_size)


class PreDFKDSynthesizer(InversionSynthesizer):
    """Novel generator and memory; ``step`` trains both and makes a batch.

    Raises:
        ConfigError: the networks cannot make images of the teacher's size.
        TeacherError: ``activation_weight`` is above 0 and the teacher's penultimate features cannot be found.
    """

    config: PreDFKDConfig

    def __init__(self, config: PreDFKDConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> None:
        super().__init__(config, parts, context, device)
        if config.activation_weight > 0:
            _ = self.teacher.classifier_head  # refuses a teacher without one
        shape, statistics = self.teacher.image_shape, self.teacher.normalization
        sizes = (shape, config.latent_dim, config.base_channels)
        mean, std = statistics.mean.tolist(), statistics.std.tolist()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.generator = memory_networks.NormalizedGenerator(*sizes, mean, std, spectral=True)
            self.decoder = memory_networks.NormalizedGenerator(*sizes, mean, std, spectral=False)
            self.encoder = memory_networks.MemoryEncoder(*sizes)
        for network in (self.generator, self.decoder, self.encoder):
            network.to(device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(self.generator.parameters(), config.generator_lr)
        self._memory_optimizer = torch.optim.Adam([*self.decoder.parameters(), *self.encoder.parameters()], config.memory_lr)
        self._has_memory = False

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        config = self.config
        metrics: dict[str, float] = {}
        for _ in range(config.steps_per_batch):
            metrics = self._novel_step()
        for _ in range(config.memory_steps_per_batch):
            metrics |= self._memory_step()
        self._has_memory = True
        return self._made(metrics)

    def _novel_step(self) -> dict[str, float]:
        """One update of the novel generator."""
        config = self.config
        with precision.autocast(self.device, self.context.bf16):
            images = self.generator(self._draw(config.generator_batch_size))
            if config.activation_weight > 0:
                teacher_logits, features = self.teacher.forward_features(images)
            else:
                teacher_logits, features = self.teacher(images), None
            student_logits = self.student(self.teacher.normalize(images))
        terms = {
            "one_hot_loss": inversion.one_hot_loss(teacher_logits, teacher_logits.argmax(1)),
            "entropy_loss": inversion.negative_batch_entropy(teacher_logits),
            # Not through the teacher: images are pushed to where the student is odd, not to where the teacher is.
            "disagreement_loss": inversion.disagreement_loss(student_logits, teacher_logits.detach()),
        }
        loss = self._matching(terms) + config.disagreement_weight * terms["disagreement_loss"]
        if features is not None:
            terms["activation_loss"] = inversion.activation_loss(features)
            loss = loss + config.activation_weight * terms["activation_loss"]
        loss, terms = self._aligned(loss, terms, images, teacher_logits.argmax(1))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return {"loss": float(loss.detach()), **{name: float(term.detach()) for name, term in terms.items()}}

    def _memory_step(self) -> dict[str, float]:
        """One update of the memory, on novel images and, once it has any, its own."""
        config = self.config
        with torch.no_grad(), precision.autocast(self.device, self.context.bf16):
            given = self.generator(self._draw(config.generator_batch_size // 2))
        if self._has_memory:
            given = torch.cat([given, self._remember(config.generator_batch_size // 8)])
        with precision.autocast(self.device, self.context.bf16):
            mean_BZ, log_variance_BZ = self.encoder(self.teacher.normalize(given))
            noise_BZ = torch.randn(mean_BZ.shape, generator=self.rng).to(self.device)
            made = self.decoder(mean_BZ + (0.5 * log_variance_BZ).exp() * noise_BZ)
            with torch.no_grad():
                given_logits = self.teacher(given)
            made_logits = self.teacher(made)
        # Distances between images are in the teacher's normalised space, where the published code has them.
        images_loss, logits_loss = variational.reconstruction_losses(
            self.teacher.normalize(made), self.teacher.normalize(given), made_logits, given_logits
        )
        loss = images_loss + logits_loss + config.kl_weight * variational.gaussian_kl(mean_BZ, log_variance_BZ)
        self._memory_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._memory_optimizer.step()
        terms = {"memory_loss": loss, "memory_image_loss": images_loss, "memory_logit_loss": logits_loss}
        return {name: float(term.detach()) for name, term in terms.items()}

    def _remember(self, num: int) -> Tensor:
        """Images [num,C,H,W] of the memory, from refined latents; the decoder in its present mode."""
        latents = self._draw(num).requires_grad_()
        with precision.autocast(self.device, self.context.bf16):
            teacher_logits = self.teacher(self.decoder(latents))
        terms = {
            "one_hot_loss": inversion.one_hot_loss(teacher_logits, teacher_logits.argmax(1)),
            "entropy_loss": inversion.negative_batch_entropy(teacher_logits),
        }
        loss = self._matching(terms) + variational.latent_moments_loss(latents)
        optimizer = torch.optim.Adam([latents], self.config.latent_lr)
        (latents.grad,) = torch.autograd.grad(loss, [latents])
        optimizer.step()
        with torch.no_grad(), precision.autocast(self.device, self.context.bf16):
            return self.decoder(latents)

    def _matching(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted terms that novel and remembered images share."""
        return self.config.one_hot_weight * terms["one_hot_loss"] + self.config.entropy_weight * terms["entropy_loss"]

    def _made(self, metrics: dict[str, float]) -> SyntheticBatch:
        """A batch of images, at most ``generator_batch_size`` of a kind at a time, which BatchNorm reads together."""
        config = self.config
        parts = []
        for size in portions(config.batch_size - config.num_remembered, config.generator_batch_size):
            with torch.no_grad(), precision.autocast(self.device, self.context.bf16):
                parts.append(self._judged(self.generator(self._draw(size))))
        self.decoder.eval()
        for size in portions(config.num_remembered, config.generator_batch_size):
            parts.append(self._judged(self._remember(size)))
        self.decoder.train()
        return SyntheticBatch.concat(parts, metrics=metrics)

    def _judged(self, images: Tensor) -> SyntheticBatch:
        return self._finish(images, torch.full((len(images),), -1), {})

    def _draw(self, num: int) -> Tensor:
        return torch.randn(num, self.config.latent_dim, generator=self.rng).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return super().state_dict() | parts | {"has_memory": self._has_memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        weight_files.load_parts(self._parts(), state)
        self._has_memory = state["has_memory"]

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "decoder": self.decoder,
            "encoder": self.encoder,
            "optimizer": self._optimizer,
            "memory_optimizer": self._memory_optimizer,
        }


METHOD = Method(
    config=PreDFKDConfig,
    build=PreDFKDSynthesizer,
    title="PRE-DFKD: novel images, and a memory that makes earlier ones again",
    paper="Binici et al., AAAI 2022",
    needs_gradient=True,
    frame=Frame(student={"objective": {"kind": "l1"}}, fresh_steps=10),
)

"""DeGAN: a GAN on proxy images whose generator a teacher asks for all its classes (Addepalli et al., AAAI 2020).

    L_D = -E log D(x) - E log(1 - D(G(z)))
    L_G = -E log D(G(z)) + w_e E H(p(G(z))) + w_d sum_c p_c log p_c

with p the teacher's softmax, p_c its mean over the batch, w_e 0 and w_d 5 as in the published code. The proxy images are
the collected ones.

Where we deviate: images reach the teacher with its own normalisation, where the code hands it the GAN's [-1,1]. The published
batch is 2,048 images of CIFAR-100, of which those of 6 classes out of 100 are kept: about 120, for 25 steps in each of 200
epochs, and our defaults are these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.metrics import Figure
from raydfkd.settings import Budget
from raydfkd.synthesis.gans.gan_synthesizer import GANConfig, GANSynthesizer, collected_tensors
from raydfkd.synthesis.gans.hidfd import REAL_CONFIDENCE
from raydfkd.synthesis.method import Method, SynthesisContext, SynthesisParts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.losses import gan as gan_losses
    from raydfkd.models import precision
    from raydfkd.models import weights as weight_files
    from raydfkd.models.discriminators import dcgan_discriminator
    from raydfkd.models.generators import dcgan_generator
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, gan_losses = deferred("torch"), deferred("raydfkd.losses.gan")
    precision, weight_files = deferred("raydfkd.models.precision"), deferred("raydfkd.models.weights")
    dcgan_discriminator = deferred("raydfkd.models.discriminators.dcgan_discriminator")
    dcgan_generator = deferred("raydfkd.models.generators.dcgan_generator")


class DeGANConfig(GANConfig):
    """DeGAN (Addepalli et al., AAAI 2020): a GAN on proxy images, of which the teacher wants all its classes."""

    method: Literal["degan"] = "degan"
    """Name of the synthesis method."""
    pretrain_steps: Annotated[int, Budget()] = Field(5_000, ge=0)
    """GAN steps before the first batch is delivered."""
    gan_batch_size: int = Field(128, ge=2)
    """Real images, and as many synthetic ones, in a GAN step."""
    entropy_weight: float = Field(0.0, ge=0)
    """Weight of the teacher's mean entropy, which makes it sure of each image."""
    diversity_weight: float = Field(5.0, ge=0)
    """Weight of the negative entropy of the teacher's mean prediction, which makes images of all classes."""
    lr: float = Field(2e-4, gt=0)
    """Adam rate of both networks."""
    beta1: float = Field(0.5, ge=0, lt=1)
    """First of Adam's decay rates."""
    latent_dim: int = Field(100, ge=1)
    """Width of the latent vector."""
    base_channels: int = Field(64, ge=1)
    """Channel unit of both networks: 64 has the published widths."""

    @property
    def images_per_step(self) -> int:
        # The teacher judges the synthetic ones; the discriminator sees them twice and the real ones once.
        return 3 * self.gan_batch_size


class DeGAN:
    """Generator and discriminator with their optimizers.

    Args:
        config: the method's settings.
        teacher: frozen; moved to ``device``.
        images: uint8 [N,C,H,W], the proxy images.
        seed: for initialisation and all draws.
        device: where all of it runs.
        bf16: bfloat16 autocast where the device has it.
    """

    def __init__(
        self, config: DeGANConfig, teacher: FrozenTeacher, images: Tensor, seed: int, device: torch.device, bf16: bool
    ) -> None:
        self.config, self.device, self.bf16 = config, device, bf16
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self.num_steps = 0
        self.rng = torch.Generator().manual_seed(seed)
        self._images = images.to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = dcgan_generator.DCGANGenerator(teacher.image_shape, config.latent_dim, config.base_channels)
            discriminator = dcgan_discriminator.DCGANDiscriminator(teacher.image_shape, config.base_channels)
        self.generator = generator.to(device).to(memory_format=torch.channels_last).train()
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last).train()
        betas = (config.beta1, 0.999)
        self._generator_optimizer = torch.optim.Adam(generator.parameters(), config.lr, betas)
        self._discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), config.lr, betas)

    def train_step(self) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator, both on the same synthetic images."""
        config = self.config
        real = self._draw_real()
        with precision.autocast(self.device, self.bf16):
            synthetic = self.generator(self._draw_latents(len(real)))
            # One pass each, since BatchNorm would tell them apart by the statistics that they share.
            of_real, of_synthetic = self.discriminator(real), self.discriminator(synthetic.detach())
        loss = gan_losses.adversarial_discriminator_loss(of_real, of_synthetic, "log")
        self._update(self._discriminator_optimizer, loss)
        self.discriminator.requires_grad_(False)
        with precision.autocast(self.device, self.bf16):
            verdict = self.discriminator(synthetic)
            logits = self.teacher(synthetic)
        self.discriminator.requires_grad_(True)
        terms = {
            "generator_loss": gan_losses.adversarial_generator_loss(verdict, "log"),
            "entropy_loss": gan_losses.mean_entropy(logits),
            "diversity_loss": gan_losses.negative_mean_prediction_entropy(logits),
        }
        weights = (1.0, config.entropy_weight, config.diversity_weight)
        self._update(
            self._generator_optimizer,
            torch.stack([weight * term for weight, term in zip(weights, terms.values(), strict=True)]).sum(),
        )
        self.num_steps += 1
        terms |= {
            "discriminator_loss": loss,
            "real_confidence": of_real.sigmoid().mean(),
            "synthetic_confidence": of_synthetic.sigmoid().mean(),
            "teacher_confidence": logits.float().softmax(1).amax(1).mean(),
            "class_evenness": -terms["diversity_loss"] / torch.log(torch.tensor(float(logits.shape[1]))),
        }
        return {name: term.detach() for name, term in terms.items()}

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Images [count,C,H,W] in [0,1] from the generator in evaluation mode, and -1 [count]: it has no target class."""
        with torch.no_grad(), precision.evaluating(self.generator), precision.autocast(self.device, self.bf16):
            images = self.generator(self._draw_latents(count))
        return images, torch.full((count,), -1)

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _draw_real(self) -> Tensor:
        chosen = torch.randint(0, len(self._images), (self.config.gan_batch_size,), generator=self.rng).to(self.device)
        return self._images[chosen].float().div_(255).contiguous(memory_format=torch.channels_last)

    def _draw_latents(self, count: int) -> Tensor:
        return torch.randn(count, self.config.latent_dim, generator=self.rng).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "num_steps": self.num_steps, "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        weight_files.load_parts(self._parts(), state)
        self.num_steps = state["num_steps"]
        self.rng.set_state(state["rng"].cpu())

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_optimizer": self._generator_optimizer,
            "discriminator_optimizer": self._discriminator_optimizer,
        }


def build(config: DeGANConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> GANSynthesizer:
    """Builds it from the networks and images of a run.

    Raises:
        ConfigError: there are no collected images.
    """
    images, _ = collected_tensors(config.method, parts)
    gan = DeGAN(config, parts.teacher, images, context.seed, device, context.bf16)
    return GANSynthesizer(config, parts.task, gan, context)


METHOD = Method(
    config=DeGANConfig,
    build=build,
    title="DeGAN: a GAN on collected images of which the teacher wants all its classes",
    paper="Addepalli et al., AAAI 2020",
    needs_gradient=True,
    needs_collected=True,
    needs_image_classes=True,
    figures=(
        REAL_CONFIDENCE,
        Figure(
            "Generator: the teacher's view",
            {"teacher_confidence": "teacher's confidence", "class_evenness": "evenness (100%: equal shares)"},
            percent=True,
        ),
    ),
)

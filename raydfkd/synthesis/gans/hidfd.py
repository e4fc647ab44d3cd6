"""HiDFD's synthesis: a teacher-guided GAN on collected images, sampled from its averaged generator (arXiv 2412.13525)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from raydfkd.metrics import Figure
from raydfkd.settings import Budget
from raydfkd.synthesis.gans.gan_synthesizer import GANSynthesizer, collected_tensors
from raydfkd.synthesis.gans.guided_gan import GuidedGAN, GuidedGANConfig
from raydfkd.synthesis.method import Frame, Method, SynthesisContext, SynthesisParts

if TYPE_CHECKING:
    import torch

REAL_CONFIDENCE = Figure(
    "Discriminator: probability of being real",
    {"real_confidence": "real images", "synthetic_confidence": "synthetic images"},
    percent=True,
)


class HiDFDConfig(GuidedGANConfig):
    """HiDFD (arXiv 2412.13525): a class-conditional GAN on few collected images, its discriminator guided by the teacher."""

    method: Literal["hidfd"] = "hidfd"
    """Name of the synthesis method."""
    pretrain_steps: Annotated[int, Budget()] = Field(50_000, ge=0)
    """GAN steps before the first batch is delivered."""

    @property
    def images_per_step(self) -> int:
        # The generator's batch, and for each update of the discriminator a real and a synthetic one.
        return self.gan_batch_size * (1 + 2 * self.discriminator_steps)


def build(config: HiDFDConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> GANSynthesizer:
    """Builds it from the networks and images of a run.

    Raises:
        ConfigError: there are no collected images, or they have a size that the GAN cannot make.
        TeacherError: the teacher's features cannot be found.
    """
    images, classes = collected_tensors(config.method, parts)
    gan = GuidedGAN(config, parts.teacher, images, classes, context.seed, device, context.bf16)
    return GANSynthesizer(config, parts.task, gan, context)


METHOD = Method(
    config=HiDFDConfig,
    build=build,
    title="HiDFD: a teacher-guided conditional GAN on few collected images",
    paper="arXiv 2412.13525",
    needs_gradient=True,
    needs_collected=True,
    needs_image_classes=True,
    frame=Frame(student={"objective": {"kind": "classifier_sharing"}}),
    figures=(
        REAL_CONFIDENCE,
        Figure(
            "Generator: classes",
            {"class_hit_rate": "teacher predicts the target class", "class_evenness": "evenness (100%: equal shares)"},
            percent=True,
        ),
    ),
)

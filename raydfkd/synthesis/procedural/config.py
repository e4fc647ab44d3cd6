"""Settings of the procedural method and of its sources of images. No torch here: the configuration tree imports this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raydfkd.data.config import DatasetConfig
from raydfkd.synthesis.config import SynthesisConfig


class _Images(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoiseImagesConfig(_Images):
    """Independent pixels, drawn from the teacher's normalisation statistics."""

    kind: Literal["noise"] = "noise"
    """Kind of images."""


class SpectralImagesConfig(_Images):
    """Random phases under the spectra of natural images (Baradad et al., NeurIPS 2021)."""

    kind: Literal["spectral"] = "spectral"
    """Kind of images."""
    min_exponent: float = Field(0.5, ge=0)
    """Smallest exponent of the falling amplitudes."""
    max_exponent: float = Field(3.5, ge=0)
    """Largest exponent of the falling amplitudes."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_exponent > self.max_exponent:
            raise ValueError(f"min_exponent {self.min_exponent:g} is above max_exponent {self.max_exponent:g}: swap them")
        return self


class LeavesImagesConfig(_Images):
    """Dead leaves: shapes of random sizes and colours that cover each other (Baradad et al., NeurIPS 2021)."""

    kind: Literal["leaves"] = "leaves"
    """Kind of images."""
    textured: bool = False
    """Give half of the leaves stripes or a gradient; false: plain colours, as published."""
    supersampling: int = Field(2, ge=1, le=8)
    """Render so many times as large and take the mean, for soft edges."""


class ShaderImagesConfig(_Images):
    """The package's own library of parametrised shader programs."""

    kind: Literal["shaders"] = "shaders"
    """Kind of images."""
    families: tuple[str, ...] | None = Field(None, min_length=1)
    """Program families to draw from; null: the whole library."""
    renderer: Literal["torch", "glsl"] = "torch"
    """torch: batched, on whatever device; glsl: OpenGL through moderngl (extra ``shaders``), where the
    driver compiles each family at its first use."""
    images_per_family: int = Field(8, ge=1)
    """Images rendered together from one family, each with parameters of its own: more are faster, fewer mix better."""
    supersampling: int = Field(2, ge=1, le=8)
    """Render so many times as large and take the mean, for soft edges."""


class GlslFolderImagesConfig(_Images):
    """A folder of your own fragment shaders, to TwiGL's or Shadertoy's conventions (extra ``shaders``)."""

    kind: Literal["glsl_folder"] = "glsl_folder"
    """Kind of images."""
    path: Path
    """Folder of .glsl, .frag, .fs or .fragment files; those in its subfolders count as well."""
    supersampling: int = Field(2, ge=1, le=8)
    """Render so many times as large and take the mean, for soft edges."""
    min_time_s: float = Field(0.1, ge=0)
    """Earliest time at which a shader is rendered."""
    max_time_s: float = Field(10.0, ge=0)
    """Latest time at which a shader is rendered."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_time_s > self.max_time_s:
            raise ValueError(f"min_time_s {self.min_time_s:g} is above max_time_s {self.max_time_s:g}: swap them")
        return self


class PhotographImagesConfig(_Images):
    """Random crops of one large picture (Asano and Saeed, ICLR 2023)."""

    kind: Literal["photograph"] = "photograph"
    """Kind of images."""
    path: Path | None = None
    """Any image file; null: the two photographs that come with scikit-learn."""
    min_area: float = Field(1 / 500, gt=0, le=1)
    """Smallest crop, as a share of half the picture."""


class CropsImagesConfig(_Images):
    """Random crops of the pictures of a data set, made as those of one large picture."""

    kind: Literal["crops"] = "crops"
    """Kind of images."""
    dataset: DatasetConfig
    """Where the pictures are; their labels, if any, are not read."""
    max_pictures: int = Field(400, ge=1)
    """Pictures read at most, evenly spaced over the data set; all of them are held in memory."""
    min_area: float = Field(1 / 500, gt=0, le=1)
    """Smallest crop, as a share of half the picture."""


ImagesConfig = Annotated[
    NoiseImagesConfig | SpectralImagesConfig | LeavesImagesConfig | ShaderImagesConfig | GlslFolderImagesConfig
    | PhotographImagesConfig | CropsImagesConfig,
    Field(discriminator="kind"),
]  # fmt: skip
"""Any source of procedural images, told apart by ``kind``."""


class ProceduralConfig(SynthesisConfig):
    """Images rendered by a procedure that knows nothing of the task, chosen by what the teacher sees in them."""

    method: Literal["procedural"] = "procedural"
    """Name of the synthesis method."""
    images: ImagesConfig = ShaderImagesConfig()
    """What is rendered."""
    drop_degenerate: bool = True
    """Drop constant and two-colour images, and duplicates within a batch."""
    class_balanced: bool = True
    """Choose images such that the buffer comes to hold as many of each of the teacher's classes as can be had."""
    max_tries: int = Field(4, ge=1)
    """Batches rendered at most for one that is delivered, while classes lack images or too many were dropped."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        if not self.drop_degenerate and not self.class_balanced and self.max_tries != 4:
            raise ValueError("max_tries does nothing without drop_degenerate and class_balanced: leave it out")
        return self

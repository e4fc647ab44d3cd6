"""Settings of supervised teacher training. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raydfkd.augment.config import AugmentationConfig, Augmentations
from raydfkd.data.kinds import AnyDataset
from raydfkd.distillation.config import OptimizerConfig
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, read_yaml, validate
from raydfkd.registry import nearest
from raydfkd.settings import Budget, InputPath, Settings
from raydfkd.tasks import DEFAULT_KIND, TASKS, TaskConfig


class NormalizationConfig(Settings):
    """The network's input is (image - mean) / std, images in [0,1]."""

    mean: list[float]
    """One number per channel."""
    std: list[float]
    """One positive number per channel."""

    @model_validator(mode="after")
    def _sane(self) -> NormalizationConfig:
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} need one number per channel each, every std above 0")
        return self


class TeacherTrainingConfig(Settings):
    """One network trained on labelled images: a future teacher, or a student's upper bound."""

    task: str = DEFAULT_KIND
    """Kind of task: classification or segmentation."""
    model: str
    """Network: a catalog name."""
    num_classes: int = Field(ge=2)
    """Classes K."""
    image_shape: tuple[int, int, int]
    """[C, H, W] of the network's input."""
    initial_weights: InputPath | None = None
    """Weights to start from, e.g. of ImageNet-1k; the last linear layer is initialised at random if its number of classes
    differs. null: random weights."""
    dataset: AnyDataset
    """Labelled images to train on, or images with masks."""
    evaluation: AnyDataset | None = None
    """Labelled images to evaluate the finished network on, never used for selection. null: not evaluated."""
    normalization: NormalizationConfig | Literal["auto"] = "auto"
    """Input normalisation; auto: mean and std per channel of the training images."""
    epochs: Annotated[int, Budget()] = Field(200, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(256, ge=1)
    """Images per optimizer step."""
    optimizer: OptimizerConfig = OptimizerConfig.model_validate({"lr": 0.1, "nesterov": True})
    """SGD and its schedule."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target spread evenly over all classes."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """How strongly images are augmented; without mixup or cutmix, since labels are not mixed."""
    crop_padding: int | None = Field(None, ge=0)
    """Random-crop padding in pixels; null: 4, or 0 if augmentation.level is none."""
    flip: bool | None = None
    """Mirror images at random; null: yes, unless augmentation.level is none."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay per step of averaged weights, which are then the ones saved; null: the last weights are saved."""
    bf16: bool = True
    """Train with bfloat16 autocast if the device supports it (the accuracy is measured in float32)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: CUDA if available."""
    num_threads: int | None = Field(None, ge=1)
    """torch threads; null: as many as this process may use CPUs."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in TASKS:
            raise ValueError(f"unknown task {value!r}: {nearest(value, TASKS.names())}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TeacherTrainingConfig:
        for name in ("mixup", "cutmix"):
            if getattr(self.augmentation, name) not in ("none", None):
                raise ValueError(f"augmentation.{name} mixes images without their labels: it is for students, leave it out")
        if self.task_config.positions and not self.augmentations.moves_whole_pixels:
            raise ValueError(
                "augmentation deforms images in ways that masks do not follow: use level none or crop_flip, without "
                "randaugment_ops, elastic_probability and crop_last"
            )
        channels = self.image_shape[0]
        if self.normalization != "auto" and len(self.normalization.mean) != channels:
            raise ValueError(
                f"normalization has {len(self.normalization.mean)} channels but image_shape has {channels}: "
                "give one mean and std per channel"
            )
        return self

    @property
    def task_config(self) -> TaskConfig:
        """What the network predicts."""
        return TASKS.get(self.task).config(kind=self.task, num_classes=self.num_classes, image_shape=self.image_shape)

    @property
    def augmentations(self) -> Augmentations:
        """The augmentation with every default resolved."""
        return self.augmentation.resolve(self.crop_padding, self.flip)


def load_teacher_training(path: str | Path, overrides: Iterable[str] = ()) -> TeacherTrainingConfig:
    """Reads a recipe, applies ``a.b=c`` overrides and makes its paths absolute, as ``load_experiment`` does.

    Raises:
        ConfigError: anything is wrong with it, in one sentence.
    """
    path = Path(path)
    tree = anchor_paths(apply_overrides(read_yaml(path), list(overrides)), TeacherTrainingConfig, path.parent)
    return validate(TeacherTrainingConfig, tree, path)

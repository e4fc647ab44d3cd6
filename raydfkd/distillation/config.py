"""Settings of a student and how it learns. No torch here: the configuration tree imports this file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydfkd.augment.config import AugmentationConfig, Augmentations
from raydfkd.distillation.few_shot import FEW_SHOT, AnyFewShot
from raydfkd.distillation.objectives import DEFAULT_KIND, OBJECTIVES, AnyObjective
from raydfkd.models.hugging_face.hub_folder import PREFIX
from raydfkd.resources import ResourcesConfig
from raydfkd.settings import Budget, InputFile, InputPath, Settings


class OptimizerConfig(Settings):
    """An optimizer and its learning-rate schedule over all student steps."""

    kind: Literal["sgd", "adam"] = "sgd"
    """sgd with momentum, as most papers; adam, as DeGAN's and the single image's students."""
    lr: float = Field(0.2, gt=0)
    """Peak learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD, the first of Adam's decay rates."""
    nesterov: bool = False
    """Nesterov's form of momentum (needs momentum > 0)."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty, as a part of the gradient."""
    schedule: Literal["cosine", "one_cycle", "multi_step", "constant"] = "cosine"
    """cosine: from the peak down to final_lr; one_cycle: linear warm-up, then cosine; multi_step: divided by ten at milestones;
    constant: the peak throughout."""
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    """multi_step: shares of all steps after which the rate is divided by ten (HiDFD's 150, 180 and 210 of 240 epochs)."""
    warmup_steps: Annotated[int, Budget()] = Field(0, ge=0)
    """Steps of linear warm-up from lr / 25 (all schedules); one_cycle needs it above 0."""
    final_lr: float = Field(2e-4, ge=0)
    """Learning rate at the last step (cosine and one_cycle)."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Gradient-norm clip; null: no clipping."""

    @model_validator(mode="after")
    def _consistent(self) -> OptimizerConfig:
        if self.kind == "adam":
            self.refuse_idle("kind adam", "nesterov")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        if self.schedule == "one_cycle" and self.warmup_steps == 0:
            raise ValueError("one_cycle needs warmup_steps above 0; schedule cosine starts at the peak")
        if self.schedule in ("constant", "multi_step"):
            self.refuse_idle(f"schedule {self.schedule}", "final_lr")
        if self.schedule != "multi_step":
            self.refuse_idle(f"schedule {self.schedule}", "milestones")
        if list(self.milestones) != sorted(self.milestones) or any(not 0 < share < 1 for share in self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} must be increasing shares of all steps, between 0 and 1")
        return self


class PrunedConfig(Settings):
    """A network with filters of its convolutions pruned: those with the smallest sum of absolute weights go. For networks
    whose convolutions follow one another without branches, such as VGG."""

    of: Literal["teacher"] = "teacher"
    """Which network."""
    ratio: float = Field(ge=0, lt=1)
    """Share of the filters of each convolution that goes."""
    weights: Literal["kept", "drawn"] = "kept"
    """kept: those of the filters that stay, and of all else that stays; drawn: random, only the widths are those of pruning."""
    layers: tuple[str, ...] | None = None
    """Dotted names of convolutions, or of parts of the network, that lose filters, such as block4; null: all."""


class StudentConfig(Settings):
    """One student: its network, how it starts, how it learns, and where it runs."""

    model: Annotated[str, InputFile(prefix=PREFIX)] | None = None
    """Network: a catalog name, torchvision:NAME, timm:NAME, hf:FOLDER or hf:ORG/NAME (with new weights) or
    package.module:callable; null: the one that ``pruned`` makes."""
    pruned: PrunedConfig | None = None
    """The teacher with fewer filters as the network, in place of a ``model``."""
    checkpoint: InputPath | None = None
    """Weights to start from (pre-trained or your own); null: random, or those that ``pruned`` keeps."""
    few_shot: AnyFewShot | None = None
    """How the student is trained on the collected images before its first round; null: not at all."""
    objective: AnyObjective = OBJECTIVES.get(DEFAULT_KIND).config(kind=DEFAULT_KIND)
    """What is minimised; without a kind, kl."""
    feature_layers: tuple[str, ...] | None = None
    """Dotted names of the layers whose outputs are the stage maps, the stem's first and the pooled one last, for objectives
    that read maps; null: found automatically."""
    classifier_head: str | None = None
    """Dotted name of the layer that turns features into logits; null: the last linear layer."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the objective is minimised."""
    batch_size: int = Field(256, ge=1)
    """Images per optimizer step, summed over all workers."""
    accumulation_steps: int = Field(1, ge=1)
    """Parts that each batch is split into to save memory; their gradients are accumulated."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay per step of the averaged student that is reported alongside the last one; 0: it equals the last."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """How strongly images are augmented before teacher and student see them."""
    crop_padding: int | None = Field(None, ge=0)
    """Random-crop padding in pixels; null: 4, or 0 if augmentation.level is none."""
    flip: bool | None = None
    """Mirror images at random; null: yes, unless augmentation.level is none."""
    compile: bool = False
    """torch.compile the student's and the teacher's forward pass (slow start, faster steps)."""
    cuda_graph: bool = True
    """On a GPU, record the student's whole step as one CUDA graph and replay it; a step that cannot be recorded runs as it is,
    and the run says why."""
    num_workers: int = Field(1, ge=1)
    """Ray Train workers (DDP), each with its part of the batch; batch_size is the total over all parts. The result depends
    on their number if an image's loss depends on the other images that a worker sees: with BatchNorm (see sync_batch_norm),
    and with objectives that compare the images of a batch, which then means those of one part."""
    sync_batch_norm: bool = False
    """Several workers on GPUs: BatchNorm normalises over the whole batch. Otherwise each worker normalises over its own part,
    so the result depends on num_workers, and the saved running statistics are the first worker's."""
    min_workers: int | None = Field(None, ge=1)
    """ray, decoupled: minimum number of workers. The group uses as many as can be placed, up to num_workers; when nodes
    join or leave it restarts from the last checkpoint with as many as fit then. null: always num_workers."""
    resize_period_s: float = Field(60.0, gt=0)
    """With min_workers: seconds between checks for new nodes."""
    resources: ResourcesConfig = ResourcesConfig()
    """What each worker requests from the cluster."""

    @field_validator("objective", mode="before")
    @classmethod
    def _default_kind(cls, value: Any) -> Any:
        return {"kind": DEFAULT_KIND, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_network(self) -> StudentConfig:
        if (self.model is None) == (self.pruned is None):
            given = "neither" if self.model is None else "both"
            raise ValueError(f"model and pruned each say what the student's network is, and {given} is given: give one")
        if self.checkpoint is not None and self.keeps_filters:
            raise ValueError(
                "checkpoint would replace the weights that pruned.weights kept gives: leave it out, or choose drawn"
            )
        return self

    @model_validator(mode="after")
    def _compilable(self) -> StudentConfig:
        kind = self.objective.kind
        if self.compile and "gradients" in OBJECTIVES.get(kind).objective.teacher_needs:
            raise ValueError(f"objective {kind} differentiates both networks within a step, which compile cannot: leave it out")
        return self

    @model_validator(mode="after")
    def _few_shot_fits(self) -> StudentConfig:
        if self.few_shot is None:
            return self
        kind = self.few_shot.kind
        if FEW_SHOT.get(kind).needs_kept_filters and not self.keeps_filters:
            raise ValueError(
                f"few_shot {kind} corrects the filters that a pruned teacher has kept: give pruned: {{ratio: 0.5, weights: "
                "kept} in place of model"
            )
        if OBJECTIVES.get(self.objective.kind).student is not None:
            raise ValueError(
                f"objective {self.objective.kind} changes the student's network, and few_shot {kind} needs it as it is: choose "
                "another objective, or leave few_shot out"
            )
        if self.num_workers > 1:
            raise ValueError(f"few_shot trains in one process and num_workers is {self.num_workers}: set it to 1")
        return self

    @model_validator(mode="after")
    def _workers(self) -> StudentConfig:
        if self.min_workers is not None and self.min_workers >= self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} must be below num_workers {self.num_workers}, the maximum")
        for number in range(self.num_workers, self.fewest_workers - 1, -1):
            parts = number * self.accumulation_steps
            if self.batch_size % parts:
                why = "" if number == self.num_workers else f" (min_workers {self.min_workers} allows {number})"
                raise ValueError(
                    f"batch_size {self.batch_size} is not divisible by workers x accumulation_steps = {parts}{why}: choose a "
                    "multiple of that, or another number of workers"
                )
        return self

    @model_validator(mode="after")
    def _synchronized(self) -> StudentConfig:
        if self.num_workers == 1:
            self.refuse_idle("num_workers 1", "sync_batch_norm")
        if self.sync_batch_norm and self.resources.gpus == 0:
            raise ValueError(
                "sync_batch_norm needs workers with GPUs, since PyTorch does not support it on CPUs: set "
                "resources.num_gpus to 1, or leave sync_batch_norm out"
            )
        return self

    @model_validator(mode="after")
    def _elastic(self) -> StudentConfig:
        if not self.elastic:
            self.refuse_idle("a student without min_workers", "resize_period_s")
            return self
        if not self.resources.custom or any(amount % 1 for amount in (self.resources.gpus, *self.resources.custom.values())):
            raise ValueError(
                "min_workers needs whole resources.custom that only the students' nodes offer, e.g. {student_node: 1}: "
                "Ray counts all CPUs and GPUs of a node as free for students, even those that generators use"
            )
        return self

    @property
    def keeps_filters(self) -> bool:
        """Whether the student starts as the teacher with filters pruned."""
        return self.pruned is not None and self.pruned.weights == "kept"

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change during a run."""
        return self.min_workers is not None

    @property
    def fewest_workers(self) -> int:
        return self.num_workers if self.min_workers is None else self.min_workers

    @property
    def augmentations(self) -> Augmentations:
        """The augmentation with every default resolved."""
        return self.augmentation.resolve(self.crop_padding, self.flip)

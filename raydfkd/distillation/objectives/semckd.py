"""SemCKD: every stage of the student learns from all stages of the teacher, weighted by attention (Chen et al., AAAI 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry, stage_shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.losses import distillation, feature_distillation, logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    torch, nn = deferred("torch"), deferred("torch.nn")
    distillation = deferred("raydfkd.losses.distillation")
    feature_distillation = deferred("raydfkd.losses.feature_distillation")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")

ATTENTION_REDUCTION = 4
"""Queries and keys have a quarter of the batch's width."""
MIN_ATTENTION_WIDTH = 2
"""Vectors of length 1 in one dimension are all alike; it matters for batches below 8, for which nothing is published."""


class SemCKDObjectiveConfig(ObjectiveConfig):
    """SemCKD (Chen et al., AAAI 2021): each stage of the student learns from the stages of the teacher that suit it."""

    kind: Literal["semckd"] = "semckd"
    """Name of the objective."""
    temperature: float = Field(4.0, gt=0)
    """Softening T of the KL term, which is multiplied by T squared."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight of the KL term."""
    feature_weight: float = Field(400.0, ge=0)
    """Weight of the stage maps' term (50 on ImageNet)."""
    attention_temperature: float = Field(1.0, gt=0)
    """Softening of the attention over the teacher's stages."""


class SemCKDObjective(Objective):
    """w_CE CE + w_KL KL + w_F (1/S) sum_s sum_t a_{s,t} MSE(proj_{s,t}(F_s), F_t), as the official code has it.

    a_{s,t} is a softmax over t of q_s . k_t, where q_s (k_t) is an MLP of the sample's row of the similarity matrix of the
    batch at stage s (t), scaled to length 1. Stages are the maps but the stem's. Attention and distances are of each sample,
    and so are its shares of the loss.

    The batch is what one forward pass sees: one worker's part of one accumulation part. A row is as long as that, so the
    objective is made for one such size, and its attention differs with num_workers and accumulation_steps.

    Raises:
        ConfigError: a network has no stage after its stem.
    """

    needs = frozenset({"maps"})
    teacher_needs = frozenset({"maps"})
    config: SemCKDObjectiveConfig

    def __init__(self, config: SemCKDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        students = stage_shapes(context.student_shapes, "student", config.kind)
        teachers = stage_shapes(context.teacher_shapes, "teacher", config.kind)
        self.batch_size = context.batch_size
        self.query_mlps = nn.ModuleList(_attention_mlp(context.batch_size) for _ in students)
        self.key_mlps = nn.ModuleList(_attention_mlp(context.batch_size) for _ in teachers)
        self.projectors = nn.ModuleList(
            nn.ModuleList(_projector(student[0], teacher[0]) for teacher in teachers) for student in students
        )
        self.trained.update({"query_mlps": self.query_mlps, "key_mlps": self.key_mlps, "projectors": self.projectors})

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        config = self.config
        hard = logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        soft = distillation.kd_loss_per_sample(student.logits, teacher.logits, config.temperature)
        student_maps, teacher_maps = student.maps[1:], teacher.maps[1:]
        features = feature_distillation.attention_weighted_loss(
            self.attention(student_maps, teacher_maps), self._distances(student_maps, teacher_maps)
        )
        return config.ce_weight * hard + config.kl_weight * soft + config.feature_weight * features

    def attention(self, student_maps: tuple[Tensor, ...], teacher_maps: tuple[Tensor, ...]) -> Tensor:
        """[B,S,T]: the weights of the teacher's stages for each of the student's, which add up to 1.

        Raises:
            ValueError: B is not the batch size that the objective was built for (a bug of the caller).
        """
        if len(student_maps[0]) != self.batch_size:
            raise ValueError(f"SemCKD was built for batches of {self.batch_size}, got {len(student_maps[0])} samples")
        queries = [_attention_vectors(mlp, x) for mlp, x in zip(self.query_mlps, student_maps, strict=True)]
        keys = [_attention_vectors(mlp, x) for mlp, x in zip(self.key_mlps, teacher_maps, strict=True)]
        return feature_distillation.layer_attention(
            torch.stack(queries, 1), torch.stack(keys, 1), self.config.attention_temperature
        )

    def _distances(self, student_maps: tuple[Tensor, ...], teacher_maps: tuple[Tensor, ...]) -> Tensor:
        """[B,S,T]: mean squared difference of each projected student map from each teacher map."""
        rows = []
        for source, projectors in zip(student_maps, self.projectors, strict=True):
            assert isinstance(projectors, nn.ModuleList)
            row = []
            for target, project in zip(teacher_maps, projectors, strict=True):
                pooled, target = feature_distillation.to_smaller_map(source.float(), target.float())
                row.append(feature_distillation.feature_alignment_per_sample(project(pooled), target))
            rows.append(torch.stack(row, 1))
        return torch.stack(rows, 1)


def _attention_mlp(batch_size: int) -> nn.Sequential:
    """A row [B] of the similarity matrix to a query or a key."""
    width = max(MIN_ATTENTION_WIDTH, batch_size // ATTENTION_REDUCTION)
    return nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _attention_vectors(mlp: nn.Module, map_BCHW: Tensor) -> Tensor:
    """The queries or keys [B,E] of a map, each of length 1, float32."""
    rows_BB = feature_distillation.similarity_matrix(map_BCHW)
    return nn.functional.normalize(mlp(rows_BB).float(), dim=1)


def _projector(student_width: int, teacher_width: int) -> nn.Sequential:
    middle = 2 * teacher_width
    return nn.Sequential(
        nn.Conv2d(student_width, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, teacher_width, 1, bias=False),
    )


OBJECTIVE = ObjectiveEntry(
    config=SemCKDObjectiveConfig,
    objective=SemCKDObjective,
    title="SemCKD: attention over the teacher's stages",
    paper="Chen et al., AAAI 2021",
)

"""SemCKD: every stage of the student learns from all stages of the teacher, weighted by attention (Chen et al., AAAI 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydfkd.distillation.objectives.base import NetworkOutput, Objective, ObjectiveContext, stage_shapes
from raydfkd.distillation.objectives.config import SemCKDObjectiveConfig
from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.losses.feature_distillation import (
    attention_weighted_loss,
    feature_alignment_per_sample,
    layer_attention,
    similarity_matrix,
    to_smaller_map,
)
from raydfkd.losses.logit_distillation import hard_label_loss_per_sample

ATTENTION_REDUCTION = 4
"""Queries and keys have a quarter of the batch's width."""
MIN_ATTENTION_WIDTH = 2
"""Vectors of length 1 in one dimension are all alike; it matters for batches below 8, which nobody published."""


class SemCKDObjective(Objective):
    """w_CE CE + w_KL KL + w_F (1/S) sum_s sum_t a_{s,t} MSE(proj_{s,t}(F_s), F_t), as the official code has it.

    a_{s,t} is a softmax over t of q_s . k_t, where q_s (k_t) is an MLP of the sample's row of the similarity matrix of the
    batch at stage s (t). The row is as long as the batch, so the objective is made for one batch size; with several workers or
    accumulation the batch is the part that one forward pass sees. Stages are the maps but the stem's. Attention and distances
    are of each sample, and so are its shares of the loss.
    """

    needs = frozenset({"maps"})
    teacher_needs = frozenset({"maps"})
    config: SemCKDObjectiveConfig

    def __init__(self, config: SemCKDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        students = stage_shapes(context.student_shapes, "student", config.kind)
        teachers = stage_shapes(context.teacher_shapes, "teacher", config.kind)
        self.batch_size = context.batch_size
        self.queries = nn.ModuleList(_SimilarityEmbedding(context.batch_size) for _ in students)
        self.keys = nn.ModuleList(_SimilarityEmbedding(context.batch_size) for _ in teachers)
        self.projectors = nn.ModuleList(
            nn.ModuleList(_projector(student[0], teacher[0]) for teacher in teachers) for student in students
        )

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        config = self.config
        hard = hard_label_loss_per_sample(student.logits, teacher.logits)
        soft = kd_loss_per_sample(student.logits, teacher.logits, config.temperature)
        student_maps, teacher_maps = student.maps[1:], teacher.maps[1:]
        features = attention_weighted_loss(
            self.attention(student_maps, teacher_maps), self._distances(student_maps, teacher_maps)
        )
        return config.ce_weight * hard + config.kl_weight * soft + config.feature_weight * features

    def attention(self, student_maps: tuple[Tensor, ...], teacher_maps: tuple[Tensor, ...]) -> Tensor:
        """[B,S,T]: the weights of the teacher's stages for each of the student's, which add up to 1."""
        if len(student_maps[0]) != self.batch_size:
            raise ValueError(f"SemCKD was built for batches of {self.batch_size}, got {len(student_maps[0])} samples")
        queries = [embed(similarity_matrix(x)) for embed, x in zip(self.queries, student_maps, strict=True)]
        keys = [embed(similarity_matrix(x)) for embed, x in zip(self.keys, teacher_maps, strict=True)]
        return layer_attention(torch.stack(queries, 1), torch.stack(keys, 1), self.config.attention_temperature)

    def _distances(self, student_maps: tuple[Tensor, ...], teacher_maps: tuple[Tensor, ...]) -> Tensor:
        """[B,S,T]: mean squared difference of each projected student map from each teacher map."""
        rows = []
        for source, projectors in zip(student_maps, self.projectors, strict=True):
            assert isinstance(projectors, nn.ModuleList)
            row = []
            for target, project in zip(teacher_maps, projectors, strict=True):
                pooled, target = to_smaller_map(source.float(), target.float())
                row.append(feature_alignment_per_sample(project(pooled), target))
            rows.append(torch.stack(row, 1))
        return torch.stack(rows, 1)


class _SimilarityEmbedding(nn.Module):
    """A row of the similarity matrix to a query or key of length 1."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        width = max(MIN_ATTENTION_WIDTH, batch_size // ATTENTION_REDUCTION)
        self.layers = nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, rows_BB: Tensor) -> Tensor:
        return F.normalize(self.layers(rows_BB).float(), dim=1)


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

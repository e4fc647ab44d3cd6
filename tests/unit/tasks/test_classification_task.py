"""The task of classification: what it says of a teacher's logits, image by image and in chunks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.tasks import TASKS, build_task
from raydfkd.tasks.classification import ClassificationConfig
from raydfkd.types import Judgement

SHAPE = (1, 8, 8)
TASK = build_task(ClassificationConfig(num_classes=4, image_shape=SHAPE))


class Flattened(nn.Module):
    """Its first four pixels are the logits."""

    def forward(self, images: Tensor) -> Tensor:
        return 10 * images.flatten(1)[:, :4]


def test_an_image_has_the_class_and_the_probability_of_its_largest_logit() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    judged = TASK.judge(logits)
    np.testing.assert_array_equal(judged.classes, logits.argmax(1).numpy())
    np.testing.assert_allclose(judged.confidences, logits.softmax(1).max(1).values.numpy(), rtol=1e-6)
    assert (judged.classes.dtype, judged.confidences.dtype, judged.histogram) == (np.int32, np.float32, None)


def test_images_are_judged_alike_whole_and_in_chunks() -> None:
    teacher = FrozenTeacher(Flattened(), 4, SHAPE, [0.0], [1.0])
    images = np.random.default_rng(0).integers(0, 256, (7, *SHAPE)).astype(np.uint8)
    images.flags.writeable = False  # as they come from an object store
    whole, cut = (TASK.judge_all(teacher, images, torch.device("cpu"), False, size) for size in (7, 3))
    np.testing.assert_array_equal(whole.classes, images.reshape(7, -1)[:, :4].argmax(1))
    np.testing.assert_array_equal(cut.classes, whole.classes)
    np.testing.assert_allclose(cut.confidences, whole.confidences, rtol=1e-6)
    assert len(TASK.judge_all(teacher, images[:0], torch.device("cpu"), False, 3)) == 0


def test_it_names_its_metric_and_is_known_by_its_kind() -> None:
    assert (TASK.metric_name, TASK.metric_label) == ("accuracy", "accuracy")
    assert TASKS.get("classification").config is ClassificationConfig


def test_judgements_are_joined_and_taken_apart_with_their_histograms() -> None:
    parts = [Judgement(np.array([k], np.int32), np.array([0.5], np.float32), np.eye(4, dtype=np.int32)[[k]]) for k in (2, 0, 3)]
    joined = Judgement.concat(parts)
    assert joined.classes.tolist() == [2, 0, 3]
    taken = joined.take(np.array([2, 0]))
    assert taken.classes.tolist() == [3, 2]
    assert taken.histogram is not None
    np.testing.assert_array_equal(taken.histogram.argmax(1), [3, 2])

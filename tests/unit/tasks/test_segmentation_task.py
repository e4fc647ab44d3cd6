"""The task of segmentation: what it says of a teacher's logits, pixel by pixel, and what its settings refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raydfkd.data.kinds.drawn_shapes import ShapesConfig
from raydfkd.tasks import TASKS, build_task
from raydfkd.tasks.segmentation import SegmentationConfig

TASK = build_task(SegmentationConfig(num_classes=4, image_shape=(3, 8, 12)))


def test_an_image_is_judged_as_a_loop_over_its_pixels_says() -> None:
    logits = 2 * torch.randn(5, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    judged = TASK.judge(logits)
    for i in range(5):
        counts, confidence = [0] * 4, 0.0
        for y in range(8):
            for x in range(12):
                shares = torch.softmax(logits[i, :, y, x], 0)
                counts[int(shares.argmax())] += 1
                confidence += float(shares.max()) / 96
        assert judged.histogram is not None
        assert judged.histogram[i].tolist() == counts
        assert judged.classes[i] == np.argmax(counts)
        assert judged.confidences[i] == pytest.approx(confidence, rel=1e-5)
    assert (judged.classes.dtype, judged.confidences.dtype, judged.histogram.dtype) == (np.int32, np.float32, np.int32)
    nothing = TASK.judge(torch.empty(0, 4, 8, 12))
    assert (len(nothing), nothing.histogram.shape) == (0, (0, 4))


def test_generators_aim_at_what_the_teacher_sees_in_each_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = TASK.draw_targets(3, generator)
    assert targets.tolist() == [-1, -1, -1]
    logits = torch.randn(3, 4, 8, 12, generator=generator)
    assert torch.equal(TASK.aims(targets, logits), logits.argmax(1))


def test_it_reads_masks_and_names_its_metric() -> None:
    read = build_task(SegmentationConfig(num_classes=4, image_shape=(3, 16, 16))).load(ShapesConfig(max_images=3))
    assert read.labels.shape == (3, 16, 16)
    assert (TASK.metric_name, TASK.metric_label) == ("miou", "mean IoU")
    assert (TASK.config.positions, TASKS.get("segmentation").config) == ((8, 12), SegmentationConfig)
    with pytest.raises(ValidationError, match="num_classes 40000 is more than the 32767 that pixels may have"):
        SegmentationConfig(num_classes=40_000, image_shape=(3, 8, 8))

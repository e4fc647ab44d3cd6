"""What a run leaves of feature alignment: which images it compares, how far apart they are, and which are nearest."""

from __future__ import annotations

import numpy as np
import pytest

from raydfkd.pipeline.run.alignment_arrays import MOST_ROWS, NUM_NEAREST, alignment_arrays
from raydfkd.types import SyntheticBatch

Batch = tuple[int, SyntheticBatch]


def batch_of(pixels: list[int], classes: list[int], source: str = "fast") -> SyntheticBatch:
    """Images of one pixel, which is also their feature."""
    return SyntheticBatch(
        images=np.array(pixels, np.uint8).reshape(-1, 1, 1, 1),
        targets=np.array(classes, np.int64),
        teacher_class=np.array(classes, np.int32),
        teacher_confidence=np.ones(len(pixels), np.float32),
        source=source,
        generator_id=f"{source}-0",
        student_version=0,
    )


def pixel(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


PROTOTYPES = batch_of([10, 60], [0, 1], "collected")
MADE = [(4, batch_of([30, 70], [0, 1])), (5, batch_of([20, 65], [0, 1])), (6, batch_of([12, 58, 61], [0, 1, 1]))]


def test_the_first_and_the_last_images_are_those_of_their_batches_and_never_the_same() -> None:
    arrays = alignment_arrays(PROTOTYPES, MADE, None, 2, pixel)
    assert arrays["first_features"].ravel().tolist() == [30, 70, 20]
    assert arrays["last_features"].ravel().tolist() == [12, 58, 61]
    assert (arrays["first_batches"].tolist(), arrays["last_batches"].tolist()) == ([4, 5], [6, 6])
    assert arrays["last_class"].tolist() == [0, 1, 1]


def test_distances_are_those_of_prototypes_first_and_last_images_from_prototypes_and_real_ones() -> None:
    arrays = alignment_arrays(PROTOTYPES, MADE[:1] * 2, (np.array([[13.0], [60.0]]), np.array([0, 1])), 2, pixel)
    np.testing.assert_allclose(arrays["distances"], [[0, 9 / 2], [(400 + 100) / 2, (289 + 100) / 2], [250, 194.5]])
    assert np.isnan(alignment_arrays(PROTOTYPES, MADE, None, 2, pixel)["distances"][:, 1]).all()


def test_each_prototype_is_shown_with_the_images_nearest_to_it() -> None:
    arrays = alignment_arrays(PROTOTYPES, MADE, None, 2, pixel)
    assert arrays["shown_images"].ravel().tolist() == [10, 60]
    assert arrays["nearest_images"].shape == (2, 7, 1, 1, 1), f"as many as there are, where fewer than {NUM_NEAREST}"
    assert arrays["nearest_images"][0].ravel().tolist() == [12, 20, 30, 58, 61, 65, 70]
    assert arrays["nearest_images"][1, 0].item() == 61


@pytest.mark.parametrize(("classes", "each", "shown"), [(3, 5, [0, 0, 1, 1, 2, 2]), (25, 2, list(range(25)))])
def test_shown_are_two_of_each_class_or_one_where_there_are_many(classes: int, each: int, shown: list[int]) -> None:
    labels = [k for _ in range(each) for k in range(classes)]
    arrays = alignment_arrays(batch_of(list(range(len(labels))), labels, "collected"), MADE, None, classes, pixel)
    assert arrays["shown_class"].tolist() == shown
    many = batch_of([1] * 100, list(range(100)), "collected")
    assert alignment_arrays(many, MADE, None, 100, pixel)["shown_class"].tolist() == list(range(MOST_ROWS))

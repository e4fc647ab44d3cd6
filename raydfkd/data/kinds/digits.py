"""scikit-learn's digits, in a fixed split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, DatasetKind, Source, evenly_spaced, numbered, read_whole, slices


class DigitsConfig(DatasetConfig):
    """Real handwriting, 1,797 grey digits of 8x8 pixels, inside scikit-learn: needs no file and no network."""

    kind: Literal["digits"] = "digits"

    split: Literal["train", "test"] = "test"
    """A fixed stratified split: 80% of each class is ``train``, the rest ``test``."""


def digits_split(labels: np.ndarray, split: str) -> np.ndarray:
    """Row numbers of one part of the fixed digits split, int64, ascending: of each class 80% ``train``, 20% ``test``."""
    # RandomState, because NumPy promises never to change its stream.
    random = np.random.RandomState(0)
    rows = []
    for label in np.unique(labels):
        shuffled = random.permutation(np.flatnonzero(labels == label))
        held_out = round(len(shuffled) * 0.2)
        rows.append(shuffled[:held_out] if split == "test" else shuffled[held_out:])
    return np.sort(np.concatenate(rows))


def open_digits(config: DigitsConfig, labelled: bool) -> Source:
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rows = digits_split(bunch.target, config.split)
    rows = rows[evenly_spaced(len(rows), config.max_images)]
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)

    def chunks() -> Iterator[Chunk]:
        for part in slices(rows):
            yield Chunk(part.tolist(), bunch.target[part].astype(np.int64), numbered("digit {}", part.tolist()))

    classes = tuple(str(name) for name in bunch.target_names)
    return Source("digits", "scikit-learn's digits", len(rows), classes, lambda row: Image.fromarray(pixels[row]), chunks())


def _claimed(path: Path) -> DigitsConfig | None:
    """``digits/train`` or ``digits/test``, unless a file or folder is called so."""
    is_ours = path.parts in (("digits", "train"), ("digits", "test")) and not path.exists()
    return DigitsConfig.model_validate({"split": path.name}) if is_ours else None


DATASET = DatasetKind(
    config=DigitsConfig,
    title="scikit-learn's digits",
    open=open_digits,
    rows=read_whole(open_digits),
    claims=_claimed,
)

"""``raydfkd dataset build``: candidates, the teacher's predictions, and the paper's selection. Independent of Ray.

"What Makes a Good Dataset for Knowledge Distillation?", Sec. 3.2 and the boundary attack. Memory is bounded by two passes
over the candidates: the first keeps 8 bytes of each (class and confidence), and 8 more of a rendered one to detect duplicates;
the selection uses only these; the second pass reads the selected images again and writes them. Only rendered candidates, which
cost more to render again than to store, are kept on disk in between. Only a few parts of images are in memory at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from raydfkd.data.dataset_kind import RowReader
from raydfkd.data.kinds import open_rows
from raydfkd.data.selection import select_transfer_set
from raydfkd.errors import DataError
from raydfkd.evaluation.scores import class_entropy
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.teachers.teacher_audit import audit_teacher, require_input_gradient
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.dataset.folder import BuildFolder, save_columns
from raydfkd.pipeline.dataset.parts import Attack, Judge, Pass, Render, Worker
from raydfkd.pipeline.dataset.reading import Columns, ReadRows, ReadStored, Span, spans
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.run.recorder import describe_environment
from raydfkd.replay.arrow import to_parquet
from raydfkd.resources import use_threads
from raydfkd.run_dir import write_atomically
from raydfkd.seeds import derive_seed
from raydfkd.types import SyntheticBatch

logger = logging.getLogger(__name__)

Execute = Callable[[DatasetBuildConfig, Pass], Iterator[tuple[int, Columns]]]
"""Runs a pass: yields (number, columns) of each part, in order."""
Tell = Callable[[str, int, int], None]
"""Receives the current activity, the images done and the total."""

FILE_BYTES = 128 << 20
"""Maximum bytes of image data per output file."""
MOST_NAMED = 100
"""Maximum number of skipped images that are named."""


def execute_here(config: DatasetBuildConfig, work: Pass) -> Iterator[tuple[int, Columns]]:
    """One part after another in this process."""
    worker: Worker | None = None
    use_threads(None)
    if work.worker is not None and work.parts:
        worker = work.worker(config, builder.device_of(config.runtime.device))
    for span in work.parts:
        columns = span.columns()
        if work.read is not None:
            columns = work.read(columns)
        yield span.number, columns if worker is None else worker(columns)


@dataclass
class Candidates:
    """Class and confidence of all candidates: int32 and float32 [N]; class -1 where the candidate is unusable."""

    classes: np.ndarray
    confidences: np.ndarray
    dropped: dict[str, int] = field(default_factory=dict)
    num_skipped: int = 0
    skipped: list[str] = field(default_factory=list)

    @property
    def usable(self) -> np.ndarray:
        return np.flatnonzero(self.classes >= 0)

    def drop_repeated(self, thumbnails: np.ndarray) -> None:
        """Keeps only the first of those with the same thumbnail, uint64 [N]."""
        usable = self.usable
        _, first = np.unique(thumbnails[usable], return_index=True)
        repeated = np.delete(usable, first)
        if len(repeated):
            self.classes[repeated], self.confidences[repeated] = -1, 0.0
            self.dropped["duplicate"] = self.dropped.get("duplicate", 0) + len(repeated)


class DatasetBuild:
    """One build, new or resumed.

    Raises:
        RaydfkdError: the teacher or the candidates are invalid. Nothing is written before these checks.
    """

    def __init__(self, config: DatasetBuildConfig) -> None:
        self.config = config
        teacher = builder.build_frozen_teacher(config)
        if config.boundary_attack is not None:
            require_input_gradient(audit_teacher(teacher), "boundary_attack")
        self.num_classes = teacher.num_classes
        self.teacher_sha256 = teacher.state_sha256()
        self.reader: RowReader | None = None
        if config.dataset is not None:
            self.reader = open_rows(config.dataset)
            self._reading(np.zeros(1, np.int64))(Span(0, 0, 1).columns())  # wrong channels are rejected here, not in a worker
        else:
            _try_source(config, teacher)

    @property
    def num_candidates(self) -> int:
        return self.config.num_rendered if self.reader is None else self.reader.total

    def run(self, folder: BuildFolder, execute: Execute, tell: Tell) -> dict[str, Any]:
        """Completes the build; returns the contents of build.json.

        Raises:
            DataError: no candidate is usable, or the candidates or the teacher changed since the build was started.
        """
        began = time.monotonic()
        before = folder.manifest().get("num_candidates", self.num_candidates)
        if before != self.num_candidates:
            raise DataError(f"there were {before} candidates and there are now {self.num_candidates}: use another --out")
        judge = folder.manifest().get("teacher_sha256", self.teacher_sha256)
        if judge != self.teacher_sha256:
            was, now = judge[:12], self.teacher_sha256[:12]
            raise DataError(f"the teacher's sha256 was {was} and is now {now}: use the same weights or another --out")
        folder.update(num_candidates=self.num_candidates, teacher_sha256=self.teacher_sha256, **describe_environment())
        self._judge(folder, execute, tell)
        candidates = self._judged(folder)
        chosen = self._select(candidates)
        attacked, taken = None, np.empty(0, np.int64)
        if self.config.boundary_attack is not None:
            attacked = self._attack(folder, execute, tell, candidates, np.unique(chosen))
            chosen, taken = self._select_again(candidates, np.unique(chosen), attacked)
        self._write_originals(folder, execute, tell, candidates, chosen)
        if attacked is not None:
            self._write_attacked(folder, attacked, taken, first_file=-(-len(chosen) // self.images_per_file))
        summary = self._summary(candidates, chosen, attacked, taken)
        folder.finish(seconds=round(time.monotonic() - began, 1), **summary)
        return folder.manifest()

    @property
    def images_per_file(self) -> int:
        channels, height, width = self.config.task.image_shape
        return max(1, min(self.config.runtime.images_per_file, FILE_BYTES // (channels * height * width)))

    def _reading(self, rows: np.ndarray | None) -> ReadRows:
        assert self.reader is not None
        assert self.config.dataset is not None
        return ReadRows(self.reader, self.config.task.image_shape, self.config.dataset.convert, rows)

    def _reading_candidates(self, folder: BuildFolder, rows: np.ndarray) -> ReadRows | ReadStored:
        if self.reader is not None:
            return self._reading(rows)
        return ReadStored(folder.work.absolute(), self.config.part_size, rows)

    def _judge(self, folder: BuildFolder, execute: Execute, tell: Tell) -> None:
        """The teacher's class of every candidate, one file per part."""
        whole = spans(self.num_candidates, self.config.part_size)
        left = [span for span in whole if not folder.judged_path(span.number).exists()]
        rendered = self.reader is None
        name = "rendering" if rendered else "judging"
        work = Pass(name, left, None, Render) if rendered else Pass(name, left, self._reading(None), Judge)
        progress = _Progress(tell, name, whole, left)
        for number, columns in execute(self.config, work):
            if rendered:
                kept = columns["error"] == ""
                save_columns(folder.stored_path(number), {key: columns[key][kept] for key in ("row", "image")})
            named = ("teacher_class", "teacher_confidence", "error", "thumbnail")
            save_columns(folder.judged_path(number), {key: columns[key] for key in named if key in columns})
            progress.done(number)

    def _judged(self, folder: BuildFolder) -> Candidates:
        """Reads the first pass's files.

        Raises:
            DataError: no candidate is left.
        """
        classes = np.empty(self.num_candidates, np.int32)
        confidences = np.empty(self.num_candidates, np.float32)
        thumbnails = np.empty(self.num_candidates, np.uint64)
        found = Candidates(classes, confidences)
        for span in spans(self.num_candidates, self.config.part_size):
            with np.load(folder.judged_path(span.number)) as part:
                here = slice(span.first, span.last)
                classes[here], confidences[here] = part["teacher_class"], part["teacher_confidence"]
                for error in part["error"][part["error"] != ""].tolist():
                    if self.reader is None:
                        found.dropped[error] = found.dropped.get(error, 0) + 1
                    else:
                        found.num_skipped += 1
                        found.skipped += [error] if len(found.skipped) < MOST_NAMED else []
                if self._compares:
                    thumbnails[here] = part["thumbnail"]
        if self._compares:
            found.drop_repeated(thumbnails)
        if len(found.usable) == 0:
            raise DataError(self._none_left(found))
        if found.num_skipped:
            first, total = found.skipped[0], self.num_candidates
            logger.warning("%d of %d images could not be read (the first: %s)", found.num_skipped, total, first)
        return found

    @property
    def _compares(self) -> bool:
        """Whether duplicates across parts are removed; each part only detects those within its own batches."""
        return self.reader is None and self.config.drop_degenerate

    def _none_left(self, found: Candidates) -> str:
        if self.reader is None:
            return (
                f"all {self.num_candidates} rendered images are constant, two-coloured or duplicates: change images, "
                "or set drop_degenerate=false"
            )
        return (
            f"none of the {self.num_candidates} images of {self.reader.description} could be read (the first: "
            f"{found.skipped[0]}): use JPEG, PNG or another common image format"
        )

    def _select(self, candidates: Candidates) -> np.ndarray:
        """int64, the selected candidates, ascending, repeated where their class has too few."""
        settings = self.config.selection
        usable = candidates.usable
        seed = derive_seed(self.config.runtime.seed, "selection")
        if not settings.balanced:
            return np.sort(np.random.default_rng(seed).permutation(usable)[: settings.num_images])
        classes = candidates.classes[usable]
        return usable[select_transfer_set(classes, self.num_classes, settings.num_images, seed, settings.keep_small)]

    def _attack(
        self, folder: BuildFolder, execute: Execute, tell: Tell, candidates: Candidates, attacked: np.ndarray
    ) -> _Attacked:
        """Attacks each of these candidates once; the results are stored on disk."""
        whole = spans(len(attacked), self.config.part_size)
        left = [span for span in whole if not folder.attacked_path(span.number).exists()]
        progress = _Progress(tell, "attacking", whole, left)
        work = Pass("attacking", left, self._reading_candidates(folder, attacked), Attack)
        for number, columns in execute(self.config, work):
            kept = columns["error"] == ""
            names = ("image", "teacher_class", "teacher_confidence", "target")
            save_columns(folder.attacked_path(number), {key: columns[key][kept] for key in names})
            progress.done(number)
        classes, sizes = [np.empty(0, np.int32)], []
        for span in whole:
            with np.load(folder.attacked_path(span.number)) as part:
                classes.append(part["teacher_class"])
                sizes.append(len(classes[-1]))
        return _Attacked(np.concatenate(classes), np.cumsum([0, *sizes]))

    def _select_again(
        self, candidates: Candidates, originals: np.ndarray, attacked: _Attacked
    ) -> tuple[np.ndarray, np.ndarray]:
        """The candidates and attack images to use, from the attack images, and the originals (each once) if they are kept.

        Raises:
            DataError: there is none.
        """
        assert self.config.boundary_attack is not None
        if not self.config.boundary_attack.keep_originals:
            originals = originals[:0]
            if len(attacked.classes) == 0:
                raise DataError(
                    f"the boundary attack found no pair in {self.config.boundary_attack.num_steps} steps: raise "
                    "boundary_attack.num_steps or threshold, or set keep_originals"
                )
        classes = np.concatenate([candidates.classes[originals], attacked.classes])
        settings = self.config.selection
        seed = derive_seed(self.config.runtime.seed, "selection after the attack")
        if settings.balanced:
            chosen = select_transfer_set(classes, self.num_classes, settings.num_images, seed, settings.keep_small)
        else:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(classes))[: settings.num_images])
        first = np.searchsorted(chosen, len(originals))
        return originals[chosen[:first]], chosen[first:] - len(originals)

    def _write_originals(
        self, folder: BuildFolder, execute: Execute, tell: Tell, candidates: Candidates, chosen: np.ndarray
    ) -> None:
        whole = spans(len(chosen), self.images_per_file)
        left = [span for span in whole if not folder.images_path(span.number).exists()]
        progress = _Progress(tell, "writing", whole, left)
        work = Pass("writing", left, self._reading_candidates(folder, chosen), None)
        for number, columns in execute(self.config, work):
            if (columns["error"] != "").any():
                wrong = columns["error"][columns["error"] != ""][0]
                raise DataError(f"{wrong} was readable before and is not now: do not change images during the build")
            rows = columns["row"]
            classes = candidates.classes[rows]
            none = np.full(len(rows), -1, np.int64)
            self._write(folder, number, columns["image"], none, classes, candidates.confidences[rows])
            progress.done(number)

    def _write_attacked(self, folder: BuildFolder, attacked: _Attacked, taken: np.ndarray, first_file: int) -> None:
        for span in spans(len(taken), self.images_per_file):
            number = first_file + span.number
            if folder.images_path(number).exists():
                continue
            rows = taken[span.first : span.last]
            parts = np.searchsorted(attacked.begins, rows, side="right") - 1
            found: dict[str, list[np.ndarray]] = {"image": [], "target": [], "teacher_class": [], "teacher_confidence": []}
            for part in np.unique(parts).tolist():
                with np.load(folder.attacked_path(part)) as stored:
                    here = rows[parts == part] - attacked.begins[part]
                    for name, values in found.items():
                        values.append(stored[name][here])
            images, targets, classes, confidences = (np.concatenate(values) for values in found.values())
            self._write(folder, number, images, targets, classes, confidences)

    def _write(
        self,
        folder: BuildFolder,
        number: int,
        images: np.ndarray,
        targets: np.ndarray,
        classes: np.ndarray,
        confidences: np.ndarray,
    ) -> None:
        batch = SyntheticBatch(images, targets, classes, confidences, "surrogate", "dataset-build", -1)
        write_atomically(folder.images_path(number), to_parquet(batch))

    def _summary(
        self, candidates: Candidates, chosen: np.ndarray, attacked: _Attacked | None, taken: np.ndarray
    ) -> dict[str, Any]:
        """Statistics of the finished data set, built from the ``chosen`` candidates and the ``taken`` attack images."""

        def counted(chosen: np.ndarray, taken: np.ndarray) -> np.ndarray:
            made = np.empty(0, np.int32) if attacked is None else attacked.classes[taken]
            return np.bincount(np.concatenate([candidates.classes[chosen], made]), minlength=self.num_classes)

        before = counted(candidates.usable, taken[:0])
        after = counted(chosen, taken)
        dataset = self.config.dataset
        return {
            "source": self.config.images.kind if self.config.images is not None else str(self._description),
            "split": None if dataset is None else dataset.split,
            "num_skipped": candidates.num_skipped,
            "skipped": candidates.skipped,
            "dropped": candidates.dropped,
            "num_images": int(after.sum()),
            "num_distinct_candidates": len(np.unique(chosen)),
            "num_attacked_images": len(taken),
            "candidate_class_counts": before.tolist(),
            "class_counts": after.tolist(),
            "distinct_class_counts": counted(np.unique(chosen), np.unique(taken)).tolist(),
            "candidate_class_entropy": class_entropy(before),
            "class_entropy": class_entropy(after),
        }

    @property
    def _description(self) -> str:
        assert self.reader is not None
        return self.reader.description


@dataclass(frozen=True)
class _Attacked:
    """Results of the attack: classes int32 [M], and the offset of each part's images, int64 [parts + 1]."""

    classes: np.ndarray
    begins: np.ndarray


class _Progress:
    """Reports how many images of a pass are done, including those of an earlier start."""

    def __init__(self, tell: Tell, name: str, whole: list[Span], left: list[Span]) -> None:
        self._tell, self._name = tell, name
        self._sizes = {span.number: span.last - span.first for span in left}
        self._total = sum(span.last - span.first for span in whole)
        self._done = self._total - sum(self._sizes.values())
        tell(name, self._done, self._total)

    def done(self, number: int) -> None:
        self._done += self._sizes[number]
        self._tell(self._name, self._done, self._total)


def _try_source(config: DatasetBuildConfig, teacher: FrozenTeacher) -> None:
    """Validates a source's settings in this process, before any worker uses them."""
    from raydfkd.synthesis.procedural.image_kinds import build_source

    assert config.images is not None
    build_source(config.images, teacher, torch.device("cpu"))

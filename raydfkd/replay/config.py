"""Settings of the replay buffer. Imports neither numpy nor torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raydfkd.settings import Settings

SAMPLER_KINDS = ("uniform", "prioritized", "class_balanced")
REMOVER_KINDS = ("fifo", "lowest_priority")


class SelectorConfig(Settings):
    """How items are chosen: to train on (a sampler) or to evict (a remover). Only ``prioritized`` has further settings."""

    kind: Literal["uniform", "prioritized", "class_balanced", "fifo", "lowest_priority"]
    """Samplers: uniform, prioritized, class_balanced. Removers: fifo, lowest_priority."""
    priority_exponent: float = Field(default=0.6, ge=0)
    """Alpha in P(i) = (|d_i| + epsilon)^alpha / sum. 0 samples uniformly, 1 in proportion to the priority."""
    importance_exponent: float = Field(default=0.4, ge=0)
    """Beta in the importance weight (N P)^-beta at student step 0. 0 corrects nothing, 1 undoes the bias of sampling."""
    importance_exponent_final: float | None = Field(default=1.0, ge=0)
    """Beta at the last student step, reached linearly; null keeps ``importance_exponent`` throughout."""
    priority_epsilon: float = Field(default=1e-6, gt=0)
    """Added to every |d_i|, so that an item without loss can still be drawn."""
    normalize_importance: Literal["batch", "none"] = "none"
    """Importance weights as SSD-KD's Eq. 5 gives them ("none"), or divided by the largest of each batch ("batch"), which makes
    the student's updates smaller."""

    @model_validator(mode="after")
    def _refuse_unused(self) -> SelectorConfig:
        if self.kind != "prioritized":
            self.refuse_idle(f"selector kind {self.kind!r}", *(name for name in type(self).model_fields if name != "kind"))
        return self


class TableConfig(Settings):
    """One table of the buffer."""

    capacity: int = Field(gt=0)
    """Maximum number of items (images)."""
    capacity_bytes: int | None = Field(default=None, gt=0)
    """Maximum bytes of stored batches; above it, the oldest batches are evicted whole. null: ``capacity`` is the only limit."""
    sampler: SelectorConfig = SelectorConfig(kind="uniform")
    """How items are drawn to train on: uniform, prioritized or class_balanced."""
    remover: SelectorConfig = SelectorConfig(kind="fifo")
    """Which items are evicted when the table is full: fifo or lowest_priority."""
    max_item_age_batches: int | None = Field(default=None, gt=0)
    """Items older than this many inserted batches are evicted on the next insert; null keeps them."""
    max_draws: int | None = Field(default=None, gt=0)
    """How often each student draws an item at most, with the sampler uniform: 1 gives every image once, in random order, as
    methods that keep no images do; null: without limit."""

    @model_validator(mode="after")
    def _refuse_unsuited(self) -> TableConfig:
        if self.sampler.kind not in SAMPLER_KINDS:
            raise ValueError(f"sampler kind {self.sampler.kind!r} draws the same items every time: use one of {SAMPLER_KINDS}")
        if self.remover.kind not in REMOVER_KINDS:
            raise ValueError(f"remover kind {self.remover.kind!r} is a sampler: use one of {REMOVER_KINDS}")
        if self.max_draws is not None and self.sampler.kind != "uniform":
            raise ValueError(
                f"max_draws {self.max_draws} and sampler {self.sampler.kind!r} both say how often an item is drawn: use the "
                "sampler uniform, or leave max_draws out"
            )
        if self.remover.kind == "lowest_priority" and self.capacity_bytes is None:
            raise ValueError(
                "remover 'lowest_priority' can leave one image of each of many batches, and a batch stays in memory until all "
                "its images are evicted: set capacity_bytes too"
            )
        return self


class ReplayConfig(Settings):
    """The buffer: a ``synthetic`` table that evicts and, if images are given, a ``pinned`` one that never does."""

    synthetic: TableConfig
    """Table of the images that generators make."""
    pinned: TableConfig | None = None
    """Table of collected, condensed and surrogate images; null: none."""
    pinned_fraction: float | None = Field(default=None, ge=0, le=1)
    """Share of each training batch drawn from ``pinned``; null: from ``inflation``."""
    inflation: float | None = Field(default=None, ge=0)
    """How many times each pinned image counts, against a synthetic one, when a batch is split between the tables (N in HiDFD;
    0: synthetic images only); null: the synthetic table's capacity divided by the number of pinned images, rounded down, at
    least 1."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> ReplayConfig:
        if self.pinned is None:
            self.refuse_idle("without replay.pinned the buffer", "pinned_fraction", "inflation")
            return self
        if self.pinned_fraction is not None and self.inflation is not None:
            raise ValueError("pinned_fraction and inflation both say how a batch is split: leave one out")
        self.pinned.refuse_idle("the pinned table never evicts, so it", "remover", "max_item_age_batches", "max_draws")
        return self

    def inflation_of(self, num_pinned: int) -> float:
        """N for so many pinned images (at least one)."""
        return max(1, self.synthetic.capacity // num_pinned) if self.inflation is None else self.inflation

"""Settings of the replay buffer. Imports neither numpy nor torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

SAMPLER_KINDS = ("uniform", "prioritized", "class_balanced")
REMOVER_KINDS = ("fifo", "lowest_priority")


class SelectorConfig(BaseModel):
    """Who chooses items: to train on (a sampler) or to evict (a remover).

    Only ``prioritized`` reads fields other than ``kind``; setting one for another kind is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    normalize_importance: Literal["batch", "none"] = "batch"
    """Divide the importance weights by their largest in each batch ("batch"), or leave them as Eq. 5 has them ("none")."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> SelectorConfig:
        ignored = sorted(self.model_fields_set - {"kind"})
        if self.kind != "prioritized" and ignored:
            raise ValueError(
                f"selector kind {self.kind!r} does not use {', '.join(ignored)}: leave out what only kind 'prioritized' reads"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_ignored(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The resolved experiment is saved and run again: it may hold only what the validator above accepts.
        values: dict[str, Any] = handler(self)
        return values if self.kind == "prioritized" else {"kind": self.kind}


class TableConfig(BaseModel):
    """One table of the buffer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    capacity: int = Field(gt=0)
    """Most items (images) held at once."""
    capacity_bytes: int | None = Field(default=None, gt=0)
    """Most bytes of live shards; beyond it the oldest whole shards go. null: bounded by ``capacity`` alone."""
    sampler: SelectorConfig = SelectorConfig(kind="uniform")
    """Who chooses the items to train on: uniform, prioritized or class_balanced."""
    remover: SelectorConfig = SelectorConfig(kind="fifo")
    """Who chooses the items to evict when the table is full: fifo or lowest_priority."""
    max_item_age_batches: int | None = Field(default=None, gt=0)
    """Items older than this many inserted batches are evicted on the next insert; null keeps them."""

    @model_validator(mode="after")
    def _refuse_unsuited(self) -> TableConfig:
        if self.sampler.kind not in SAMPLER_KINDS:
            raise ValueError(f"sampler kind {self.sampler.kind!r} draws the same items every time: use one of {SAMPLER_KINDS}")
        if self.remover.kind not in REMOVER_KINDS:
            raise ValueError(f"remover kind {self.remover.kind!r} is a sampler: use one of {REMOVER_KINDS}")
        if self.remover.kind == "lowest_priority" and self.capacity_bytes is None:
            raise ValueError(
                "remover 'lowest_priority' can leave one live image in each of many shards, which bounds no memory: "
                "set capacity_bytes too"
            )
        return self


class ReplayConfig(BaseModel):
    """The buffer: a ``synthetic`` table that evicts and, where images are given, a ``pinned`` one that never does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    synthetic: TableConfig
    """Table of the images that generators make."""
    pinned: TableConfig | None = None
    """Table of collected, condensed and surrogate images; null where no source makes any."""
    pinned_fraction: float | None = Field(default=None, ge=0, le=1)
    """Share of each training batch drawn from ``pinned``; null: as ``inflation`` says."""
    inflation: float | None = Field(default=None, ge=0)
    """How many times a pinned image counts in the mix against a synthetic one (N in HiDFD; 0: synthetic images only); null:
    as many whole times as the pinned images go into the synthetic table's capacity, but at least once."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> ReplayConfig:
        if self.pinned is None:
            for name in ("pinned_fraction", "inflation"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is set but there is no pinned table: add replay.pinned or leave it out")
            return self
        if self.pinned_fraction is not None and self.inflation is not None:
            raise ValueError("pinned_fraction and inflation both say how a batch is split: leave one out")
        # Not by model_fields_set: a saved experiment holds every field, and must run again.
        eviction = ("remover", "max_item_age_batches")
        unused = [name for name in eviction if getattr(self.pinned, name) != TableConfig.model_fields[name].default]
        if unused:
            raise ValueError(f"the pinned table never evicts, so {', '.join(unused)} would do nothing: leave it out")
        return self

    def inflation_of(self, num_pinned: int) -> float:
        """N for so many pinned images (at least one)."""
        return max(1, self.synthetic.capacity // num_pinned) if self.inflation is None else self.inflation

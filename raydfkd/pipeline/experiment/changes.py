"""Which settings differ between two trees of plain values, and which of them a started run may change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raydfkd.errors import ConfigError

FIXED = (
    "task.*", "teacher.model", "teacher.normalization.*", "teacher.classifier_head", "teacher.feature_layers.*", "collected.*",
    "students.<name>", "students.<name>.model", "students.<name>.checkpoint", "students.<name>.batch_size",
    "students.<name>.objective.kind", "students.<name>.pruned.*", "students.<name>.few_shot.*",
    "sources.<name>", "sources.<name>.method", "sources.<name>.batch_size",
    "replay.<name>", "replay.<name>.capacity", "replay.<name>.sampler.kind", "replay.<name>.remover.kind",
    "schedule.mode", "schedule.warmup_batches", "schedule.batches_per_round", "schedule.student_steps_per_round",
    "runtime.seed",
)  # fmt: skip
"""Settings that determine what a checkpoint holds, or that took effect at the beginning. ``<name>`` is one key, a final ``*``
all keys below. Those of a network's architecture are found by loading the checkpoint."""
UNSAID = ("runtime.out",)
"""A run directory that was moved is the same run."""

Changes = dict[str, tuple[Any, Any]]
"""Dotted key to the values before and after."""


def differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> Changes:
    """The settings that differ; where one side is no mapping, or a key is there once only, the whole is one difference."""
    found: Changes = {}
    for name in [*before, *(name for name in now if name not in before)]:
        here, one, other = f"{path}{name}", before.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= differences(one, other, f"{here}.")
        elif one != other:
            found[here] = one, other
    return found


def described(changes: Changes) -> list[str]:
    """``a.b was 1 and is 2`` for each."""
    return [f"{key} was {_shown(before)} and is {_shown(now)}" for key, (before, now) in changes.items()]


def resumable(before: dict[str, Any], now: dict[str, Any], where: object) -> Changes:
    """The settings of a started experiment that its resumed one changes.

    Args:
        where: the run directory, for the message.

    Raises:
        ConfigError: one of them cannot be changed.
    """
    changes = {key: values for key, values in differences(before, now).items() if key not in UNSAID}
    refused = {key: values for key, values in changes.items() if _is_fixed(key)}
    if refused:
        raise ConfigError(
            f"the run in {where} cannot change what it began with ({', '.join(described(refused))}): resume it without that, "
            "or start another run with another --out"
        )
    return changes


def latest(overrides: Iterable[str]) -> list[str]:
    """``a.b=c`` overrides without those that a later one of the same key replaces."""
    kept: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0].strip()
        kept.pop(key, None)
        kept[key] = override
    return list(kept.values())


def _is_fixed(key: str) -> bool:
    return any(_covers(pattern.split("."), key.split(".")) for pattern in FIXED)


def _covers(pattern: list[str], key: list[str]) -> bool:
    if pattern[-1] == "*":
        whole = pattern[:-1]
        return all(p in ("<name>", k) for p, k in zip(whole, key, strict=False))
    return len(pattern) == len(key) and all(p in ("<name>", k) for p, k in zip(pattern, key, strict=True))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(map(str, value)) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

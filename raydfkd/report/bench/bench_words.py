"""What a bench's outcome says, as text for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydfkd.report.result_rows import MISSING, format_count, format_duration, format_percent

HEADERS = ("method", "end", "last", "average", "agreement", "to teacher", "trained", "student images", "made", "batch", "lr")
ENDS = {
    "finished": "finished",
    "budget": "cut off",
    "collapsed": "collapsed",
    "failed": "failed",
    "skipped": "skipped",
    None: "not ended",
}
"""By the end of a method."""


def text_row(method: Mapping[str, Any], teacher: float | None) -> tuple[str, ...]:
    """The texts under ``HEADERS``."""
    last, lr = method["last"], method["lr"]
    gap = MISSING if last is None or teacher is None else f"{100 * (last - teacher):+.2f}".replace("-", "−")
    return (
        method["method"],
        ENDS[method["end"]],
        format_percent(last),
        format_percent(method["average"]),
        format_percent(method["agreement"]),
        gap,
        format_duration(method["trained_s"]),
        format_count(method["student_images"]),
        format_count(method["images_synthesized"]),
        MISSING if method["batch_size"] is None else str(method["batch_size"]),
        MISSING if lr is None else f"{lr:.3g}",
    )


def ran(outcome: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The methods that were not skipped, best first."""
    return [method for method in outcome["methods"] if method["end"] != "skipped"]


def budget_text(budget: Mapping[str, Any], share: float = 1.0) -> str:
    """``10 min 00 s`` or ``20,000 student images``, or a share of it."""
    if budget["minutes"] is None:
        return f"{share * budget['images']:,.0f} student images"
    return format_duration(60 * share * budget["minutes"])


def leader_lines(outcome: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(budget, method, figure) of the best method at shares of the budget."""
    return [
        (budget_text(outcome["budget"], leader["share"]), leader["method"], format_percent(leader["last"]))
        for leader in outcome["leaders"]
    ]


def reasons(outcome: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(method, end, why) of those that did not finish."""
    return [
        (method["method"], ENDS[method["end"]], method["reason"])
        for method in outcome["methods"]
        if method["reason"] is not None
    ]


def cost_rows(methods: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """(method, seconds of synthesis for 1,000 images, of 1,000 images of the student, share of synthesis, class entropy)."""
    rows: list[tuple[str, ...]] = []
    for method in methods:
        made, seen = method["images_synthesized"], method["student_images"]
        synthesis_s, distillation_s = method["synthesis_s"], method["distillation_s"]
        if not made or not seen or synthesis_s is None or not distillation_s:
            continue
        entropy = method["class_entropy"]
        rows.append(
            (
                method["method"],
                format_duration(1000 * synthesis_s / made),
                format_duration(1000 * distillation_s / seen),
                format_percent(synthesis_s / (synthesis_s + distillation_s), 0),
                MISSING if entropy is None else f"{entropy:.3f}",
                _settings_text(method["source"]),
            )
        )
    return rows


COST_HEADERS = (
    "method",
    "1,000 images made",
    "1,000 images learnt",
    "of it synthesis",
    "class entropy",
    "settings besides defaults",
)


def _settings_text(source: Mapping[str, Any] | None) -> str:
    if source is None:
        return MISSING
    return ", ".join(f"{key} {value}" for key, value in source.items() if key not in ("method", "batch_size"))

"""A sweep's settings and figures as text, for its report and the terminal."""

from __future__ import annotations

from typing import Any

from raydfkd.report.result_rows import MISSING


def short_names(keys: list[str]) -> dict[str, str]:
    """Each dotted key and its shortest end that no other key shares."""
    names = {}
    for key in keys:
        parts = key.split(".")
        for length in range(1, len(parts) + 1):
            end = parts[-length:]
            if sum(other.split(".")[-length:] == end for other in keys) == 1:
                break
        names[key] = ".".join(end)
    return names


def settings_text(settings: dict[str, Any]) -> str:
    """``lr=0.1, temperature=4``."""
    names = short_names(list(settings))
    return ", ".join(f"{names[key]}={value_text(value)}" for key, value in settings.items())


def value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figure_text(value: float | None) -> str:
    """An objective, as a plain number: it may be a share or a divergence."""
    return MISSING if value is None else f"{value:.4g}"

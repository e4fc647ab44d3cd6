"""Real data for the tests that need some: what lies below ``$RAYDFKD_DATA``, where it is set. The others never read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_NAMED = os.environ.get("RAYDFKD_DATA", "")
DATA: Path | None = Path(_NAMED).expanduser().resolve() if _NAMED else None
"""The folder, or None."""

needs_data = pytest.mark.skipif(DATA is None, reason="RAYDFKD_DATA is not set")


def real(name: str) -> Path:
    """The file of that name below the folder; skips the test that asks for it where it is not there."""
    if DATA is None:
        pytest.skip("RAYDFKD_DATA is not set")
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not below RAYDFKD_DATA")
    return DATA / name

"""The condensation methods by name. A new one is a file and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.data.condensation.condenser import CondenserConfig, CondenserEntry
from raydfkd.registry import Registry

CONDENSERS: Registry[CondenserEntry] = Registry("condensation method", CondenserEntry)
CONDENSERS.add("dm", "raydfkd.data.condensation.dm:CONDENSER")
CONDENSERS.add("dsa", "raydfkd.data.condensation.dsa:CONDENSER")
CONDENSERS.add("mtt", "raydfkd.data.condensation.mtt:CONDENSER")

if TYPE_CHECKING:
    AnyCondenser = CondenserConfig
else:
    AnyCondenser = CONDENSERS.union("kind")
    """Settings of any condensation method, told apart by ``kind``."""

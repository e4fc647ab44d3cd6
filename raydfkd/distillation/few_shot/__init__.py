"""What trains a student on the collected images alone before its first round, by name. Importing this imports no torch.

A few-shot method is one file here and one line below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.distillation.few_shot.few_shot_method import FewShotConfig, FewShotEntry, FewShotParts, FewShotStep
from raydfkd.registry import Registry

__all__ = ["FEW_SHOT", "AnyFewShot", "FewShotConfig", "FewShotEntry", "FewShotParts", "FewShotStep"]

FEW_SHOT: Registry[FewShotEntry] = Registry("few-shot method", FewShotEntry)
FEW_SHOT.add("fskd", "raydfkd.distillation.few_shot.fskd:FEW_SHOT_METHOD")
FEW_SHOT.add("netgraft", "raydfkd.distillation.few_shot.netgraft:FEW_SHOT_METHOD")

if TYPE_CHECKING:
    AnyFewShot = FewShotConfig
else:
    AnyFewShot = FEW_SHOT.union("kind")
"""Settings of any few-shot method, distinguished by ``kind``."""

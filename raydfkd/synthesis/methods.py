"""The synthesis methods by name. A new one is a file and a line here, or an entry point ``raydfkd.methods`` elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.registry import Registry
from raydfkd.synthesis.method import Method, SynthesisConfig

METHODS: Registry[Method] = Registry("method", Method, "raydfkd.methods")
METHODS.add("fast", "raydfkd.synthesis.fast:METHOD")
METHODS.add("ssdkd", "raydfkd.synthesis.ssdkd:METHOD")
METHODS.add("deep_inversion", "raydfkd.synthesis.deep_inversion:METHOD")
METHODS.add("cmi", "raydfkd.synthesis.cmi:METHOD")
METHODS.add("predfkd", "raydfkd.synthesis.predfkd:METHOD")
METHODS.add("dafl", "raydfkd.synthesis.adversarial.dafl:METHOD")
METHODS.add("dfad", "raydfkd.synthesis.adversarial.dfad:METHOD")
METHODS.add("dfq", "raydfkd.synthesis.adversarial.dfq:METHOD")
METHODS.add("zskt", "raydfkd.synthesis.adversarial.zskt:METHOD")
METHODS.add("degan", "raydfkd.synthesis.gans.degan:METHOD")
METHODS.add("hidfd", "raydfkd.synthesis.gans.hidfd:METHOD")
METHODS.add("procedural", "raydfkd.synthesis.procedural.synthesizer:METHOD")

if TYPE_CHECKING:
    AnySource = SynthesisConfig
else:
    AnySource = METHODS.union("method")
    """Settings of any method, told apart by ``method``."""

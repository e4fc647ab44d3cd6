"""The synthesis methods by name. A new one is a file and a line here, or an entry point ``raydfkd.methods`` elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.registry import Registry
from raydfkd.synthesis.method import Method, Suggestion, SynthesisConfig, TeacherTraits

METHODS: Registry[Method] = Registry("method", Method, "raydfkd.methods")
METHODS.add("fast", "raydfkd.synthesis.fast:METHOD")
METHODS.add("ssdkd", "raydfkd.synthesis.ssdkd:METHOD")
METHODS.add("deep_inversion", "raydfkd.synthesis.deep_inversion:METHOD")
METHODS.add("cmi", "raydfkd.synthesis.cmi:METHOD")
METHODS.add("nayer", "raydfkd.synthesis.nayer:METHOD")
METHODS.add("spaceshipnet", "raydfkd.synthesis.spaceshipnet:METHOD")
METHODS.add("predfkd", "raydfkd.synthesis.predfkd:METHOD")
METHODS.add("dafl", "raydfkd.synthesis.adversarial.dafl:METHOD")
METHODS.add("dfad", "raydfkd.synthesis.adversarial.dfad:METHOD")
METHODS.add("ddad", "raydfkd.synthesis.adversarial.ddad:METHOD")
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


def suggestions(teacher: TeacherTraits) -> dict[str, Suggestion]:
    """The methods that suit a teacher, by name, best first."""
    of_each = {name: suggest(teacher) for name in METHODS if (suggest := METHODS.get(name).suggest) is not None}
    suiting = {name: suggestion for name, suggestion in of_each.items() if suggestion is not None}
    return dict(sorted(suiting.items(), key=lambda item: item[1].rank))

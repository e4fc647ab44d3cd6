"""A proposed experiment as a short YAML file that says why each value was decided."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from raydfkd import __version__
from raydfkd.pipeline.proposal.propose import Proposal

WIDTH = 120


def yaml_text(proposal: Proposal) -> str:
    """The file: only what was decided, each value below its reason."""
    findings = proposal.findings
    name = findings.checkpoint or findings.model
    lines = [
        f"# Distils {name} without its training data. Written by raydfkd {__version__} (raydfkd init): all other settings have",
        "# their defaults, see raydfkd config reference. Check it with raydfkd doctor, run it with raydfkd run.",
        *_lines(proposal.tree, proposal.reasons, "", 0),
    ]
    return "\n".join(lines) + "\n"


def summary(proposal: Proposal) -> list[str]:
    """What was found, what was decided and why, in a few lines for people."""
    findings, audit, tree = proposal.findings, proposal.audit, proposal.tree
    assert findings.num_classes is not None
    assert findings.normalization is not None
    shape = " x ".join(map(str, findings.image_shape))
    layers = ", ".join(f"{count} {name}" for name, count in sorted(audit.normalization_layers.items())) or "no normalisation"
    lines = [f"teacher: {findings.model}, {audit.num_params:,} parameters, {layers}"]
    classes = "" if findings.classes is None else f" ({_some(findings.classes.value)})"
    lines.append(f"classes: {findings.num_classes.value}{classes}, from {findings.num_classes.where}")
    assert findings.image_size is not None
    for what, value, found in (
        ("images:", shape, findings.image_size),
        (
            "normalisation",
            "mean {} std {}".format(*(_numbers(v) for v in findings.normalization.value)),
            findings.normalization,
        ),
    ):
        lines.append(f"{what} {value}, {'assumed: ' if found.assumed else 'from '}{found.where}")
    for name, source in tree["sources"].items():
        lines.append(f"method: {source['method']}: {proposal.reasons[f'sources.{name}.method']}")
    for name, student in tree["students"].items():
        lines.append(f"student: {student['model']}, {proposal.reasons[f'students.{name}.model']}")
    schedule = tree["schedule"]
    steps = schedule["rounds"] * schedule["student_steps_per_round"]
    batch = proposal.config.student.batch_size
    lines.append(f"schedule: {steps:,} student steps of {batch} images, {proposal.reasons['schedule.rounds']}")
    lines.append(f"runs on {proposal.machine.describe()}")
    return lines + [f"warning: {warning}" for warning in proposal.warnings]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _lines(tree: dict[str, Any], reasons: dict[str, str], above: str, depth: int) -> Iterator[str]:
    """The mapping's lines, one a key; a mapping without reasons inside is written on one."""
    indent = "  " * depth
    for key, value in tree.items():
        dotted = f"{above}.{key}" if above else key
        if dotted in reasons:
            yield from textwrap.wrap(
                reasons[dotted], WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_long_words=False
            )
        inside = any(reason.startswith(f"{dotted}.") for reason in reasons)
        if isinstance(value, dict) and (inside or any(isinstance(below, dict) for below in value.values())):
            yield f"{indent}{key}:"
            yield from _lines(value, reasons, dotted, depth + 1)
        else:
            yield f"{indent}{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").rstrip()

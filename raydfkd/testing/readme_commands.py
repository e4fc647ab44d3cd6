"""The shell commands that a Markdown file shows, so that each can be run by a test."""

from __future__ import annotations

import re
from pathlib import Path

_FENCE = re.compile(r"^```(?:bash|sh|console)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def fenced_commands(markdown: str) -> list[str]:
    """Every command of the ``bash`` blocks in order: without comments, continued lines joined, runs of spaces collapsed."""
    commands = []
    for block in _FENCE.findall(markdown):
        for line in block.replace("\\\n", " ").splitlines():
            command = " ".join(re.sub(r"(^|\s)#.*$", "", line).removeprefix("$ ").split())
            if command:
                commands.append(command)
    return commands


def command_tests(registry: Path) -> dict[str, str]:
    """Maps each command to the test that runs it (``tests/e2e/test_x.py::test_y``), from ``tests/readme_commands.yaml``."""
    from raydfkd.pipeline.experiment.yaml_files import read_yaml

    return {" ".join(command.split()): str(test) for command, test in read_yaml(registry).items()}

"""Processes of this machine, by their ids."""

from __future__ import annotations

from pathlib import Path


def processes_under(pid: int) -> list[int]:
    """Process ids of all descendants."""
    found, open_ = [], [pid]
    while open_:
        parent = open_.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = [int(child) for child in task.read_text().split()]
            except OSError:
                continue
            found += children
            open_ += children
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"

"""The bench directory.

```
BENCH/
  manifest.json        ``kind`` bench, state, ``budget``, teacher (model, sha256, metric), student, seed, rule
  experiment.yaml      the experiment whose teacher, student and data the methods share
  methods/NAME/        each method's run directory (run_dir.py)
  methods/NAME.json    how it ended: ``end`` (finished, budget, collapsed, failed, skipped; null: it runs, or was stopped),
                       ``reason``, and ``planned``, measured seconds of a batch and of a step
  result.json          the outcome, which ``raydfkd report BENCH`` shows
  bench.html           the page
```
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raydfkd.errors import ConfigError, RunDirError
from raydfkd.run_dir import RunDir, write_atomically

FINAL = ("finished", "budget", "collapsed")
"""Ends after which a method is not run again."""


class BenchDir:
    """One bench's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def experiment_path(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def methods_path(self) -> Path:
        return self.path / "methods"

    def run(self, name: str) -> RunDir:
        """A method's run directory."""
        return RunDir(self.methods_path / name)

    def entry(self, name: str) -> dict[str, Any]:
        """How a method stands, see NAME.json; of one that was not begun, without ``end``."""
        try:
            found = json.loads((self.methods_path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_entry(self, name: str, **values: Any) -> None:
        """Merges ``values`` into NAME.json."""
        self.methods_path.mkdir(parents=True, exist_ok=True)
        held = {"method": name, "end": None, "reason": None, "planned": {}, **self.entry(name), **values}
        write_atomically(self.methods_path / f"{name}.json", json.dumps(held, indent=2) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """Of all methods that were begun, by name."""
        names = sorted(path.stem for path in self.methods_path.glob("*.json")) if self.methods_path.is_dir() else []
        return [entry for name in names if (entry := self.entry(name))]

    def manifest(self) -> dict[str, Any]:
        return RunDir(self.path).manifest() if RunDir(self.path).manifest_path.exists() else {}

    def update_manifest(self, **values: Any) -> None:
        RunDir(self.path).update_manifest(**values)

    def write_result(self, result: dict[str, Any]) -> Path:
        RunDir(self.path).write_result(result)
        return RunDir(self.path).result_path

    def begin(self, shared: dict[str, Any], experiment: str) -> None:
        """Writes what the methods share, or checks that it is what it was.

        Args:
            shared: see the manifest.
            experiment: experiment.yaml.

        Raises:
            ConfigError: the folder holds a bench of something else.
            RunDirError: it holds a run, or cannot be written.
        """
        before = self.manifest()
        if before and before.get("kind") != "bench":
            raise RunDirError(f"bench directory {self.path} holds something else, not a bench: choose another --out")
        for key in ("budget", "teacher", "student", "seed"):
            if before and before.get(key) != shared[key]:
                raise ConfigError(
                    f"bench directory {self.path} is of {key} {_shown(before.get(key))}, and this command asks for "
                    f"{_shown(shared[key])}: choose another --out, or ask for the same"
                )
        try:
            self.methods_path.mkdir(parents=True, exist_ok=True)
            if not before:
                write_atomically(self.experiment_path, experiment)
                self.update_manifest(kind="bench", state="running", **shared)
        except OSError as error:
            raise RunDirError(
                f"bench directory {self.path} cannot be written ({error.strerror}): choose another --out"
            ) from error


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items() if inner is not None)
    return value[:12] if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else str(value)

"""The folder of a data set under construction, and of a finished one.

```
OUT/
  images-00000.parquet   the data set, once it is finished: SyntheticBatch tables (replay/arrow.py) of source ``surrogate``
  build.yaml             the resolved settings
  build.json             state (building or finished), versions, and of a finished one what it holds and where it comes from
  work/                  until then: judged-00000.npz, one a part, with the teacher's class of every candidate;
                         stored-00000.npz, candidates that were made; attacked-00000.npz, what came of the attack;
                         images-00000.parquet, finished files
```

A file of ``work`` is written whole or not at all, so that a build which was killed goes on with those that are missing.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import RunDirError
from raydfkd.pipeline.dataset.config import DatasetBuildConfig, load_dataset_build
from raydfkd.pipeline.dataset.reading import Columns, stored_path
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.run_dir import write_atomically

WITHOUT_EFFECT = ("runner", "num_teachers", "resources", "address", "num_cpus", "wait_timeout_s")
"""Settings of the runtime that may differ when a build goes on: what is built does not depend on them. ``dataset.convert`` may
too: what was read without it is read the same with it, and an image far down that needs it shall not cost what was judged."""


class BuildFolder:
    """One build's folder; ``begin`` starts a build, ``reopen`` goes on with one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def require_free(cls, path: Path) -> None:
        """Raises RunDirError if there is something at ``path`` already."""
        folder = cls(path)
        try:
            if folder._manifest_path.exists():
                finished = folder.manifest().get("state") == "finished"
                advice = "choose another --out" if finished else "go on with it by --resume, or choose another --out"
                raise RunDirError(f"{path} holds {'a finished' if finished else 'an unfinished'} data set already: {advice}")
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                what = "is not empty" if path.is_dir() else "is a file"
                raise RunDirError(f"{path} {what}: choose another --out, a data set is built in a folder of its own")
        except OSError as error:
            raise RunDirError(f"{path} cannot be read ({error.strerror}): choose another --out") from error

    @classmethod
    def begin(cls, path: Path, config: DatasetBuildConfig) -> BuildFolder:
        """Makes the folder.

        Raises:
            RunDirError: there is something at ``path``, or it cannot be written.
        """
        cls.require_free(path)
        folder = cls(path)
        try:
            folder.work.mkdir(parents=True)
        except OSError as error:
            raise RunDirError(f"{path} cannot be written ({error.strerror}): choose another --out") from error
        write_atomically(folder.config_path, dump_yaml(config))
        folder.update(state="building")
        return folder

    @classmethod
    def reopen(cls, path: Path, config: DatasetBuildConfig) -> BuildFolder:
        """Opens an unfinished build of the same settings; where they may differ, ``build.yaml`` then has the new ones.

        Raises:
            RunDirError: there is none, it is finished, or was begun with other settings.
        """
        folder = cls(path)
        if not folder._manifest_path.exists() or not folder.config_path.exists():
            raise RunDirError(f"{path} holds no data set that was begun: leave out --resume to begin one")
        if folder.manifest().get("state") == "finished":
            raise RunDirError(f"{path} is finished: there is nothing to resume, choose another --out for another data set")
        before = load_dataset_build(folder.config_path)
        changed = _differences(_lasting(before), _lasting(config))
        if changed:
            raise RunDirError(f"{path} was begun with other settings ({', '.join(changed)}): use the same, or another --out")
        write_atomically(folder.config_path, dump_yaml(config))
        folder.work.mkdir(exist_ok=True)
        return folder

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def config_path(self) -> Path:
        return self.path / "build.yaml"

    @property
    def _manifest_path(self) -> Path:
        return self.path / "build.json"

    def judged_path(self, part: int) -> Path:
        return self.work / f"judged-{part:05d}.npz"

    def stored_path(self, part: int) -> Path:
        return stored_path(self.work, part)

    def attacked_path(self, part: int) -> Path:
        return self.work / f"attacked-{part:05d}.npz"

    def images_path(self, number: int) -> Path:
        return self.work / f"images-{number:05d}.parquet"

    def manifest(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._manifest_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self._manifest_path} cannot be read ({error}): remove the folder and build anew") from error
        return found

    def update(self, **values: Any) -> None:
        known = self.manifest() if self._manifest_path.exists() else {}
        write_atomically(self._manifest_path, json.dumps(known | values, indent=1) + "\n")

    def finish(self, **values: Any) -> None:
        """Moves the images to their place, then says that all are there, then clears up."""
        for file in sorted(self.work.glob("images-*.parquet")):
            file.rename(self.path / file.name)
        self.update(state="finished", **values)
        shutil.rmtree(self.work, ignore_errors=True)


def save_columns(path: Path, columns: Columns) -> None:
    """Columns as a file that is there whole or not at all; texts need no pickling."""
    plain = {name: values.astype(str) if values.dtype == object else values for name, values in columns.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **plain)
    write_atomically(path, buffer.getvalue())


def _lasting(config: DatasetBuildConfig) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    for name in WITHOUT_EFFECT:
        del tree["runtime"][name]
    if tree["dataset"] is not None:
        del tree["dataset"]["convert"]
    return tree


def _differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """``a.b was 1 and is 2`` of each setting that differs."""
    found = []
    for name in before:
        here, one, other = f"{path}{name}", before[name], now.get(name)
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            found += _differences(one, other, f"{here}.")
        elif one != other:
            found.append(f"{here} was {one} and is {other}")
    return found

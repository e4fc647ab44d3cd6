"""The folder of a data set, in progress or finished.

```
OUT/
  images-00000.parquet   the data set, once finished: SyntheticBatch tables (replay/arrow.py) of source ``surrogate``
  build.yaml             the resolved settings
  build.json             state (building or finished), versions and, once finished, contents and provenance
  work/                  during the build: judged-00000.npz, one per part, with the teacher's class of every candidate;
                         stored-00000.npz, rendered candidates; attacked-00000.npz, attack results;
                         images-00000.parquet, finished files
```

Files in ``work`` are written atomically, so that a killed build resumes with those that are missing.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import RunDirError
from raydfkd.ownership import is_owner_file
from raydfkd.pipeline.dataset.config import DatasetBuildConfig, load_dataset_build
from raydfkd.pipeline.dataset.reading import Columns, stored_path
from raydfkd.pipeline.experiment.changes import described, differences
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.run_dir import write_atomically

WITHOUT_EFFECT = ("runner", "num_teachers", "resources", "address", "num_cpus", "wait_timeout_s")
"""Runtime settings that may change on resume, since the result does not depend on them. ``dataset.convert`` may change
too: images readable without it are read the same with it, and one late image that needs it must not void finished work."""


class BuildFolder:
    """One build's folder; ``begin`` starts a build, ``reopen`` resumes one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def require_free(cls, path: Path) -> None:
        """Raises RunDirError if ``path`` already exists and is not an empty folder."""
        folder = cls(path)
        try:
            if folder._manifest_path.exists():
                finished = folder.manifest().get("state") == "finished"
                advice = "choose another --out" if finished else "resume it with --resume, or choose another --out"
                raise RunDirError(f"{path} already holds {'a finished' if finished else 'an unfinished'} data set: {advice}")
            if path.exists() and (not path.is_dir() or any(not is_owner_file(p) for p in path.iterdir())):
                what = "is not empty" if path.is_dir() else "is a file"
                raise RunDirError(f"{path} {what}: choose another --out; a data set needs its own folder")
        except OSError as error:
            raise RunDirError(f"{path} cannot be read ({error.strerror}): choose another --out") from error

    @classmethod
    def begin(cls, path: Path, config: DatasetBuildConfig) -> BuildFolder:
        """Makes the folder.

        Raises:
            RunDirError: ``path`` is in use, or cannot be written.
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
        """Opens an unfinished build with the same settings; those that may change are updated in ``build.yaml``.

        Raises:
            RunDirError: there is none, it is finished, or it was started with different settings.
        """
        folder = cls(path)
        if not folder._manifest_path.exists() or not folder.config_path.exists():
            raise RunDirError(f"{path} holds no data set to resume: leave out --resume to start one")
        if folder.manifest().get("state") == "finished":
            raise RunDirError(f"{path} is finished: there is nothing to resume; choose another --out for another data set")
        before = load_dataset_build(folder.config_path)
        changed = described(differences(_lasting(before), _lasting(config)))
        if changed:
            raise RunDirError(f"{path} was started with other settings ({', '.join(changed)}): use the same or another --out")
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
            raise RunDirError(f"{self._manifest_path} cannot be read ({error}): remove the folder and build again") from error
        return found

    def update(self, **values: Any) -> None:
        known = self.manifest() if self._manifest_path.exists() else {}
        write_atomically(self._manifest_path, json.dumps(known | values, indent=1) + "\n")

    def finish(self, **values: Any) -> None:
        """Moves the images into place, marks the data set as finished, then removes ``work``."""
        for file in sorted(self.work.glob("images-*.parquet")):
            file.rename(self.path / file.name)
        self.update(state="finished", **values)
        shutil.rmtree(self.work, ignore_errors=True)


def save_columns(path: Path, columns: Columns) -> None:
    """Writes columns atomically; strings need no pickling."""
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

"""Checkpoints of a whole run: students, generators and buffer as they stood at one round's beginning.

```
checkpoints/step-00001200/
  students/NAME.pt         each distiller's state, all at the same step
  generators/NAME.pt       each synthesizer's state, also of generators that were retired by live scaling
  replay/                  the buffer's snapshot (see replay/snapshot.py)
  exchange.json            the rate limiters' counts and the published versions
```
A folder counts only once ``checkpoints/latest.json`` names it, which happens last. Tensor files are loaded without running
code.
"""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raydfkd.distillation.distiller import Distiller
from raydfkd.errors import CheckpointError
from raydfkd.run_dir import RunDir, generator_path, write_atomically
from raydfkd.types import Synthesizer

STUDENTS = "students"


@contextmanager
def writing(run: RunDir, step: int) -> Iterator[Path]:
    """The folder for the checkpoint of ``step``, which becomes the latest when the block ends well.

    One that could not be written whole is of no use, and takes room that a full disk does not have: it is removed.
    """
    folder = folder_of(run, step)
    try:
        for part in folder.glob("*"):
            if part.name != STUDENTS:  # Those may have been handed in already, and each is written anew.
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        (folder / "generators").mkdir(parents=True)
        yield folder
        run.commit_checkpoint(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def folder_of(run: RunDir, step: int) -> Path:
    return run.checkpoints / f"step-{step:08d}"


def save_student(folder: Path, name: str, distiller: Distiller) -> None:
    _save(folder / STUDENTS / f"{name}.pt", distiller.state_dict())


def load_student(folder: Path, name: str, distiller: Distiller) -> None:
    """Restores a student.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    state = _load(folder / STUDENTS / f"{name}.pt")
    try:
        distiller.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # as torch finds other names, shapes or parameter groups
        raise _other(f"student {name!r}", folder) from error


def save_generator(folder: Path, generator_id: str, state: dict[str, Any]) -> None:
    _save(generator_path(folder, generator_id), state)


def _save(path: Path, state: dict[str, Any]) -> None:
    """Through memory: what torch raises when it cannot write to a file does not tell why."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getvalue())


def load_generator(folder: Path, generator_id: str, synthesizer: Synthesizer) -> bool:
    """Restores a generator; False if the checkpoint knows none of that name (it is a new one).

    Raises:
        CheckpointError: the file is damaged, or of another network.
    """
    path = generator_path(folder, generator_id)
    if not path.exists():
        return False
    state = _load(path)
    try:
        synthesizer.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _other(f"generator {generator_id!r}", folder) from error
    return True


def _other(what: str, folder: Path) -> CheckpointError:
    return CheckpointError(
        f"the {what} in {folder} is another than the experiment's: resume with the settings that the run had"
    )


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # The restricted unpickler announces that it may not understand a damaged file before it says so.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, KeyError, IndexError, TypeError) as error:
        # The restricted unpickler stumbles over damaged files in all these ways.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"checkpoint file {path} cannot be read ({reason}): remove that checkpoint to resume from an earlier one"
        ) from error

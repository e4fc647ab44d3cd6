"""Checkpoints of a whole run: students, generators and buffer at the start of a round.

```
checkpoints/step-00001200/
  students/NAME.pt         each distiller's state, all at the same step
  generators/NAME.pt       each synthesizer's state, including generators retired by live scaling
  replay/                  the buffer's snapshot (see replay/snapshot.py)
  exchange.json            the rate limiters' counts and the published versions
```
A folder is valid only once ``checkpoints/latest.json`` names it, which happens last. Tensor files are loaded without running
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
from raydfkd.errors import CheckpointError, RunStoppedError
from raydfkd.run_dir import RunDir, generator_path, write_atomically
from raydfkd.types import Synthesizer

STUDENTS = "students"


@contextmanager
def writing(run: RunDir, step: int) -> Iterator[Path]:
    """The folder for the checkpoint of ``step``, which becomes the latest when the block succeeds.

    An incomplete checkpoint is useless and takes up space on a possibly full disk, so it is removed.
    """
    folder = folder_of(run, step)
    try:
        for part in folder.glob("*"):
            if part.name != STUDENTS:  # Those may already have been written, and each is overwritten.
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        (folder / "generators").mkdir(parents=True)
        yield folder
        run.commit_checkpoint(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def steps_done(run: RunDir) -> int:
    """Student steps in the newest checkpoint, 0 without one."""
    folder = run.latest_checkpoint()
    return 0 if folder is None else int(folder.name.removeprefix("step-"))


def stopped_early(run: RunDir, total_steps: int) -> RunStoppedError:
    """The error of a run that was asked to stop and has saved its state."""
    done = steps_done(run)
    where = f"at step {done:,} of {total_steps:,}" if done else "before the student's first round was over"
    return RunStoppedError(f"the run was stopped {where}; resume it with: raydfkd run {run.path} --resume")


def folder_of(run: RunDir, step: int) -> Path:
    return run.checkpoints / f"step-{step:08d}"


def student_path(folder: Path, name: str) -> Path:
    """Path of a student's state in a checkpoint folder, or in ``RunDir.preparation``."""
    return folder / STUDENTS / f"{name}.pt"


def save_student(folder: Path, name: str, distiller: Distiller) -> None:
    _save(student_path(folder, name), distiller.state_dict())


def load_student(folder: Path, name: str, distiller: Distiller) -> None:
    """Restores a student.

    Raises:
        CheckpointError: the file is missing, damaged, or for a different network.
    """
    state = _load(student_path(folder, name))
    try:
        distiller.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # mismatched names, shapes or groups
        raise _other(f"student {name!r}", folder) from error


def save_generator(folder: Path, generator_id: str, state: dict[str, Any]) -> None:
    _save(generator_path(folder, generator_id), state)


def _save(path: Path, state: dict[str, Any]) -> None:
    """Serialises to memory first: torch's own write errors do not give the reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getvalue())


def load_generator(folder: Path, generator_id: str, synthesizer: Synthesizer) -> bool:
    """Restores a generator; False if the checkpoint has none of that name (it is new).

    Raises:
        CheckpointError: the file is damaged, or for a different network.
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
    return CheckpointError(f"the {what} in {folder} does not match the experiment: resume with the run's original settings")


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # The restricted unpickler warns about a damaged file before it raises.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, KeyError, IndexError, TypeError) as error:
        # The restricted unpickler raises any of these for damaged files.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"checkpoint file {path} cannot be read ({reason}): remove that checkpoint to resume from an earlier one"
        ) from error

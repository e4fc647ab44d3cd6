"""Checkpoints of a whole run: student, generators and buffer as they stood at one round's beginning.

```
checkpoints/step-00001200/
  student.pt               the distiller's state
  generators/NAME.pt       each synthesizer's state
  replay/                  the buffer's snapshot (see replay/snapshot.py)
  exchange.json            the rate limiter's counts and the published version
```
A folder counts only once ``checkpoints/latest.json`` names it, which happens last. Tensor files are loaded without running code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydfkd.distillation.distiller import Distiller
from raydfkd.errors import CheckpointError
from raydfkd.pipeline.exchange import Exchange
from raydfkd.replay.snapshot import read_snapshot, write_snapshot
from raydfkd.run_dir import RunDir, write_atomically
from raydfkd.types import Synthesizer


@contextmanager
def writing(run: RunDir, step: int) -> Iterator[Path]:
    """A fresh folder for the checkpoint of ``step``, which becomes the latest when the block ends well."""
    folder = run.checkpoints / f"step-{step:08d}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "generators").mkdir(parents=True)
    yield folder
    run.commit_checkpoint(folder)


def save_student(folder: Path, distiller: Distiller) -> None:
    torch.save(distiller.state_dict(), folder / "student.pt")


def load_student(folder: Path, distiller: Distiller) -> None:
    distiller.load_state_dict(_load(folder / "student.pt"))


def save_generator(folder: Path, generator_id: str, state: dict[str, Any]) -> None:
    torch.save(state, folder / "generators" / f"{generator_id}.pt")


def load_generator(folder: Path, generator_id: str, synthesizer: Synthesizer) -> bool:
    """Restores a generator; False if the checkpoint knows none of that name (it is a new one)."""
    path = folder / "generators" / f"{generator_id}.pt"
    if not path.exists():
        return False
    synthesizer.load_state_dict(_load(path))
    return True


def save_exchange(
    folder: Path,
    exchange: Exchange,
    get_batch: Callable[..., Any] | None = None,
    lock: AbstractContextManager[Any] | None = None,
) -> None:
    """Writes buffer and counts; ``get_batch`` and ``lock`` as in ``write_snapshot``."""
    arguments: dict[str, Any] = {} if get_batch is None else {"get_batch": get_batch}
    write_snapshot(folder / "replay", exchange.buffer, lock=lock, **arguments)
    write_atomically(folder / "exchange.json", json.dumps(_listed(exchange.state_dict())) + "\n")


def load_exchange(folder: Path, exchange: Exchange, put: Callable[[Any], Any] = lambda batch: batch) -> None:
    """Restores buffer and counts; ``put`` turns each batch into the payload that the buffer keeps.

    Raises:
        DataError: the snapshot is missing, truncated or damaged.
        CheckpointError: the counts are.
    """
    state, shards = read_snapshot(folder / "replay")
    exchange.buffer.load_state_dict(state, {shard_id: put(batch) for shard_id, batch in shards})
    try:
        counts = json.loads((folder / "exchange.json").read_text(encoding="utf-8"))
        counts["limiter"] = {name: np.array(value) for name, value in counts["limiter"].items()}
        exchange.load_state_dict(counts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable exchange.json ({error}): resume from another one") from error


def _listed(state: dict[str, Any]) -> dict[str, Any]:
    return {k: _listed(v) if isinstance(v, dict) else v.item() if hasattr(v, "item") else v for k, v in state.items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"checkpoint file {path} cannot be read ({error}): remove its folder to resume from an earlier one") from error

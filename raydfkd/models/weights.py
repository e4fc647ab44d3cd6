"""Weights in and out of files: safetensors, or torch files loaded without running anything they contain."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from raydfkd.errors import CheckpointError
from raydfkd.run_dir import write_atomically

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar", ".pkl")
USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Keys under which a file has its weights, the first ones first; any other key does where only one has weights that fit."""
_OPTIONAL = "num_batches_tracked"
_COMPILED = "_orig_mod."

_HARMLESS = (
    argparse.Namespace, pathlib.PosixPath, np.dtype, np.ndarray,
    *((getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
      for name in ("scalar", "_reconstruct") for core in ("_core", "core")),
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
)  # fmt: skip
"""What training programs store beside weights, such as their arguments and a best accuracy: values that run nothing."""


def load_weights(model: nn.Module, path: str | Path, head: str | None = None) -> list[str]:
    """Loads the state in ``path`` into ``model``, in place and strictly.

    A torch file may hold the state itself or under any key, and all its names may have any prefix, such as ``module.``, whose
    removal makes them fit. ``num_batches_tracked`` may be absent.

    Args:
        model: the network.
        path: the file.
        head: dotted name of the layer that gives the logits, which may have a different number of classes in the file; its
            tensors are then left unchanged in the model. None: every tensor must fit.

    Returns:
        The names of the head's tensors that stayed as they were.

    Raises:
        CheckpointError: the file is missing, damaged, would run code, or has a different architecture.
    """
    path = Path(path)
    state = _fitting(model, read_states(path), path)
    own = {} if head is None else {f"{head}.{name}": t for name, t in model.get_submodule(head).state_dict().items()}
    kept = [n for n, t in own.items() if n in state and state[n].ndim == t.ndim and state[n].shape[1:] == t.shape[1:]]
    kept = [n for n in kept if len(state[n]) != len(own[n])]
    state |= {name: own[name] for name in kept}
    _check_names_and_shapes(model, state, path)
    model.load_state_dict(state, strict=False)
    return kept


def read_states(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The states in a weights file, on the CPU, by the keys that lead to them (``""``: the file itself), the usual ones first.

    Raises:
        CheckpointError: as :func:`load_weights`.
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        try:
            return {"": load_file(path)}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a complete safetensors file ({error}); copy it again") from error
    if path.suffix not in TORCH_SUFFIXES:
        raise CheckpointError(f"{path} has suffix {path.suffix!r}; allowed are .safetensors and {', '.join(TORCH_SUFFIXES)}")
    content = _read_torch_file(path)
    found = {key: {n.replace(_COMPILED, ""): t for n, t in state.items()} for key, state in _states_in(content)}
    if not found:
        keys = f", its keys are {', '.join(map(repr, content))}" if isinstance(content, Mapping) and content else ""
        raise CheckpointError(f"{path} does not hold a state_dict (names to tensors), alone or under a key{keys}")
    usual = [key for key in USUAL_KEYS if key in found]
    return {key: found[key] for key in [*usual, *(key for key in found if key not in usual)]}


def save_weights(model: nn.Module, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Writes the model's state as safetensors, atomically: a reader sees the old file or the whole new one."""
    path = Path(path)
    # Copies, because safetensors refuses tensors that share memory or are laid out channels_last.
    state = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in model.state_dict().items()}
    write_atomically(path, save(state, metadata=metadata))  # save_file would make it readable only by its owner


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restores an optimizer's moments; its settings (learning rate, weight decay, ...) stay those that it was built with."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def load_parts(parts: Mapping[str, nn.Module | torch.optim.Optimizer], state: Mapping[str, Any]) -> None:
    """Restores networks and optimizers from their states by name."""
    for name, part in parts.items():
        if isinstance(part, torch.optim.Optimizer):
            load_optimizer(part, state[name])
        else:
            part.load_state_dict(state[name])


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text pairs in a safetensors file's header. Raises CheckpointError if it is missing or damaged."""
    path = Path(path)
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file ({error}); copy it again") from error


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}: correct the path, or create the file first")


def _read_torch_file(path: Path) -> Any:
    _refuse_torchscript(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_HARMLESS)):
            # The restricted unpickler warns about a file before it raises.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} holds more than tensors (Python objects, or it is not a torch file), so loading it could run code; "
                "it was rejected and nothing in it was run. Save model.state_dict() from a program you trust, preferably as "
                ".safetensors"
            ) from error
        raise CheckpointError(f"{path} is not a torch file or is cut short; copy it again") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        # The restricted unpickler raises any of these for damaged files.
        raise CheckpointError(f"{path} is not a torch file or is cut short ({_first_line(error)}); copy it again") from error


def _refuse_torchscript(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
        if any("/code/" in name for name in archive.namelist()):
            raise CheckpointError(
                f"{path} is a TorchScript program (torch.jit.save), which holds code: save its state_dict(), or export the "
                "network by torch.export to a .pt2 file and name that as teacher.model, or a function of yours that returns "
                "torch.jit.load(...)"
            )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _states_in(content: Any, key: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(dotted key, state) of every mapping that holds tensors alone, no deeper than ``depth`` keys."""
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        yield key, {str(name): tensor for name, tensor in content.items()}
    elif depth > 0:
        for name, value in ((name, value) for name, value in content.items() if isinstance(name, str)):  # not an optimizer's
            yield from _states_in(value, f"{key}.{name}" if key else str(name), depth - 1)


def _fitting(model: nn.Module, states: dict[str, dict[str, torch.Tensor]], path: Path) -> dict[str, torch.Tensor]:
    """The state whose names are the model's, without their prefix; if none fits, the first one, for the message.

    Raises:
        CheckpointError: none fits and there are several, or several fit and none is under a usual key.
    """
    wanted = {name for name in model.state_dict() if not name.endswith(_OPTIONAL)}
    fitting: dict[str, dict[str, torch.Tensor]] = {}
    for key, state in states.items():
        for prefix in sorted(_prefixes(state, wanted)):
            below = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            if {name for name in below if not name.endswith(_OPTIONAL)} == wanted:
                fitting[f"{key}.{prefix}".strip(".")] = below
    usual = next((key for key in fitting if key.split(".")[0] in USUAL_KEYS), None)
    alike = [key for key in fitting if usual is None or key.split(".")[0] == usual.split(".")[0]]
    if len(alike) == 1:
        return fitting[alike[0]]
    if alike:
        named = ", ".join(map(repr, alike))
        raise CheckpointError(f"{path} holds several states that fit ({named}): save the one to use in a file of its own")
    if len(states) == 1:
        return _without_prefix(next(iter(states.values())))
    named = ", ".join(f"{key!r} ({len(state)} tensors, first {next(iter(state))!r})" for key, state in states.items())
    raise CheckpointError(f"{path} holds no state that fits this {type(model).__name__}; it holds {named}")


def _prefixes(state: dict[str, torch.Tensor], wanted: set[str]) -> set[str]:
    """What stands before one of the wanted names."""
    one = min(wanted, default="")
    return {name.removesuffix(one) for name in state if name == one or name.endswith(f".{one}")}


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "module."
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _check_names_and_shapes(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    expected = model.state_dict()
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in expected and not n.endswith("num_batches_tracked")]
    mismatched = [n for n in expected if n in state and state[n].shape != expected[n].shape]
    if not missing and not unexpected and not mismatched:
        return
    parts = []
    for word, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            parts.append(f"{len(names)} {word}, first {names[0]!r}")
    if mismatched:
        name = mismatched[0]
        shapes = f"file {list(state[name].shape)}, model {list(expected[name].shape)}"
        parts.append(f"{len(mismatched)} of another shape, first {name!r} ({shapes})")
    raise CheckpointError(f"{path} does not match the architecture of this {type(model).__name__}: {'; '.join(parts)}")

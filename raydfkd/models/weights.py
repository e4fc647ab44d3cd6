"""Weights in and out of files: safetensors, or torch files loaded without running anything they contain."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from raydfkd.errors import CheckpointError
from raydfkd.run_dir import write_atomically

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")


def load_weights(model: nn.Module, path: str | Path, head: str | None = None) -> list[str]:
    """Loads the state in ``path`` into ``model``, in place and strictly.

    A torch file may hold the state itself or under ``state_dict`` or ``model``, with or without DataParallel's ``module.``
    prefix. ``num_batches_tracked`` may be absent.

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
    state = _without_prefix(read_state(path), "module.")
    own = {} if head is None else {f"{head}.{name}": t for name, t in model.get_submodule(head).state_dict().items()}
    kept = [n for n, t in own.items() if n in state and state[n].ndim == t.ndim and state[n].shape[1:] == t.shape[1:]]
    kept = [n for n in kept if len(state[n]) != len(own[n])]
    state |= {name: own[name] for name in kept}
    _check_names_and_shapes(model, state, path)
    model.load_state_dict(state, strict=False)
    return kept


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a weights file, on the CPU. Raises CheckpointError as :func:`load_weights` does."""
    _require_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a complete safetensors file ({error}); copy it again") from error
    if path.suffix not in TORCH_SUFFIXES:
        raise CheckpointError(f"{path} has suffix {path.suffix!r}; allowed are .safetensors and {', '.join(TORCH_SUFFIXES)}")
    return _tensors_of(_read_torch_file(path), path)


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
    try:
        with warnings.catch_warnings():
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _tensors_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path} does not hold a state_dict (names to tensors), alone or under 'state_dict' or 'model'")
    return dict(content)


def _without_prefix(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    if state and all(name.startswith(prefix) for name in state):
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

"""Where named data sets and named teachers lie: below one folder, the data root."""

from __future__ import annotations

import os
import sysconfig
from functools import cache
from pathlib import Path

from raydfkd.errors import CheckpointError
from raydfkd.registry import nearest

VARIABLE = "RAYDFKD_DATA"
"""Environment variable that names the data root."""

OF_DRIVER = "RAYDFKD_DRIVER_DATA"
"""Environment variable by which a run gives its data root to Ray's workers, whose working directory is another."""


def data_root() -> Path:
    """The data root, absolute: ``$RAYDFKD_DATA``, otherwise in a Ray worker that of the program which started the run,
    otherwise ``data/`` in the working directory. It need not exist."""
    named = os.environ.get(VARIABLE) or os.environ.get(OF_DRIVER)
    return (Path(named).expanduser() if named else Path("data")).absolute()


def job_environment() -> dict[str, dict[str, str]]:
    """The Ray runtime environment that gives a job this shell's data root; empty where its variable is not set."""
    return {"env_vars": {VARIABLE: str(data_root())}} if os.environ.get(VARIABLE) else {}


@cache
def shipped_folder() -> Path:
    """The folder of what comes with the program, papers and a teacher: a checkout's ``experiments``, or what pip installed."""
    checkout = Path(__file__).parents[2] / "experiments"
    if (checkout / "teachers").is_dir():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "raydfkd" / "experiments"


def named_teacher(name: str) -> Path:
    """The weights of a named teacher: ``teachers/NAME.safetensors`` below the data root, or else one of the repository's.

    Args:
        name: such as ``cifar10_wrn_16_2``; a folder in it is allowed, a way out of the teachers' folder is not.

    Raises:
        CheckpointError: neither place has it.
    """
    folders = [data_root() / "teachers", shipped_folder() / "teachers"]
    looked_for = [folder / f"{name}.safetensors" for folder in folders]
    if name and ".." not in Path(name).parts and not Path(name).is_absolute():
        for path in looked_for:
            if path.is_file():
                return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.safetensors")})
    hint = f" ({nearest(name, known)})" if known else ""
    raise CheckpointError(
        f"there is no teacher named {name!r}, neither {looked_for[0]} nor {looked_for[1]} exists{hint}: put its weights into "
        f"one of these places, or set {VARIABLE} to the folder that holds teachers/; a file without a suffix is given as ./NAME"
    )

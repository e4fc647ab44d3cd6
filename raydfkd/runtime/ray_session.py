"""Joins or starts Ray, without its messages."""

from __future__ import annotations

import logging
import math
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import ray
import ray._private.worker as ray_worker
from ray.exceptions import RayError

from raydfkd.data.data_root import OF_DRIVER, data_root
from raydfkd.errors import ResourceError
from raydfkd.pipeline.run import stop_signals
from raydfkd.runtime.local_ray import temporary_folder, warn_of_little_shared_memory

logger = logging.getLogger(__name__)

NAMESPACE = "raydfkd"

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}

ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""For the workers of a local Ray: makes glibc keep freed memory. By default it unmaps a step's activations and faults them in
again, which costs a student step on a CPU about a tenth. Other C libraries ignore the names."""

PATIENT = {"RAY_raylet_start_wait_time_s": "180"}
"""Ray gives a local cluster 30 s to start, which is too little on a busy machine."""

LEAN = {"RAY_task_events_max_num_task_in_gcs": "10000"}
"""For a local Ray, which otherwise stores its last 100,000 actor calls: some 280 MB after 40 minutes of a run."""


class RaySettings(Protocol):
    """``runtime`` of an experiment, or of a data set's build."""

    @property
    def address(self) -> str | None: ...

    @property
    def num_cpus(self) -> float | None: ...


class RunsOnRay(Protocol):
    """Settings that select which Ray to join or start."""

    @property
    def runtime(self) -> RaySettings: ...


@contextmanager
def session(config: RunsOnRay, dashboard: bool = False) -> Iterator[bool]:
    """Ray for the duration of a run: the one already joined, the cluster of ``runtime.address``, or a local one.

    ``dashboard`` starts a local Ray's HTTP server too, which Ray Train needs to release what a killed group held.

    Yields whether everything left running in it ends with this context.

    Raises:
        ResourceError: there is no cluster at that address.
        StopSignal: SIGTERM arrived while Ray started.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    _keep_raylet_off_the_terminal()
    if ray.is_initialized():
        yield False
        return
    address = config.runtime.address
    probe(address, "runtime.address")
    data = {OF_DRIVER: str(data_root())}
    if address is None:
        # A local cluster serves only this process, so it needs no token.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        for name, value in {**ALLOCATOR, **PATIENT, **LEAN}.items():
            os.environ.setdefault(name, value)
        warn_of_little_shared_memory()
        options = {"num_cpus": _whole(config.runtime.num_cpus), "include_dashboard": dashboard}
        with temporary_folder() as folder, _inherited(data), _begun("local", _temp_dir=folder, **options):
            yield True
    else:
        with _begun(address, runtime_env={"env_vars": data}):
            yield True


@contextmanager
def _inherited(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that start within the context, and not for this one's later runs."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


@contextmanager
def _begun(address: str, **options: Any) -> Iterator[None]:
    """Ray at ``address`` ("local": a new one), until the block ends."""
    try:
        with nullcontext() if address == "local" else _stderr_to_log():
            ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
    except SystemExit as end:  # from the handler of SIGTERM that Ray installs as it starts
        if stop_signals.is_installed():
            raise stop_signals.StopSignal("SIGTERM") from end
        raise
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if address == "local":
            raise  # Starting a local Ray failed, which is not an authentication problem.
        raise _shut_out(address, error, "check runtime.address, or leave it out for a local Ray") from error
    try:
        if stop_signals.is_installed():
            stop_signals.install()  # in place of Ray's
        yield
    finally:
        ray.shutdown()


def has_local_ray_ended() -> bool:
    """Whether a process of the Ray that this one started has ended by itself."""
    node = ray_worker._global_node
    return node is not None and bool(node.dead_processes())


PROBE_TIMEOUT_S = 3.0


def probe(address: str | None, what: str, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """Rejects an address at which nothing listens; Ray itself would retry for minutes.

    Args:
        address: ``host:port`` or ``ray://host:port``; anything else (None, ``auto``, ``local``) is not probed.
        what: where the address comes from, named in the error.

    Raises:
        ResourceError: no connection within ``timeout_s`` seconds.
    """
    host, separator, port = (address or "").removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ResourceError(
            f"no Ray cluster answers at {address!r} ({reason}): check {what} and that the cluster can be reached from here"
        ) from error


def whereabouts() -> dict[str, Any]:
    """How another process can join the Ray of this one; for the manifest."""
    context = ray.get_runtime_context()
    return {"address": context.gcs_address, "namespace": NAMESPACE, "auth_mode": os.environ.get("RAY_AUTH_MODE")}


@contextmanager
def joined(known: dict[str, Any], address: str | None = None) -> Iterator[None]:
    """The Ray described by ``known`` (see :func:`whereabouts`), for a few calls to a run's actors.

    Args:
        address: used instead, for a shell that needs another address for the cluster (``ray://host:10001``).

    Raises:
        ResourceError: nothing answers there, or it refuses this user.
    """
    if ray.is_initialized():  # By the caller; it is assumed to be the right one.
        yield
        return
    where = known["address"] if address is None else address
    probe(where, "the run's manifest.json" if address is None else "--address")
    if known.get("auth_mode"):
        os.environ.setdefault("RAY_AUTH_MODE", known["auth_mode"])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with _stderr_to_log():
            _keep_raylet_off_the_terminal()
            ray.init(where, namespace=known.get("namespace", NAMESPACE), log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise _shut_out(where, error, "join it from a machine of the cluster, or give --address ray://HOST:10001") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_to_log() -> Iterator[None]:
    """Redirects stderr to the log at level INFO: Ray's own library repeats a refusal there for half a minute, with time
    stamps, before it raises it."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            for line in aside.read().decode(errors="replace").splitlines():
                logger.info("Ray: %s", line)


def _shut_out(address: str, error: Exception, advice: str) -> ResourceError:
    """The error for a server that answers but refuses. Ray does not distinguish a wrong token from a server that is not Ray."""
    if isinstance(error, ConnectionError) and address == "auto":
        return ResourceError(
            "no Ray cluster runs on this machine, and address 'auto' joins the one that does: start it with ray start --head, "
            "give the address of another (HOST:PORT, ray://HOST:10001), or none for a Ray that the run starts itself"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ResourceError(
        f"the Ray cluster at {address!r} refuses this shell ({reason}): {advice}; a cluster with tokens requires "
        "RAY_AUTH_MODE=token and its token in RAY_AUTH_TOKEN"
    )


def _keep_raylet_off_the_terminal() -> None:
    """Redirects the reports of Ray's daemon ("A worker died ...") to the log at level INFO.

    ``log_to_driver=False`` does not cover it, and they would disrupt a live table; the run reports what matters itself.
    The function is private to Ray: if it is missing, the lines merely appear again.
    """

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        logger.info("%s: %s", data.get("pid"), " ".join(map(str, data.get("lines", []))))

    if hasattr(ray_worker, "print_to_stdstream"):
        ray_worker.print_to_stdstream = to_log


def _whole(num_cpus: float | None) -> int | None:
    return None if num_cpus is None else math.ceil(num_cpus)


def assigned_device() -> str:
    """The device that Ray assigned to this actor: "cuda:0" (the first of its visible GPUs) or "cpu"."""
    return "cuda:0" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"

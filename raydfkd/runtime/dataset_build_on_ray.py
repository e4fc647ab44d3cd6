"""``raydfkd dataset build`` on Ray Data: tasks read and decode, and a pool of actors, each with a teacher, classifies.

Each block is one part of the data set, small enough that Ray Data does not split it, and blocks come out in the order in which
they went in: the result depends neither on the number of actors nor on which finishes first. Ray Data bounds how many are
in flight, so that memory does not grow with the data set. An actor that dies is replaced and its part is repeated.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data.exceptions import ExecutionTimeoutError

from raydfkd.errors import ResourceError, RunFailedError, WaitTimeoutError
from raydfkd.pipeline.dataset.build import DatasetBuild, Tell
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.dataset.folder import BuildFolder
from raydfkd.pipeline.dataset.parts import Pass, Worker
from raydfkd.pipeline.dataset.reading import Columns
from raydfkd.pipeline.experiment import builder
from raydfkd.runtime.failures import Failure
from raydfkd.runtime.preflight import refusal_of, requested
from raydfkd.runtime.ray_session import assigned_device, session

READING_CPUS = (0.5, 0.4)
"""CPUs of a task that reads a part; the second value if a teacher takes as much as the first: Ray Data would fuse two steps
with equal demands, and each teacher would read its own parts."""
PARTS_AHEAD = 2
"""Parts queued at each teacher, so that it never waits for them."""
LEAST_STORE_BYTES = 64 << 20
"""Lower bound of Ray Data's limit in the object store; without a limit, readers faster than teachers fill half of it."""


def build_on_ray(build: DatasetBuild, folder: BuildFolder, tell: Tell) -> dict[str, Any]:
    """Builds the data set in the Ray of its settings; see ``DatasetBuild.run``.

    Raises:
        ResourceError: the cluster cannot hold the teachers.
        WaitTimeoutError: no part was finished for ``runtime.wait_timeout_s``.
        RaydfkdError: see ``DatasetBuild.run``.
    """
    with _silent_core(), session(build.config):
        _preflight(build.config)
        return build.run(folder, execute_on_ray, tell)


@contextmanager
def _silent_core() -> Iterator[None]:
    """Otherwise Ray's core warns on stderr, for every pool, that restarting an actor needs its arguments, which Ray Data keeps.

    Only during the build: a process started with the level in its environment prints a warning about that to stderr.
    """
    name = "RAY_BACKEND_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "fatal"
    try:
        yield
    finally:
        del os.environ[name]


def _preflight(config: DatasetBuildConfig) -> None:
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    teachers = [(f"teacher {n}", requested(config.runtime.resources)) for n in range(config.runtime.num_teachers)]
    refusal = refusal_of([*teachers, ("reading images", {"CPU": _reading_cpus(config)})], nodes)
    if refusal is not None:
        raise ResourceError(refusal)


def _reading_cpus(config: DatasetBuildConfig) -> float:
    first, second = READING_CPUS
    return second if config.runtime.resources.num_cpus == first else first


def execute_on_ray(config: DatasetBuildConfig, work: Pass) -> Iterator[tuple[int, Columns]]:
    """Runs a pass; yields the columns of each of its parts, in order."""
    if not work.parts:
        return
    with _quiet_context(config):
        stream = ray.data.from_items([vars(span) for span in work.parts], override_num_blocks=len(work.parts))
        if work.read is not None:
            stream = stream.map_batches(
                work.read, batch_size=None, batch_format="numpy", num_cpus=_reading_cpus(config), zero_copy_batch=True
            )
        if work.worker is not None:
            demand = requested(config.runtime.resources)
            stream = stream.map_batches(
                _Pooled,
                fn_constructor_args=(config, work.worker),
                batch_size=None,
                batch_format="numpy",
                zero_copy_batch=True,
                compute=ActorPoolStrategy(size=config.runtime.num_teachers, max_tasks_in_flight_per_actor=PARTS_AHEAD),
                num_cpus=demand.pop("CPU"),
                num_gpus=demand.pop("GPU", 0),
                resources=demand,
            )
        yield from _whole_parts(work, stream)


def _whole_parts(work: Pass, stream: Any) -> Iterator[tuple[int, Columns]]:
    """The blocks grouped by part."""
    number, blocks = None, []
    try:
        for block in stream.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
            for part in np.unique(block["part"]).tolist():
                if part != number and number is not None:
                    yield number, _joined(blocks)
                    blocks = []
                number = part
                blocks.append({name: values[block["part"] == part] for name, values in block.items()})
        if number is not None:
            yield number, _joined(blocks)
    except ExecutionTimeoutError as error:
        raise WaitTimeoutError(
            f"no part of {work.name} was finished in time: raise runtime.wait_timeout_s ({error})"
        ) from error
    except ray.exceptions.RayTaskError as error:
        Failure.of(error, work.name).raise_again()
    except ray.exceptions.RayError as error:
        raise RunFailedError(
            f"{work.name} failed ({type(error).__name__}): see Ray's logs, then continue with --resume"
        ) from error


def _joined(blocks: list[Columns]) -> Columns:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


class _Pooled:
    """A pass's worker in an actor of the pool. Created at the first part: Ray Data passes that call's errors on as they are."""

    def __init__(self, config: DatasetBuildConfig, make: Callable[[DatasetBuildConfig, torch.device], Worker]) -> None:
        self._config = config
        self._make = make
        self._worker: Worker | None = None

    def __call__(self, columns: Columns) -> Columns:
        if self._worker is None:
            resources = self._config.runtime.resources
            torch.set_num_threads(resources.threads)
            self._worker = self._make(self._config, builder.device_of(self._config.runtime.device, assigned_device()))
        return self._worker(columns)


@contextmanager
def _quiet_context(config: DatasetBuildConfig) -> Iterator[None]:
    """Ray Data's settings for a pass."""
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    part_bytes = config.runtime.part_size * math.prod(config.task.image_shape)
    waiting = 2 * (PARTS_AHEAD + 1) * config.runtime.num_teachers * part_bytes
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=max(LEAST_STORE_BYTES, waiting)
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = config.runtime.wait_timeout_s
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray.data._internal")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with DataContext.current(context):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

"""``raydfkd condense`` on Ray: actors that do a method's tasks, each with the real images from the object store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ray
import torch

from raydfkd.data.condensation.condenser import Work
from raydfkd.errors import ResourceError, RunFailedError, WaitTimeoutError
from raydfkd.pipeline.condensation.condense import Material
from raydfkd.pipeline.condensation.config import CondenseConfig
from raydfkd.pipeline.condensation.measuring import Done, perform
from raydfkd.pipeline.experiment.builder import device_of
from raydfkd.runtime.failures import Failure
from raydfkd.runtime.preflight import refusal_of, requested
from raydfkd.runtime.ray_session import assigned_device, session

RESTARTS = 3
"""How often a worker that dies is started again; its task is repeated."""


class _Worker:
    """A method's worker in an actor.

    Args:
        shared: the pickled reference of the material. Ray warns on stderr about plain references in the arguments of actors
            that are restarted, in case nobody holds them; the pool holds this one.
    """

    def __init__(self, config: CondenseConfig, shared: bytes) -> None:
        material: Material = ray.get(ray.cloudpickle.loads(shared))
        # Its arrays lie in the object store, read-only; torch must not be given these.
        data = replace(material.data, images=material.data.images.copy(), labels=material.data.labels.copy())
        torch.set_num_threads(config.runtime.resources.threads)
        self._device = device_of(config.runtime.device, assigned_device())
        self._worker = replace(material, data=data).worker(config, self._device)

    def perform(self, work: Work) -> Done:
        return perform(self._worker, work, self._device)


class RayPool:
    """Actors to which tasks are dealt out.

    Args:
        config: the settings.
        material: the real images, sent to the object store once.
    """

    def __init__(self, config: CondenseConfig, material: Material) -> None:
        self._timeout_s = config.runtime.wait_timeout_s
        demand = requested(config.runtime.resources)
        options = {
            "num_cpus": demand.pop("CPU"),
            "num_gpus": demand.pop("GPU", 0),
            "resources": demand,
            "max_restarts": RESTARTS,
            "max_task_retries": RESTARTS,
        }
        self._material = ray.put(material)
        shared, actor = ray.cloudpickle.dumps(self._material), ray.remote(**options)(_Worker)
        self._actors = [actor.remote(config, shared) for _ in range(config.runtime.num_workers)]

    @property
    def size(self) -> int:
        return len(self._actors)

    def __call__(self, tasks: list[Work]) -> list[Done]:
        """Does tasks, one after the other in each actor.

        Raises:
            WaitTimeoutError: one took longer than ``runtime.wait_timeout_s``.
            RunFailedError: an actor died too often.
        """
        refs = [self._actors[number % self.size].perform.remote(work) for number, work in enumerate(tasks)]
        try:
            done: list[Done] = ray.get(refs, timeout=self._timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            raise WaitTimeoutError(
                f"{len(tasks)} condensation tasks ({tasks[0].name}) were not finished in {self._timeout_s:g} s: raise "
                "runtime.wait_timeout_s"
            ) from error
        except ray.exceptions.RayTaskError as error:
            Failure.of(error, "a condensation worker").raise_again()
        except ray.exceptions.RayError as error:
            raise RunFailedError(
                f"a condensation worker failed ({type(error).__name__}): see Ray's logs; the same command goes on from the "
                "last saved state"
            ) from error
        return done

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


@contextmanager
def open_ray_pool(config: CondenseConfig, material: Material) -> Iterator[RayPool]:
    """Actors in the Ray of the settings, for one set.

    Raises:
        ResourceError: the cluster cannot hold them.
    """
    with session(config):
        nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        wanted = [(f"condensation worker {n}", requested(config.runtime.resources)) for n in range(config.runtime.num_workers)]
        refusal = refusal_of(wanted, nodes)
        if refusal is not None:
            raise ResourceError(refusal)
        pool = RayPool(config, material)
        try:
            yield pool
        finally:
            pool.close()

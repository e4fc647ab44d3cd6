"""What ``raydfkd dataset build`` adds to the teacher's forward pass, and whether its memory grows with its input.

    python experiments/benchmarks/dataset_build.py [--quick] [--images N] [--teachers N]

50,000 JPEG images in a Parquet file are built into a data set of 50,000, class-balanced, through Ray Data; then four times as
many. They are CIFAR-10's of ``$RAYDFKD_DATA`` over and over and the teacher the WRN-16-2 beside them, or where these are not
there noise and random weights. Bare is the same teacher over the same images, decoded beforehand, in this process with as many
threads as the build's teachers have together, before and after the build; Ray runs already, the build's actors do not.

Memory: what this process and Ray's workers hold for themselves (private pages, added up), and what lies in the object store,
looked at ten times a second. ``ratio_of_cpu_time`` sets what all processes of the build computed, their start included,
against the bare pass: other work on the machine hardly touches it. Prints readable lines and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rig import object_store, private_bytes

from raydfkd.data.catalogue import CATALOGUE
from raydfkd.data.data_root import data_root
from raydfkd.data.datasets import load_unlabelled
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.pipeline.dataset.build import DatasetBuild
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.dataset.folder import BuildFolder
from raydfkd.pipeline.dataset.parts import Eye
from raydfkd.runtime.dataset_build_on_ray import build_on_ray
from raydfkd.runtime.ray_session import session

CIFAR10 = CATALOGUE["cifar10"]
IMAGES = data_root() / "cifar10" / "train.parquet"
WEIGHTS = data_root() / "teachers" / "wrn_16_2_cifar10.safetensors"
MIB = 1 << 20
SAMPLE_PERIOD_S = 0.1
ROW_GROUP = 5_000


def write_images(path: Path, count: int) -> None:
    """A Parquet file of ``count`` JPEG images."""
    pool = pq.read_table(IMAGES, columns=["image"]).column("image").to_pylist() if IMAGES.is_file() else _noise(256)
    schema = pa.schema({"image": pa.binary()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, count, ROW_GROUP):
            rows = [pool[i % len(pool)] for i in range(first, min(first + ROW_GROUP, count))]
            writer.write_table(pa.table({"image": pa.array(rows, pa.binary())}), row_group_size=ROW_GROUP)


def _noise(count: int) -> list[bytes]:
    from PIL import Image

    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, format="JPEG", quality=75)
        found.append(buffer.getvalue())
    return found


def settings(images: Path, num_images: int, teachers: int, threads: int, part_size: int) -> DatasetBuildConfig:
    cpus = min(1.0, ((os.cpu_count() or 1) - 0.5) / teachers)  # the reading has its share
    return DatasetBuildConfig.model_validate(
        {
            "task": {"num_classes": 10, "image_shape": [3, 32, 32]},
            "teacher": {
                "model": "wrn_16_2",
                "checkpoint": str(WEIGHTS) if WEIGHTS.is_file() else None,
                "normalization": {"mean": CIFAR10.mean, "std": CIFAR10.std},
            },
            "dataset": {"kind": "parquet", "path": str(images)},
            "selection": {"num_images": num_images},
            "runtime": {
                "num_teachers": teachers,
                "resources": {"num_cpus": cpus, "num_threads": threads},
                "part_size": part_size,
                "device": "cpu",
            },
        }
    )


def bare_images_per_s(config: DatasetBuildConfig, path: Path, threads: int) -> tuple[float, float]:
    """Of the teacher's forward pass alone: a second, and a second of computing."""
    images = load_unlabelled(ParquetConfig(path=str(path)), (3, 32, 32)).images
    torch.set_num_threads(threads)
    eye = Eye(config, torch.device("cpu"))
    eye.judge(images[:256])
    began, computed = time.perf_counter(), time.process_time()
    eye.judge(images)
    return len(images) / (time.perf_counter() - began), len(images) / (time.process_time() - computed)


class Watch:
    """Looks at this process, Ray's workers and the object store until it is told to stop."""

    def __init__(self) -> None:
        self.private_mib = self.driver_mib = self.store_mib = 0.0
        self._ticks: dict[int, tuple[int, int]] = {}
        self._looked = False
        self._stopped = threading.Event()

    @property
    def cpu_s(self) -> float:
        """Computed by all of them together meanwhile."""
        return sum(last - first for first, last in self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(SAMPLE_PERIOD_S):
            driver = private_bytes(os.getpid())
            workers = _workers()
            for pid in (os.getpid(), *workers):
                ticks = _ticks(pid)
                # A worker that is new has computed nothing before.
                self._ticks[pid] = (self._ticks.get(pid, (0 if self._looked else ticks, 0))[0], ticks)
            self._looked = True
            total = driver + sum(_private(pid) for pid in workers)
            self.private_mib = max(self.private_mib, total / MIB)
            self.driver_mib = max(self.driver_mib, driver / MIB)
            self.store_mib = max(self.store_mib, object_store()["bytes_used"] / MIB)


def _workers() -> list[int]:
    """Ray's worker processes, which are busy ones and idle ones, of the Ray that this process has started."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    return [pid for pid in parents if _is_ours(pid, parents) and _is_worker(pid)]


def _is_ours(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def _is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _private(pid: int) -> int:
    try:
        return private_bytes(pid)
    except (OSError, IndexError):
        return 0  # it ended meanwhile


def built(config: DatasetBuildConfig, out: Path) -> tuple[dict[str, float], Watch]:
    """Seconds of the whole build and the pace of its first pass once that is under way, and what it took of memory."""
    watch, seen = Watch(), []

    def tell(name: str, done: int, total: int) -> None:
        seen.append((name, done, time.perf_counter()))

    began = time.perf_counter()
    with watch.watched():
        build_on_ray(DatasetBuild(config), BuildFolder.begin(out, config), tell)
    seconds = time.perf_counter() - began
    judged = [(done, at) for name, done, at in seen if name == "judging" and done]
    (first, first_at), (last, last_at) = judged[0], judged[-1]
    figures = {"seconds": seconds, "judging_per_s": (last - first) / max(last_at - first_at, 1e-9)}
    for name in ("judging", "writing"):
        times = [at for which, _, at in seen if which == name]
        figures[f"{name}_s"] = times[-1] - times[0]
    return figures, watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; its figures mean nothing")
    parser.add_argument("--images", type=int, default=50_000, help="candidates of the first build, and images of both")
    parser.add_argument("--teachers", type=int, default=1, help="actors with a teacher")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads of all teachers together")
    given = parser.parse_args()
    count, part_size = (192, 64) if given.quick else (given.images, 2_048)
    figures: dict[str, Any] = {"num_images": count, "teachers": given.teachers, "threads": given.threads}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for scale in (1, 4):
            write_images(folder / f"{scale}.parquet", scale * count)
        each = max(1, given.threads // given.teachers)
        configs = {n: settings(folder / f"{n}.parquet", count, given.teachers, each, part_size) for n in (1, 4)}
        with session(configs[1]):
            bare = [bare_images_per_s(configs[1], folder / "1.parquet", given.threads)]
            print(f"dataset_build: bare {bare[0][0]:,.0f} images/s, {bare[0][1]:,.0f} a second of computing", flush=True)
            whole, memory = built(configs[1], folder / "out-1")
            print(f"dataset_build: built in {whole['seconds']:.0f} s, {memory.cpu_s:.0f} s of computing: {whole}", flush=True)
            bare.append(bare_images_per_s(configs[1], folder / "1.parquet", given.threads))
            _, memory_4x = built(configs[4], folder / "out-4")
        figures |= {
            "bare_images_per_s": statistics.mean(each for each, _ in bare),
            "bare_spread": max(bare)[0] / min(bare)[0],
            "bare_images_per_cpu_s": statistics.mean(each for _, each in bare),
            "build_images_per_cpu_s": count / memory.cpu_s,
            "build_images_per_s": count / whole["seconds"],
            "judging_images_per_s": whole["judging_per_s"],
            "judging_s": whole["judging_s"],
            "writing_s": whole["writing_s"],
        }
        figures["build_ratio"] = figures["build_images_per_s"] / figures["bare_images_per_s"]
        figures["build_ratio_of_cpu_time"] = figures["build_images_per_cpu_s"] / figures["bare_images_per_cpu_s"]
        figures["judging_ratio"] = figures["judging_images_per_s"] / figures["bare_images_per_s"]
        for scale, seen in ((1, memory), (4, memory_4x)):
            figures[f"peak_private_mib_{scale}x"] = seen.private_mib
            figures[f"peak_driver_mib_{scale}x"] = seen.driver_mib
            figures[f"peak_store_mib_{scale}x"] = seen.store_mib
        figures["peak_growth"] = (memory_4x.private_mib + memory_4x.store_mib) / (memory.private_mib + memory.store_mib) - 1
    for key, value in figures.items():
        print(f"dataset_build: {key} = {value:,.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

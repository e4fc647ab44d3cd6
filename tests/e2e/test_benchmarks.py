"""Every benchmark runs, and its last line is one JSON object with the figures that its readers expect. No speed is asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"

EXPECTED = {
    "boundary_attack.py": {
        "num_images",
        "num_turns",
        "images_per_s",
        "loop_images_per_s",
        "ratio_median_of_turns",
        "pairs_fraction",
        "loop_pairs_fraction",
        "steps_per_image",
    },
    "replay.py": {
        "in_process.num_items",
        "in_process.draws_per_s_1_batches",
        "in_process.draws_per_s_16_batches",
        "in_process.updates_per_s",
        "in_process.inserts_per_s",
        "through_actor.images_per_s_median",
        "through_actor.images_per_s_best",
        "through_actor.naive_images_per_s_median",
        "through_actor.ratio_median",
        "through_actor.inserted_images_per_s",
    },
    "scaling.py": {
        "generators.synthesized_images_per_s_1",
        "generators.inserted_images_per_s_2",
        "generators.speedup_2",
        "generators.replay_cpu_us_per_image_1",
        "unpaced.small_inserted_images_per_s_1",
        "unpaced.large_inserted_mb_per_s_1",
        "consumers.images_per_s_1",
        "consumers.ratio_2",
        "consumers.replay_cpu_us_per_image_1",
    },
    "step.py": {
        "ratio_of_means",
        "ratio_of_medians",
        "ratio_of_cpu_time",
        "ratio_median_of_turns",
        "pipeline_step_ms",
        "resident_step_ms",
        "images_per_s",
        "wait_fraction",
        "num_turns",
        "steps_per_turn",
    },
    "procedural.py": {
        f"px{side}.{source}"
        for side in (32, 224)
        for source in ("noise", "spectral", "leaves", "photograph", "shaders_torch", "filters")
    },
    "live_scaling.py": {
        *(f"{rate}_{phase}" for rate in ("steps_per_s", "wait_fraction", "images_per_s") for phase in ("1", "4", "1_again")),
        "steps_ratio_4_to_1",
        "images_ratio_4_to_1",
        "steps_ratio_1_again_to_1",
        "images_ratio_1_again_to_1",
        "scale_up_s",
        "scale_down_s",
    },
    "soak.py": {
        *(f"kills.{kind}" for kind in ("generator", "student", "replay")),
        *(f"{name}_mb.slope_per_hour" for name in ("driver", "coordinator", "pool", "replay", "store")),
        "live_actors.slope_per_hour",
        "student_steps",
        "restarts",
        "images_inserted",
        "buffers",
    },
    "condensation.py": {
        *(f"{method}.{figure}" for method in ("dm", "dsa", "mtt") for figure in ("step_s", "peak_mib", "image_steps_per_s")),
        "alignment.aligned_ratio",
        "alignment.aligned_half_ratio",
        "workers.speedup",
    },
    "dataset_build.py": {
        "num_images",
        "bare_images_per_s",
        "build_images_per_s",
        "build_ratio",
        "build_ratio_of_cpu_time",
        "judging_images_per_s",
        "judging_ratio",
        "writing_s",
        "peak_private_mib_1x",
        "peak_private_mib_4x",
        "peak_driver_mib_1x",
        "peak_driver_mib_4x",
        "peak_store_mib_1x",
        "peak_store_mib_4x",
        "peak_growth",
    },
    "startup.py": {"package_s", "settings_s", "help_s", "help_of_run_s", "reference_s"},
    "memory.py": {
        "num_items",
        "inserted",
        "index_mb",
        "store_largest_mib",
        "store_at_rest_mb",
        "live_shards_at_rest_mb",
        "replay_resident_growth",
        "replay_private_growth",
        "consumer_resident_growth",
        "consumer_private_growth",
        "store_objects_second_quarter",
        "store_objects_last_quarter",
    },
}


def _run(benchmark: str) -> dict[str, float]:
    """The figures of a ``--quick`` run, nested names joined by dots."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / benchmark), "--quick"], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(_flat(json.loads(done.stdout.splitlines()[-1])))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("benchmark", sorted(EXPECTED))
def test_last_line_holds_the_figures(benchmark: str) -> None:
    figures = _run(benchmark)
    assert EXPECTED[benchmark] <= figures.keys()
    assert all(math.isfinite(value) for value in figures.values())
    if benchmark == "memory.py":
        # Not a speed: once nothing is in flight, the store holds the live shards and little else.
        assert figures["store_at_rest_mb"] <= 1.1 * figures["live_shards_at_rest_mb"]


def test_every_benchmark_is_tested() -> None:
    scripts = {path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")}
    assert scripts == EXPECTED.keys()

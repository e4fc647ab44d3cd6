"""The README's tables of results, written from the result files beside this one.

    python experiments/results/readme_tables.py            # rewrites them in README.md
    python experiments/results/readme_tables.py --check    # exit code 1 if README.md says something else

A table stands between ``<!-- results: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

RESULTS = Path(__file__).parent
README = RESULTS.parents[1] / "README.md"
_PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)

Cells = Iterable[str]


def demo() -> str:
    runs = [_read(f"demo/seed{seed}.json") for seed in range(3)]
    head = [f"{part}, {runs[0][part]['params']:,} parameters" for part in ("teacher", "student")]
    lines = [
        (
            str(run["seed"]),
            *(f"{_percent(share)}%" for share in (run["teacher"]["metric"], run["student"]["metric_last"])),
            f"{run['end_to_end_s']:.0f} s",
        )
        for run in runs
    ]
    return _table(("seed", *head, "run, end to end"), lines)


def cifar10() -> str:
    steps = (400, 800, 1600, 2400, 4000, 5000)
    titles = {
        "none": "FastDFKD, uniform replay",
        "ps": "with priority sampling",
        "all": "SSD-KD, priority sampling and modulated synthesis",
    }
    curves = _read("cifar10_wrn16_2_wrn16_1/curves.json")
    averaged = {name: {point["step"]: point["metric_ema"] for point in curves[name]} for name in titles}
    best = max(curve[steps[-1]] for curve in averaged.values())
    lines = [(titles[name], *(_percent(curve[step], best) for step in steps)) for name, curve in averaged.items()]
    return _table(("student steps", *(f"{step:,}" for step in steps)), lines)


def hidfd_cifar10() -> str:
    return _one_line(
        _read("hidfd_cifar10/runs.json"),
        {
            "full": "full method",
            "no guidance of the GAN": "no guidance of the GAN",
            "collected images only": "collected images only",
            "synthetic images only (N = 0)": "the GAN's images only",
            "SSD-KD": "SSD-KD, no images, same number of steps",
        },
    )


def surrogate_cifar10() -> str:
    return _one_line(
        _read("surrogate_cifar10/runs.json"),
        {
            "noise": "pixel noise",
            "leaves": "dead leaves",
            "photograph": "two photographs, crops",
            "shaders": "our shaders",
            "camvid": "CamVid, crops",
            "cifar10": "CIFAR-10 itself",
        },
    )


def hidfd_digits() -> str:
    runs = _read("hidfd_digits/runs.json")
    titles = {"full": "full method", "synthetic": "the GAN's images only", "collected": "collected images only"}
    figures = {title: [100 * run["student"]["metric_last"] for run in runs[name]] for name, title in titles.items()}
    teacher = _percent(runs["full"][0]["teacher"]["metric"])
    spread = [f"{fmean(found):.1f} ± {stdev(found):.1f}" for found in figures.values()]
    return _table(("teacher", *figures), [(teacher, *spread)])


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made for made in (demo, cifar10, hidfd_cifar10, surrogate_cifar10, hidfd_digits)
}


def rendered(text: str) -> str:
    """``text`` with the tables as the result files have them."""
    return _PLACE.sub(lambda place: place[1] + TABLES[place[2]](), text)


def _one_line(runs: dict[str, Any], titles: dict[str, str]) -> str:
    """A run a column, the last accuracy of its student; the best in bold."""
    found = {title: runs[name]["student"]["metric_last"] for name, title in titles.items()}
    return _table(found, [[_percent(value, max(found.values())) for value in found.values()]])


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _percent(share: float, best: float | None = None) -> str:
    text = f"{100 * share:.1f}"
    return f"**{text}**" if share == best else text


def _table(head: Cells, lines: Iterable[Cells]) -> str:
    head = list(head)
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    new = rendered(text)
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if new == text else "README.md differs from the result files: run python experiments/results/readme_tables.py"
        )
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()

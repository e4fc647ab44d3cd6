"""What the report adds for a run that learnt from collected images and a GAN."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydfkd.metrics import Figure
from raydfkd.report.html import write_report
from raydfkd.testing.fake_run import write_fake_run

GAN = {
    "discriminator_loss": 1.2,
    "real_confidence": 0.8,
    "synthetic_confidence": 0.3,
    "class_hit_rate": 0.6,
    "class_evenness": 0.9,
}

FIGURES = (
    Figure("Discriminator", {"real_confidence": "real images", "synthetic_confidence": "synthetic images"}, percent=True),
    Figure("Generator", {"class_hit_rate": "target class"}),
)
PINNED_FRACTION = 0.3


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = write_fake_run(tmp_path_factory.mktemp("report") / "run", method="hidfd")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    more = {"synthesis": GAN, "replay": {"pinned_fraction": PINNED_FRACTION}}
    records = [{**record, **more.get(record["kind"], {})} for record in records]
    prepared = [
        {"kind": "preparation", "time_s": 0.1 * n, "step": 0, "generator_id": "gan-0", "done": n, "total": 9, **GAN}
        for n in range(9)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in prepared + records))
    buffer = dict(np.load(run / "analysis" / "buffer.npz"))
    # 100 collected images of class 0 alone, the rest equally of classes 0 and 1.
    total = len(buffer["teacher_class"])
    buffer["source"] = np.where(np.arange(total) < 100, "collected", "hidfd")
    buffer["teacher_class"] = np.where(np.arange(total) < 100, 0, np.arange(total) % 2).astype(np.int32)
    np.savez(run / "analysis" / "buffer.npz", **buffer)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "figures": [figure.as_json() for figure in FIGURES]}))
    samples = dict(np.load(run / "samples" / "by_class.npz"))
    count = len(samples["teacher_class"])
    np.savez(run / "samples" / "by_class.npz", **samples, source=np.where(np.arange(count) % 2 == 0, "collected", "hidfd"))
    return write_report(run).read_text(encoding="utf-8")


def test_the_distances_of_the_mix_are_the_closed_form(page: str) -> None:
    table = page[page.index("Total variation distance") :]
    rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.DOTALL) for row in rows[:4]]
    share = PINNED_FRACTION
    assert cells[1] == ["collected", "0.500", "0.000", "0.500"]
    assert cells[2] == ["synthetic", "0.000", "0.500", "0.000"]
    assert cells[3] == [f"mix ({100 * share:.0f}% collected)", f"{share / 2:.3f}", f"{(1 - share) / 2:.3f}", f"{share / 2:.3f}"]


def test_the_figures_that_the_manifest_names_are_drawn_for_each_generator(page: str) -> None:
    assert ">Discriminator<" in page
    assert ">Generator<" in page
    for label in ("real images", "synthetic images", "target class"):
        assert f">{label}, gan-0<" in page
        assert f">{label}, inversion-1<" in page
    assert ">discriminator_loss<" in page, "losses are drawn without being named"
    assert "Share of each class in the buffer" in page


@pytest.mark.parametrize(
    ("figures", "problem"),
    [([], None), (None, None), ([{"title": "Classes of a batch"}], "needs a title and curves"), ("x", "title")],
)
def test_without_figures_in_the_manifest_there_are_none(tmp_path: Path, figures: Any, problem: str | None) -> None:
    run = write_fake_run(tmp_path / "run", done=0.2, state="running")
    assert "Classes of a batch" in write_report(run).read_text(encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "figures": figures}))
    page = write_report(run).read_text(encoding="utf-8")
    assert "Classes of a batch" not in page
    assert ("the figures that manifest.json names cannot be read" in page) is (problem is not None)
    assert (problem or "") in page


def test_collected_images_stand_beside_synthetic_ones(page: str) -> None:
    assert "airplane, collected" in page
    assert "airplane, hidfd" in page

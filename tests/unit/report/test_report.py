"""The report of a fake run: every section, nothing from outside the file, and what happens when parts are missing."""

from __future__ import annotations

import base64
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from raydfkd.errors import RunDirError
from raydfkd.report.html import write_report
from raydfkd.testing.fake_run import write_fake_run

# fmt: off
SECTIONS = [
    "outcome", "metric", "images", "evolution", "classes", "buffer", "features", "distillation", "synthesis",
    "throughput", "timeline", "waits", "events", "data", "machine", "config",
]
# fmt: on


class Page(HTMLParser):
    """Ids, addresses, and the number of drawings and pictures of a page; refuses tags that close what is not open."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "path", "use", "image", "rect", "stop"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
                self.addresses.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def text(finished: Path) -> str:
    written = write_report(finished)
    assert written == finished / "report.html"
    return written.read_text(encoding="utf-8")


def test_every_section_is_there_once(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert "Not in this report" not in text


def test_ids_are_unique_and_every_reference_is_met(text: str) -> None:
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)


def test_nothing_is_loaded_from_outside(text: str) -> None:
    page = Page(text)
    assert page.addresses
    assert all(a.startswith(("#", "data:image/png;base64,")) for a in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_every_picture_holds_pixels_and_every_drawing_lines(text: str) -> None:
    pictures = [a for a in Page(text).addresses if a.startswith("data:")]
    assert len(pictures) >= 10 + 6 + 2
    for address in pictures:
        png = base64.b64decode(re.sub(r"\s", "", address.split(",", 1)[1]), validate=True)
        assert png.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", png[16:24])
        assert width > 1
        assert height > 1
        assert len(png) > 200
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 2 + 3 + 4 + 2 + 6 + 8 + 4 + 1 + 2
    for drawing in drawings:
        assert drawing.count("<path") + drawing.count("<image") > 5
        assert "viewBox" in drawing
        assert "var(--ink)" in drawing
        assert "#1b1f24" not in drawing


def test_headline_and_outcome_say_the_result(text: str) -> None:
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", text, flags=re.DOTALL)))
    for expected in (
        "ssdkd wrn_16_2 → wrn_16_1",
        "teacher accuracy 88.80%",
        "student accuracy, last 82.30%",
        "student accuracy, EMA 82.50%",
        "agreement 85.30%",
        "−6.50 points to the teacher",
        "smaller by 4.0×",
        "end to end 22 min 00 s",
        "synthesis 15 min 02 s",
        "distillation 20 min 42 s",
        "restarts 1",
        "generator inversion-1 died (killed); restarted from its state of batch 118",
        "10 min 00 s 2,571 generator",
        "parquet cifar10/test evaluation only",
        "priority_exponent: 0.6",
        "torch 2.14.1",
    ):
        assert expected in plain, expected
    assert re.search(r"The 5,000 images .*: 1\d\d collected, 4,8\d\d ssdkd\.", plain)


def test_text_of_the_run_is_escaped(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", done=0.1, state="running")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest |= {"name": "<script>alert(1)</script>", "classes": ["<b>$x_$</b>"] * 10, "error": "a < b"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>$x_$" not in text
    assert "&lt;b&gt;$x_$&lt;/b&gt;" in text
    assert "a &lt; b" in text


def test_what_is_missing_is_left_out_with_its_reason(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run")
    missing = {
        "images": "samples/by_class.npz",
        "buffer": "analysis/buffer.npz",
        "features": "analysis/features.npz",
        "config": "config.yaml",
    }
    for file in missing.values():
        (run / file).unlink()
    text = write_report(run).read_text(encoding="utf-8")
    assert [i for i in Page(text).ids if i in SECTIONS] == [s for s in SECTIONS if s not in missing]
    assert text.count("<li>") == len(missing)
    for file in missing.values():
        assert f"there is no {file}" in text


def test_a_run_with_only_a_manifest_is_reported(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"state": "running"}')
    text = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert "svg" not in page.tags
    assert "img" not in page.tags
    assert "running, so far" in text
    assert text.count("<li>") == len(SECTIONS) - len([i for i in page.ids if i in SECTIONS])


def test_an_unfinished_run_is_reported_so_far(tmp_path: Path) -> None:
    text = write_report(write_fake_run(tmp_path / "run", done=0.4, state="running")).read_text(encoding="utf-8")
    assert "running, so far" in text
    assert "these are its figures so far" in text
    assert "2,214 of 6,000 steps" in text
    assert [s for s in SECTIONS if s not in Page(text).ids] == ["buffer", "features"]


def test_a_run_without_evaluation_data_has_no_metric_section(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", real_features=False)
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if json.loads(line)["kind"] != "evaluation"]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = json.loads((run / "result.json").read_text())
    result["metric_name"] = None
    result["student"] |= {"metric_last": None, "metric_ema": None, "agreement": None}
    result["teacher"]["metric"] = None
    (run / "result.json").write_text(json.dumps(result))
    text = write_report(run).read_text(encoding="utf-8")
    assert [s for s in SECTIONS if s not in Page(text).ids] == ["metric"]
    assert "student accuracy" not in text
    assert "nan" not in re.sub(r"base64,[\w+/=\s]+", "", text).lower()
    assert "has no real images to compare with" in text


def test_damaged_files_are_named_and_do_not_stop_the_report(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run")
    (run / "analysis" / "buffer.npz").write_bytes(b"PK\x03\x04 torn")
    (run / "result.json").write_text("{")
    (run / "samples" / "round-00000.png").write_bytes(b"no picture")
    records = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(records.replace("\n", "\nno json\n", 1) + '{"kind": "torn')
    np.savez(run / "analysis" / "features.npz", synthetic_features=np.zeros((3, 4)), synthetic_class=np.zeros(2))
    text = write_report(run).read_text(encoding="utf-8")
    for named in (
        "analysis/buffer.npz cannot",
        "result.json cannot",
        "round-00000.png is not",
        "1 damaged line,",
        "features of shape",
    ):
        assert named in text, named


def test_mean_iou_is_called_so(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"metric_label": "mIoU"}))
    text = write_report(run).read_text(encoding="utf-8")
    assert "student mIoU, last" in text
    assert "accuracy" not in text


def test_no_run_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"manifest\.json"):
        write_report(tmp_path / "nothing")


def test_reports_of_one_run_are_equal(finished: Path, text: str) -> None:
    assert write_report(finished).read_text(encoding="utf-8") == text

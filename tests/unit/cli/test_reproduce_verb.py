"""``raydfkd reproduce`` on a paper of one's own, digits without Ray: what it lists, prints, runs, keeps and shows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
import yaml

from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.testing.command import invoke as raydfkd

PAPER = {
    "paper": {"title": "A Paper", "venue": "Here 2026"},
    "base": {
        "experiment": {
            "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
            "teacher": {"model": "small_cnn_8", "checkpoint": "teacher.safetensors"},
            "sources": {
                "inversion": {
                    "method": "ssdkd", "batch_size": 16, "base_channels": 4, "latent_dim": 8, "crop_padding": 1, "flip": False,
                }
            },
            "replay": {"synthetic": {"capacity": 40}},
            "students": {"small": {"model": "small_cnn_4", "batch_size": 16, "crop_padding": 1, "flip": False}},
            "schedule": {"warmup_batches": 2, "rounds": 4, "student_steps_per_round": 2},
            "evaluation": {"dataset": {"kind": "digits", "max_images": 60}},
            "runtime": {"runner": "local", "device": "cpu", "bf16": False},
        }
    },
    "axes": {
        "method": {
            "teacher": {"settings": None},
            "plain": None,
            "modulated": {"settings": {"sources": {"inversion": {"difficulty": False}}}},
        }
    },
    "tables": {
        "one": {
            "title": "Both",
            "source": "Table 1",
            "rows": ["method"],
            "paper": {"accuracy": {"plain": 91.5, "modulated": 92.25}, "hours": {"plain": 1.5}, "teacher": {"plain": 95.0}},
            "notes": ["A note."],
        }
    },
}  # fmt: skip


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The paper's file, in the working directory; its teacher has random weights."""
    from raydfkd.models.catalog import build_classifier
    from raydfkd.models.weights import save_weights

    monkeypatch.chdir(tmp_path)
    metadata = {"mean": "[0.3]", "std": "[0.4]", "image_shape": "[1, 8, 8]", "num_classes": "10"}
    save_weights(build_classifier("small_cnn_8", 10, (1, 8, 8)), tmp_path / "teacher.safetensors", metadata)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PAPER, sort_keys=False))
    return path


def test_the_list_has_the_papers_figures_and_says_what_cannot_be_run(paper: Path) -> None:
    out = raydfkd("reproduce", "mine.yaml", "one", "--list")
    assert "A Paper, Table 1: Both" in out
    assert "- A note." in out
    [plain] = [line for line in out.splitlines() if line.startswith("plain ")]
    assert "91.50" in plain
    assert "1.50" in plain
    [teacher] = [line for line in out.splitlines() if line.startswith("teacher ")]
    assert teacher.endswith("not implemented")


def test_what_is_printed_is_the_rows_experiment_and_names_the_row(paper: Path) -> None:
    config = build_experiment(yaml.safe_load(raydfkd("reproduce", "mine.yaml", "one", "modulated", "--print")))
    assert config.sources["inversion"].difficulty is False
    assert config.reproduces is not None
    assert (config.reproduces.paper, config.reproduces.row, config.reproduces.scale) == ("mine", "modulated", 1.0)
    half = yaml.safe_load(raydfkd("reproduce", "mine.yaml", "one", "plain", "--print", "--scale", "0.5"))
    assert (half["schedule"]["rounds"], half["schedule"]["warmup_batches"], half["reproduces"]["scale"]) == (2, 1, 0.5)


def test_rows_run_over_seeds_are_kept_and_are_shown_beside_the_paper(paper: Path, tmp_path: Path) -> None:
    raydfkd("reproduce", "mine.yaml", "one", "--seeds", "0,1", "--scale", "0.5")
    folder = tmp_path / "reproduced/mine/one"
    table = json.loads((folder / "table-scale-0.5.json").read_text())["rows"]
    rows = {row["row"]: row for row in table}
    runs = [json.loads((folder / f"plain/scale-0.5/seed{seed}/result.json").read_text()) for seed in (0, 1)]
    ours = [100 * run["student"]["metric_last"] for run in runs]
    assert rows["plain"]["ours"] == pytest.approx(fmean(ours))
    assert rows["plain"]["spread"] == pytest.approx(stdev(ours))
    assert rows["plain"]["gap"] == pytest.approx(100 * runs[0]["teacher"]["metric"] - fmean(ours))
    assert (rows["plain"]["paper"], rows["plain"]["paper_gap"], rows["modulated"]["paper_gap"]) == (91.5, 3.5, None)
    assert (rows["teacher"]["runs"], rows["teacher"]["ours"]) == (0, None)
    assert [run["student_steps"] for run in runs] == [4, 4], "half of the budget"
    title = "mine one plain (at 0.5 of its budget)"
    assert runs[0]["reproduces"] == {"paper": "mine", "table": "one", "row": "plain", "scale": 0.5, "title": title}
    assert title in (folder / "plain/scale-0.5/seed0/report.html").read_text()
    page = (folder / "table-scale-0.5.html").read_text()
    assert "at 0.5 of the paper" in page
    assert "A note." in page
    (folder / "modulated/scale-0.5/seed1/result.json").unlink()  # as if it had been killed before its end
    manifest = folder / "modulated/scale-0.5/seed1/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "running"}))
    again = raydfkd("reproduce", "mine.yaml", "one", "--seeds", "0,1", "--scale", "0.5")
    assert again.count("finished before") == 3
    assert json.loads((folder / "table-scale-0.5.json").read_text())["rows"] == [
        {**row, "hours": pytest.approx(row["hours"], abs=1)} if row["hours"] is not None else row for row in table
    ]


def test_finished_runs_are_shown_in_a_rows_place(paper: Path, tmp_path: Path) -> None:
    assert "is a paper" in raydfkd("run", "mine.yaml", rc=2)
    (tmp_path / "exp.yaml").write_text(raydfkd("reproduce", "mine.yaml", "one", "plain", "--print"))
    raydfkd("run", "exp.yaml", "--out", "elsewhere")
    shown = raydfkd("reproduce", "mine.yaml", "one", "plain", "--compare", "elsewhere")
    result = json.loads((tmp_path / "elsewhere/result.json").read_text())
    assert f"{100 * result['student']['metric_last']:.2f}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mine.yaml", "two"), "there is no table 'two' in this paper: known are one"),
        (("mine.yaml", "one", "plian"), "one has no row 'plian': did you mean 'plain'?"),
        (("mine.yaml", "one", "teacher"), "one teacher has the paper's figures only"),
        (("mine.yaml", "one", "--seeds", "a"), "--seeds is 'a': give whole numbers"),
        (("mine.yaml", "one", "--print"), "--print is for one row, and 3 were chosen"),
        (("nosuch",), "there is no paper 'nosuch'"),
        (("mine.yaml", "one", "plain", "--compare", "nosuch"), "nosuch has no result.json"),
        (("ssdkd", "table1", "cifar10_ssdkd_vgg11_resnet18"), "needs teacher cifar10_vgg11_bn"),
    ],
)
def test_mistakes(paper: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in raydfkd("reproduce", *arguments, rc=2)

"""``raydfkd condense``, ``condense evaluate`` and ``condense import`` as a user types them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from raydfkd.data.condensation.condensed_set import load_condensed
from raydfkd.testing.command import invoke

raydfkd = partial(invoke, "condense")
SHORT = ["network=conv_net_1", "method.iterations=4", "method.real_batch_size=8", "runtime.device=cpu"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYDFKD_DATA", str(tmp_path / "root"))
    for split in ("train", "test"):
        (tmp_path / f"{split}.yaml").write_text(f"{{kind: digits, split: {split}, max_images: 200}}")
    return tmp_path


def test_from_images_to_a_measured_set(root: Path) -> None:
    told = raydfkd(str(root / "train.yaml"), "--method", "dm", "--images-per-class", "2", *SHORT)
    assert "of memory for each worker, judged by its first tasks" in told
    assert "iterations 4/4  loss" in told
    path = root / "root" / "condensed" / "digits_dm_2.parquet"
    assert f"condensed set: {path}" in told
    assert path.with_suffix(".png").exists()
    assert "is there already" in raydfkd(str(root / "train.yaml"), "--images-per-class", "2", *SHORT, rc=2)
    measured = raydfkd(
        "evaluate", "digits_dm_2", "--dataset", str(root / "test.yaml"), "--real", str(root / "train.yaml"),
        "--networks", "2", "--epochs", "3", "--out", str(root / "found.json"),
    )  # fmt: skip
    rows = [line.split() for line in measured.splitlines() if line.startswith(("condensed", "random real"))]
    assert [(row[0], row[-1]) for row in rows] == [("condensed", "2"), ("random", "2")]
    found = json.loads((root / "found.json").read_text())
    assert {name: len(values) for name, values in found["accuracies"].items()} == {"condensed": 2, "random real": 2}
    assert found["recipe"]["network"] == "conv_net_1"


def test_a_set_of_another_program(root: Path) -> None:
    images, labels = torch.zeros(4, 3, 32, 32), torch.tensor([0, 0, 1, 1])
    torch.save({"data": [[images, labels]]}, root / "res.pt")
    told = raydfkd("import", str(root / "res.pt"), "--name", "theirs", rc=2)
    assert "the normalisation of" in told
    assert "is not stated: give --mean and --std, or --dataset NAME" in told
    raydfkd("import", str(root / "res.pt"), "--name", "theirs", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")
    assert load_condensed(root / "root" / "condensed" / "theirs.parquet").images.max() == 128
    raydfkd("import", str(root / "res.pt"), "--name", "of_cifar", "--dataset", "cifar10")
    assert load_condensed(root / "root" / "condensed" / "of_cifar.parquet").images[0, 0, 0, 0] == round(0.4914 * 255)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{root}/train.yaml"], "images_per_class"),
        (["{root}/gone.yaml", "--images-per-class", "2"], "gone.yaml"),
        (["{root}/train.yaml", "--images-per-class", "2", "--method", "dn"], "method.kind"),
        (["{root}/train.yaml", "--images-per-class", "2", "--name", "a/b"], "condensed set 'a/b' cannot be used in file names"),
        (["{root}/train.yaml", "--images-per-class", "2", "--name", "a", "--out", "b.parquet"], "both is given: give one"),
        (["{root}/train.yaml", "--images-per-class", "2", "network=wrn_16_1"], "has BatchNorm"),
        (["evaluate", "nothing", "--dataset", "{root}/test.yaml"], "nothing.parquet does not exist"),
        (["import", "{root}/gone.pt", "--name", "x", "--dataset", "cifar10"], "gone.pt does not exist"),
        (["import", "{root}/gone.pt", "--name", "x", "--mean", "a,b", "--std", "1,1"], "--mean 'a,b' is not a list of numbers"),
        (["import", "{root}/gone.pt", "--dataset", "cifar10"], "neither is given: give one"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(root: Path, arguments: list[str], expected: str) -> None:
    told = raydfkd(*(one.format(root=root) for one in arguments), rc=2)
    assert expected in " ".join(told.split())
    assert len(told.strip().splitlines()) == 1
    assert not (root / "root" / "condensed").exists()

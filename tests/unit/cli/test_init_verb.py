"""``raydfkd init`` and ``raydfkd distill`` on teachers as people have them, and what they say to wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from found_teachers import save_state, their_nets, transformers_folder, vit_folder
from torchvision import models
from typer.testing import CliRunner

from raydfkd.cli.main import app
from raydfkd.cli.verbs import init_verb
from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.proposal import propose as proposing
from raydfkd.pipeline.proposal.sizing import Costs, Duration
from raydfkd.testing.command import invoke as raydfkd

GREY = ("--model", "their_nets:grey", "--image-size", "8", "--mean", "0.5", "--std", "0.25")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    their_nets(folder)
    transformers_folder(folder / "resnet")
    vit_folder(folder / "vit")
    return folder


@pytest.fixture
def theirs(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.syspath_prepend(str(made))
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that no busy machine changes."""
    monkeypatch.setattr(proposing, "measure", lambda *_: Costs(Duration(0.0, 1e-3), Duration(0.0, 1e-3), 10**6))


@pytest.mark.usefixtures("quick")
def test_init_says_what_it_found_and_decided_and_never_overwrites(theirs: Path, tmp_path: Path) -> None:
    told = raydfkd("init", "--teacher", theirs / "grey.pt", *GREY, "--minutes", "5", "--out", "grey.yaml")
    assert "classes: 10, from the last layer in grey.pt" in told
    assert "method: ssdkd: the teacher has BatchNorm statistics and a gradient" in told
    assert told.splitlines()[-1] == "written: grey.yaml; run it with: raydfkd run grey.yaml"
    config = load_experiment(tmp_path / "grey.yaml")
    assert (config.task.image_shape, config.teacher.checkpoint) == ((1, 8, 8), theirs / "grey.pt")
    refused = raydfkd("init", "--teacher", theirs / "grey.pt", *GREY, "--out", "grey.yaml", rc=2)
    assert "grey.yaml exists already: give another --out, or overwrite it with --force" in refused
    raydfkd("init", "--teacher", theirs / "grey.pt", *GREY, "--student", "small_cnn_8", "--out", "grey.yaml", "--force")
    assert load_experiment(tmp_path / "grey.yaml").student.model == "small_cnn_8"


@pytest.mark.usefixtures("quick")
def test_distill_leaves_a_finished_run_with_its_experiment(theirs: Path, tmp_path: Path) -> None:
    raydfkd("distill", theirs / "grey.pt", *GREY, "--minutes", "0.05", "--out", "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    config = load_experiment(tmp_path / "run" / "experiment.yaml")
    assert result["student_steps"] == config.schedule.total_steps > 0
    assert "finished run already: choose another --out" in raydfkd("distill", theirs / "grey.pt", *GREY, "--out", "run", rc=2)


@pytest.mark.usefixtures("quick")
def test_a_student_of_transformers_leaves_as_a_folder_with_a_card(theirs: Path, tmp_path: Path) -> None:
    import transformers

    raydfkd("distill", theirs / "resnet", "--student", f"hf:{theirs / 'resnet'}", "--minutes", "0.05", "--out", "run")
    told = raydfkd("export", "run", "--format", "transformers", "--out", "folder")
    assert "model card: folder/README.md" in told
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "folder")
    assert loaded.config.id2label == {0: "cat", 1: "dog", 2: "owl", 3: "fox"}, "by the teacher's configuration"
    card = (tmp_path / "folder" / "README.md").read_text()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert card.startswith("---\n# license: yours to choose.")
    assert f"| end to end | {result['end_to_end_s']:,.0f} s |" in card
    assert result["teacher"]["sha256"] in card
    assert "Not measured: the run had no evaluation data." in card
    assert "None: neither the teacher's training data nor any other images were read." in card
    assert "cat, dog, owl, fox" in card
    assert str(theirs) not in card, "no folder of this machine"
    assert "timm has no architecture" in raydfkd("export", "run", "--format", "timm", "--out", "other", rc=2)
    raydfkd("export", "run", "--format", "safetensors", "--out", "student.safetensors")
    assert not (tmp_path / "student.md").exists()
    raydfkd("export", "run", "--format", "safetensors", "--out", "student.safetensors", "--card")
    assert "build_classifier" in (tmp_path / "student.md").read_text()
    refused = raydfkd("export", "student.safetensors", "--format", "pt2", "--out", "student.pt2", "--card", rc=2)
    assert "a model card needs a finished run" in refused


def test_what_is_missing_names_its_option(theirs: Path) -> None:
    for given, words in (
        ((), "the teacher (a file of weights, a named teacher, hf:ORG/NAME) is not known: give --teacher"),
        (("--teacher", theirs / "grey.pt"), "is not known: give --model"),
        (("--teacher", theirs / "grey.pt", "--model", "their_nets:grey"), "is not known: give --image-size"),
        (("--teacher", theirs / "grey.pt", *GREY[:4]), "is not known: give --mean"),
        (
            (
                "--teacher",
                theirs / "vit",
            ),
            "is not known: give --mean",
        ),
    ):
        assert words in raydfkd("init", *given, rc=2)


@pytest.mark.usefixtures("quick")
def test_on_a_terminal_it_asks(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init_verb, "on_terminal", lambda: True)
    answers = [str(theirs / "grey.pt"), "their_nets:grey", "large", "8", "0.5", "0.25"]
    asked = CliRunner().invoke(app, ["init"], input="\n".join(answers) + "\n")
    assert asked.exit_code == 0, asked.output
    assert "'large' is no size" in asked.output
    assert load_experiment(tmp_path / "experiment.yaml").task.image_shape == (1, 8, 8)


def test_wrong_input_is_one_sentence(theirs: Path, tmp_path: Path) -> None:
    resnet18 = save_state(models.resnet18(num_classes=7), tmp_path / "resnet18.pth")
    torchvision = ("--teacher", resnet18, "--model", "torchvision:resnet18")
    for given, words in (
        (("--teacher", "nothing.pt", "--model", "resnet18"), "there is no teacher's file nothing.pt"),
        (("--teacher", resnet18, "--model", "torchvision:resnet19"), "did you mean"),
        (("--teacher", resnet18, "--model", "torchvision:resnet50", "--image-size", "32"), "does not match the architecture"),
        ((*torchvision, "--classes", "5"), "the teacher has 7 classes, from the last layer in resnet18.pth"),
        ((*torchvision, "--image-size", "9"), "multiples of 4"),
        ((*torchvision, "--image-size", "x"), "--image-size 'x' is no size"),
        ((*torchvision, "--mean", "a", "--std", "1"), "'a' are no numbers"),
        (("--teacher", theirs / "vit", "--image-size", "32", "--mean", "0", "--std", "1"), "cannot take images of shape"),
        (("--teacher", theirs / "resnet", "--evaluation", "nowhere"), "data set nowhere does not exist"),
        (("--teacher", theirs / "resnet", "--out", theirs), "is a folder: give the name of a file"),
        (("--teacher", theirs / "resnet", "--minutes", "0.01"), "minutes are no time for this teacher here"),
    ):
        told = raydfkd("init", *given, rc=2)
        assert words in told
        assert told.count("\n") == 1
    assert not (tmp_path / "experiment.yaml").exists()
    assert "no time for this teacher" in raydfkd("distill", theirs / "resnet", "--minutes", "0.01", "--out", "run", rc=2)
    assert not (tmp_path / "run").exists(), "nothing is left of a run that never began"


def test_sizes_and_lists_of_numbers() -> None:
    assert (init_verb.parse_size("224"), init_verb.parse_size("24x32")) == ((224, 224), (24, 32))
    assert init_verb.parse_numbers("0.5,1") == (0.5, 1.0)
    for text in ("", "0", "1x2x3", "-4"):
        with pytest.raises(ConfigError):
            init_verb.parse_size(text)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["torchvision", "timm", "transformers", "group_norm", "grey"])
def test_from_a_teacher_to_a_student_in_one_line(which: str, theirs: Path, tmp_path: Path) -> None:
    """With nothing replaced: each is measured, and its run ends."""
    import timm

    if which == "torchvision":
        save_state(models.resnet18(num_classes=7), tmp_path / "weights.pth")
        given = ["weights.pth", "--model", "torchvision:resnet18", "--image-size", "32", "--student", "small_cnn_8"]
    elif which == "timm":
        save_state(timm.create_model("test_resnet", num_classes=6), tmp_path / "weights.pth")
        given = ["weights.pth", "--model", "timm:test_resnet", "--image-size", "32", "--student", "timm:test_resnet"]
    elif which == "transformers":
        given = [str(theirs / "resnet")]
    elif which == "group_norm":
        network = ("--model", "their_nets:group_norm", "--image-size", "32", "--mean", "0.5", "--std", "0.25")
        given = [str(theirs / "group_norm.pt"), *network]
    else:
        given = [str(theirs / "grey.pt"), *GREY]
    raydfkd("distill", *given, "--minutes", "1" if which == "torchvision" else "0.5", "--out", "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["student_steps"] > 0

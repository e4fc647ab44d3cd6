"""What users get wrong, typed as they would: one clear sentence on stderr, exit code 2, and nothing half-made left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.testing.command import Finished, run_command

pytestmark = pytest.mark.e2e

EXPERIMENT = """\
task: {kind: classification, num_classes: 10, image_shape: [1, 8, 8]}
teacher: {model: small_cnn_8, checkpoint: teacher.safetensors}
sources:
  inversion: {method: ssdkd, batch_size: 16, base_channels: 4, latent_dim: 8}
replay:
  synthetic: {capacity: 64, sampler: {kind: prioritized}}
students:
  small: {model: small_cnn_8, batch_size: 16}
schedule: {warmup_batches: 1, rounds: 3, student_steps_per_round: 2}
evaluation: {dataset: {kind: digits, max_images: 20}}
runtime: {runner: local, bf16: false, checkpoint_period_rounds: 1, log_period_steps: 1}
"""

NORMALIZATION = "teacher.normalization={mean: [0.5], std: [0.3]}"
WITHOUT_BATCH_NORM = "teacher={model: 'torchvision:squeezenet1_1', normalization: {mean: [0, 0, 0], std: [1, 1, 1]}}"
DECOUPLED = ["runtime.runner=ray", "schedule.mode=decoupled"]


class Detonator:
    """Unpickled, it would make a file."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.trace, "w")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good experiment, a good teacher, a finished run, and bad files of every kind."""
    folder = tmp_path_factory.mktemp("bad_input")
    (folder / "exp.yaml").write_text(EXPERIMENT)
    (folder / "broken.yaml").write_text(EXPERIMENT + "task: [1\n")
    (folder / "a_file").write_text("not a folder\n")
    (folder / "empty").mkdir()
    _write_networks(folder)
    _write_data(folder)
    done = run_command(["run", "exp.yaml", "--out", "finished"], folder)
    assert done.code == 0, done.err
    return folder


def _write_networks(folder: Path) -> None:
    torch.manual_seed(0)
    metadata = {"model": "small_cnn_8", "num_classes": "10", "image_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[0.3]"}
    network = build_classifier("small_cnn_8", 10, (1, 8, 8))
    save_weights(network, folder / "teacher.safetensors", metadata)
    save_weights(network, folder / "plain.safetensors")
    save_weights(build_classifier("small_cnn_16", 10, (1, 8, 8)), folder / "other.safetensors", metadata)
    whole = (folder / "teacher.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": Detonator(str(folder / "exploded"))}, folder / "evil.pt")
    (folder / "evil.pt2").write_bytes((folder / "evil.pt").read_bytes())
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
        save_weights(network, folder / "nan.safetensors", metadata)
        for parameter in network.parameters():
            parameter.fill_(1e30)
        save_weights(network, folder / "huge.safetensors", metadata)


def _write_data(folder: Path) -> None:
    table = pa.table({"image": [b"no picture", b"none either"], "label": [0, 1]})
    pq.write_table(table, folder / "undecodable.parquet")
    content = (folder / "undecodable.parquet").read_bytes()
    (folder / "truncated.parquet").write_bytes(content[: len(content) // 2])
    pq.write_table(table.rename_columns(["picture", "label"]), folder / "columns.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, and every folder (as one that holds nothing)."""
    paths = sorted(folder.rglob("*"))
    return {p.relative_to(folder).as_posix(): b"" if p.is_dir() else p.read_bytes() for p in paths}


def refused(world: Path, *arguments: str) -> str:
    """Types the command, and checks everything but what the sentence says."""
    before = contents(world)
    done = run_command(list(arguments), world)
    check_refusal(done)
    assert contents(world) == before, f"it left or changed {set(contents(world).items()) ^ set(before.items())}"
    return done.err.removeprefix("raydfkd: ").rstrip("\n")


def check_refusal(done: Finished) -> None:
    assert done.code == 2, f"exit code {done.code}\n{done.out}\n{done.err}"
    assert done.err.startswith("raydfkd: ")
    assert done.err.count("\n") == 1, done.err
    assert done.err.endswith("\n")
    assert "Traceback" not in done.out + done.err
    assert "Error:" not in done.err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param(["schedule.roundz=3"], "unknown key schedule.roundz: did you mean 'rounds'", id="unknown key"),
        pytest.param(["sources.inversion.steps=3"], "or 'steps_per_batch'?", id="unknown key of a method"),
        pytest.param(["schedule.rounds=many"], "schedule.rounds is 'many': it must be a valid integer", id="wrong type"),
        pytest.param(["schedule.rounds=-1"], "schedule.rounds is -1: it must be greater than", id="out of range"),
        pytest.param(["students=null"], "students is None", id="null for a map"),
        pytest.param(["schedule.rounds"], "not of the form key.subkey=value", id="no value"),
        pytest.param(["sources.inversion.method=ssdk"], "did you mean 'ssdkd'", id="unknown method"),
        pytest.param(["sources.inversion.generator=standrad"], "did you mean 'standard'", id="unknown generator"),
        pytest.param(["teacher.model=smal_cnn_8"], "did you mean 'small_cnn_8'", id="unknown teacher model"),
        pytest.param(["students.small.model=wrn_16_1x"], "did you mean 'wrn_16_1'", id="unknown student model"),
        pytest.param(["students.small.model=torchvision:resnet19"], "resnet1", id="unknown torchvision model"),
        pytest.param(["students.small.model=nowhere.nets:net"], "no Python module 'nowhere.nets'", id="unknown module"),
        pytest.param(["students.small.model=vgg16_bn", "task.image_shape=[1, 4, 4]"], "at least 8", id="small images"),
    ],
)
def test_settings(world: Path, override: list[str], expected: str) -> None:
    assert expected in refused(world, "run", "exp.yaml", *override, "--out", "new")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param(["teacher.checkpoint=gone.safetensors"], "gone.safetensors", id="missing"),
        pytest.param(["teacher.checkpoint=./empty"], "no weights file", id="a folder"),
        pytest.param(["teacher.checkpoint=./a_file", NORMALIZATION], "allowed are .safetensors", id="no weights file"),
        pytest.param(["teacher.checkpoint=wrn"], "there is no teacher named 'wrn'", id="no such name"),
        pytest.param(["teacher.checkpoint=cut.safetensors"], "not a complete safetensors file", id="truncated"),
        pytest.param(["teacher.checkpoint=other.safetensors"], "does not match the architecture of this SmallCNN", id="other"),
        pytest.param(["students.small.checkpoint=other.safetensors"], "does not match the architecture of", id="student"),
        pytest.param(["teacher.checkpoint=null"], "teacher.normalization is missing", id="none, nor normalization"),
        pytest.param(["teacher.checkpoint=plain.safetensors"], "teacher.normalization is missing", id="no normalization"),
        pytest.param(["teacher.checkpoint=nan.safetensors"], "hold NaN or infinity", id="NaN weights"),
        pytest.param(["teacher.checkpoint=huge.safetensors"], "gives NaN or infinite logits", id="NaN logits"),
        pytest.param(["teacher.normalization={mean: [0.5], std: [0]}"], "above 0", id="std 0"),
        pytest.param(["teacher.normalization={mean: [0, 0], std: [1, 1]}"], "one number per channel", id="two means"),
        pytest.param(["task.image_shape=[3, 8, 8]"], "is for 1-channel images, task.image_shape has 3", id="channels"),
        pytest.param(["task.num_classes=7"], "is for 10 classes, task.num_classes is 7", id="classes"),
        pytest.param(["teacher.classifier_head=nowhere"], "nowhere", id="unknown head"),
        pytest.param(
            ["task.image_shape=[3,32,32]", WITHOUT_BATCH_NORM],
            "method 'ssdkd' matches BatchNorm statistics, but this teacher has no normalisation layer",
            id="without BatchNorm",
        ),
    ],
)  # fmt: skip
def test_teachers(world: Path, override: list[str], expected: str) -> None:
    assert expected in refused(world, "run", "exp.yaml", *override, "--out", "new")


@pytest.mark.parametrize(
    "override",
    [
        ["teacher.checkpoint=evil.pt", NORMALIZATION],
        ["students.small.checkpoint=evil.pt"],
        ["teacher={model: evil.pt2, normalization: {mean: [0.5], std: [0.3]}}"],
    ],
    ids=["teacher", "student", "exported teacher"],
)
def test_a_file_that_wants_to_run_code_is_refused_and_not_run(world: Path, override: list[str]) -> None:
    told = refused(world, "run", "exp.yaml", *override, "--out", "new")
    assert "evil.pt" in told
    assert not (world / "exploded").exists()
    if "evil.pt2" not in override[0]:
        assert "could run code; it was rejected and nothing in it was run" in told


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("{kind: parquet, path: gone.parquet}", "gone.parquet does not exist"),
        ("{kind: parquet, path: truncated.parquet}", "truncated.parquet"),
        ("{kind: parquet, path: a_file}", "a_file"),
        ("{kind: parquet, path: empty}", "holds no *.parquet file"),
        ("{kind: parquet, path: columns.parquet}", "has no column 'image'"),
        ("{kind: parquet, path: undecodable.parquet}", "none of the 2 images of"),
        ("{kind: torchvision, name: CIFAR10, root: empty}", "nothing is downloaded"),
        ("{kind: torchvision, name: CIFAR11, root: empty}", "did you mean 'CIFAR10'"),
        ("{kind: image_folder, path: empty}", "has no folders"),
        ("{kind: digit}", "did you mean 'digits'"),
    ],
)
def test_evaluation_data(world: Path, dataset: str, expected: str) -> None:
    assert expected in refused(world, "run", "exp.yaml", f"evaluation.dataset={dataset}", "--out", "new")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param(
            ["samples_per_insert=20", "error_buffer=1"],
            "would let inserting and sampling block each other",
            id="small error buffer",
        ),
        pytest.param(["samples_per_insert=20"], "needs error_buffer", id="no error buffer"),
        pytest.param(
            ["samples_per_insert=0.5", "error_buffer=30", "max_staleness_rounds=0"], "max_staleness_rounds", id="staleness"
        ),
    ],
)
def test_a_schedule_that_would_stand_still(world: Path, override: list[str], expected: str) -> None:
    settings = [*DECOUPLED, *(f"schedule.{setting}" for setting in override)]
    assert expected in refused(world, "run", "exp.yaml", *settings, "--out", "new")


@pytest.mark.parametrize("out", ["a_file/new", "/proc/nowhere/new", "a_file"])
def test_a_run_directory_that_cannot_be_written(world: Path, out: str) -> None:
    assert f"run directory {out} cannot be written" in refused(world, "run", "exp.yaml", "--out", out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "exp.yaml", "--out", "finished"], "holds a finished run already: choose another --out"),
        (["run", "finished", "--resume"], "there is nothing to resume"),
        (["run", "exp.yaml", "--resume", "--out", "new"], "is not a run directory"),
        (["run", "new", "--resume"], "new does not exist"),
        (["run", "empty"], "is not a run directory"),
        (["run", "gone.yaml"], "gone.yaml does not exist"),
        (["run", "broken.yaml"], "broken.yaml, line"),
        (["run", "teacher.safetensors"], "teacher.safetensors"),
        (["report", "empty"], "is not a run directory"),
        (["evaluate", "gone.safetensors", "--config", "exp.yaml"], "gone.safetensors"),
        (["evaluate", "evil.pt", "--config", "exp.yaml"], "could run code"),
        (["export", "finished", "--format", "safetensors", "--out", "a_file/x.safetensors"], "a_file/x.safetensors"),
        (["export", "plain.safetensors", "--format", "safetensors", "--out", "x.safetensors"], "does not say which model"),
        (["config", "check", "exp.yaml", "schedule.roundz=1"], "did you mean 'rounds'"),
        (["config", "reference", "--out", "a_file/x.md"], "a_file/x.md"),
        (["demo", "--out", "a_file/new"], "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_verbs_and_paths(world: Path, arguments: list[str], expected: str) -> None:
    assert expected in refused(world, *arguments)


@pytest.mark.parametrize(
    ("recipe", "out", "expected"),
    [
        ("dataset: {kind: digits, split: train}", "a_file/t.safetensors", "a_file"),
        ("dataset: {kind: digits, split: train}", "t.txt", "t.txt"),
        ("dataset: {kind: parquet, path: truncated.parquet}", "t.safetensors", "truncated.parquet"),
        ("dataset: {kind: digits, split: train}\nepoch: 3", "t.safetensors", "did you mean 'epochs'"),
    ],
)
def test_train_teacher(world: Path, tmp_path: Path, recipe: str, out: str, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: small_cnn_8\nnum_classes: 10\nimage_shape: [1, 8, 8]\n{recipe}\n")
    assert expected in refused(world, "train-teacher", str(path), "--out", out)


@pytest.fixture
def stopped(world: Path, tmp_path: Path) -> Path:
    """A run that was killed after its second checkpoint, in a folder of its own."""
    for name in ("exp.yaml", "teacher.safetensors"):
        shutil.copy(world / name, tmp_path)
    run = tmp_path / "stopped"
    shutil.copytree(world / "finished", run)
    for name in ("result.json", "report.html", "student.safetensors", "student_ema.safetensors"):
        (run / name).unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    return run


def latest(run: Path) -> Path:
    return run / "checkpoints" / json.loads((run / "checkpoints" / "latest.json").read_text())["folder"]


def test_the_stopped_run_can_be_resumed(stopped: Path) -> None:
    done = run_command(["run", "stopped", "--resume"], stopped.parent)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    "part",
    [
        "replay/shards/*.parquet",
        "replay/index-*.npz",
        "replay/manifest.json",
        "exchange.json",
        "students/small.pt",
        "generators/*.pt",
    ],
)
@pytest.mark.parametrize("harm", ["truncated", "missing", "garbled"])
def test_a_checkpoint_that_is_damaged(stopped: Path, part: str, harm: str) -> None:
    path = sorted(latest(stopped).glob(part))[-1]
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if harm == "truncated" else b"\x80garbled" + content[9:])
    if (part, harm) == ("generators/*.pt", "missing"):  # a generator without a state is a new one
        assert run_command(["run", "stopped", "--resume"], stopped.parent).code == 0
        return
    told = refused(stopped.parent, "run", "stopped", "--resume")
    assert latest(stopped).name in told


def test_the_checkpoint_before_a_damaged_one_is_taken_once_that_is_removed(stopped: Path) -> None:
    damaged = latest(stopped)
    (damaged / "students/small.pt").write_bytes(b"")
    told = refused(stopped.parent, "run", "stopped", "--resume")
    assert "remove that checkpoint to resume from an earlier one" in told
    shutil.rmtree(damaged)
    done = run_command(["run", "stopped", "--resume"], stopped.parent)
    assert (done.code, done.err) == (0, "")
    assert "resumed from step-00000004" in (stopped / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("students.small.model=small_cnn_16", "students.small.model was small_cnn_8 and is small_cnn_16"),
        ("sources.inversion.base_channels=8", "the generator 'inversion-0' in"),
        ("replay.synthetic.capacity=32", "cannot change what it began with (replay.synthetic.capacity was 64 and is 32)"),
        ("task.num_classes=7", "num_classes"),
        ("schedule.rounds=1", "gives 2: resume with at least the original rounds"),
    ],
)
def test_resuming_as_another_run(stopped: Path, override: str, expected: str) -> None:
    assert expected in refused(stopped.parent, "run", "stopped", override, "--resume")


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "config.yaml", "checkpoints/latest.json"])
def test_a_run_directory_whose_files_are_damaged(stopped: Path, name: str) -> None:
    content = (stopped / name).read_text()
    (stopped / name).write_text("{\n" + content[len(content) // 2 :])
    assert name.split("/")[-1] in refused(stopped.parent, "run", "stopped", "--resume")


@pytest.mark.ray
def test_more_gpus_than_exist(world: Path) -> None:
    told = refused(world, "run", "exp.yaml", "runtime.runner=ray", "sources.inversion.resources.num_gpus=64", "--out", "new")
    assert "cannot be placed" in told
    assert "64 GPU" in told

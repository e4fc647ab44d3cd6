"""From an experiment here to the command that a job runs there."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydfkd.errors import ConfigError, RunDirError
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.run_dir import RunDir
from raydfkd.runtime.jobs.job_command import JobCommand, job_command

EXPERIMENT = """\
task: {kind: classification, num_classes: 10, image_shape: [1, 8, 8]}
teacher: {model: small_cnn_8, checkpoint: ../weights/teacher.safetensors}
sources: {inversion: {method: ssdkd, batch_size: 16}}
replay: {synthetic: {capacity: 64}}
students: {small: {model: small_cnn_8, batch_size: 16}}
schedule: {warmup_batches: 1, rounds: 3, student_steps_per_round: 2}
"""
OUT = Path("/mnt/runs/x")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("experiments", "weights", "data"):
        (root / name).mkdir(parents=True)
    (root / "weights/teacher.safetensors").write_bytes(b"")
    (root / "experiments/base.yaml").write_text(EXPERIMENT)
    (root / "experiments/exp.yaml").write_text("base: base.yaml\nruntime: {seed: 4}\n")
    return root


def command(
    project: Path, *overrides: str, name: str = "experiments/exp.yaml", out: Path | None = OUT, resume: bool = False
) -> JobCommand:
    return job_command(project / name, list(overrides), project, out, resume)


def test_a_run_and_the_files_it_needs(project: Path) -> None:
    found = command(project, "schedule.rounds=5")
    assert found.words == (
        "raydfkd", "run", "experiments/exp.yaml", "schedule.rounds=5", "--out", "/mnt/runs/x", "--address", "auto",
    )  # fmt: skip
    assert {path.relative_to(project.resolve()).as_posix() for path in found.named} == {
        "experiments/exp.yaml", "experiments/base.yaml", "weights/teacher.safetensors",
    }  # fmt: skip


def test_input_files_elsewhere(project: Path) -> None:
    """A relative path that leads out of the working directory becomes absolute; an absolute one is the cluster's."""
    outside = command(project, "teacher.checkpoint=../../outside.safetensors")
    assert f'teacher.checkpoint="{(project.parent / "outside.safetensors").resolve()}"' in outside.words
    there = command(project, "teacher.checkpoint=/mnt/runs/t.safetensors")
    assert [word for word in there.words if "checkpoint" in word] == ["teacher.checkpoint=/mnt/runs/t.safetensors"]
    data = command(
        project, "evaluation.dataset={kind: parquet, path: ../data}", "students.small.checkpoint=../weights/s.safetensors"
    )
    assert {project.resolve() / "data", project.resolve() / "weights/s.safetensors"} <= set(data.named)
    both = command(project, "evaluation.dataset={kind: parquet, path: [../../a.parquet, ../../b.parquet]}")
    setting = next(word for word in both.words if word.startswith("evaluation.dataset.path="))
    settings = ["evaluation.dataset={kind: parquet, path: x.parquet}", setting]
    evaluation = load_experiment(project / "experiments/exp.yaml", settings).evaluation
    assert evaluation is not None
    assert vars(evaluation.dataset)["path"] == [str(project.parent.resolve() / f"{name}.parquet") for name in "ab"]


def test_an_exported_teacher_goes_along_and_a_network_s_name_is_no_file(project: Path) -> None:
    exported = command(project, "teacher={model: ../weights/teacher.pt2}", name="experiments/base.yaml")
    assert set(exported.named) == {project.resolve() / name for name in ("experiments/base.yaml", "weights/teacher.pt2")}
    assert not any("small_cnn_8" in str(path) for path in command(project).named)


def test_a_hugging_face_folder_goes_along_or_is_named_where_it_is(project: Path) -> None:
    inside = command(project, "teacher={model: hf:../weights/vit}", name="experiments/base.yaml")
    assert project.resolve() / "weights/vit" in inside.named
    outside = command(project, "students.small.model=hf:../../vit", name="experiments/base.yaml")
    assert f'students.small.model="hf:{project.parent.resolve() / "vit"}"' in outside.words


def test_a_sweep(project: Path) -> None:
    (project / "sweep.yaml").write_text("experiment: experiments/exp.yaml\nspace: {schedule.rounds: [1, 2]}\n")
    found = command(project, "x=1", name="sweep.yaml")
    assert found.words[:4] == ("raydfkd", "sweep", "sweep.yaml", "x=1")
    assert project.resolve() / "weights/teacher.safetensors" in found.named
    assert project.resolve() / "experiments/base.yaml" in found.named
    (project / "experiments/base.yaml").write_text(EXPERIMENT.replace("rounds", "roundz"))
    with pytest.raises(ConfigError, match="did you mean 'rounds'"):
        command(project, name="sweep.yaml")


def test_a_run_directory_is_resumed_where_it_is(project: Path) -> None:
    run = RunDir.create(project.parent / "run")
    run.config_path.write_text(EXPERIMENT.replace("../weights", "/mnt/weights"))
    with pytest.raises(RunDirError):
        job_command(run.path, [], project, None, True)
    run.update_manifest(state="stopped")
    found = job_command(run.path, ["schedule.rounds=9"], project, None, True)
    assert found.words == (
        "raydfkd", "run", str(run.config_path), "schedule.rounds=9", "--out", str(run.path), "--address", "auto", "--resume",
    )  # fmt: skip
    assert found.named == ()


@pytest.mark.parametrize(
    ("overrides", "out", "expected"),
    [
        (["runtime.runner=local"], OUT, "add runtime.runner=ray"),
        (["schedule.roundz=1"], OUT, "did you mean 'rounds'"),
        ([], None, "--out is 'missing': give the run directory as an absolute path"),
        ([], Path("runs/x"), "--out is 'runs/x'"),
    ],
)
def test_what_cannot_be_a_job(project: Path, overrides: list[str], out: Path | None, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        command(project, *overrides, out=out)


def test_the_run_directory_may_be_the_experiment_s(project: Path) -> None:
    assert command(project, "runtime.out=/mnt/runs/y", out=None).out == Path("/mnt/runs/y")


def test_files_outside_of_the_working_directory(project: Path) -> None:
    (project.parent / "other.yaml").write_text(EXPERIMENT)
    with pytest.raises(ConfigError, match=r"other.yaml is outside the working directory .*project"):
        command(project, name="../other.yaml")
    (project / "experiments/exp.yaml").write_text("base: ../../other.yaml\n")
    with pytest.raises(ConfigError, match=r"other.yaml is outside"):
        command(project)


def test_files_behind_links_of_the_working_directory_are_below_it(project: Path, tmp_path: Path) -> None:
    """The experiment, its base and its data are links; and the working directory is reached through one."""
    (tmp_path / "shared").mkdir()
    for name in ("experiments/base.yaml", "weights/teacher.safetensors"):
        (project / name).rename(tmp_path / "shared" / Path(name).name)
        (project / name).symlink_to(tmp_path / "shared" / Path(name).name)
    (tmp_path / "link").symlink_to(project)
    for root in (project, tmp_path / "link"):
        for given in (project, tmp_path / "link"):
            found = job_command(given / "experiments/exp.yaml", [], root, OUT, False)
            assert found.words[2] == "experiments/exp.yaml"
            assert not [word for word in found.words if "checkpoint" in word]
            assert {path.relative_to(root).as_posix() for path in found.named} == {
                "experiments/exp.yaml", "experiments/base.yaml", "weights/teacher.safetensors",
            }  # fmt: skip

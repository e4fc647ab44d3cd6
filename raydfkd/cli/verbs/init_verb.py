"""``raydfkd init`` and ``raydfkd distill``: from a teacher alone to an experiment, and to a student."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from raydfkd.errors import ConfigError

if TYPE_CHECKING:
    from raydfkd.pipeline.proposal.findings import Told
    from raydfkd.pipeline.proposal.propose import Proposal

T = TypeVar("T")

EXPERIMENT = "experiment.yaml"

Model = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="The teacher's network: a catalog name, torchvision:NAME, timm:NAME or package.module:callable.",
    ),
]
Classes = Annotated[int | None, typer.Option(min=1, help="Number of classes; otherwise from the teacher's files.")]
ImageSize = Annotated[
    str | None,
    typer.Option(metavar="SIDE", help="Size of its images: SIDE or HEIGHTxWIDTH; otherwise from its files."),
]
Channels = Annotated[int | None, typer.Option(min=1, help="Channels of its images; otherwise from its files.")]
Mean = Annotated[
    str | None,
    typer.Option(metavar="M,M,M", help="Mean of each channel of its images, pixels in [0,1]; or one for all."),
]
Std = Annotated[str | None, typer.Option(metavar="S,S,S", help="Standard deviation of each channel, likewise.")]
Evaluation = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="Labelled images to report on: a folder, Parquet files, or a named NAME/SPLIT."),
]
Student = Annotated[str | None, typer.Option(metavar="REF", help="The student's network; otherwise one that suits.")]
MaxParams = Annotated[int | None, typer.Option(min=1, help="Most parameters of the student.")]
Method = Annotated[
    str | None, typer.Option(metavar="METHOD", help="Method that makes the images; otherwise the best that suits the teacher.")
]
Minutes = Annotated[float, typer.Option(min=0.01, help="Time for the run.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster that the run will be on, for its size.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]


def init(
    teacher: Annotated[
        str | None,
        typer.Option(metavar="TEACHER", help="File of weights, named teacher, .pt2 file, Hugging Face folder or hf:ORG/NAME."),
    ] = None,
    model: Model = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    evaluation: Evaluation = None,
    student: Student = None,
    max_params: MaxParams = None,
    method: Method = None,
    minutes: Minutes = 30.0,
    address: Address = None,
    out: Annotated[Path, typer.Option(metavar="EXP.yaml", help="The file to write.")] = Path(EXPERIMENT),
    force: Force = False,
) -> None:
    """Write an experiment for a teacher.

    Finds out what it can about the teacher, asks for the rest on a terminal, audits it, picks the best method that it allows,
    and sizes student, batch and schedule to this machine and the time.
    """
    _require_free(out, force)
    if teacher is None and model is None:
        teacher = _ask("--teacher", "The teacher (a file of weights, a named teacher, hf:ORG/NAME)", str)
    told = _told(classes, image_size, channels, mean, std)
    proposal = _propose(teacher, model, told, evaluation, student, max_params, method, minutes, address)
    _write(proposal, out)
    typer.echo(f"written: {out}; run it with: raydfkd run {out}")


def distill(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER", help="File of weights, named teacher, .pt2 file, Hugging Face folder or hf:ORG/NAME."
        ),
    ],
    model: Model = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    evaluation: Evaluation = None,
    student: Student = None,
    max_params: MaxParams = None,
    method: Method = None,
    minutes: Minutes = 30.0,
    address: Address = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run directory; otherwise runs/TEACHER.")] = None,
    force: Force = False,
) -> None:
    """Distil a student from a teacher, without an experiment file.

    Does what init does, and runs the experiment, which is kept in the run directory as experiment.yaml.
    """
    from raydfkd.cli.verbs.run_verb import distill_with_progress
    from raydfkd.ownership import owned
    from raydfkd.pipeline.experiment.config import load_experiment
    from raydfkd.run_dir import RunDir

    run = Path("runs") / (Path(teacher.rpartition(":")[2]).stem or "teacher") if out is None else out
    file = run / EXPERIMENT
    told = _told(classes, image_size, channels, mean, std)
    with owned(run, what=f"run directory {run}"):
        if RunDir(run).manifest_path.exists():
            RunDir.create(run)  # raises, and says what it holds
        _require_free(file, force)
        proposal = _propose(teacher, model, told, evaluation, student, max_params, method, minutes, address)
        _write(proposal, file)
        distill_with_progress(load_experiment(file), file, [], out=run)


def _require_free(file: Path, force: bool) -> None:
    if file.is_dir():
        raise ConfigError(f"{file} is a folder: give the name of a file with --out")
    if file.exists() and not force:
        raise ConfigError(f"{file} exists already: give another --out, or overwrite it with --force")


def _propose(
    teacher: str | None,
    model: str | None,
    told: Told,
    evaluation: str | None,
    student: str | None,
    max_params: int | None,
    method: str | None,
    minutes: float,
    address: str | None,
) -> Proposal:
    from raydfkd.pipeline.dataset.inspection import dataset_of
    from raydfkd.pipeline.proposal.findings import identify
    from raydfkd.pipeline.proposal.machine import this_machine
    from raydfkd.pipeline.proposal.propose import Wishes, propose
    from raydfkd.pipeline.proposal.writing import summary

    data = None if evaluation is None else dataset_of(Path(evaluation))
    findings = identify(teacher, model, told, data, _ask_for)
    if address is None:
        machine = this_machine()
    else:
        from raydfkd.runtime.preflight import cluster_size

        cores, gpus = cluster_size(address)
        machine = replace(this_machine(), cores=cores, gpus=gpus, address=address)
    proposal = propose(findings, Wishes(student, max_params, minutes, data, method), machine)
    for line in summary(proposal):
        typer.echo(line)
    return proposal


def _write(proposal: Proposal, file: Path) -> None:
    from raydfkd.pipeline.proposal.writing import yaml_text
    from raydfkd.run_dir import write_atomically

    file.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, yaml_text(proposal))


def _told(classes: int | None, image_size: str | None, channels: int | None, mean: str | None, std: str | None) -> Told:
    from raydfkd.pipeline.proposal.findings import Told

    return Told(
        classes,
        None if image_size is None else parse_size(image_size),
        channels,
        None if mean is None else parse_numbers(mean),
        None if std is None else parse_numbers(std),
    )


def parse_size(text: str) -> tuple[int, int]:
    """``32`` or ``24x32`` as (H, W).

    Raises:
        ConfigError: it is neither.
    """
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--image-size {text!r} is no size: give SIDE or HEIGHTxWIDTH in pixels, such as 224 or 24x32")
    return int(sides[0]), int(sides[-1])


def parse_numbers(text: str) -> tuple[float, ...]:
    """``0.485,0.456,0.406``.

    Raises:
        ConfigError: it is not such a list.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{text!r} are no numbers: give one for each channel, such as 0.485,0.456,0.406") from error


QUESTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "model": ("Its network (a catalog name, torchvision:NAME, timm:NAME or package.module:callable)", str),
    "num_classes": ("How many classes it has", int),
    "channels": ("How many channels its images have (1 or 3)", int),
    "image_size": ("The size of its images in pixels (SIDE or HEIGHTxWIDTH)", parse_size),
    "mean": ("The mean of its images, for pixels in [0,1], one number per channel (0 if it takes plain images)", parse_numbers),
    "std": ("Their standard deviation (1 if it takes plain images)", parse_numbers),
}
"""By the name in ``Told``, or of the option."""
OPTIONS = {"num_classes": "classes", "image_size": "image-size"}
"""Where an option is called otherwise."""


def on_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def _ask_for(names: list[str]) -> dict[str, Any]:
    return {name: _ask(f"--{OPTIONS.get(name, name)}", *QUESTIONS[name]) for name in names}


def _ask(option: str, question: str, parse: Callable[[str], T]) -> T:
    """The answer on a terminal.

    Raises:
        ConfigError: there is nobody to ask.
    """
    if not on_terminal():
        raise ConfigError(f"{question[0].lower()}{question[1:]} is not known: give {option}")
    while True:
        try:
            return parse(typer.prompt(question))
        except (ConfigError, ValueError) as error:
            typer.echo(str(error), err=True)

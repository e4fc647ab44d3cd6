"""``raydfkd condense``: makes a few images that stand for a data set; measures such sets; imports those of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from raydfkd.cli.arguments import Overrides
from raydfkd.cli.console_table import render
from raydfkd.cli.interruption import interrupted
from raydfkd.cli.lines import Lines
from raydfkd.errors import ConfigError

if TYPE_CHECKING:
    from raydfkd.data.condensation.condensed_set import CondensedSet
    from raydfkd.pipeline.condensation.condense import Estimate


class _WithDefault(TyperGroup):
    """``condense DATA`` is ``condense make DATA``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["make", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_WithDefault,
    help="Make a condensed set: a few images that stand for a data set. condense DATA is short for condense make DATA.",
    no_args_is_help=True,
)


@app.callback()
def condense() -> None:
    """Make a condensed set: a few images that stand for a data set. condense DATA is short for condense make DATA."""


Name = Annotated[str | None, typer.Option("--name", help="Name of the set below the data root; otherwise as in cifar10_dm_50.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write, .parquet, in place of a named one.")]


@app.command()
def make(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: a named data set such as cifar10/train, Parquet files, a folder with one folder for each "
            "class, or a YAML file of settings with a dataset.",
        ),
    ],
    overrides: Overrides = None,
    method: Annotated[str | None, typer.Option(metavar="METHOD", help="dm, dsa or mtt; otherwise dm, the fastest.")] = None,
    images_per_class: Annotated[int | None, typer.Option(metavar="N", help="Images to make of each class.")] = None,
    name: Name = None,
    out: Out = None,
) -> None:
    """Condense labelled images into a few of each class.

    Says first how long it will take and how much memory. A command that was stopped goes on where it was when it is given
    again. An experiment takes the result as collected images: collected.dataset: {kind: condensed, name: NAME}.
    """
    from raydfkd.api import condense

    given = list(overrides or [])
    given += [] if method is None else [f"method.kind={method}"]
    given += [] if images_per_class is None else [f"images_per_class={images_per_class}"]
    try:
        done = condense(data, overrides=given, name=name, out=out, tell=Lines(), announce=_announce)
    except KeyboardInterrupt as error:
        raise interrupted(error, "the same command goes on from the last saved state") from None
    about = done.found.about
    rows = [("images", len(done.found)), ("seconds", about["seconds"]), ("image steps per second", about["image_steps_per_s"])]
    rows.append(("peak memory", _amount(about["peak_bytes"])))
    rows += [(figure, f"{about[figure]:.4g}") for figure in ("loss", "expert accuracy", "student lr") if figure in about]
    typer.echo(render(("figure", "value"), rows))
    typer.echo(f"condensed set: {done.path}")
    typer.echo(f"its images: {done.sheet}")
    typer.echo(f"what it is worth: raydfkd condense evaluate {done.path} --dataset NAME/test")


@app.command()
def evaluate(
    found: Annotated[str, typer.Argument(metavar="SET", help="A condensed set's name or file.")],
    dataset: Annotated[str, typer.Option(metavar="DATA", help="Labelled test images, such as cifar10/test.")],
    real: Annotated[
        str | None, typer.Option(metavar="DATA", help="Also measure as many random images of these, such as cifar10/train.")
    ] = None,
    network: Annotated[str | None, typer.Option(metavar="NAME", help="Otherwise the one it was made with.")] = None,
    networks: Annotated[int, typer.Option(min=1, help="Networks to train, each from its own initial weights.")] = 5,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of each training.")] = 1000,
    no_augmentation: Annotated[bool, typer.Option("--no-augmentation", help="Train without augmentation.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file to write the accuracies to.")] = None,
) -> None:
    """Measure a condensed set: the accuracy of fresh networks that are trained on it alone, as its literature does.

    The last network counts, and not the best one on the test images.
    """
    from raydfkd.data.condensation.condensed_set import load_condensed
    from raydfkd.pipeline.condensation.evaluation import Recipe, random_real

    condensed = load_condensed(_file_of(found))
    settings = condensed.about.get("settings", {})
    operations = () if no_augmentation else tuple(settings.get("method", {}).get("augmentation", Recipe("").operations))
    recipe = Recipe(network or condensed.about.get("network", "conv_net_3"), networks, epochs, operations, seed)
    sets = {"condensed": condensed}
    if real is not None:
        sets["random real"] = random_real(_labelled(real, condensed), len(condensed) // len(condensed.classes), seed)
    measured = _measured(sets, condensed, dataset, recipe)
    typer.echo(
        render(("trained on", "images", "accuracy", "spread", "networks"), [_row(n, sets[n], a) for n, a in measured.items()])
    )
    if out is not None:
        _write(out, found, dataset, recipe, measured)
        typer.echo(f"accuracies: {out}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Torch file of another program's condensed images.")],
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Torch file of their labels, if it is another.")] = None,
    number: Annotated[int, typer.Option(min=0, help="Which of the sets in a file of several, from 0.")] = 0,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Named data set they stand for, whose normalisation they have, such as cifar10."),
    ] = None,
    mean: Annotated[str | None, typer.Option(metavar="M,M,M", help="Otherwise the mean they are normalised by.")] = None,
    std: Annotated[str | None, typer.Option(metavar="S,S,S", help="And the standard deviation.")] = None,
    name: Name = None,
    out: Out = None,
) -> None:
    """Import a condensed set that another program made, as torch tensors of normalised images.

    The normalisation must be stated, because nothing in such a file says it.
    """
    from raydfkd.data.catalogue import named_dataset
    from raydfkd.data.checksums import record_checksum
    from raydfkd.data.condensation.condensed_set import save_condensed
    from raydfkd.data.condensation.importing import import_torch_set
    from raydfkd.data.kinds.condensed import condensed_place
    from raydfkd.errors import RunDirError

    if dataset is None and (mean is None or std is None):
        raise ConfigError(
            f"the normalisation of {file} is not stated: give --mean and --std, or --dataset NAME for that of a named data set"
        )
    entry = None if dataset is None else named_dataset(dataset)
    means = _numbers("--mean", mean) if entry is None or mean is not None else entry.mean
    stds = _numbers("--std", std) if entry is None or std is not None else entry.std
    path = condensed_place(name, out)
    if path.exists():
        raise RunDirError(f"{path} is there already: choose another --name or --out")
    found = import_torch_set(file, labels, number, means, stds, (entry.classes or None) if entry is not None else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_condensed(found, path)
    record_checksum(path, len(found))
    typer.echo(f"condensed set of {len(found)} images and {len(found.classes)} classes: {path}")


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in (text or "").split(","))
    except ValueError:
        raise ConfigError(f"{option} {text!r} is not a list of numbers: give one for each channel, as in 0.5,0.5,0.5") from None


def _file_of(found: str) -> Path:
    from raydfkd.data.kinds.condensed import condensed_path

    path = Path(found)
    return path if path.suffix == ".parquet" or path.exists() else condensed_path(found)


def _labelled(data: str, like: CondensedSet) -> Any:
    from raydfkd.data.datasets import load_dataset
    from raydfkd.pipeline.dataset.inspection import dataset_of

    shape: Any = like.images.shape[1:]
    return load_dataset(dataset_of(Path(data)), shape, len(like.classes), like.classes)


def _measured(sets: dict[str, CondensedSet], condensed: CondensedSet, dataset: str, recipe: Any) -> dict[str, list[float]]:
    from raydfkd.pipeline.condensation.evaluation import accuracies
    from raydfkd.pipeline.experiment.builder import device_of

    device = device_of("auto")
    test = _labelled(dataset, condensed)
    mean, std = (tuple(condensed.about[name]) for name in ("mean", "std"))
    measured = {}
    for name, one in sets.items():
        measured[name] = accuracies(one, test, mean, std, recipe, device, Lines())
    return measured


def _row(name: str, found: CondensedSet, measured: list[float]) -> tuple[str, int, str, str, int]:
    import statistics

    spread = f"{statistics.stdev(measured):.1%}" if len(measured) > 1 else "-"
    return name, len(found), f"{statistics.mean(measured):.1%}", spread, len(measured)


def _write(out: Path, found: str, dataset: str, recipe: Any, measured: dict[str, list[float]]) -> None:
    import json
    from dataclasses import asdict

    from raydfkd.pipeline.run.recorder import describe_environment
    from raydfkd.run_dir import write_atomically

    content = {"set": found, "dataset": dataset, "recipe": asdict(recipe), "accuracies": measured, **describe_environment()}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(content, indent=1) + "\n")


def _amount(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _announce(estimate: Estimate) -> None:
    from raydfkd.report.result_rows import format_duration

    spent = format_duration(3600 * estimate.hours)
    typer.echo(f"about {spent} and {_amount(estimate.peak_bytes)} of memory for each worker, judged by its first tasks")

"""The model card of a student: where it comes from, how good it is and what it took, for who gets its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.run_dir import RunDir, write_atomically
from raydfkd.tasks import TASKS

LICENSE_REMARK = (
    "# license: yours to choose. A student may be bound by its teacher's licence and by the terms of the data read; raydfkd "
    "knows neither."
)
USE = {
    "transformers": """\
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{path}")
model = AutoModelForImageClassification.from_pretrained("{path}").eval()
logits = model(**processor(image, return_tensors="pt")).logits""",
    "timm": """\
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(image).unsqueeze(0))""",
    "pt2": """\
import torch

program = torch.export.load("{path}").module()
logits = program(images)  # float32 [B,C,H,W] in [0,1]; it normalises them itself""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("{path}")
logits = session.run(["logits"], {"images": images})[0]  # float32 [B,C,H,W] in [0,1]; it normalises them itself""",
    "safetensors": """\
import torch
from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import load_weights

model = build_classifier({model!r}, {classes}, {shape}).eval()
load_weights(model, "{path}")
logits = model((images - torch.tensor([{mean}]).view(-1, 1, 1)) / torch.tensor([{std}]).view(-1, 1, 1))  # images in [0,1]""",
}
"""How a student is used, by export format."""


def card_path(exported: Path, format: str) -> Path:
    """README.md in an exported folder; beside a file its name with ``.md``."""
    return exported / "README.md" if format in ("transformers", "timm") else exported.with_suffix(".md")


def write_card(
    run: RunDir, exported: Path, format: str, header: dict[str, str], *, student: str | None = None, ema: bool = False
) -> Path:
    """Writes the card of an exported student beside it.

    Args:
        run: the finished run.
        exported: the file or folder.
        header: the metadata of the student's weights.
        student: its name, None: the first one's.
        ema: its moving average was exported.

    Raises:
        RunDirError: the run has no result.
    """
    path = card_path(exported, format)
    text = (
        "\n".join(_card(run.result(), run.manifest(), load_experiment(run.config_path), exported, format, header, student, ema))
        + "\n"
    )
    write_atomically(path, text)
    return path


def _card(
    result: dict[str, Any],
    manifest: dict[str, Any],
    config: ExperimentConfig,
    exported: Path,
    format: str,
    header: dict[str, str],
    student: str | None,
    ema: bool,
) -> Iterator[str]:
    students = result["students"]
    own = students[next(iter(students)) if student is None else student]
    teacher = result["teacher"]
    library = {"transformers": "library_name: transformers", "timm": "library_name: timm"}.get(format)
    task = TASKS.get(config.task.kind)
    yield from ("---", LICENSE_REMARK, *([] if library is None else [library]), f"pipeline_tag: {task.tag}")
    yield from ("tags:", f"- {task.tag}", "- knowledge-distillation", "- raydfkd", "---", "")
    version = manifest.get("packages", {}).get("raydfkd", "unknown")
    yield from (f"# {exported.name.removesuffix(exported.suffix)}", "")
    yield (
        f"{task.network} ({_plain_name(own['model'])}, {own['params']:,} parameters), distilled from a teacher "
        f"({_plain_name(teacher['model'])}, {teacher['params']:,} parameters) by raydfkd."
    )
    yield from ("", "## Results", "", *_results(result, own, config, ema), "")
    yield from ("## Input and classes", "")
    shape, mean, std = (json.loads(header[key]) for key in ("image_shape", "mean", "std"))
    yield from _table(
        [
            ("images", f"{shape[0]} x {shape[1]} x {shape[2]} (channels, height, width), pixels in [0,1]"),
            ("normalised by", f"mean {_numbers(mean)}, standard deviation {_numbers(std)}"),
            ("classes", ", ".join(json.loads(header["classes"])) if "classes" in header else header["num_classes"]),
        ]
    )
    yield from ("", "## Data read", "", *_data(manifest.get("data_splits_read", [])), "", "## How it was made", "")
    yield from _table(_making(result, own, teacher, version))
    about = {"path": exported.name, "model": header["model"], "classes": header["num_classes"], "shape": tuple(shape)}
    use = USE[format].format(**about, mean=_numbers(mean), std=_numbers(std))
    yield from ("", "## Use", "", "```python", use, "```", "", "## Licence", "")
    yield "Not chosen yet: see the remark at the top of this file."


def _results(result: dict[str, Any], own: dict[str, Any], config: ExperimentConfig, ema: bool) -> list[str]:
    metric = own["metric_ema" if ema else "metric_last"]
    part = None if config.evaluation is None else config.evaluation.dataset.max_images
    images = "" if part is None else f"{part:,} images of "
    label = result.get("metric_label", "accuracy")
    if metric is None and own["agreement"] is None:
        return ["Not measured: the run had no evaluation data."]
    read = [one for one in result.get("data", []) if one["purpose"].startswith("evaluation")]
    place = _data_set(read[0]) if read else "the evaluation data"
    rows = [(f"{label} of the teacher", result["teacher"]["metric"]), (f"{label} of the student", metric)]
    if not ema:  # it is the last weights'
        rows.append(("agreement with the teacher", own["agreement"]))
    return _table([(name, f"{value:.2%}") for name, value in rows if value is not None], (f"on {images}{place}", ""))


def _data(read: list[dict[str, Any]]) -> list[str]:
    if not read:
        return ["None: neither the teacher's training data nor any other images were read."]
    return [f"- for {one['purpose']}: {_data_set(one)}" for one in read]


def _data_set(read: dict[str, Any]) -> str:
    name = _plain_name(read["dataset"])
    return name if name.endswith(f"/{read['split']}") else f"{name} ({read['split']})"


def _making(result: dict[str, Any], own: dict[str, Any], teacher: dict[str, Any], version: str) -> list[tuple[str, str]]:
    hardware = result.get("hardware") or {}
    file = (result.get("teacher_file") or {}).get("name")
    machine = ", ".join(str(hardware[key]) for key in ("processor", "machine") if hardware.get(key))
    return [
        ("method", f"{result['method']}, objective {own['objective']}"),
        ("teacher", f"{_plain_name(teacher['model'])}{'' if file is None else f', {file}'}, sha256 {teacher['sha256']}"),
        ("images made", f"{result['images_synthesized']:,} in {result['synthesis_s']:,.0f} s"),
        (
            "distillation",
            f"{own['student_steps']:,} steps, {own['images_distilled']:,} images in {result['distillation_s']:,.0f} s",
        ),
        ("end to end", f"{result['end_to_end_s']:,.0f} s"),
        ("hardware", f"{result['device']}; {hardware.get('cpus', '?')} CPUs, {machine}"),
        ("raydfkd", f"version {version}, commit {result.get('commit') or 'unknown'}, seed {result['seed']}"),
    ]


def _plain_name(name: str) -> str:
    """Without the folders of the machine that it was made on."""
    prefix, colon, rest = name.rpartition(":")
    return f"{prefix}{colon}{Path(rest).name}" if Path(rest).is_absolute() else name


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _table(rows: Sequence[tuple[str, str]], head: tuple[str, str] = ("", "")) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]

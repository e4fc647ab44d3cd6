"""Twelve teachers of digits, each distilled as ``raydfkd init`` proposes: how well does the worst student do?

    python experiments/results/no_catastrophe/run.py FOLDER
    python experiments/results/no_catastrophe/run.py FOLDER --teachers residual_group vit_layer --methods

Trains the teachers that FOLDER lacks, makes the runs that it lacks, and prints a row each. ``--methods`` tries every method
that suits a teacher, not the best alone, and the plain shaders beside them. Writes runs.json beside this file with all that
FOLDER holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import raydfkd
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.models.teachers.teacher_audit import audit_teacher
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.proposal.findings import Findings, Told, identify
from raydfkd.pipeline.proposal.machine import Machine
from raydfkd.pipeline.proposal.propose import Proposal, Wishes, propose
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.pipeline.teacher.training import train_teacher
from raydfkd.run_dir import RunDir
from raydfkd.synthesis.method import TeacherTraits
from raydfkd.synthesis.methods import suggestions

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

TEACHERS = (
    *("plain_batch", "plain_group", "plain_none", "residual_batch", "residual_group", "residual_none"),
    *("mobile_batch", "mobile_group", "mobile_smoothed", "vit_batch", "vit_layer", "vit_smoothed"),
)
"""The network's design, then its normalisation, or how it is trained: smoothed, with smoothed labels and RandAugment."""
RECIPE: dict[str, Any] = {
    "num_classes": 10,
    "image_shape": [1, 8, 8],
    "dataset": {"kind": "digits", "split": "train"},
    "evaluation": {"kind": "digits", "split": "test"},
    "batch_size": 64,
    "epochs": 30,
    "crop_padding": 1,
    "flip": False,
    "bf16": False,
    "num_threads": 1,
}
OPTIMIZER = {"lr": 0.1, "schedule": "one_cycle", "warmup_steps": 100, "max_grad_norm": 1.0, "weight_decay": 5e-4}
SMALLER_RATES = {"vit": 0.05}
"""By design, where 0.1 is too much."""
MACHINE = Machine(cores=2, gpus=0, memory_bytes=8 * 2**30)
TEST = DigitsConfig(split="test")
SHADERS = "shaders"


def teacher_of(name: str, folder: Path) -> Path:
    """The file of a trained teacher."""
    path = folder / "teachers" / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lr = SMALLER_RATES.get(name.partition("_")[0], OPTIMIZER["lr"])
        recipe = {**RECIPE, "model": f"networks:{name}", "optimizer": {**OPTIMIZER, "lr": lr}}
        if name.endswith("smoothed"):
            recipe |= {"label_smoothing": 0.1, "augmentation": {"level": "standard"}, "epochs": 40}
        train_teacher(TeacherTrainingConfig.model_validate(recipe), path)
    return path


def found(name: str, folder: Path) -> Findings:
    def refuse(missing: list[str]) -> dict[str, Any]:
        raise SystemExit(f"{name}: {missing} are not in its file")

    return identify(str(teacher_of(name, folder)), None, Told(), TEST, refuse)


def methods_for(proposal: Proposal) -> list[str]:
    audit = audit_teacher(builder.build_frozen_teacher(proposal.config))
    return list(suggestions(TeacherTraits.of(proposal.config.task.image_shape, audit)))


def settings_of(proposal: Proposal, method: str, seed: int) -> dict[str, Any]:
    """The proposed experiment; plain shaders have no attack."""
    tree = proposal.tree
    if method == SHADERS:
        tree["sources"]["images"].pop("boundary_attack", None)
    return {**tree, "runtime": {**tree["runtime"], "seed": seed, "bf16": False}}


def run(name: str, method: str | None, folder: Path, minutes: float, seed: int) -> None:
    """One distillation, unless its run directory is there; None: by the method that is proposed."""
    out = folder / "runs" / f"{name}-{method or 'proposed'}-{seed}"
    if (out / "result.json").exists():
        return
    wished = "procedural" if method == SHADERS else method
    proposal = propose(found(name, folder), Wishes(minutes=minutes, evaluation=TEST, method=wished), MACHINE)
    raydfkd.distill(build_experiment(settings_of(proposal, method or "", seed)), out=out)


def collect(folder: Path) -> list[dict[str, Any]]:
    """A row for each finished run."""
    rows = []
    for out in sorted((folder / "runs").glob("*")):
        if not (out / "result.json").exists():
            continue
        name, way, seed = out.name.rsplit("-", 2)
        result = RunDir.open(out).result()
        rows.append(
            {
                "teacher": name,
                "way": way,
                "method": result["method"],
                "seed": int(seed),
                "student": result["student"]["model"],
                "params": [result["teacher"]["params"], result["student"]["params"]],
                "teacher_accuracy": result["teacher"]["metric"],
                **{key: result["student"][key] for key in ("metric_last", "metric_ema", "agreement")},
                "student_steps": result["student_steps"],
                "seconds": result["end_to_end_s"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--teachers", nargs="+", default=TEACHERS, choices=TEACHERS)
    parser.add_argument("--methods", action="store_true")
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.teachers:
        ways: list[str | None] = [None]
        if given.methods:
            proposal = propose(found(name, given.folder), Wishes(minutes=given.minutes), MACHINE)
            ways = [*methods_for(proposal), SHADERS]
        for way in ways:
            run(name, way, given.folder, given.minutes, given.seed)
    rows = collect(given.folder)
    (HERE / "runs.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        percent = " | ".join(f"{100 * row[key]:.1f}" for key in ("teacher_accuracy", "metric_last", "metric_ema", "agreement"))
        print(
            f"| {row['teacher']} | {row['way']} | {row['method']} | {percent} | {row['student_steps']} | {row['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()

"""No dead knobs: every field of the experiment changes the resolved experiment, and is read somewhere that acts on it."""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

import raydfkd
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.distillation.config import PrunedConfig
from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.experiment.config_errors import bare, model_choices
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, dump_yaml
from raydfkd.replay.config import SelectorConfig
from raydfkd.synthesis.method import AutoscaleConfig

PACKAGE = Path(raydfkd.__file__).parent
CONFIG_FILES = [
    "config.py",
    "pace.py",
    "teacher_config.py",
    "yaml_config.py",
    "config_errors.py",
    "config_reference.py",
    "sweep_config.py",
]

TREE: dict[str, Any] = {
    "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
    "teacher": {"model": "small_cnn_8", "normalization": {"mean": [0.5], "std": [0.5]}},
    "sources": {"a": {"method": "ssdkd", "batch_size": 16}},
    "replay": {
        "synthetic": {"capacity": 640, "sampler": {"kind": "prioritized"}, "remover": {"kind": "fifo"}},
        "pinned": {"capacity": 8, "sampler": {"kind": "uniform"}, "remover": {"kind": "fifo"}},
    },
    "students": {"s": {"model": "small_cnn_4", "batch_size": 8}},
    "collected": {"dataset": {"kind": "digits"}, "num_images": 8},
    "evaluation": {"dataset": {"kind": "digits"}},
    "held_out": {"path": "held_out.parquet"},
    "runtime": {"runner": "ray"},
    "reproduces": {"paper": "a", "table": "b", "row": "c"},
}

NEEDS: dict[str, list[str]] = {
    "sources.a.method": ["sources.a={method: fast, batch_size: 16}"],
    **{
        f"students.s.pruned.{name}": ["students.s.model=null", "students.s.pruned={ratio: 0.5}"]
        for name in PrunedConfig.model_fields
    },
    "students.s.optimizer.schedule": ["students.s.optimizer.warmup_steps=2"],
    "schedule.samples_per_insert": ["schedule.mode=decoupled", "schedule.error_buffer=500"],
    "schedule.error_buffer": ["schedule.mode=decoupled", "schedule.samples_per_insert=2"],
    "schedule.prefetch": ["schedule.mode=decoupled"],
    "schedule.batches_per_request": ["schedule.mode=decoupled"],
    "schedule.max_staleness_rounds": ["schedule.mode=decoupled"],
    "replay.synthetic.remover.kind": ["replay.synthetic.capacity_bytes=1000000"],
    "replay.pinned.remover.kind": ["replay.pinned.capacity_bytes=1000000"],
    "replay.synthetic.max_draws": ["replay.synthetic.sampler={kind: uniform}", "schedule.student_steps_per_round=2"],
    "evaluation.dataset.kind": ["evaluation.dataset={kind: parquet, path: x.parquet}"],
    "collected.dataset.kind": ["collected.dataset={kind: parquet, path: x.parquet}"],
    "students.s.optimizer.milestones": ["students.s.optimizer.schedule=multi_step"],
    "students.s.augmentation.randaugment_magnitude": ["students.s.augmentation.level=standard"],
    "students.s.augmentation.elastic_alpha": ["students.s.augmentation.level=high"],
    "students.s.augmentation.elastic_sigma": ["students.s.augmentation.level=high"],
    **{
        f"students.s.{name}": [
            "schedule.mode=decoupled",
            "students.s.num_workers=4",
            "students.s.min_workers=2",
            "students.s.batch_size=24",
            "students.s.resources.custom={student_node: 1}",
        ]
        for name in ("min_workers", "resize_period_s")
    },
    "students.s.sync_batch_norm": ["students.s.num_workers=2", "students.s.resources.num_gpus=1"],
    "students.s.objective.teacher_output": ["students.s.objective.temperature=1"],
    "students.s.objective.label_smoothing": ["students.s.objective={temperature: 1, teacher_output: smoothed}"],
    **{
        f"sources.a.autoscale.{name}": [
            "schedule.mode=decoupled",
            "sources.a.num_generators=2",
            "sources.a.autoscale={max: 4}",
        ]
        for name in AutoscaleConfig.model_fields
    },
}
"""What else must be set for a field's other value to be allowed."""

VALUES: dict[str, Any] = {
    "sources.a.resources.num_gpus": 1,
    "students.s.resources.num_gpus": 1,
    "task.image_shape": [3, 16, 8],
    "sources.a.method": "fast",
    "evaluation.dataset.kind": "parquet",
    "collected.dataset.kind": "parquet",
    "collected.imbalance": 4.0,
    "teacher.feature_layers": ["stem", "last"],
    "students.s.feature_layers": ["stem", "last"],
    "students.s.optimizer.milestones": [0.5],
    "students.s.pruned.ratio": 0.25,
    "students.s.pruned.layers": ["features.0"],
    "replay.synthetic.remover.kind": "lowest_priority",
    "replay.pinned.remover.kind": "lowest_priority",
    "schedule.error_buffer": 500,
    "students.s.batch_size": 16,
    "students.s.flip": False,
    "students.s.augmentation.crop_last": True,
    "sources.a.boundary_attack.step_growth": 1.5,
    "sources.a.feature_alignment.augmentation": ["cutout"],
    "sources.a.feature_alignment.discriminator_betas": [0.0, 0.9],
    "sources.a.resources.custom": {"gen_node": 1.0},
    "sources.a.autoscale.max": 8,
    "teacher.normalization.mean": [0.25],
    "teacher.normalization.std": [0.25],
    "students.s.resources.custom": {"student_node": 1.0},
    "runtime.placement": {"replay": {"buffer_node": 1.0}},
    "replay.pinned_fraction": 0.5,
}
"""Other values where a type does not tell one."""

REFUSED = {
    "sources.a.student": "is not a student of this run",
    "replay.pinned.remover.kind": "the pinned table never evicts",
    "replay.pinned.max_item_age_batches": "the pinned table never evicts",
    "replay.pinned.max_draws": "the pinned table never evicts",
    **{
        f"{selector}.{name}": "does not use"
        for selector in ("replay.synthetic.remover", "replay.pinned.remover", "replay.pinned.sampler")
        for name in SelectorConfig.model_fields
        if name != "kind"
    },
}
"""Fields that would do nothing where they stand, and what their refusal says."""


def leaves(model: type[BaseModel], value: Any, path: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """(dotted path, owner, field) of every field below ``model`` that is no model; ``value`` holds map keys and kinds."""
    for name, info in model.model_fields.items():
        here, held = f"{path}{name}", value.get(name) if isinstance(value, dict) else None
        choices = model_choices(info.annotation)
        if choices:
            yield from leaves(_chosen(choices, held), held, f"{here}.")
        elif model_choices(get_args(info.annotation)[-1] if get_args(info.annotation) else None):
            members = model_choices(get_args(info.annotation)[-1])
            for key, member in (held or {}).items():
                yield from leaves(_chosen(members, member), member, f"{here}.{key}.")
        else:
            yield here, model, name


def _chosen(choices: list[type[BaseModel]], held: Any) -> type[BaseModel]:
    for model in choices:
        tag = "method" if "method" in model.model_fields else "kind"
        if isinstance(held, dict) and tag in held and held[tag] in get_args(model.model_fields[tag].annotation):
            return model
    return choices[0]


def has_a_choice(owner: type[BaseModel], name: str) -> bool:
    """Not the name of the only kind there is."""
    annotation = owner.model_fields[name].annotation
    return get_origin(annotation) is not Literal or len(get_args(annotation)) > 1 or name == "method" or owner is DigitsConfig


ALL = [leaf for leaf in leaves(ExperimentConfig, TREE) if has_a_choice(*leaf[1:])]


def other_value(path: str, owner: type[BaseModel], name: str) -> Any:
    """A value that is not the one in force, by the field's type."""
    if path in VALUES:
        return VALUES[path]
    info = owner.model_fields[name]
    now = at(TREE, path)
    now = info.get_default(call_default_factory=True) if now is None else now
    kind = bare(info.annotation)
    if isinstance(now, bool):
        return not now
    if kind in (int, float):
        return (1 if kind is int else 0.5) if not now else now * 2 if kind is int else now / 2
    if kind in (str, Path):
        return "elsewhere"
    literals = [choice for choice in get_args(kind) if choice != now]
    if literals and all(isinstance(choice, str) for choice in literals):
        return literals[0]
    raise AssertionError(f"give VALUES another value of {path}, which is {kind}")


def at(tree: Any, path: str) -> Any:
    return functools.reduce(lambda node, key: node.get(key) if isinstance(node, dict) else None, path.split("."), tree)


def with_another_value(path: str, owner: type[BaseModel], name: str) -> ExperimentConfig:
    tree = apply_overrides(TREE, NEEDS.get(path, []))
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = other_value(path, owner, name)
    return build_experiment(tree)


@pytest.mark.parametrize(("path", "owner", "name"), ALL, ids=[path for path, _, _ in ALL])
def test_every_field_changes_the_resolved_experiment_or_is_refused(path: str, owner: type[BaseModel], name: str) -> None:
    if path in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[path]):
            with_another_value(path, owner, name)
        return
    plain, changed = build_experiment(copy.deepcopy(TREE)), with_another_value(path, owner, name)
    assert at(yaml.safe_load(dump_yaml(changed)), path) != at(yaml.safe_load(dump_yaml(plain)), path)


def read_names() -> set[str]:
    """Attributes read, and names given to getattr, in code that acts: not in settings' files except their own methods."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes: list[ast.AST] = [tree] if path.name not in CONFIG_FILES else list(_methods(tree))
        for node in (inner for outer in nodes for inner in ast.walk(outer)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def _methods(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Methods and properties of settings that others call; a validator that reads a field does nothing with it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not any("validator" in ast.unparse(d) for d in node.decorator_list):
            yield node


def test_every_field_is_read_by_code_that_acts_on_it() -> None:
    fields = {name for _, _, name in ALL}
    for extra in (
        {"sources": {"a": {"method": "fast"}}},
        *({"evaluation": {"dataset": {"kind": kind}}} for kind in ("parquet", "image_folder", "torchvision")),
    ):
        fields |= {name for _, _, name in leaves(ExperimentConfig, {**TREE, **extra})}
    assert len(fields) > 60
    assert fields - read_names() == set(), "no code reads these settings"


def test_the_search_for_readers_can_fail() -> None:
    assert "priority_exponent" in read_names()
    assert "samples_per_insertion" not in read_names()

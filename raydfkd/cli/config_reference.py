"""The reference of every setting, generated from the config classes and the doc-strings under their fields."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raydfkd.pipeline.experiment.config_errors import bare, model_choices

_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"), ("multiple_of", "a multiple of"))


def reference_text() -> str:
    """Markdown: one section per file kind and top-level key, one line per setting."""
    from raydfkd.pipeline.condensation.config import CondenseConfig
    from raydfkd.pipeline.dataset.config import DatasetBuildConfig
    from raydfkd.pipeline.experiment.config import ExperimentConfig
    from raydfkd.pipeline.sweep.config import SweepConfig
    from raydfkd.pipeline.teacher.config import TeacherTrainingConfig

    lines = [
        "# Settings",
        "",
        "Written by `raydfkd config reference`; a test fails when it is out of date. Any setting can be replaced on the",
        "command line as `KEY=VALUE`. `<name>` stands for a name of your choice, `[kind=x]` for settings of that kind only.",
        "",
        "An experiment file may contain only its differences from another file, named by `base: other.yaml` (relative to its",
        "own folder; that file may have a base too). Mappings are merged, everything else is replaced, and so is a mapping",
        "with a different `kind`. `raydfkd config check FILE` prints the merged settings.",
        "",
        "A data set may be written `NAME/SPLIT`, such as `cifar10/test`, in place of settings of kind `named`.",
    ]
    for title, model in (
        ("An experiment (`raydfkd run`)", ExperimentConfig),
        ("A teacher's training (`raydfkd train-teacher`)", TeacherTrainingConfig),
        ("A sweep (`raydfkd sweep`)", SweepConfig),
        ("A data set's build (`raydfkd dataset build`)", DatasetBuildConfig),
        ("A condensed set (`raydfkd condense`)", CondenseConfig),
    ):
        lines += ["", f"## {title}", "", *_lines(model)]
    return "\n".join(lines) + "\n"


def _lines(model: type[BaseModel]) -> Iterator[str]:
    for path, owner, name, info in settings_of(model):
        described = f"- `{path}` ({_type(info)}{_bounds(info)}; {_default(info)})"
        text = field_docs(owner).get(name)
        yield f"{described}: {text}" if text else described


def settings_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel], str, FieldInfo]]:
    """(path, class, field name, field) of every setting under ``model``, in the order of definition."""
    for name, info in model.model_fields.items():
        here = f"{path}.{name}" if path else name
        yield here, model, name, info
        yield from _below(info.annotation, here)


def _below(annotation: Any, path: str) -> Iterator[tuple[str, type[BaseModel], str, FieldInfo]]:
    models = list(dict.fromkeys(model_choices(annotation)))
    tag = _discriminator(models)
    seen: set[str] = set()
    for model in models:
        for row in settings_of(model):
            below, _, _, _ = row
            place = f"{path}.{below}"
            if tag is not None and not _shared(models, below):
                place = f"{path}[{tag}={'|'.join(_kinds(model, tag))}].{below}"
            if place in seen:
                continue
            seen.add(place)
            if below == tag:
                yield place, model, tag, _tag_field(models, tag)
            else:
                yield (place, *row[1:])
    if models:
        return
    inner = bare(annotation)
    origin, arguments = get_origin(inner), get_args(inner)
    if origin is dict:
        yield from _below(arguments[1], f"{path}.<name>")
    elif origin in (list, tuple):
        yield from _below(arguments[0], f"{path}.<index>")
    elif origin is Union:
        for member in arguments:
            yield from _below(member, path)


def _tag_field(models: list[type[BaseModel]], tag: str) -> FieldInfo:
    """The discriminator as a user meets it: one of all kinds, to be given."""
    kinds: Any = Literal[tuple(kind for model in models for kind in _kinds(model, tag))]
    return FieldInfo.from_annotation(kinds)


def _kinds(model: type[BaseModel], tag: str) -> tuple[str, ...]:
    """The discriminator's values that choose ``model``."""
    return get_args(model.model_fields[tag].annotation)


def _shared(models: list[type[BaseModel]], below: str) -> bool:
    """Whether all the union's models have the setting ``below`` and mean the same by it (the discriminator included)."""
    name = below.split(".")[0].split("[")[0]
    if not all(name in model.model_fields for model in models):
        return False
    if name == _discriminator(models):
        return True
    first = models[0].model_fields[name]
    return all(
        (m.model_fields[name].annotation, _default(m.model_fields[name])) == (first.annotation, _default(first))
        and field_docs(m).get(name) == field_docs(models[0]).get(name)
        for m in models
    )


def _discriminator(models: list[type[BaseModel]]) -> str | None:
    if len(models) < 2:
        return None
    common = set.intersection(*({n for n, i in m.model_fields.items() if get_origin(i.annotation) is Literal} for m in models))
    return next((name for name in ("kind", "method", *sorted(common)) if name in common), None)


@cache
def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The doc-string under each field of the class and its bases, as one line; the description where there is none."""
    found = {name: info.description for name, info in model.model_fields.items() if info.description}
    for cls in reversed(model.__mro__):
        if isinstance(cls, type) and issubclass(cls, BaseModel) and cls is not BaseModel:
            found.update(_docs_in(cls))
    return found


def _docs_in(cls: type[BaseModel]) -> dict[str, str]:
    node = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(node, ast.ClassDef), "the source of a class is a class"
    docs = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr)):
            continue
        if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            docs[field.target.id] = " ".join(after.value.value.replace("``", "`").split())
    return docs


def _type(info: FieldInfo) -> str:
    return _type_name(info.annotation)


def _type_name(annotation: Any) -> str:
    inner = bare(annotation)
    optional = inner is not annotation and type(None) in get_args(annotation)
    models = list(dict.fromkeys(model_choices(inner)))
    origin, arguments = get_origin(inner), get_args(inner)
    if models and len(models) == len(model_choices(inner)) and (origin in (None, Union)) and not _others(inner):
        tag = _discriminator(models)
        text = (
            "settings"
            if tag is None
            else f"settings, by {tag}: " + " or ".join(kind for m in models for kind in _kinds(m, tag))
        )
    elif origin is Annotated:
        text = _type_name(arguments[0])
    elif origin is Literal:
        text = " or ".join(str(choice) for choice in arguments)
    elif origin in (Union, types.UnionType):
        text = " or ".join(_type_name(member) for member in arguments)
    elif origin is dict:
        text = f"map of {_type_name(arguments[1])}"
    elif origin is tuple and arguments[-1] is not ...:
        text = f"list of {len(arguments)}: {_type_name(arguments[0])}"
    elif origin in (list, tuple):
        text = f"list of {_type_name(arguments[0])}"
    elif isinstance(inner, type) and issubclass(inner, Enum):
        text = " or ".join(str(member.value) for member in inner)
    else:
        text = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}.get(
            getattr(inner, "__name__", ""), getattr(inner, "__name__", str(inner))
        )
    return f"{text} or null" if optional else text


def _others(union: Any) -> bool:
    return get_origin(union) is Union and any(not model_choices(member) for member in get_args(union))


def _bounds(info: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(m, name):g}" for m in info.metadata for name, words in _BOUNDS if getattr(m, name, None) is not None
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return f"default {_changed(value) or 'as below'}"
    if value is None:
        return "default null"
    if isinstance(value, bool):
        return f"default {str(value).lower()}"
    if isinstance(value, (list, tuple)):
        return f"default [{', '.join(map(str, value))}]"
    if value == {}:
        return "default {}"
    return f"default {value if isinstance(value, str) and value else repr(value)}"


def _changed(value: BaseModel) -> str:
    """What the default has of its own, differing from its class's defaults."""
    own = {name: getattr(value, name) for name, info in type(value).model_fields.items() if name in value.model_fields_set}
    return ", ".join(f"{n} {_plain(v)}" for n, v in own.items() if v != type(value).model_fields[n].get_default())


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Resolves relative paths in settings. Path settings are recognised by their type (``settings.InputFile``)."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from raydfkd.settings import InputFile


def anchor_paths(tree: dict[str, Any], model: type[BaseModel], folder: Path) -> dict[str, Any]:
    """A copy of unchecked settings of ``model`` whose input paths are absolute.

    A relative path is looked for in ``folder`` (that of the file containing it) first and in the working directory second;
    if neither has it, a later "does not exist" message names ``folder``. Values that are not paths are left for validation.
    """
    result: dict[str, Any] = _mapped(tree, model, lambda value: absolute(value, folder))
    return result


def input_paths(tree: dict[str, Any], model: type[BaseModel]) -> Iterator[tuple[str, str, list[str]]]:
    """(dotted key, what stands before the path, its one or more paths) of every input path in ``tree``, of ``model``."""
    found: list[tuple[str, str, list[str]]] = []

    def note(value: Any, dotted: str, prefix: str) -> Any:
        values = value if isinstance(value, list) else [value]
        if values and all(isinstance(one, str) for one in values):
            found.append((dotted, prefix, values))
        return value

    _walk(tree, model, note, "")
    yield from found


def absolute(value: Any, folder: Path) -> Any:
    """The path made absolute: in ``folder``, or in the working directory if only that has it. Other values are unchanged."""
    if isinstance(value, list):
        return [absolute(one, folder) for one in value]
    if not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    beside, here = folder / path, Path.cwd() / path
    chosen = here if here.exists() and not beside.exists() else beside
    # A link keeps its name: what it leads to may lack the suffix, or lie outside of what a job takes along.
    plain, real = Path(os.path.abspath(chosen)), chosen.resolve()
    return str(plain if plain.resolve() == real else real)


def _mapped(tree: Any, model: type[BaseModel], change: Any) -> Any:
    return _walk(tree, model, lambda value, dotted, prefix: change(value), "")


def _walk(node: Any, annotation: Any, visit: Any, dotted: str) -> Any:
    """A copy of ``node``, which ``annotation`` describes, with ``visit(path, dotted key, what stands before it)`` in place of
    each input path."""
    marker = _marker(annotation)
    if marker is not None and node is not None:
        if isinstance(node, list):
            return visit(node, dotted, "")
        if not marker.is_path(node):
            return node
        prefix = marker.prefix_of(node)
        return f"{prefix}{visit(str(node).removeprefix(prefix), dotted, prefix)}" if prefix else visit(node, dotted, "")
    members = list(_members(annotation))
    if isinstance(node, dict):
        result = {}
        for key, value in node.items():
            below = f"{dotted}.{key}" if dotted else str(key)
            result[key] = _walk(value, Union[tuple(_types_of(key, members))], visit, below)  # noqa: UP007 - built at run time
        return result
    if isinstance(node, list | tuple):
        inner = [get_args(member)[0] for member in members if get_origin(member) in (list, tuple)]
        return [_walk(value, inner[0] if inner else Any, visit, f"{dotted}.{n}") for n, value in enumerate(node)]
    return node


def _types_of(key: Any, members: list[Any]) -> list[Any]:
    """The allowed types of a key in any candidate model, since a layer need not say which kind it changes."""
    found: list[Any] = []
    for member in members:
        if get_origin(member) is dict:
            found.append(get_args(member)[1])
        elif isinstance(member, type) and issubclass(member, BaseModel) and key in member.model_fields:
            info = member.model_fields[key]
            found.append(Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation)
    return found or [Any]


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, through ``Annotated`` and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _marker(annotation: Any) -> InputFile | None:
    """The input-path marker anywhere in an annotation."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return next((mark for mark in metadata if isinstance(mark, InputFile)), None) or _marker(inner)
    if get_origin(annotation) in (Union, types.UnionType):
        return next((mark for member in get_args(annotation) if (mark := _marker(member)) is not None), None)
    return None

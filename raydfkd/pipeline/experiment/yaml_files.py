"""From a YAML file and ``a.b=c`` overrides to a checked model, and back. Imports neither torch nor ray.

Every user error on the way becomes a one-sentence ``ConfigError`` that names the file, the dotted path, the actual value and
what is allowed there.
"""

from __future__ import annotations

import contextlib
import copy
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from raydfkd.data.catalogue import CATALOGUE, split_short_form
from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config_errors import sentence

ModelT = TypeVar("ModelT", bound=BaseModel)

BASE = "base"
"""Key with which a file names the file it is based on."""


_NOT_TEXT = {
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:null": "null",
}
"""What a key is read as that was written without quotes."""


class _Strict:
    """Additions of both loaders below to PyYAML's: keys that are given twice, or are no text, are rejected, and numbers are
    those of YAML 1.2: ``1e-3`` is one, ``010`` is ten, and ``1:30`` and ``2024-05-01`` are texts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.tag in _NOT_TEXT:
                    problem = f"the key {key.value} is read as {_NOT_TEXT[key.tag]}: quote it ('{key.value}')"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                if key.value in first:
                    problem = f"key {key.value!r} is given twice, in lines {first[key.value]} and {line}: remove one"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                first[key.value] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return mapping


class _Loader(_Strict, yaml.SafeLoader):
    """PyYAML's own parser, whose messages name the unexpected character."""


class _FastLoader(_Strict, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's parser, several times faster, if PyYAML was built with it."""


for _loader in (_Loader, _FastLoader):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, resolvers in _loader.yaml_implicit_resolvers.items()
    }
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:int",
        re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
        list("-+0123456789"),
    )
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
            r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
        ),
        list("-+0123456789."),
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, without anything executable (``yaml.SafeLoader``). An empty file is an empty one.

    Raises:
        ConfigError: there is no such file, it is not YAML (with line and column), or it is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: give the path of a YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read ({reason}): give the path of a YAML file") from error
    tree = _parse(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {_kind(tree)}: it must hold 'key: value' lines")
    return tree


def read_layers(path: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file, preceded by its bases: each (path, content without ``base``), the lowest first.

    A file extends another with ``base: other.yaml``, relative to its own folder; that one may have a base in turn.

    Raises:
        ConfigError: as :func:`read_yaml`, or ``base`` is not a path, does not exist or is circular.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    file, seen = Path(path), [Path(path).resolve()]
    while True:
        tree = read_yaml(file)
        layers.insert(0, (file, tree))
        if BASE not in tree:
            return layers
        name = tree.pop(BASE)
        if isinstance(name, dict) and "tables" in tree:
            raise ConfigError(f"{file} is a paper: run its rows with raydfkd reproduce {file} TABLE ROW")
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{file}: base is {name!r}: it must be the path of the YAML file that this one extends")
        base = file.parent / Path(name).expanduser()
        if not base.is_file():
            raise ConfigError(
                f"{file}: its base {base} does not exist: correct the path, which is relative to the file's folder"
            )
        if base.resolve() in seen:
            circle = " -> ".join(one.name for one in [*seen, base])
            raise ConfigError(f"{file}: its base is circular ({circle}): remove base from one of these files")
        file = base
        seen.append(base.resolve())


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """``lower`` changed by ``upper``: mappings are merged key by key, everything else is replaced, lists whole.

    A mapping that names another ``kind`` than the one below it replaces it, because the other kind has other keys.
    A named data set's short form is merged as the mapping that it is short for.
    """
    result = dict(lower)
    for key, value in upper.items():
        below = _in_full(lower.get(key))
        if isinstance(below, dict) and isinstance(value, dict):
            kinds = {mapping["kind"] for mapping in (below, value) if isinstance(mapping.get("kind"), str)}
            value = value if len(kinds) > 1 else merge(below, value)
        result[key] = value
    return result


def apply_overrides(tree: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """A copy of ``tree`` with each ``a.b=c`` set in turn; the value is read as YAML, a number in the path indexes a list.

    Missing keys along the path are created; validating the model accepts or rejects them.

    Raises:
        ConfigError: an override has no ``=``, an empty key or value, or a path through something that is not a mapping.
    """
    result = copy.deepcopy(tree)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"override {override!r} is not of the form key.subkey=value")
        if not text.strip():
            raise ConfigError(f"override {override!r} has no value: write {dotted}=null for none or {dotted}='' for no text")
        _set(result, keys, _parse(text, f"override {override!r}"), override)
    return result


def set_dotted(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``tree`` with the plain ``value`` at the dotted ``key``, as :func:`apply_overrides` sets one.

    Raises:
        ConfigError: the key goes through something that is not a mapping.
    """
    result = copy.deepcopy(tree)
    _set(result, key.split("."), copy.deepcopy(value), f"{key}={value}")
    return result


def validate(model_cls: type[ModelT], tree: dict[str, Any], where: str | Path) -> ModelT:
    """The model that ``tree`` describes; ``where`` (a file, "override", ...) begins the error message.

    Raises:
        ConfigError: pydantic's errors, as one sentence with path, value, what is allowed and the nearest known keys.
    """
    try:
        return model_cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {sentence(model_cls, tree, error)}") from error


def dump_yaml(model: BaseModel) -> str:
    """YAML text that reads back to an equal model; all fields are written, in definition order."""
    plain = model.model_dump(mode="json")
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


def _parse(text: str, where: str) -> Any:
    with contextlib.suppress(yaml.YAMLError, ValueError):
        return yaml.load(text, Loader=_FastLoader)
    try:  # once more, for the message
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        advice = ": indent with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{where}{place}: {error.problem or 'not valid YAML'}{advice}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def _set(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    node: Any = tree
    for depth, key in enumerate(keys):
        here = ".".join(keys[:depth]) or "the top level"
        slot: Any = key
        if isinstance(node, list):
            slot = _index(node, key, here, override)
        elif not isinstance(node, dict):
            raise ConfigError(f"override {override!r} goes through {here}, which is {_kind(node)} and has no keys")
        if depth == len(keys) - 1:
            node[slot] = value
            return
        if isinstance(node, dict) and node.get(slot) is None:
            node[slot] = {}
        node[slot] = _in_full(node[slot])
        node = node[slot]


def _in_full(value: Any) -> Any:
    """The mapping that a named data set's ``NAME/SPLIT`` is short for, so that it can be changed; all else as it is."""
    is_short = isinstance(value, str) and value.count("/") == 1 and value.split("/")[0] in CATALOGUE
    return split_short_form(value) if is_short else value


def _index(node: list[Any], key: str, here: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        allowed = f"0 to {len(node) - 1}" if node else "nothing, it is empty"
        raise ConfigError(f"override {override!r} indexes item {key!r} of the list {here}: allowed is {allowed}")
    return int(key)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")

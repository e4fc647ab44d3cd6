"""Pydantic's list of validation errors as one sentence a user can act on."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from raydfkd.registry import nearest

_MISSING = object()


def sentence(model_cls: type[BaseModel], tree: Any, error: ValidationError) -> str:
    """Path, actual value, what is allowed; for an unknown key the nearest known ones. Further errors are only listed.

    Unknown keys come first, since a misspelt required key is reported twice: as unknown and as missing.
    """
    found = [(_Located(model_cls, tree, entry["loc"]), entry) for entry in error.errors(include_url=False)]
    found.sort(key=lambda pair: pair[1]["type"] != "extra_forbidden")
    first, entry = found[0]
    same_place = [e for place, e in found if place.path == first.path and e["type"] != "extra_forbidden"]
    text = _one(first, entry, same_place or [entry])
    others = list(dict.fromkeys(place.dotted for place, _ in found if place.path != first.path))
    if others:
        text += f" (also wrong: {', '.join(others[:4])}{', ...' if len(others) > 4 else ''})"
    return text


def model_choices(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation allows: itself, or the members of a union, through Annotated and Optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return model_choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in model_choices(member)]
    return []


def bare(annotation: Any) -> Any:
    """The annotation without ``Annotated``, a type alias or ``| None`` around it."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            members = [m for m in get_args(annotation) if m is not type(None)]
            if len(members) != 1:
                return Union[tuple(members)]  # noqa: UP007 - built at run time
            annotation = members[0]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


class _Located:
    """An error's place: the path as the user wrote it (no union tags), the value there and the model that owns the last key."""

    def __init__(self, model_cls: type[BaseModel], tree: Any, loc: tuple[int | str, ...]) -> None:
        self.path: list[str] = []
        self.owner: type[BaseModel] | None = None
        self.value: Any = tree
        annotation: Any = model_cls
        for element in loc:
            annotation = bare(annotation)
            origin = get_origin(annotation)
            if origin is Union:
                annotation = _member(annotation, element)
                continue
            if element == "[key]" or (not _holds(self.value, element) and not _is_model(annotation)):
                continue  # a label added by pydantic (a wrapping validator, a key error), not a user's key
            self.path.append(str(element))
            self.value = self.value[element] if _holds(self.value, element) else _MISSING
            self.owner = annotation if _is_model(annotation) else None
            annotation = _child(annotation, element)

    @property
    def dotted(self) -> str:
        return ".".join(self.path) or "the top level"


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _holds(value: Any, element: int | str) -> bool:
    if isinstance(value, dict):
        return element in value
    return isinstance(value, (list, tuple)) and isinstance(element, int) and element < len(value)


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys that a user may write in ``model``."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _field(model: type[BaseModel], key: int | str) -> FieldInfo | None:
    for name, info in model.model_fields.items():
        if key in (name, info.alias):
            return info
    return None


def _child(annotation: Any, element: int | str) -> Any:
    if _is_model(annotation):
        info = _field(annotation, element)
        return Any if info is None else info.annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and arguments[-1] is not ... and isinstance(element, int):
        return arguments[element] if element < len(arguments) else Any
    if get_origin(annotation) is tuple:
        return arguments[0]
    return arguments[-1] if arguments else Any


def _member(union: Any, label: int | str) -> Any:
    """The member of a union that pydantic means by ``label``: a discriminator's value, or the model's name."""
    for model in model_choices(union):
        literals = (info.annotation for info in model.model_fields.values() if get_origin(info.annotation) is Literal)
        if label == model.__name__ or any(label in get_args(literal) for literal in literals):
            return model
    for member in get_args(union):
        if str(label).startswith(getattr(get_origin(member), "__name__", "\0")):
            return member
    return Any


def _one(place: _Located, entry: Any, same_place: list[Any]) -> str:
    kind, dotted, context = entry["type"], place.dotted, entry.get("ctx", {})
    if kind == "extra_forbidden":
        known = known_keys(place.owner) if place.owner is not None else []
        return f"unknown key {dotted}: {nearest(place.path[-1], known) if known else 'it takes no keys'}"
    if kind == "missing":
        return f"{dotted} is missing: give it a value"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _tag(place, context)
    if kind == "value_error":
        return f"{dotted}: {context['error']}" if place.path else str(context["error"])
    allowed = " or ".join(dict.fromkeys(_allowed(e) for e in same_place))
    if kind == "literal_error" and isinstance(place.value, str):
        choices = [c.strip(" '\"") for c in context["expected"].replace(" or ", ", ").split(",")]
        allowed += f" ({nearest(place.value, choices)})" if "did you" in nearest(place.value, choices) else ""
    return f"{dotted} is {shown(place.value if place.value is not _MISSING else entry['input'])}: {allowed}"


def _tag(place: _Located, context: dict[str, Any]) -> str:
    key = context["discriminator"].strip("'")
    dotted = ".".join([*place.path, key])
    choices = [c.strip(" '") for c in context.get("expected_tags", "").split(",") if c]
    if "tag" in context:
        return f"unknown {dotted} {context['tag']!r}: {nearest(context['tag'], choices)}"
    if not isinstance(place.value, dict):
        return f"{place.dotted} is {shown(place.value)}: it must hold keys, '{key}' among them"
    return f"{dotted} is missing: give it a value"


def _allowed(entry: Any) -> str:
    message = entry["msg"]
    for start in ("Input should be ", "Value error, "):
        message = message.removeprefix(start)
    message = message.split(", unable to parse")[0]
    if entry["type"] == "string_type" and isinstance(entry["input"], bool):
        message += ": quote it, because YAML reads yes, no, on and off as true and false"
    elif entry["type"] == "string_type" and isinstance(entry["input"], int | float):
        message += ": quote it"
    return f"it must be {message}" if entry["msg"].startswith("Input should be ") else message


def shown(value: Any) -> str:
    """A value, shortened to fit in a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Wording: pydantic's findings as sentences for the person who edits relay.yaml."""

import types
from collections.abc import Container, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
from pydantic_core import ErrorDetails

from relay.config.errors import Mistake
from relay.config.yaml import MERGE, NO_MERGE
from relay.suggest import nearest, suggestion
from relay.validation import NEW_RULE, Location

MAPPING = "should be a mapping, as in key: value"
LIST = "should be a list, as in [a, b]"
TEXT = "should be text"
NO_OPTIONS = ": the plugin takes no options (its class would name them by `Options = …`)"
WHOLE_NUMBER = "should be a whole number"
SENTENCES = {
    "missing": "is missing",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "dict_type": MAPPING,
    "int_from_float": WHOLE_NUMBER,
    "int_parsing": WHOLE_NUMBER,
    "int_type": WHOLE_NUMBER,
    "list_type": LIST,
    "model_attributes_type": MAPPING,
    "model_type": MAPPING,
    "path_type": TEXT,
    "string_type": TEXT,
}


def worded(
    error: pydantic.ValidationError, model: type[pydantic.BaseModel], value: Any
) -> list[Mistake]:
    """What is wrong with `value`, which should have been a `model`; places are within it."""
    details = error.errors(include_url=False)
    meant = {guess for each in details if (guess := _misspelt(each, model, value))}
    return [
        Mistake(location, _sentence(each, model, location), refused_from=_release(each))
        for each in details
        if (location := _location(each, value)) not in meant or each["type"] != "missing"
    ]


def _release(detail: ErrorDetails) -> str | None:
    return str(detail["ctx"]["refused_from"]) if detail["type"] == NEW_RULE else None


def _misspelt(detail: ErrorDetails, model: type[pydantic.BaseModel], value: Any) -> Location | None:
    """Where an unknown key should have been: that one is not missing too."""
    if detail["type"] != "extra_forbidden":
        return None
    *parents, name = _location(detail, value)
    match = nearest(str(name), known_keys(model, tuple(parents)))
    return (*parents, match) if match else None


def _location(detail: ErrorDetails, value: Any) -> Location:
    """Pydantic's `loc` without what is not in the file: tags of unions, and `[key]`."""
    location: list[str | int] = []
    for part in detail["loc"]:
        if part in _keys(value):
            location.append(part)
            value = value[part]
    if detail["type"] == "missing":
        location.append(detail["loc"][-1])
    return tuple(location)


def _keys(value: Any) -> Container[str | int]:
    if isinstance(value, list):
        return range(len(value))
    return value if isinstance(value, dict) else ()


def _sentence(detail: ErrorDetails, model: type[pydantic.BaseModel], location: Location) -> str:
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden" and location[-1] == MERGE:
        return NO_MERGE
    if kind == "extra_forbidden":
        known = known_keys(model, location[:-1])
        return f"is not known{suggestion(str(location[-1]), known) if known else NO_OPTIONS}"
    if SENTENCES.get(kind) == TEXT and isinstance(detail["input"], bool | int | float):
        return f"{TEXT}; put it in quotes"
    if kind == "literal_error":
        return _choice(detail)
    if kind in {"value_error", "assertion_error"}:
        return message.partition(", ")[2]
    return SENTENCES.get(kind) or message.replace("Input should", "should", 1)


def _choice(detail: ErrorDetails) -> str:
    expected = detail["ctx"]["expected"]
    words = expected.replace(" or ", ", ").replace("'", "").split(", ")
    match = nearest(detail["input"], words) if isinstance(detail["input"], str) else None
    return f"should be {expected}" + (f'; did you mean "{match}"?' if match else "")


def known_keys(model: Any, location: Location) -> list[str]:
    """The keys that the model knows at the place."""
    at_place = [model]
    for part in location:
        at_place = [inner for outer in at_place for inner in _inside(outer, part)]
    models = [each for outer in at_place for each in _alternatives(outer) if _is_model(each)]
    return [field.alias or name for each in models for name, field in each.model_fields.items()]


def _inside(annotation: Any, part: str | int) -> list[Any]:
    found = []
    for each in _alternatives(annotation):
        if _is_model(each):
            fields = {field.alias or name: field for name, field in each.model_fields.items()}
            found += [fields[part].annotation] if part in fields else []
        elif isinstance(get_origin(each), type) and get_args(each):
            # The items of a list, the values of a mapping.
            found.append(get_args(each)[1 if issubclass(get_origin(each), Mapping) else 0])
    return found


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for arg in get_args(annotation) for each in _alternatives(arg)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)

"""Errors of the configuration: issues, ConfigError, and pydantic's errors as sentences."""

import types
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
from pydantic_core import ErrorDetails

from relay.suggest import nearest, suggestion
from relay.validation import NEW_RULE, Location


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing wrong in the configuration. The message never holds the value of a secret."""

    location: Location
    message: str
    line: int | None = None
    refused_from: str | None = None
    """The release that refuses it in every file. Until then it is a warning in a file that the
    relay has run with before. None: every release refuses it."""


@dataclass(frozen=True, slots=True)
class LocatedIssue:
    """An issue with its file and line: `relay.yaml:12: sinks.crm.when: message`."""

    file: Path
    line: int | None
    path: str
    message: str
    refused_from: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return ": ".join(part for part in (where, self.path, self.message) if part)

    def as_warning(self) -> str:
        """The text of a warning."""
        return f"{self} (an error from release {self.refused_from} on)"


class ConfigError(Exception):
    """The configuration cannot be used. Has all issues."""

    def __init__(self, issues: Sequence[LocatedIssue]) -> None:
        super().__init__("\n".join(str(issue) for issue in issues))
        self.issues = list(issues)

    def is_of_new_rules(self) -> bool:
        """Whether all issues are of new rules, which earlier releases did not have."""
        return all(issue.refused_from for issue in self.issues)


MERGE = "<<"
NO_MERGE = (
    "is no merge of mappings here: YAML 1.2 has none; write the keys out,"
    " or give the whole mapping an alias: options: *name"
)
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


def issues_of(
    error: pydantic.ValidationError, model: type[pydantic.BaseModel], value: Any
) -> list[Issue]:
    """The issues of a value that is no valid `model`, with locations within the value."""
    details = error.errors(include_url=False)
    meant = {guess for each in details if (guess := _misspelt(each, model, value))}
    return [
        Issue(location, _sentence(each, model, location), refused_from=_release(each))
        for each in details
        if (location := _location(each, value)) not in meant or each["type"] != "missing"
    ]


def _release(detail: ErrorDetails) -> str | None:
    return str(detail["ctx"]["refused_from"]) if detail["type"] == NEW_RULE else None


def _misspelt(detail: ErrorDetails, model: type[pydantic.BaseModel], value: Any) -> Location | None:
    """The location that an unknown key was meant for; that key is not reported as missing."""
    if detail["type"] != "extra_forbidden":
        return None
    *parents, name = _location(detail, value)
    match = nearest(str(name), known_keys(model, tuple(parents)))
    return (*parents, match) if match else None


def _location(detail: ErrorDetails, value: Any) -> Location:
    """Pydantic's `loc` without the parts that are not in the file: tags of unions, and `[key]`."""
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
    """The keys that the model has at the location."""
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

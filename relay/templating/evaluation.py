"""Evaluation of compiled expressions and templates for one event, and why one fails.

The reason of a failure is a sentence that shows no value of the event.
"""

import re
from collections import abc
from collections.abc import Collection
from typing import Any, Literal

from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.runtime import Undefined

from relay.event import Event
from relay.templating.environment import GLOBALS, RESULT, FilterError, Root, Sandbox, Scope, absent
from relay.templating.limits import MAX_TEXT, NoStepsLeft, Steps, TooLong, begin

ABSENT = Undefined()
INVISIBLE = "\u200b\u2060\ufeff"
"""Characters without width, which `str.strip` does not take for white space."""

Blank = Literal["keep", "omit", "clear"]
"""What becomes of a value that is nothing but white space: it stays as it is, its key is left out
of the record, or it becomes null, which clears the field on the other side."""


class Variables(dict[str, Any]):
    """The values of the names in templates. All templates with the same scope share its steps."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.steps = Steps()


class EvaluationError(Exception):
    """It compiles, and fails for this event. The message holds no value of the event.

    `of_value` says that a filter refused the value, as a date that is none.
    """

    def __init__(self, message: str, *, of_value: bool = False) -> None:
        super().__init__(message)
        self.of_value = of_value


def variables_of(event: Event, opted_out: bool) -> Variables:
    values = {
        "id": event.id,
        "type": event.type,
        "time": event.time,
        "source": event.source,
        "subject": event.subject,
        "test": event.test,
        "data": event.data,
        "opted_out": opted_out,
        **GLOBALS,
    }
    return Variables(values)


def evaluate(sandbox: Sandbox, root: Root, variables: Variables) -> Any:
    """The value of an expression."""
    begin(variables.steps)
    scope = Scope(sandbox, variables)
    try:
        for _ in root(scope):
            pass
    except Exception as error:  # noqa: BLE001  an expression can raise anything
        raise _failed(error) from None
    return scope.vars[RESULT]


def render(sandbox: Sandbox, root: Root, variables: Variables) -> str:
    """The text of a template."""
    begin(variables.steps)
    text = ""
    try:
        for piece in root(Scope(sandbox, variables)):
            text += piece
            check_length(text)
    except EvaluationError:
        raise
    except Exception as error:  # noqa: BLE001  an expression can raise anything
        raise _failed(error) from None
    return text


def is_blank(value: Any) -> bool:
    """Whether it is a text of nothing but white space, or a list of nothing but such texts."""
    if isinstance(value, list):
        return bool(value) and all(is_blank(item) for item in value)
    return isinstance(value, str) and not value.strip().strip(INVISIBLE).strip()


def without_blanks(value: Any, blank: Blank) -> Any:
    """The value as a record has it; of a list only the items that are not blank."""
    if blank == "keep":
        return value
    if is_blank(value):
        return ABSENT if blank == "omit" else None
    if isinstance(value, list):
        return [item for item in value if not is_blank(item)]
    return value


def plain(value: Any) -> Any:
    """An expression's value as JSON has it. Null at the top is absent, as undefined is."""
    if absent(value):
        return ABSENT
    try:
        return _plain(value)
    except EvaluationError:
        raise
    except Exception as error:  # noqa: BLE001  what is lazy in an expression runs only here
        raise _failed(error) from None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        check_length(value)
        return str(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise EvaluationError("its number is too large")
        return value
    if isinstance(value, dict):
        items = value.items()
        return {str(k): _plain(v) for k, v in items if not isinstance(v, Undefined)}
    if isinstance(value, abc.Iterable):
        return [_plain(item) for item in value if not isinstance(item, Undefined)]
    raise EvaluationError(f"it gives a {type(value).__name__}, which JSON does not have")


def check_length(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise EvaluationError(TOO_LONG)


def _failed(error: Exception) -> EvaluationError:
    return EvaluationError(reason_of(error), of_value=isinstance(error, FilterError))


TOO_LONG = "its text is longer than a million characters"
NULL = "null"
TEXT = "a text"
NUMBER = "a number"
LIST = "a list"
MAPPING = "a mapping"
NAMES = {
    "NoneType": NULL,
    "Undefined": NULL,
    "bool": "true or false",
    "dict": MAPPING,
    "float": NUMBER,
    "generator": LIST,
    "int": NUMBER,
    "list": LIST,
    "str": TEXT,
    "tuple": LIST,
}
"""What people call the types that Python's messages name."""
TYPE = re.compile(rf"\b({'|'.join(NAMES)})\b")
# The first one with no type that has not been met.
CURES = (
    ({NULL}, "`|default('', true)` gives a value where there is none"),
    ({LIST}, "`|first` takes the first item of a list, `|join(', ')` makes a text of it"),
    ({MAPPING}, "name one item of the mapping, as in `data.fields.Name`"),
    ({TEXT, NUMBER}, "`|int` or `|float` makes a number of a text, and `~` joins anything as text"),
    ({TEXT}, "`|int` or `|float` makes a number of a text"),
    ({NUMBER}, "`|string` makes a text of a number"),
)


def reason_of(error: Exception) -> str:
    """The reason. Of Python's own messages, which may show values, only the types are used."""
    match error:
        case FilterError():
            return str(error)
        case UndefinedError():
            return "it calls or compares something that is undefined or null"
        case TooLong():
            return TOO_LONG
        case NoStepsLeft():
            return "it goes through too much text, or too many items"
        case SecurityError():
            return "it does what a template may not do, or makes something too large"
        case ZeroDivisionError():
            return "it divides by zero"
        case TypeError() | AttributeError() if met := list(
            dict.fromkeys(NAMES[name] for name in TYPE.findall(str(error)))
        ):
            return f"it cannot use {' with '.join(met[:2])} in this way ({_cure(met)})"
        case TypeError() if "argument" in str(error):
            return "it gives a filter or function other arguments than it takes"
    return f"it raises {type(error).__name__}"


def _cure(met: Collection[str]) -> str:
    return next((cure for types, cure in CURES if types <= set(met)), "compare it with `==`")

"""Reasons: why an expression failed, in a sentence that shows no value of the event."""

import re
from collections.abc import Collection

from jinja2.exceptions import SecurityError, UndefinedError

from relay.templating.filters import HelperError
from relay.templating.sizes import TooLong
from relay.templating.steps import NoStepsLeft

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
# The first one whose types have all been met.
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
        case HelperError():
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

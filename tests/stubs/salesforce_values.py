"""Whether a value fits a field of the Salesforce stub."""

import math
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

from stubs.salesforce_mistakes import Mistake
from stubs.salesforce_schema import Field

TEXT = frozenset({"string", "textarea", "phone", "email", "picklist", "multipicklist", "url"})
EMAIL = re.compile(r"[^@\s,;<>]+@[^@\s,;<>.]+(\.[^@\s,;<>.]+)+")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)")


def comparable(value: Any, case_sensitive: bool = False) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool):
        return value
    return str(value) if case_sensitive else str(value).lower()


def typed(kind: str, value: Any) -> bool:
    match kind:
        case "boolean":
            return isinstance(value, bool)
        case "double":
            return _is_number(value)
        case "int":
            return _is_number(value) and float(value).is_integer()
        case "date":
            return isinstance(value, str) and _is_date(value)
        case "datetime":
            return isinstance(value, str) and MOMENT.fullmatch(value) is not None
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _chosen(column: Field, value: str) -> bool:
    said = value.split(";") if column.type == "multipicklist" else [value]
    return set(said) <= set(column.options or ())


def unfit(name: str, column: Field, value: Any) -> Iterator[Mistake]:
    label = column.label or name
    if column.type in TEXT and len(value) > column.length:
        text = f"{label}: data value too large: {value} (max length={column.length})"
        yield Mistake("STRING_TOO_LONG", text, (name,))
    elif column.type == "email" and not EMAIL.fullmatch(value):
        text = f"{label}: invalid email address: {value}"
        yield Mistake("INVALID_EMAIL_ADDRESS", text, (name,))
    elif column.options and column.restricted and not _chosen(column, value):
        text = f"{label}: bad value for restricted picklist field: {value}"
        yield Mistake("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", text, (name,))

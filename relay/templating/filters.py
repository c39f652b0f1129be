"""The relay's own Jinja2 filters. Each gives null for a null or blank value.

A list, which is what a repeated field is, counts as its first item.
"""

import functools
import math
import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any

from jinja2 import Undefined

from relay.phone import digits, national

DIRECTIVE = re.compile(r"%[^a-zA-Z%]*(.)", re.DOTALL)
"""One directive of strftime, with the flags and the width that the C library allows."""


MOST_FORMATS = 8
LONGEST_DATE = 256
"""Characters of a date, and of a format of one. Python looks for the format in the whole text."""


class HelperError(Exception):
    """A helper cannot use its value. The message never holds the value."""


def first_name(text: str) -> str | None:
    """The first word of a whole name; of `Doe, Jane` what follows the comma."""
    last, comma, first = text.partition(",")
    return " ".join(first.split()) or None if comma else last.split()[0]


def last_name(text: str) -> str | None:
    """All but the first word of a whole name; of `Doe, Jane` what precedes the comma."""
    last, comma, _ = text.partition(",")
    return " ".join(last.split() if comma else last.split()[1:]) or None


def date(timezone: tzinfo) -> Callable[..., str | None]:
    """The filter `date(from, to)` for one time zone.

    The formats are strptime's and strftime's, or `iso`. Of several to read, a list, the first
    that fits counts. A time that says its offset is moved to the time zone; one that does not is
    taken as it stands. `%s` writes seconds since the epoch.
    """

    def reformat(text: str, read: str | list[str], write: str) -> str:
        formats = [read] if isinstance(read, str) else list(read)[:MOST_FORMATS]
        if max(map(len, (text, write, *formats))) > LONGEST_DATE:
            raise HelperError("its date, or a format of it, is too long")
        moment = _moment(text.strip(), formats)
        if moment.tzinfo is not None:
            moment = moment.astimezone(timezone)
        if write == "iso":
            return moment.isoformat()
        return moment.strftime(DIRECTIVE.sub(lambda found: _directive(found, moment), write))

    def _directive(found: re.Match[str], moment: datetime) -> str:
        """`%s` as a number: the C library would read the moment in the machine's time zone."""
        if found[1] != "s":
            return found[0]
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone)
        return str(math.floor(aware.timestamp()))

    return _on_text(reformat)


def _moment(text: str, patterns: list[str]) -> datetime:
    """The date, by the first form that fits. Raises HelperError where none does."""
    for pattern in patterns:
        try:
            if pattern == "iso":
                return datetime.fromisoformat(text)
            return datetime.strptime(text, pattern)  # noqa: DTZ007  a birthday has no time zone
        except (ValueError, re.error):
            continue
    tried = " or ".join(repr(pattern) for pattern in patterns)
    raise HelperError(f"its value is not a date of the form {tried}")


def _on_text(function: Callable[..., str | None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def helper(value: Any, *args: Any) -> Any:
        if isinstance(value, list):
            value = value[0] if value else None
        if value is None or isinstance(value, Undefined):
            return value
        text = str(value)
        return function(text, *args) if text.strip() else None

    return helper


def all_helpers(timezone: tzinfo) -> dict[str, Callable[..., Any]]:
    """The filters by their names in templates."""
    return {
        "date": date(timezone),
        **{f.__name__: _on_text(f) for f in (digits, first_name, last_name, national)},
    }

"""Constants: the values of relay.yaml that are the same for each event, held against HubSpot.

What a property takes is what HubSpot's properties guide tells of its type. Only what can never be
written is told: a template may make anything.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

import relay
from relay import nearest

from .mender import EMAIL
from .options import ActivityOptions, Options
from .record import text

BOOLEANS = ["true", "false"]
NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?")
MILLISECONDS = re.compile(r"-?\d{1,18}")
DAY = 86_400_000
"""Milliseconds: those of a date are a midnight in UTC."""
ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
LONGEST = 65_536
"""Characters of a text (the properties guide)."""
MOST_CHOICES = 20
"""Options of a property that a message names; some have a thousand."""
Properties = Mapping[str, Mapping[str, Any]]


class Placed(NamedTuple):
    """A value for a property, and where relay.yaml has it."""

    place: str
    name: str
    value: Any


def placed(where: str, values: Mapping[str, Any]) -> list[Placed]:
    return [Placed(f"{where}.{name}", name, value) for name, value in values.items()]


def of_records(options: Options, constants: Mapping[str, Any]) -> list[Placed]:
    """What may be written into each record of the sink's object."""
    words = options.consent.words().items() if options.consent else ()
    return [
        *placed("map", constants),
        *placed("options.defaults", options.defaults),
        *(
            Placed(f"options.consent.opted_out: {name}", name, word.opted_out)
            for name, word in words
        ),
        *(Placed(f"options.consent.opted_in: {name}", name, word.opted_in) for name, word in words),
    ]


def of_activities(activity: ActivityOptions) -> list[Placed]:
    """What may be written into each record of an activity, a custom object or a communication."""
    constants = activity.object.map.constants if activity.object else {}
    defaults = placed("options.activity.defaults", activity.defaults)
    return [*placed("options.activity.object.map", constants), *defaults]


def mistakes(there: Properties, values: Iterable[Placed]) -> Iterator[relay.Mistake]:
    """The values that their properties never take; a property that is missing is told elsewhere."""
    for place, name, value in values:
        if name in there and (why := unfit(there[name], text(value))):
            yield relay.Mistake(f"{place}: {why}")


def unfit(known: Mapping[str, Any], value: str) -> str | None:
    """Why the property does not take the value, as HubSpot describes it; None where it does.

    An empty value clears.
    """
    if not value:
        return None
    match known.get("type"):
        case "enumeration":
            return _no_option(known, value)
        case "bool":
            return _none_of([value], BOOLEANS)
        case "number":
            return None if NUMBER.fullmatch(value) else f"{value!r} is no number"
        case "date":
            return None if _is_date(value) else f"{value!r} is no date, as 2026-12-31 is one"
        case "datetime":
            good = MILLISECONDS.fullmatch(value) or _is_moment(value)
            return None if good else f"{value!r} is no date and time in ISO 8601"
        case "string" if len(value) > LONGEST:
            return f"it is longer than {LONGEST} characters"
        case "string" if known.get("name") == EMAIL and not ADDRESS.fullmatch(value):
            return "it is no e-mail address"
    return None


def _no_option(known: Mapping[str, Any], value: str) -> str | None:
    """A checkbox takes several, joined by `;`. Some properties have their options elsewhere."""
    told: Iterable[Any] = known.get("options") or []
    options = [str(each.get("value")) for each in told if isinstance(each, Mapping)]
    if not options or known.get("externalOptions"):
        return None
    many = known.get("fieldType") == "checkbox"
    return _none_of(value.removeprefix(";").split(";") if many else [value], options)


def _none_of(values: Iterable[str], options: list[str]) -> str | None:
    strange = next((each for each in values if each not in options), None)
    if strange is None:
        return None
    match = nearest(strange, options)
    meant = f'; did you mean "{match}"?' if match else ""
    more = ", …" if len(options) > MOST_CHOICES else ""
    return f"{strange!r} is none of {', '.join(options[:MOST_CHOICES])}{more}{meant}"


def _is_date(value: str) -> bool:
    if MILLISECONDS.fullmatch(value):
        return int(value) % DAY == 0
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _is_moment(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True

"""Constants: the values of relay.yaml that are the same for each event, held against the org.

What a field takes is what `describe` tells of it ("sObject Describe", REST guide; "Field Types",
object reference). Only what can never be written is told: a template may make anything.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

from relay import nearest

from .options import RECORD_ID
from .row import plain

NUMBERS = frozenset({"int", "double", "currency", "percent"})
PICKLISTS = frozenset({"picklist", "multipicklist"})
TEXTS = frozenset({"string", "textarea", "phone", "email", "url", "encryptedstring", "combobox"})
NO_BOOLEAN = "is neither true nor false"
SPELT_AS_BOOLEANS = frozenset({"true", "false", "1", "0"})
"""Texts that some versions may take for a boolean; relay.yaml can say what is meant."""
NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,2})?")
MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
MOST_CHOICES = 20
"""Values of a picklist that a message names; some have a thousand."""


class Unfit(NamedTuple):
    """Why a field does not take a value, what to do about it, and whether it may be meant."""

    why: str
    remedy: str
    is_notice: bool = False


def unfit(field: Mapping[str, Any], constant: Any) -> Unfit | None:
    """What is wrong with the constant for a field as `describe` tells it; None where nothing is."""
    value, kind = plain(constant), field["type"]
    if value is None:
        filled = not field["nillable"]
        return (
            Unfit("is null, and the field can never be empty", "give a value") if filled else None
        )
    if kind == "boolean":
        return _no_boolean(value)
    if kind in NUMBERS:
        why = None if _is_number(value, whole=kind == "int") else "is no number"
        return why and Unfit(why, "write a number")
    if kind in {"date", "datetime"}:
        why = None if _is_date(value, with_time=kind == "datetime") else f"is no {kind}"
        return why and Unfit(why, "write it as in 2026-12-31")
    if kind in PICKLISTS:
        return _no_choice(field, value)
    if kind in {"reference", "id"}:
        why = None if re.fullmatch(RECORD_ID, str(value)) else "is no id of a record"
        return why and Unfit(why, "write the id, of 15 or 18 letters and digits")
    return _no_text(field, value) if kind in TEXTS else None


def choices(field: Mapping[str, Any]) -> list[str]:
    """The values of a picklist that are active."""
    return [each["value"] for each in field["picklistValues"] if each["active"]]


def _no_boolean(value: Any) -> Unfit | None:
    if isinstance(value, bool):
        return None
    may_work = str(value).casefold() in SPELT_AS_BOOLEANS
    return Unfit(NO_BOOLEAN, "write true or false, without quotes", may_work)


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool) or not NUMBER.fullmatch(str(value)):
        return False
    return not whole or float(value).is_integer()


def _is_date(value: Any, *, with_time: bool) -> bool:
    day, _, time = str(value).partition("T")
    try:
        date.fromisoformat(day)
    except ValueError:
        return False
    return isinstance(value, str) and (with_time or not time)


def _no_choice(field: Mapping[str, Any], value: Any) -> Unfit | None:
    """A picklist that is not restricted takes any text, and shows it."""
    known = choices(field)
    said = [str(value)] if field["type"] == "picklist" else str(value).split(";")
    strange = [each for each in said if each not in known]
    if not strange or not (known or field["restrictedPicklist"]):
        return None
    near = nearest(strange[0], known)
    hint = f" (is it {near}?)" if near else ""
    listed = f"{', '.join(known[:MOST_CHOICES])}{', …' if len(known) > MOST_CHOICES else ''}"
    why = f'"{strange[0]}" is no value of the picklist{hint}'
    return Unfit(why, f"take one of {listed or 'none'}", not field["restrictedPicklist"])


def _no_text(field: Mapping[str, Any], value: Any) -> Unfit | None:
    if not isinstance(value, str):
        return Unfit("is no text", "write it in quotes")
    longest = field["length"]
    if 0 < longest < len(value.encode("utf-16-le")) // 2:
        return Unfit(f"is longer than the {longest} characters of the field", "shorten it")
    if field["type"] == "email" and not MAIL.fullmatch(value):
        return Unfit("is no e-mail address", "correct it")
    return None

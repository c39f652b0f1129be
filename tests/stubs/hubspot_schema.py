"""The account that the stub plays: its objects, their properties, and what a good value is."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from stubs.hubspot_errors import PORTAL, Problem

STRING = 65_536  # characters; "Properties" guide
MAIL = re.compile(r"[^@\s\"]+@[^@\s]+\.[a-z]{2,}", re.IGNORECASE)
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass
class Field:
    """One property.

    `required` is asked for when a record is made, `required_when` (property, value) is an
    administrator's rule, `writable` is false for what HubSpot calculates, and `stamp` true for
    what it tells unasked. Type phone_number takes E.164 alone, as an account does that validates.
    """

    type: str = "string"
    field_type: str = "text"
    length: int = STRING
    required: bool = False
    required_when: tuple[str, str] | None = None
    unique: bool = False
    writable: bool = True
    options: list[str] | None = None
    label: str = ""
    group: str = ""
    stamp: bool = False

    def told(self, name: str) -> dict[str, Any]:
        """What the properties endpoint says of it."""
        options = ["true", "false"] if self.type == "bool" else self.options or []
        return {
            "name": name,
            "label": self.label or name,
            "description": "",
            "type": self.type,
            "fieldType": self.field_type,
            "groupName": self.group,
            "hasUniqueValue": self.unique,
            "options": [
                {"label": option, "value": option, "displayOrder": -1, "hidden": False}
                for option in options
            ],
            "calculated": not self.writable,
            "hidden": False,
            "archived": False,
            "modificationMetadata": {
                "archivable": True,
                "readOnlyDefinition": False,
                "readOnlyValue": not self.writable,
            },
        }


@dataclass(frozen=True)
class Kind:
    """A type of record; `names` are what paths may call it, its type id among them."""

    name: str
    type_id: str
    noun: str
    scope: str
    names: tuple[str, ...]


KINDS = (
    Kind("contacts", "0-1", "CONTACT", "contacts", ("contacts", "contact", "0-1")),
    Kind("communications", "0-18", "COMMUNICATION", "contacts", ("communications", "0-18")),
    Kind("notes", "0-46", "NOTE", "contacts", ("notes", "note", "0-46")),
    Kind("2-123", "2-123", "SMS_EVENT", "custom", ("2-123", f"p{PORTAL}_sms_event", "p_sms_event")),
)

GROUPS = {
    "contacts": {"contactinformation": "Contact information"},
    "communications": {"communicationinformation": "Communication information"},
    "notes": {"noteinformation": "Note information"},
    "2-123": {"sms_event_information": "SMS event information"},
}

# (from, to) and the types of association between them; "Associations" guide, and one of our own.
ASSOCIATIONS = {
    ("communications", "contacts"): {81: "HUBSPOT_DEFINED"},
    ("contacts", "communications"): {82: "HUBSPOT_DEFINED"},
    ("notes", "contacts"): {202: "HUBSPOT_DEFINED"},
    ("2-123", "contacts"): {17: "USER_DEFINED"},
    ("contacts", "2-123"): {18: "USER_DEFINED"},
}

EVENTS = {"pe123_sms": {"event_id", "type", "keyword", "short_code", "message", "carrier", "reply"}}

FIELD_TYPES = {
    "string": {"text", "textarea", "html", "file", "phonenumber", "calculation_equation"},
    "number": {"number", "calculation_equation"},
    "date": {"date"},
    "datetime": {"date"},
    "enumeration": {"select", "radio", "checkbox", "booleancheckbox", "calculation_equation"},
    "bool": {"booleancheckbox", "calculation_equation"},
    "phone_number": {"phonenumber"},
}


def _texts(*names: str) -> dict[str, Field]:
    return {name: Field() for name in names}


def _kept(kind: str) -> dict[str, Field]:
    """What HubSpot writes itself."""
    modified = "lastmodifieddate" if kind == "contacts" else "hs_lastmodifieddate"
    created = "createdate" if kind == "contacts" else "hs_createdate"
    moments = {
        name: Field("datetime", "date", writable=False, stamp=True) for name in (created, modified)
    }
    own = Field("number", "number", writable=False, unique=True, stamp=True)
    return moments | {"hs_object_id": own}


def _searched() -> dict[str, Field]:
    names = ["", "international_"]
    return {
        f"hs_searchable_calculated_{variant}{phone}_number": Field(
            field_type="calculation_equation", writable=False
        )
        for variant in names
        for phone in ("phone", "mobile")
    }


STAGES = ["subscriber", "lead", "marketingqualifiedlead", "opportunity", "customer", "other"]


def portal() -> dict[str, dict[str, Field]]:
    """A fresh account: its properties by the name of the object."""
    contacts = {
        "email": Field(unique=True),
        "sms_key": Field(unique=True),
        "sms_opt_out": Field("bool", "booleancheckbox"),
        "sms_last_at": Field("datetime", "date"),
        "sms_joined": Field("date", "date"),
        "sms_count": Field("number", "number"),
        "phone": Field(field_type="phonenumber"),
        "mobilephone": Field(field_type="phonenumber"),
        "lifecyclestage": Field("enumeration", "radio", options=STAGES),
        "hobbies": Field("enumeration", "checkbox", options=["golf", "chess", "running"]),
        "message": Field(field_type="textarea"),
    }
    names = ("firstname", "lastname", "city", "state", "zip", "country", "company")
    contacts |= _texts(*names, "date_of_birth", "hubspot_owner_id", "sms_keyword", "sms_carrier")
    channels = ["SMS", "WHATS_APP", "LINKEDIN_MESSAGE"]
    communications = {
        "hs_communication_channel_type": Field("enumeration", "select", options=channels),
        "hs_communication_logged_from": Field("enumeration", "select", options=["CRM"]),
        "hs_communication_body": Field(field_type="html"),
        "hs_timestamp": Field("datetime", "date", required=True),
        "hubspot_owner_id": Field(),
    }
    notes = {"hs_timestamp": Field("datetime", "date", required=True), "hs_note_body": Field()}
    events = {
        "event_id": Field(unique=True, required=True),
        "occurred_at": Field("datetime", "date"),
    }
    events |= _texts("name", "event_type", "keyword", "short_code", "message", "mobile", "carrier")
    fields = {
        "contacts": contacts | _kept("contacts") | _searched(),
        "communications": communications | _kept("communications"),
        "notes": notes | _kept("notes"),
        "2-123": events | _kept("2-123"),
    }
    for name, known in fields.items():
        for field in known.values():
            field.group = next(iter(GROUPS[name]))
    return fields


def problem(name: str, field: Field | None, value: str) -> Problem | None:
    """What HubSpot would say against this value; an empty one clears, and is always good."""
    if field is None:
        return Problem("PROPERTY_DOESNT_EXIST", name, f'Property "{name}" does not exist')
    if not field.writable:
        text = f'"{name}" is a read only property; its value cannot be set.'
        return Problem("READ_ONLY_VALUE", name, text)
    if not value:
        return None
    if name == "email":
        return None if MAIL.fullmatch(value) else _wrong("INVALID_EMAIL", name, value)
    return CHECKS[field.type](name, field, value)


def _wrong(code: str, name: str, value: str) -> Problem:
    texts = {
        "INVALID_EMAIL": "Email address {} is invalid",
        "INVALID_INTEGER": "{} was not a valid integer.",
        "INVALID_LONG": "{} was not a valid long.",
        "INVALID_DATE": "{} is not midnight of a day in UTC",
        "INVALID_NAME": "{} is not a name",
        "INVALID_PHONE_NUMBER": "{} is not a phone number in E.164",
        "INVALID_STRING_LENGTH": "The value is too long ({} characters)",
    }
    return Problem(code, name, texts[code].format(value))


def _string(name: str, field: Field, value: str) -> Problem | None:
    if len(value) > field.length:
        return _wrong("INVALID_STRING_LENGTH", name, str(len(value)))
    if name in {"firstname", "lastname"} and re.search(r"://|[<>{}]", value):
        return _wrong("INVALID_NAME", name, value)
    return None


def _phone(name: str, _field: Field, value: str) -> Problem | None:
    good = re.fullmatch(r"\+[1-9]\d{6,14}", value)
    return None if good else _wrong("INVALID_PHONE_NUMBER", name, value)


def _number(name: str, _field: Field, value: str) -> Problem | None:
    good = re.fullmatch(r"-?\d+(\.\d+)?", value)
    return None if good else _wrong("INVALID_INTEGER", name, value)


def _date(name: str, _field: Field, value: str) -> Problem | None:
    """`YYYY-MM-DD`, or the milliseconds of a midnight in UTC."""
    if re.fullmatch(r"-?\d+", value):
        return _wrong("INVALID_DATE", name, value) if int(value) % 86_400_000 else None
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value) and _parsed(date.fromisoformat, value):
        return None
    return _wrong("INVALID_LONG", name, value)


def _datetime(name: str, _field: Field, value: str) -> Problem | None:
    """Milliseconds, or ISO 8601 with a zone."""
    if re.fullmatch(r"-?\d+", value):
        return None
    moment = _parsed(datetime.fromisoformat, value)
    good = isinstance(moment, datetime) and moment.tzinfo is not None
    return None if good else _wrong("INVALID_LONG", name, value)


def _parsed(parse: Callable[[str], date], value: str) -> date | None:
    try:
        return parse(value)
    except ValueError:
        return None


def _enumeration(name: str, field: Field, value: str) -> Problem | None:
    """Case counts; several are joined by `;`, and a leading one adds to those that are there."""
    many = field.field_type == "checkbox"
    for one in value.removeprefix(";").split(";") if many else [value]:
        if one not in (field.options or []):
            return _no_option(name, one, field.options or [])
    return None


def _bool(name: str, _field: Field, value: str) -> Problem | None:
    return None if value in {"true", "false"} else _no_option(name, value, ["true", "false"])


def _no_option(name: str, value: str, options: list[str]) -> Problem:
    text = f"{value} was not one of the allowed options: [{', '.join(options)}]"
    return Problem("INVALID_OPTION", name, text)


CHECKS: dict[str, Callable[[str, Field, str], Problem | None]] = {
    "string": _string,
    "phone_number": _phone,
    "number": _number,
    "date": _date,
    "datetime": _datetime,
    "enumeration": _enumeration,
    "bool": _bool,
}


def stored(name: str, field: Field, value: str, before: str) -> str:
    """What HubSpot keeps of a good value."""
    if name == "email":
        return value.strip().lower()
    if field.type == "enumeration" and value.startswith(";"):
        return ";".join(dict.fromkeys([*filter(None, before.split(";")), *value[1:].split(";")]))
    if field.type == "date" and re.fullmatch(r"-?\d+", value):
        return datetime.fromtimestamp(int(value) / 1000, UTC).date().isoformat()
    return value

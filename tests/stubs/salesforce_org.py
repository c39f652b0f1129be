"""The records of the Salesforce stub: a schema as `describe` tells it, and rows checked by it.

What is refused is refused with the vendor's codes and texts (Salesforce SOAP guide, "Core Data
Types Used in API Calls: StatusCode"; texts as recorded by users of the API).
"""

import copy
import itertools
import math
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

TEXT = frozenset({"string", "textarea", "phone", "email", "picklist", "url"})
SYSTEM = ("Id", "CreatedDate", "LastModifiedDate", "SystemModstamp")
SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other")
EMAIL = re.compile(r"[^@\s,;<>]+@[^@\s,;<>.]+(\.[^@\s,;<>.]+)+")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)")


@dataclass(frozen=True)
class Field:
    """A column, as `describe` tells it.

    `options` are a picklist's values, refused otherwise where it is `restricted`; `refers` is the
    object that a reference leads to, and `relationship` the name under which a parent is given
    by its external id.
    """

    type: str = "string"
    length: int = 255
    required: bool = False
    unique: bool = False
    external_id: bool = False
    writable: bool = True
    options: tuple[str, ...] | None = None
    restricted: bool = True
    label: str = ""
    refers: str = ""
    relationship: str = ""
    case_sensitive: bool = False


@dataclass(frozen=True)
class Mistake:
    """One error of a row; `extra` is its duplicateResult."""

    code: str
    message: str
    fields: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """A row that is not taken, with what is wrong with it."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(", ".join(mistake.code for mistake in mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class DuplicateRule:
    """Records of an object are duplicates where one of these fields is equal.

    `allow_save`: the header Sforce-Duplicate-Rule-Header overrides the rule ("alert"); without,
    nothing does ("block"). `edits`: the rule looks at updates too.
    """

    object: str
    fields: tuple[str, ...]
    allow_save: bool = True
    edits: bool = False
    name: str = "Standard_Contact_Duplicate_Rule"


def _text(length: int = 255, **more: Any) -> Field:
    return Field(length=length, **more)


def _phones() -> dict[str, Field]:
    return {name: Field("phone", 40) for name in ("Phone", "MobilePhone")}


def _person() -> dict[str, Field]:
    """What a contact and a lead have in common, with what an administrator made for the relay."""
    return _phones() | {
        "FirstName": _text(40, label="First Name"),
        "LastName": _text(80, required=True, label="Last Name"),
        "Name": _text(121, writable=False, label="Full Name"),
        "Email": Field("email", 80),
        "Title": _text(128),
        "LeadSource": Field("picklist", options=SOURCES, restricted=False, label="Lead Source"),
        "Description": Field("textarea", 32000),
        "DoNotCall": Field("boolean", label="Do Not Call"),
        "HasOptedOutOfEmail": Field("boolean", label="Email Opt Out"),
        "SMS_Key__c": _text(40, unique=True, external_id=True, label="SMS Key"),
        "SMS_Opt_Out__c": Field("boolean", label="SMS Opt Out"),
        "SMS_Keyword__c": _text(40, label="SMS Keyword"),
        "SMS_Status__c": Field("picklist", options=("Active", "Stopped"), label="SMS Status"),
        "SMS_Score__c": Field("double", label="SMS Score"),
        "Last_SMS_At__c": Field("datetime", label="Last SMS At"),
        "Legacy_Id__c": _text(40, external_id=True, label="Legacy Id"),
        "Loyalty_Number__c": _text(40, unique=True, label="Loyalty Number"),
    }


def schema() -> dict[str, dict[str, Field]]:
    """The objects of a fresh org. Lengths: Salesforce object reference."""
    return {
        "Contact": _person()
        | {name: Field("phone", 40) for name in ("HomePhone", "OtherPhone")}
        | {
            "Birthdate": Field("date"),
            "MailingStreet": Field("textarea", 255, label="Mailing Street"),
            "MailingCity": _text(40, label="Mailing City"),
            "MailingState": _text(80, label="Mailing State/Province"),
            "MailingPostalCode": _text(20, label="Mailing Zip/Postal Code"),
            "MailingCountry": _text(80, label="Mailing Country"),
        },
        "Lead": _person()
        | {
            "Company": _text(255, required=True),
            "Status": Field("picklist", options=("Open", "Working", "Closed"), restricted=False),
            "Street": Field("textarea", 255),
            "City": _text(40),
            "State": _text(80, label="State/Province"),
            "PostalCode": _text(20, label="Zip/Postal Code"),
            "Country": _text(80),
        },
        "Campaign": {"Name": _text(80, required=True)},
        "CampaignMember": {
            "CampaignId": Field(
                "reference", 18, True, refers="Campaign", relationship="Campaign", label="Campaign"
            ),
            "ContactId": Field("reference", 18, refers="Contact", relationship="Contact"),
            "LeadId": Field("reference", 18, refers="Lead", relationship="Lead"),
            "Status": Field("picklist", 40, options=("Sent", "Responded"), restricted=False),
        },
        "SMS_Event__c": {
            "Name": _text(80),
            "Event_Id__c": _text(64, required=True, unique=True, external_id=True),
            "Contact__c": Field("reference", 18, refers="Contact", relationship="Contact__r"),
            "Lead__c": Field("reference", 18, refers="Lead", relationship="Lead__r"),
            "Kind__c": _text(80, label="Kind"),
            "Type__c": _text(80, label="Type"),
            "Message__c": Field("textarea", 32768, label="Message"),
            "Keyword__c": _text(40, label="Keyword"),
            "Mobile__c": Field("phone", 40, label="Mobile"),
            "Received_At__c": Field("datetime", label="Received At"),
        },
        "SMS_Vote__c": {
            "Name": _text(80),
            "Event_Id__c": _text(64, required=True, unique=True, external_id=True),
            "Reply__c": _text(80, label="Reply"),
            "Label__c": _text(80, label="Label"),
            "Keyword__c": _text(40, label="Keyword"),
            "Mobile__c": Field("phone", 40, label="Mobile"),
            "Received_At__c": Field("datetime", label="Received At"),
        },
    }


PREFIXES = {"Contact": "003", "Lead": "00Q", "Campaign": "701", "CampaignMember": "00v"}


class Org:
    """The rows of an org and the rules that they obey."""

    def __init__(self) -> None:
        self.fields = schema()
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}
        self.rules: list[DuplicateRule] = []
        self.deleted: set[str] = set()
        # By object, field and whether capitals count: the ids of each value, in their order.
        self._indexes: dict[tuple[str, str, bool], dict[Any, dict[str, None]]] = {}
        self._numbers = itertools.count(1)
        self._prefixes = dict(PREFIXES)

    def name_of(self, kind: str) -> str | None:
        """An object's name as the org writes it; the API is as easy about case."""
        return next((name for name in self.fields if name.lower() == kind.lower()), None)

    def column(self, kind: str, name: str) -> str | None:
        """A field's name as the org writes it."""
        if name in self.fields[kind]:
            return name
        names = (*self.fields[kind], *SYSTEM)
        return next((each for each in names if each.lower() == name.lower()), None)

    def field(self, kind: str, name: str) -> Field:
        if name == "Id":
            return Field("id", 18, writable=False)
        if name in SYSTEM:
            return Field("datetime", writable=False)
        return self.fields[kind][name]

    def table(self, kind: str) -> dict[str, dict[str, Any]]:
        return self.rows.setdefault(kind, {})

    def matches(self, kind: str, name: str, value: Any) -> list[dict[str, Any]]:
        """The rows with this value; capitals count only where the field says so."""
        told = self.field(kind, name).case_sensitive
        place = kind, name, told
        if place not in self._indexes:
            self._indexes[place] = {}
            for row in self.table(kind).values():
                self._indexed(place, row)
        ids = self._indexes[place].get(comparable(value, told), {})
        return [self.table(kind)[known] for known in ids]

    def _indexed(self, place: tuple[str, str, bool], row: Mapping[str, Any]) -> None:
        _, name, told = place
        value = comparable(row.get(name), told)
        self._indexes[place].setdefault(value, {})[row["Id"]] = None

    def _unindexed(self, place: tuple[str, str, bool], row: Mapping[str, Any]) -> None:
        _, name, told = place
        self._indexes[place][comparable(row.get(name), told)].pop(row["Id"])

    def row(self, kind: str, text: Any) -> dict[str, Any]:
        """The row of an id. Raises Refused."""
        known = full_id(text) if isinstance(text, str) else None
        if known is None or known[:3] != self.prefix(kind):
            raise Refused(Mistake("MALFORMED_ID", f"{kind} ID: id value of incorrect type: {text}"))
        if known in self.deleted:
            raise Refused(Mistake("ENTITY_IS_DELETED", "entity is deleted"))
        if known not in self.table(kind):
            raise Refused(Mistake("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id"))
        return self.table(kind)[known]

    def prefix(self, kind: str) -> str:
        return self._prefixes.setdefault(kind, f"a{len(self._prefixes):02}")

    def insert(self, kind: str, values: Mapping[str, Any], *, allow_save: bool = False) -> str:
        """Make a row; gives its id. Raises Refused."""
        changes = self._converted(kind, values)
        self._complete(kind, changes)
        self._check(kind, changes)
        self._alone(kind, changes, None)
        self._heed_rules(kind, changes, None, allow_save=allow_save)
        made = new_id(self.prefix(kind), next(self._numbers))
        now = _now()
        row = {"Id": made, "CreatedDate": now, "LastModifiedDate": now, "SystemModstamp": now}
        row |= {name: False for name, c in self.fields[kind].items() if c.type == "boolean"}
        self._put(kind, row, changes)
        return made

    def update(
        self, kind: str, row: dict[str, Any], values: Mapping[str, Any], *, allow_save: bool = False
    ) -> None:
        """Change a row; null clears. Raises Refused."""
        changes = self._converted(kind, values)
        self._not_emptied(kind, changes)
        self._check(kind, changes)
        self._alone(kind, changes, row)
        self._heed_rules(kind, changes, row, allow_save=allow_save)
        row["LastModifiedDate"] = row["SystemModstamp"] = _now()
        self._put(kind, row, changes)

    def delete(self, kind: str, known: str) -> None:
        del self.table(kind)[known]
        self._indexes.clear()
        self.deleted.add(known)

    def saved(self) -> Any:
        """What `restore` takes back to."""
        return copy.deepcopy(self.rows)

    def restore(self, saved: Any) -> None:
        self.rows = saved
        self._indexes.clear()

    def _put(self, kind: str, row: dict[str, Any], changes: Mapping[str, Any]) -> None:
        places = [place for place in self._indexes if place[0] == kind]
        for place in places if row["Id"] in self.table(kind) else ():
            self._unindexed(place, row)
        self.table(kind)[row["Id"]] = row
        for name, value in changes.items():
            if value is None:
                row.pop(name, None)
            else:
                row[name] = value
        if "LastName" in self.fields[kind]:
            row["Name"] = " ".join(filter(None, (row.get("FirstName"), row.get("LastName"))))
        for place in places:
            self._indexed(place, row)

    def _converted(self, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """By the org's own names, parents found, types checked."""
        changes = {}
        for said, value in values.items():
            if said == "attributes":
                continue
            if isinstance(value, dict):
                changes.update(self._parent(kind, said, value))
                continue
            name = self.column(kind, said)
            if name is None:
                raise Refused(no_column(said, kind))
            if not self.field(kind, name).writable:
                raise Refused(_not_writable(name))
            changes[name] = self._value(kind, name, value)
        return changes

    def _parent(self, kind: str, said: str, key: Mapping[str, Any]) -> dict[str, Any]:
        """A lookup by the parent's external id."""
        found = [
            n for n, f in self.fields[kind].items() if f.relationship and f.relationship == said
        ]
        if not found:
            raise Refused(no_column(said, kind))
        parent = self.fields[kind][found[0]].refers
        pairs = [(name, value) for name, value in key.items() if name != "attributes"]
        if len(pairs) != 1:
            text = f"The {said} relationship should be given by exactly one external id field"
            raise Refused(Mistake("INVALID_FIELD", text, (said,)))
        ((name, value),) = pairs
        if not self.looked_up_by(parent, name):
            text = (
                f"Field name provided, {name} is not an External ID or indexed field for {parent}"
            )
            raise Refused(Mistake("INVALID_FIELD", text))
        rows = self.matches(parent, name, value) if value is not None else []
        if not rows:
            text = f"Foreign key external ID: {value} not found for field {name} in entity {parent}"
            raise Refused(Mistake("INVALID_FIELD", text))
        if len(rows) > 1:
            raise Refused(self.ambiguous(parent, name, rows))
        return {found[0]: rows[0]["Id"]}

    def looked_up_by(self, kind: str, name: str) -> bool:
        return name in self.fields[kind] and self.fields[kind][name].external_id

    def ambiguous(self, kind: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Mistake:
        ids = ", ".join(row["Id"] for row in rows)
        label = self.field(kind, name).label or name
        text = f"{label}: more than one record found for external id field: [{ids}]"
        return Mistake("DUPLICATE_EXTERNAL_ID", text, (name,))

    def _value(self, kind: str, name: str, value: Any) -> Any:
        column = self.field(kind, name)
        if value is None:
            if column.type == "boolean":
                raise Refused(_mistyped(name, column, value))
            return None
        if column.type == "reference":
            return self._reference(name, column, value)
        if not _typed(column.type, value):
            raise Refused(_mistyped(name, column, value))
        if column.type in TEXT:
            return value.strip() or None
        if column.type in {"double", "int"}:
            return float(value) if column.type == "double" else int(value)
        return value

    def _reference(self, name: str, column: Field, value: Any) -> str:
        try:
            return self.row(column.refers, value)["Id"]
        except Refused as refused:
            (mistake,) = refused.mistakes
            raise Refused(Mistake(mistake.code, mistake.message, (name,))) from None

    def _complete(self, kind: str, changes: Mapping[str, Any]) -> None:
        missing = [
            name
            for name, column in self.fields[kind].items()
            if column.required and changes.get(name) is None
        ]
        if missing:
            raise Refused(_missing(missing))
        if kind == "CampaignMember" and not (changes.get("ContactId") or changes.get("LeadId")):
            raise Refused(_missing(["ContactId"]))

    def _not_emptied(self, kind: str, changes: Mapping[str, Any]) -> None:
        emptied = [n for n, v in changes.items() if v is None and self.field(kind, n).required]
        if emptied:
            raise Refused(_missing(emptied))

    def _check(self, kind: str, changes: Mapping[str, Any]) -> None:
        found = [
            mistake
            for name, value in changes.items()
            if value is not None
            for mistake in _unfit(name, self.field(kind, name), value)
        ]
        if found:
            raise Refused(*found)

    def _alone(self, kind: str, changes: Mapping[str, Any], this: Mapping[str, Any] | None) -> None:
        for name, value in changes.items():
            if value is None or not self.field(kind, name).unique:
                continue
            for row in self.matches(kind, name, value):
                if row is not this:
                    raise Refused(taken(name, row["Id"]))
        if kind == "CampaignMember" and this is None:
            self._no_member_yet(changes)

    def _no_member_yet(self, changes: Mapping[str, Any]) -> None:
        """One membership for each campaign and person."""
        for row in self.table("CampaignMember").values():
            same = row["CampaignId"] == changes["CampaignId"]
            persons = [n for n in ("ContactId", "LeadId") if changes.get(n)]
            if same and any(row.get(n) == changes[n] for n in persons):
                raise Refused(Mistake("DUPLICATE_VALUE", "Already a campaign member."))

    def _heed_rules(
        self,
        kind: str,
        changes: Mapping[str, Any],
        this: Mapping[str, Any] | None,
        *,
        allow_save: bool,
    ) -> None:
        for rule in self.rules:
            if rule.object != kind or (allow_save and rule.allow_save):
                continue
            if this is not None and not rule.edits:
                continue
            found = [row for row in self._alike(rule, changes) if row is not this]
            if found:
                raise Refused(_duplicates(rule, found))

    def _alike(
        self, rule: DuplicateRule, changes: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        for row in self.table(rule.object).values():
            if any(
                changes.get(name) and comparable(changes[name]) == comparable(row.get(name))
                for name in rule.fields
            ):
                yield row


def comparable(value: Any, case_sensitive: bool = False) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool):
        return value
    return str(value) if case_sensitive else str(value).lower()


def no_column(name: str, kind: str) -> Mistake:
    return Mistake("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind}")


def _not_writable(name: str) -> Mistake:
    text = (
        f"Unable to create/update fields: {name}. Please check the security settings of this"
        " field and verify that it is read/write for your profile or permission set."
    )
    return Mistake("INVALID_FIELD_FOR_INSERT_UPDATE", text, (name,))


def _missing(names: Sequence[str]) -> Mistake:
    text = f"Required fields are missing: [{', '.join(names)}]"
    return Mistake("REQUIRED_FIELD_MISSING", text, tuple(names))


def taken(name: str, by: str) -> Mistake:
    text = f"duplicate value found: {name} duplicates value on record with id: {by}"
    return Mistake("DUPLICATE_VALUE", text)


@dataclass(frozen=True)
class Mistyped(Mistake):
    """A value of the wrong JSON type, or no date where one is due."""

    type: str = ""
    value: Any = None


def _mistyped(name: str, column: Field, value: Any) -> Mistake:
    text = f"{column.label or name}: value not of required type: {value}"
    code = "INVALID_TYPE_ON_FIELD_IN_RECORD"
    return Mistyped(code, text, (name,), {}, column.type, value)


def _typed(kind: str, value: Any) -> bool:
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


def _unfit(name: str, column: Field, value: Any) -> Iterator[Mistake]:
    label = column.label or name
    if column.type in TEXT and len(value) > column.length:
        text = f"{label}: data value too large: {value} (max length={column.length})"
        yield Mistake("STRING_TOO_LONG", text, (name,))
    elif column.type == "email" and not EMAIL.fullmatch(value):
        text = f"{label}: invalid email address: {value}"
        yield Mistake("INVALID_EMAIL_ADDRESS", text, (name,))
    elif column.options and column.restricted and value not in column.options:
        text = f"{label}: bad value for restricted picklist field: {value}"
        yield Mistake("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", text, (name,))


def _duplicates(rule: DuplicateRule, rows: Sequence[Mapping[str, Any]]) -> Mistake:
    """As recorded from v54 and v56; there the key was even spelt `duplicateResut`."""
    result = {
        "allowSave": rule.allow_save,
        "duplicateRule": rule.name,
        "duplicateRuleEntityType": rule.object,
        "errorMessage": "Use one of these records?",
        "matchResults": [
            {
                "entityType": rule.object,
                "errors": [],
                "matchEngine": "FuzzyMatchEngine",
                "matchRecords": [
                    {
                        "additionalInformation": [],
                        "fieldDiffs": [],
                        "matchConfidence": 100.0,
                        "record": {"attributes": {"type": rule.object}, "Id": row["Id"]},
                    }
                    for row in rows
                ],
                "rule": "Standard_Contact_Match_Rule_v1_1",
                "size": len(rows),
                "success": True,
            }
        ],
    }
    return Mistake("DUPLICATES_DETECTED", "Use one of these records?", (), result)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def new_id(prefix: str, number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    return _with_suffix(prefix + "Hs000" + digits.rjust(7, "0"))


def full_id(text: str) -> str | None:
    """The form with 18 characters of either form; None for what is no id."""
    if not (text.isascii() and text.isalnum()) or len(text) not in {15, 18}:
        return None
    known = _with_suffix(text[:15])
    return known if known.startswith(text) else None


def _with_suffix(short: str) -> str:
    """Three characters that say which of the fifteen are capitals."""
    suffix = ""
    for start in (0, 5, 10):
        capitals = [letter in string.ascii_uppercase for letter in short[start : start + 5]]
        suffix += (string.ascii_uppercase + "012345")[sum(c << i for i, c in enumerate(capitals))]
    return short + suffix

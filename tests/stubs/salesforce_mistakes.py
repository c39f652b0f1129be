"""Why the Salesforce stub does not take a row, in the vendor's codes and words.

SOAP API Developer Guide, "StatusCode"; the texts are those that users of the API have recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stubs.salesforce_schema import Field


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

    `compares`: the object whose records are looked at, the same where it is empty; the vendor has a
    standard rule for leads with duplicate contacts.
    `allow_save`: the header Sforce-Duplicate-Rule-Header overrides the rule ("alert"); without,
    nothing does ("block"). `edits`: the rule looks at updates too.
    """

    object: str
    fields: tuple[str, ...]
    allow_save: bool = True
    edits: bool = False
    name: str = "Standard_Contact_Duplicate_Rule"
    compares: str = ""


def no_column(name: str, kind: str) -> Mistake:
    return Mistake("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind}")


def not_writable(name: str) -> Mistake:
    text = (
        f"Unable to create/update fields: {name}. Please check the security settings of this"
        " field and verify that it is read/write for your profile or permission set."
    )
    return Mistake("INVALID_FIELD_FOR_INSERT_UPDATE", text, (name,))


def missing(names: Sequence[str]) -> Mistake:
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


def mistyped(name: str, column: Field, value: Any) -> Mistake:
    text = f"{column.label or name}: value not of required type: {value}"
    code = "INVALID_TYPE_ON_FIELD_IN_RECORD"
    return Mistyped(code, text, (name,), {}, column.type, value)


def duplicates(rule: DuplicateRule, rows: Sequence[Mapping[str, Any]]) -> Mistake:
    """As recorded from v54 and v56; there the key was even spelt `duplicateResut`."""
    compared = rule.compares or rule.object
    result = {
        "allowSave": rule.allow_save,
        "duplicateRule": rule.name,
        "duplicateRuleEntityType": rule.object,
        "errorMessage": "Use one of these records?",
        "matchResults": [
            {
                "entityType": compared,
                "errors": [],
                "matchEngine": "FuzzyMatchEngine",
                "matchRecords": [
                    {
                        "additionalInformation": [],
                        "fieldDiffs": [],
                        "matchConfidence": 100.0,
                        "record": {"attributes": {"type": compared}, "Id": row["Id"]},
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

"""The records of the Salesforce stub, and the rules that they obey."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stubs.salesforce_ids import full_id, new_id
from stubs.salesforce_mistakes import (
    DuplicateRule,
    Mistake,
    Refused,
    duplicates,
    missing,
    mistyped,
    no_column,
    not_writable,
    taken,
)
from stubs.salesforce_schema import PREFIXES, SYSTEM, Field, schema
from stubs.salesforce_values import TEXT, comparable, typed, unfit

if TYPE_CHECKING:
    from stubs.salesforce_persons import Persons


class Org:
    """The rows of an org and the rules that they obey."""

    def __init__(self) -> None:
        self.fields = schema()
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}
        self.rules: list[DuplicateRule] = []
        self.deleted: set[str] = set()
        self.persons: Persons | None = None
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
        if kind == "CampaignMember":
            changes |= self._status(changes, changes.get("CampaignId"))
        usual = {name: c.default for name, c in self.fields[kind].items() if c.default is not None}
        changes = usual | changes
        if self.persons:
            self.persons.check(kind, changes, None)
        self._complete(kind, changes)
        self._check(kind, changes)
        self._alone(kind, changes, None)
        self._heed_rules(kind, changes, None, allow_save=allow_save)
        row = self.made(kind, changes)
        if self.persons:
            self.persons.mirror(kind, row, changes)
        return str(row["Id"])

    def made(self, kind: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """A new row, which is not looked at any more."""
        now = _now()
        made = new_id(self.prefix(kind), next(self._numbers))
        row = {"Id": made, "CreatedDate": now, "LastModifiedDate": now, "SystemModstamp": now}
        row |= {name: False for name, c in self.fields[kind].items() if c.type == "boolean"}
        self.put(kind, row, changes)
        return row

    def update(
        self, kind: str, row: dict[str, Any], values: Mapping[str, Any], *, allow_save: bool = False
    ) -> None:
        """Change a row; null clears. Raises Refused."""
        if row.get("IsConverted"):
            text = "cannot reference converted lead"
            raise Refused(Mistake("CANNOT_UPDATE_CONVERTED_LEAD", text))
        changes = self._converted(kind, values)
        if fixed := [name for name in changes if self.field(kind, name).fixed]:
            raise Refused(*map(not_writable, fixed))
        if kind == "CampaignMember":
            changes |= self._status(changes, row["CampaignId"])
        if self.persons:
            self.persons.check(kind, changes, row)
        self._not_emptied(kind, changes)
        self._check(kind, changes)
        self._alone(kind, changes, row)
        self._heed_rules(kind, changes, row, allow_save=allow_save)
        row["LastModifiedDate"] = row["SystemModstamp"] = _now()
        self.put(kind, row, changes)
        if self.persons:
            self.persons.mirror(kind, row, changes)

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

    def put(self, kind: str, row: dict[str, Any], changes: Mapping[str, Any]) -> None:
        """Write values that have been looked at."""
        places = [place for place in self._indexes if place[0] == kind]
        for place in places if row["Id"] in self.table(kind) else ():
            self._unindexed(place, row)
        self.table(kind)[row["Id"]] = row
        for name, value in changes.items():
            if value is None:
                row.pop(name, None)
            else:
                row[name] = value
        if kind == "Task":
            row["IsClosed"] = row["Status"] == "Completed"
        if row.get("LastName"):
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
                raise Refused(not_writable(name))
            changes[name] = self._value(kind, name, value)
        return changes

    def _parent(self, kind: str, said: str, key: Mapping[str, Any]) -> dict[str, Any]:
        """A lookup by the parent's external id."""
        found = [
            n for n, f in self.fields[kind].items() if f.relationship and f.relationship == said
        ]
        if not found:
            raise Refused(no_column(said, kind))
        if self.fields[kind][found[0]].or_refers:
            text = f"The {said} relationship leads to several objects: give {found[0]}"
            raise Refused(Mistake("INVALID_FIELD", text, (said,)))
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
        if name not in self.fields[kind] or name.endswith("__pc"):
            return False
        return self.fields[kind][name].external_id

    def ambiguous(self, kind: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Mistake:
        ids = ", ".join(row["Id"] for row in rows)
        label = self.field(kind, name).label or name
        text = f"{label}: more than one record found for external id field: [{ids}]"
        return Mistake("DUPLICATE_EXTERNAL_ID", text, (name,))

    def _value(self, kind: str, name: str, value: Any) -> Any:
        column = self.field(kind, name)
        if value is None:
            if column.type == "boolean":
                raise Refused(mistyped(name, column, value))
            return None
        if column.type == "reference":
            return self._reference(name, column, value)
        if not typed(column.type, value):
            raise Refused(mistyped(name, column, value))
        if column.type in TEXT:
            return value.strip() or None
        if column.type in {"double", "int"}:
            return float(value) if column.type == "double" else int(value)
        return value

    def _reference(self, name: str, column: Field, value: Any) -> str:
        try:
            row = self._parent_row(column, value)
        except Refused as refused:
            (mistake,) = refused.mistakes
            raise Refused(Mistake(mistake.code, mistake.message, (name,))) from None
        return row["Id"]

    def _parent_row(self, column: Field, value: Any) -> dict[str, Any]:
        parent = self.parent_of(column, value)
        if parent is None:
            text = f"{column.label}: id value of incorrect type: {value}"
            raise Refused(Mistake("FIELD_INTEGRITY_EXCEPTION", text))
        row = self.row(parent, value)
        if column.or_refers and row.get("IsConverted"):
            text = "cannot reference converted lead"
            raise Refused(Mistake("CANNOT_UPDATE_CONVERTED_LEAD", text))
        return row

    def parent_of(self, column: Field, value: Any) -> str | None:
        """The object that an id is of, of those that the reference may lead to."""
        if not column.or_refers:
            return column.refers
        kinds = (kind for kind in column.parents if self.prefix(kind) == str(value)[:3])
        return next(kinds, None)

    def _complete(self, kind: str, changes: Mapping[str, Any]) -> None:
        empty = [
            name
            for name, column in self.fields[kind].items()
            if column.required and changes.get(name) is None
        ]
        if self.persons and self.persons.is_person(kind, changes):
            empty = [] if changes.get("LastName") else ["LastName"]
        if empty:
            raise Refused(missing(empty))
        if kind == "CampaignMember" and not (changes.get("ContactId") or changes.get("LeadId")):
            raise Refused(missing(["ContactId"]))

    def _not_emptied(self, kind: str, changes: Mapping[str, Any]) -> None:
        emptied = [n for n, v in changes.items() if v is None and self.field(kind, n).required]
        if emptied:
            raise Refused(missing(emptied))

    def _check(self, kind: str, changes: Mapping[str, Any]) -> None:
        found = [
            mistake
            for name, value in changes.items()
            if value is not None
            for mistake in unfit(name, self.field(kind, name), value)
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

    def _status(self, changes: Mapping[str, Any], campaign: Any) -> dict[str, Any]:
        """In place of a status that the campaign does not have, its first one, without a word."""
        rows = self.table("CampaignMemberStatus").values()
        known = [row["Label"] for row in rows if row["CampaignId"] == campaign]
        if known and "Status" in changes and changes["Status"] not in known:
            return {"Status": known[0]}
        return {}

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
                raise Refused(duplicates(rule, found))

    def _alike(
        self, rule: DuplicateRule, changes: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        for row in self.table(rule.compares or rule.object).values():
            if any(
                changes.get(name) and comparable(changes[name]) == comparable(row.get(name))
                for name in rule.fields
            ):
                yield row


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")

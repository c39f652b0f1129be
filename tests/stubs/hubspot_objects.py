"""Records: contacts, communications, notes and a custom object.

After HubSpot's guides to each of them, and to search; what an endpoint takes is as in its public
specifications of 2026-09.
"""

from collections.abc import Callable
from typing import Any

from stubs.hubspot_account import Account, kind_of
from stubs.hubspot_ask import Ask, fits, identified, inputs, strings, typed, undoubled, writes
from stubs.hubspot_errors import (
    Refusal,
    conflict,
    invalid,
    missing,
    missing_v3,
    not_found,
    not_unique,
    taken,
)
from stubs.hubspot_links import Links
from stubs.hubspot_rows import Planned, Rows
from stubs.hubspot_schema import MAIL, Field, Kind, problem, stored
from stubs.hubspot_search import found
from stubs.hubspot_shelf import Record, iso

OWN = "hs_object_id"
USUAL = ["email", "firstname", "lastname"]
Answer = tuple[int, Any]
Written = Callable[[Kind, dict[str, Any], Ask], dict[str, Any]]


class Objects:
    """Reads and writes; every method that takes an Ask is an endpoint, and raises Refusal."""

    def __init__(self, account: Account, planned: Planned, links: Links) -> None:
        self._account = account
        self._planned = planned
        self._links = links

    def batch_upsert(self, ask: Ask) -> Answer:
        """With e-mail addresses as keys nothing is partial ("Contacts" guide)."""
        kind = _writable(ask)
        given = writes(ask.body, {"id", "properties"}, {"idProperty"})
        for each in given:
            self._unique(kind, each.get("idProperty"))
        undoubled(given)
        partial = all(each["idProperty"] != "email" for each in given)
        return self._batch(kind, given, ask, self._upsert, 200, partial=partial)

    def batch_create(self, ask: Ask) -> Answer:
        kind = _writable(ask)
        given = writes(ask.body, {"properties"}, {"associations"})
        return self._batch(kind, given, ask, self._add, 201)

    def batch_update(self, ask: Ask) -> Answer:
        """By e-mail address it says yes and changes nothing (HubSpot/hubspot-api-nodejs#548)."""
        kind = _writable(ask)
        given = writes(ask.body, {"id", "properties"}, {"idProperty"})
        if any(each.get("idProperty") == "email" for each in given):
            return 200, self._account.batch([])
        for each in given:
            self._unique(kind, each.get("idProperty", OWN), own=True)
        undoubled(given)
        return self._batch(kind, given, ask, self._update, 200)

    def batch_read(self, ask: Ask) -> Answer:
        kind = _readable(ask)
        ids = [each["id"] for each in inputs(ask.body, {"id"}) if identified(each) is None]
        fits(ask.body, {"inputs"}, {"properties", "propertiesWithHistory", "idProperty"})
        name = ask.body.get("idProperty", OWN)
        self._unique(kind, name, own=True)
        if name == "email" and not all(MAIL.fullmatch(id_.strip()) for id_ in ids):
            raise Refusal(400, "VALIDATION_ERROR", "Invalid email address")
        records = {id_: self._account.shelves[kind.name].find(name, id_) for id_ in ids}
        wanted = _wanted(ask)
        results = [self._shown(kind, record, wanted) for record in records.values() if record]
        absent = [id_ for id_, record in records.items() if not record]
        if not absent:
            return 200, self._account.batch(results)
        text = (
            f"Could not get some {kind.noun} objects, they may be deleted or not exist. "
            "Check that ids are valid."
        )
        named = {"ids": absent} if self._account.names_missing else {}
        refusal = Refusal(404, "OBJECT_NOT_FOUND", text, named)
        return 207, self._account.batch(results, [refusal.row([])])

    def create(self, ask: Ask) -> Answer:
        kind = _writable(ask)
        fits(ask.body, {"properties"}, {"associations", "objectWriteTraceId"})
        return 201, self._single(kind, ask.body, ask, self._add)

    def change(self, ask: Ask) -> Answer:
        kind = _writable(ask)
        fits(ask.body, {"properties"}, {"objectWriteTraceId"})
        name = ask.query.get("idProperty", OWN)
        self._unique(kind, name, own=True)
        each = ask.body | {"id": ask.path["id"], "idProperty": name}
        return 200, self._single(kind, each, ask, self._update)

    def read(self, ask: Ask) -> Answer:
        kind = _readable(ask)
        name = ask.query.get("idProperty", OWN)
        self._unique(kind, name, own=True)
        record = self._account.shelves[kind.name].find(name, ask.path["id"])
        if not record:
            raise not_found()
        return 200, self._shown(kind, record, ask.names)

    def page(self, ask: Ask) -> Answer:
        kind = _readable(ask)
        size, after = ask.number("limit", 10, most=100), ask.number("after", 0)
        rest = self._account.shelves[kind.name].ordered(after, size + 1)
        told: dict[str, Any] = {
            "results": [self._shown(kind, record, ask.names) for record in rest[:size]]
        }
        if len(rest) > size:
            told["paging"] = {"next": {"after": rest[size].id, "link": f"?after={rest[size].id}"}}
        return 200, told

    def search(self, ask: Ask) -> Answer:
        """Finds what was written a moment ago only when `search_lag` has passed."""
        kind = _readable(ask)
        until = self._account.clock.now() - self._account.search_lag
        shelf, fields = self._account.shelves[kind.name], self._account.fields[kind.name]
        records, total, after = found(shelf, ask.body, fields, until)
        wanted = _wanted(ask)
        told: dict[str, Any] = {
            "total": total,
            "results": [self._shown(kind, record, wanted) for record in records],
        }
        return 200, told | ({"paging": {"next": {"after": after}}} if after else {})

    def _batch(
        self,
        kind: Kind,
        given: list[dict[str, Any]],
        ask: Ask,
        write: Written,
        status: int,
        *,
        partial: bool = True,
    ) -> Answer:
        traced = all(each.get("objectWriteTraceId") for each in given)
        partial = partial and traced and self._account.multi_status
        rows = self._rows(kind, given, ask, write, partial=partial)
        errors = self._planned.told(rows)
        return 207 if errors else status, self._account.batch(rows.results, errors)

    def _single(self, kind: Kind, each: dict[str, Any], ask: Ask, write: Written) -> dict[str, Any]:
        identified(each)
        strings(each["properties"])
        rows = self._rows(kind, [each], ask, write, partial=False)
        return rows.results[0] if rows.results else {}

    def _rows(
        self, kind: Kind, given: list[dict[str, Any]], ask: Ask, write: Written, *, partial: bool
    ) -> Rows:
        """All or nothing, unless each input can be named in an error."""
        rows = Rows()
        with self._account.shelves[kind.name].undoing() as undo:
            for each in given:
                try:
                    self._planned.run(each, lambda one: write(kind, one, ask), rows)
                except Refusal as refusal:
                    if not partial:
                        undo()
                        self._links.forget()
                        raise
                    rows.errors.append((refusal, each["objectWriteTraceId"]))
        self._links.keep()
        return rows

    def _upsert(self, kind: Kind, each: dict[str, Any], ask: Ask) -> dict[str, Any]:
        """The key need not be among the properties, and then is not among those told."""
        if self._account.shelves[kind.name].find(each["idProperty"], each["id"]):
            return self._update(kind, each, ask) | {"new": False}
        properties = {each["idProperty"]: each["id"]} | each["properties"]
        record = self._made(kind, properties, ask)
        return self._shown(kind, record, list(each["properties"])) | {"new": True}

    def _add(self, kind: Kind, each: dict[str, Any], ask: Ask) -> dict[str, Any]:
        links = self._links.given(kind, each.get("associations") or [])
        record = self._made(kind, each["properties"], ask)
        self._links.plan(record.id, links)
        return self._shown(kind, record, list(each["properties"]))

    def _made(self, kind: Kind, given: dict[str, str], ask: Ask) -> Record:
        self._checked(kind, given)
        self._complete(kind, given, ask)
        for name, value in given.items():
            self._untaken(kind, name, value, None)
        known = self._account.fields[kind.name]
        kept = {name: stored(name, known[name], value, "") for name, value in given.items()}
        return self._account.shelves[kind.name].add(kept, self._account.clock.now())

    def _update(self, kind: Kind, each: dict[str, Any], ask: Ask) -> dict[str, Any]:
        shelf = self._account.shelves[kind.name]
        record = shelf.find(each.get("idProperty", OWN), each["id"])
        if not record:
            raise not_found()
        given = each["properties"]
        self._checked(kind, given)
        self._complete(kind, record.properties | given, ask, given)
        for name, value in given.items():
            self._untaken(kind, name, value, record)
        known, before = self._account.fields[kind.name], record.properties
        kept = {
            name: stored(name, known[name], value, before.get(name, ""))
            for name, value in given.items()
        }
        changed = shelf.change(record, kept, self._account.clock.now())
        return self._shown(kind, changed, list(given))

    def _unique(self, kind: Kind, name: Any, *, own: bool = False) -> None:
        """`own`: HubSpot's own id will do, which an upsert does not take."""
        known = self._account.fields[kind.name].get(name) if isinstance(name, str) else None
        if known is None or not known.unique or (name == OWN and not own):
            raise not_unique(str(name), kind.type_id)

    def _checked(self, kind: Kind, given: dict[str, str]) -> None:
        known = self._account.fields[kind.name]
        problems = [problem(name, known.get(name), value) for name, value in given.items()]
        wrong = [each for each in problems if each]
        if wrong:
            told = wrong if self._account.all_errors else wrong[:1]
            raise invalid(told, codes=self._account.error_codes)

    def _complete(
        self, kind: Kind, whole: dict[str, str], ask: Ask, given: dict[str, str] | None = None
    ) -> None:
        """What is required when a record is made must not be cleared later."""
        known = self._account.fields[kind.name]
        absent = [
            name
            for name, each in known.items()
            if each.required and not whole.get(name) and (given is None or name in given)
        ]
        if absent:
            raise missing(absent) if ask.dated else missing_v3(absent, kind.noun)
        ruled = _ruled(known, whole) if ask.dated else []
        if ruled:
            raise missing(ruled, "MISSING_CONDITIONAL_REQUIRED_PROPERTY")

    def _untaken(self, kind: Kind, name: str, value: str, mine: Record | None) -> None:
        if not value or not self._account.fields[kind.name][name].unique:
            return
        theirs = self._account.shelves[kind.name].find(name, value)
        if theirs is None or (mine and theirs.id == mine.id):
            return
        if name == "email" and mine is None:
            raise conflict(theirs.id)
        raise taken(kind.noun, name, value, mine.id if mine else "a new record", theirs.id)

    def _shown(self, kind: Kind, record: Record, wanted: list[str]) -> dict[str, Any]:
        """What was asked for or written; a property that does not exist is left out silently."""
        have, known = record.all(), self._account.fields[kind.name]
        usual = USUAL if kind.name == "contacts" and not wanted else []
        stamps = [name for name, each in known.items() if each.stamp]
        return {
            "id": record.id,
            "properties": {
                name: have.get(name) for name in (*wanted, *usual, *stamps) if name in known
            },
            "createdAt": iso(record.created),
            "updatedAt": iso(record.updated),
            "archived": False,
        }


def _readable(ask: Ask) -> Kind:
    kind = kind_of(ask.path["kind"])
    ask.may(f"crm.objects.{kind.scope}.read")
    return kind


def _writable(ask: Ask) -> Kind:
    kind = kind_of(ask.path["kind"])
    ask.may(f"crm.objects.{kind.scope}.write")
    return kind


def _wanted(ask: Ask) -> list[str]:
    found = typed(ask.body.get("properties") or [], list, "properties")
    return [typed(name, str, "properties") for name in found]


def _ruled(known: dict[str, Field], whole: dict[str, str]) -> list[str]:
    """What an administrator's rules ask for beside."""
    return [
        name
        for name, each in known.items()
        if each.required_when
        and whole.get(each.required_when[0]) == each.required_when[1]
        and not whole.get(name)
    ]

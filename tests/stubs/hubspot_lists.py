"""Lists and who is in them. After HubSpot's guide "Lists" and its public specification of lists."""

from dataclasses import dataclass, field
from typing import Any

from stubs.hubspot_account import Account, kind_of, refuse
from stubs.hubspot_ask import Ask, typed
from stubs.hubspot_errors import Refusal

STATIC = ("MANUAL", "SNAPSHOT")
MOST = 100_000
"""Ids of records in a request."""
READ, WRITE = "crm.lists.read", "crm.lists.write"


@dataclass
class RecordList:
    """A list of contacts, or of the records that `kind` names."""

    name: str
    processing: str = "MANUAL"
    kind: str = "contacts"
    members: list[str] = field(default_factory=list)


class Lists:
    """Every method that takes an Ask is an endpoint, and raises Refusal."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def read(self, ask: Ask) -> tuple[int, Any]:
        ask.may(READ)
        return 200, {"list": self._told(ask.path["id"], self._found(ask))}

    def read_many(self, ask: Ask) -> tuple[int, Any]:
        """Those of `listIds` that are there; the others are left out."""
        ask.may(READ)
        ids = dict.fromkeys(ask.query.get("listIds", "").split(","))
        known = self._account.lists
        return 200, {"lists": [self._told(each, known[each]) for each in ids if each in known]}

    def _told(self, id_: str, found: RecordList) -> dict[str, Any]:
        return {
            "listId": id_,
            "listVersion": 1,
            "name": found.name,
            "objectTypeId": kind_of(found.kind).type_id,
            "processingStatus": "COMPLETE",
            "processingType": found.processing,
            "size": len(found.members),
        }

    def add(self, ask: Ask) -> tuple[int, Any]:
        """Who is no record is named, who is a member already is not."""
        ask.may(READ)
        ask.may(WRITE)
        ids = [typed(each, str, "recordId") for each in ask.body]
        if len(ids) > MOST:
            raise refuse(f"No more than {MOST} records can be added at once")
        found = self._found(ask)
        if found.processing not in STATIC:
            raise refuse(f"Memberships of a {found.processing} list cannot be changed")
        there = self._account.shelves[kind_of(found.kind).name].records
        added = [each for each in dict.fromkeys(ids) if each in there]
        added = [each for each in added if each not in found.members]
        found.members += added
        return 200, {
            "recordsIdsAdded": added,
            "recordIdsMissing": [each for each in dict.fromkeys(ids) if each not in there],
            "recordIdsRemoved": [],
        }

    def _found(self, ask: Ask) -> RecordList:
        id_ = ask.path["id"]
        if not id_.isdecimal():
            raise refuse(f"{id_} is not a valid list id")
        if id_ not in self._account.lists:
            raise Refusal(404, "OBJECT_NOT_FOUND", f"List does not exist with ID {id_}.")
        return self._account.lists[id_]

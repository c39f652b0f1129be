"""Custom events. After HubSpot's guide "Send custom event occurrences"."""

from datetime import datetime
from typing import Any

from stubs.hubspot_account import Account, refuse
from stubs.hubspot_ask import ANY, Ask, fits, inputs, strings, typed
from stubs.hubspot_errors import malformed, not_found, unset
from stubs.hubspot_schema import Field

NEEDED = frozenset({"eventName", "properties"})
WHO = frozenset({"email", "objectId", "utk"})
MAY = WHO | {"occurredAt", "uuid"}
Answer = tuple[int, Any]


class Events:
    """Every method that takes an Ask is an endpoint, and raises Refusal."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._seen: set[tuple[str, str]] = set()

    def send(self, ask: Ask) -> Answer:
        ask.may("analytics.behavioral_events.send")
        self._take([ask.body])
        return 204, None

    def send_batch(self, ask: Ask) -> Answer:
        ask.may("analytics.behavioral_events.send")
        self._take(inputs(ask.body, NEEDED, ANY, most=500))
        return 204, None

    def definition(self, ask: Ask) -> Answer:
        ask.may("behavioral_events.event_definitions.read_write")
        name = ask.path["name"]
        if name not in self._account.events_known:
            raise not_found()
        properties = [
            self._account.event_fields.get(each, Field()).told(each)
            for each in sorted(self._account.events_known[name])
        ]
        return 200, {"fullyQualifiedName": name, "name": name, "properties": properties}

    def _take(self, found: list[Any]) -> None:
        """One malformed event refuses all; what is well formed gets no answer of its own."""
        for each in found:
            self._check(each)
        for each in found:
            self._occur(each)

    def _check(self, each: Any) -> None:
        fits(each, NEEDED, MAY)
        for key in MAY | {"eventName"}:
            typed(each.get(key, ""), str, key)
        if not WHO & each.keys():
            raise unset(sorted(WHO))
        if each["eventName"] not in self._account.events_known:
            raise refuse(f"no event named {each['eventName']}")
        values = strings(each["properties"]).values()
        if len(values) > 50 or any(len(value) > 256 for value in values):
            raise refuse("50 properties of 256 characters at most")
        if "occurredAt" in each and not _moment(each["occurredAt"]):
            raise malformed("Cannot deserialize value of type Instant")

    def _occur(self, each: dict[str, Any]) -> None:
        """A repeated `uuid` and a contact that nobody knows are lost without a word."""
        known = self._account.events_known[each["eventName"]]
        given = each["properties"]
        kept = {name: value for name, value in given.items() if name in known}
        mark = (each["eventName"], each.get("uuid", ""))
        self._account.lost["property"] += len(given) - len(kept)
        if not self._person(each):
            self._account.lost["contact"] += 1
        elif mark[1] and mark in self._seen:
            self._account.lost["uuid"] += 1
        else:
            self._seen.add(mark)
            self._account.events.append(each | {"properties": kept})

    def _person(self, each: dict[str, Any]) -> bool:
        shelf = self._account.shelves["contacts"]
        by_id = each.get("objectId") in shelf.records
        return by_id or bool(each.get("email") and shelf.find("email", each["email"]))


def _moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False

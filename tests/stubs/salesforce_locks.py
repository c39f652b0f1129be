"""Salesforce locks a record while it writes it or a child of it; two inserts of a key collide.

Runbook "Record Locking Cheat Sheet". The vendor lets a second writer wait for ten seconds; here
it is refused at once, which is the harder case.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from stubs.salesforce_errors import MESSAGES
from stubs.salesforce_mistakes import Mistake, Refused, taken
from stubs.salesforce_org import Org
from stubs.salesforce_values import comparable

Name = tuple[str, str, Any]
"""A record by its object, a field and the value there."""


@dataclass(frozen=True)
class Hold:
    """What a request has of the records that it writes: `busy` has somebody else, `absent` was
    not there when the request came."""

    org: Org
    fired: Counter[str]
    busy: frozenset[Name]
    absent: frozenset[Name]

    def check(self, names: frozenset[Name]) -> None:
        """Raises Refused; counted in `fired` as `race` or `locked`."""
        for kind, field, value in names & self.absent:
            if rows := self.org.matches(kind, field, value):
                self.fired["race"] += 1
                raise Refused(taken(field, rows[0]["Id"]))
        if names & self.busy:
            self.fired["locked"] += 1
            raise Refused(Mistake("UNABLE_TO_LOCK_ROW", MESSAGES["UNABLE_TO_LOCK_ROW"]))


class Locks:
    """Matters where the stub has a latency; else no two requests are ever at work together."""

    def __init__(self, org: Org, fired: Counter[str]) -> None:
        self._org = org
        self._fired = fired
        self._held: Counter[Name] = Counter()

    @asynccontextmanager
    async def held(self, names: frozenset[Name], latency: float) -> AsyncIterator[Hold]:
        absent = frozenset(name for name in names if not self._org.matches(*name))
        busy = frozenset(name for name in names if self._held[name])
        self._held.update(names)
        try:
            if latency:
                await asyncio.sleep(latency)
            yield Hold(self._org, self._fired, busy, absent)
        finally:
            self._held.subtract(names)
            self._held += Counter()  # drops those that nobody holds


def locked_by(
    org: Org, kind: str, values: Mapping[str, Any], field: str, key: Any
) -> frozenset[Name]:
    """The records that a row locks: its own, and its parents."""
    names = {(kind, field, comparable(key))} if key is not None else set()
    for name, value in values.items():
        if isinstance(value, dict):
            names |= _parent(org, kind, name, value)
        elif isinstance(value, str) and (parent := _referred(org, kind, name, value)):
            names.add((parent, "Id", comparable(value)))
    return frozenset(names)


def _parent(org: Org, kind: str, said: str, key: Mapping[str, Any]) -> set[Name]:
    kinds = [f.refers for f in org.fields[kind].values() if f.refers and f.relationship == said]
    return {
        (parent, name, comparable(value))
        for parent in kinds[:1]
        for name, value in key.items()
        if org.looked_up_by(parent, name)
    }


def _referred(org: Org, kind: str, said: str, value: str) -> str | None:
    column = org.fields[kind].get(said)
    return org.parent_of(column, value) if column else None

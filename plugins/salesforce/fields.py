"""The fields: which of them each object of the sink has, where it has several objects.

A field of the options that only another object of the sink has is left out. The only object of a
sink is asked for every field that the options name.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from .session import Session


class Fields:
    """Knows the fields of the sink's objects ("sObject Describe", REST guide)."""

    def __init__(self, session: Session, kinds: Iterable[str]) -> None:
        self._session = session
        self._kinds = tuple(kinds)
        self._others: dict[str, frozenset[str]] = {}
        self._are_current = len(self._kinds) == 1
        self._turn = asyncio.Lock()

    async def learn(self) -> None:
        """Read the description of each of several objects, once. Raises Retry or Pause."""
        async with self._turn:  # batches that begin together read them once
            if not self._are_current:
                names = {kind: await self._read(kind) for kind in self._kinds}
                every = frozenset[str]().union(*names.values())
                self._others = {kind: every - own for kind, own in names.items()}
                self._are_current = True

    async def _read(self, kind: str) -> frozenset[str]:
        return frozenset(_names(await self._session.records(f"sobjects/{kind}/describe", "fields")))

    def renew(self) -> None:
        """Have the next `learn` read the descriptions again. Until then what was read counts."""
        self._are_current = len(self._kinds) == 1

    def of(self, kind: str, names: Iterable[str]) -> list[str]:
        """The names without those that only another object has."""
        others = self._others.get(kind, frozenset[str]())
        return [name for name in names if name.casefold() not in others]

    def kept(self, kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record without the fields that only another object has."""
        return {name: record[name] for name in self.of(kind, record)}


def _names(fields: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """How a record can name each field: by itself, or by its relationship."""
    for field in fields:
        for name in (field.get("name"), field.get("relationshipName")):
            if isinstance(name, str):
                yield name.casefold()

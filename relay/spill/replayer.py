"""The replayer: stores the records of the spill, once the store can be written again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from relay.event import OPT_IN, Event, InvalidCallback
from relay.slices import Slices
from relay.sources.router import Router, Words
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled
from relay.store import StoreError
from relay.store.port import Store

NOT_UNDERSTOOD = 422
"""The status of a record that is no event by today's configuration."""

MOST_ROUNDS = 8
"""The most groups that the opt-ins of one request make of it."""

ReplayItem = tuple[Spilled, Event | None]
"""A record and its event; a record without an event goes to quarantine."""


class Replayer:
    """Stores the records of the spill in their order, each under its own id, and each once."""

    def __init__(self, router: Router, store: Store, spill: SpillQueue) -> None:
        self._router = router
        self._store = store
        self._spill = spill

    async def replay(self, limit: int, *, late: bool = False) -> int:
        """Store the next records; return how many lines they were. Raises StoreError or OSError.

        `late`: the store may already hold newer events of the same contacts.
        """
        await self._spill.reopen()
        chunk = await self._spill.read(limit)
        if late:
            chunk.records[:] = [each._replace(late=True) for each in chunk.records]
        # Some records may be stored already: after a crash, or if a commit's result was unknown.
        # Others may still be in the writer's queue, as their callbacks waited no longer than
        # `disk_timeout`.
        await self._store.flush()
        known = await self._store.known([each.id for each in chunk.records])
        items, slices = [], Slices()
        for each in _once(chunk.records, known):
            items.append(self._item(each))
            await slices.rest()
        words: Words = {}
        for together in rounds(items, limit, most=limit):
            await self._store_round(together, words)
        if chunk.bad:
            await self._spill.put_aside(*chunk.bad)
        self._spill.advance(chunk)
        return chunk.lines

    def _item(self, spilled: Spilled) -> ReplayItem:
        if spilled.status is not None:
            return spilled, None
        try:
            return spilled, self._router.event(spilled.callback, spilled.id)
        except InvalidCallback as error:  # valid by an earlier configuration
            return _not_understood(spilled, error.reason), None

    async def _store_round(self, items: Sequence[ReplayItem], words: Words) -> None:
        writes: list[Callable[[], Awaitable[object]]] = []
        for spilled, event in items:
            if event is None:
                writes.append(partial(self._quarantine, spilled))
            else:
                arrival = await self._router.new_event(spilled.callback, event, words)
                writes.append(partial(self._store.add, arrival._replace(late=spilled.late)))
        results = await asyncio.gather(*(write() for write in writes), return_exceptions=True)
        for (spilled, _), result in zip(items, results, strict=True):
            if type(result) is StoreError:  # only this record was refused
                await self._quarantine(_not_understood(spilled, str(result)))
            elif isinstance(result, BaseException):
                raise result

    async def _quarantine(self, spilled: Spilled) -> None:
        assert spilled.status is not None
        await self._store.quarantine(spilled.callback, spilled.status, spilled.reason, spilled.id)


def _once(records: Iterable[Spilled], known: set[str]) -> Iterator[Spilled]:
    """The records whose ids are not known, each id once."""
    seen = set(known)
    for each in records:
        if each.id not in seen:
            seen.add(each.id)
            yield each


def _not_understood(spilled: Spilled, reason: str) -> Spilled:
    """The record for quarantine. One that has a status, as for a wrong token, keeps it."""
    if spilled.status is not None:
        return spilled
    return spilled._replace(status=NOT_UNDERSTOOD, reason=reason)


def rounds(
    items: Iterable[ReplayItem], size: int, *, most: int = MOST_ROUNDS
) -> Iterator[list[ReplayItem]]:
    """Groups of up to `size` of the items, in their order, each of which is stored together.

    A `when` may ask for the contact's consent. An opt-out counts for what follows in its group; an
    opt-in that may be a repeat counts when it is stored, so what follows begins another group.
    After `most` groups it no longer does.
    """
    taken: list[ReplayItem] = []
    opted_in: set[tuple[str, str]] = set()
    number = 1
    for spilled, event in items:
        source, contact = spilled.callback.source, (event and event.contact) or ""
        asks = (source, contact) in opted_in and number < most
        if len(taken) == size or asks:
            yield taken
            taken, opted_in = [], set()
            number += 1
        taken.append((spilled, event))
        if event is not None and event.consent == OPT_IN:
            opted_in.add((source, contact))
    if taken:
        yield taken

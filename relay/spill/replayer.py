"""The importer: brings what the spill holds to the store, in its order, each under its own id."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from relay.event import Event, InvalidCallback
from relay.slices import Slices
from relay.sources.router import Intake
from relay.spill.line import Spilled
from relay.spill.queue import Spill
from relay.store import Store, StoreError

NOT_UNDERSTOOD = 422

Found = tuple[Spilled, Event | None]
"""With its event; without one it is for quarantine."""


class Importer:
    """Reads, stores, goes on; what is there already, it leaves at that."""

    def __init__(self, intake: Intake, store: Store, spill: Spill) -> None:
        self._intake = intake
        self._store = store
        self._spill = spill

    async def bring(self, limit: int, *, late: bool = False) -> int:
        """Store the next lines; return how many. Raises StoreError or OSError.

        `late`: the store may hold newer ones of their contacts.
        """
        await self._spill.find()
        chunk = await self._spill.read(limit)
        if late:
            chunk.records[:] = [each._replace(late=True) for each in chunk.records]
        # After a crash, or a commit whose fate nobody knew, some of them are there already; or
        # they will be in a moment: the store was not waited for any longer.
        await self._store.pulse()
        known = await self._store.known([each.id for each in chunk.records])
        found, slices = [], Slices()
        for each in _once(chunk.records, known):
            found.append(self._found(each))
            await slices.rest()
        for together in _rounds(found) if self._intake.asks_consent else [found]:
            await self._store_together(together)
        if chunk.bad:
            await self._spill.put_aside(*chunk.bad)
        self._spill.passed(chunk)
        return chunk.lines

    def _found(self, spilled: Spilled) -> Found:
        if spilled.status is not None:
            return spilled, None
        try:
            return spilled, self._intake.event(spilled.callback, spilled.id)
        except InvalidCallback as error:  # it was, by the configuration of then
            return _not_understood(spilled, error.reason), None

    async def _store_together(self, found: Sequence[Found]) -> None:
        writes: list[Callable[[], Awaitable[object]]] = []
        for spilled, event in found:
            if event is None:
                writes.append(partial(self._quarantine, spilled))
            else:
                arrival = await self._intake.arrival(spilled.callback, event)
                writes.append(partial(self._store.add, arrival._replace(late=spilled.late)))
        results = await asyncio.gather(*(write() for write in writes), return_exceptions=True)
        for (spilled, _), result in zip(found, results, strict=True):
            if type(result) is StoreError:  # this one alone: a person is to look at it
                await self._quarantine(_not_understood(spilled, str(result)))
            elif isinstance(result, BaseException):
                raise result

    async def _quarantine(self, spilled: Spilled) -> None:
        assert spilled.status is not None
        await self._store.quarantine(spilled.callback, spilled.status, spilled.reason, spilled.id)


def _once(records: Iterable[Spilled], known: set[str]) -> Iterator[Spilled]:
    """Those that are not known, each id once."""
    seen = set(known)
    for each in records:
        if each.id not in seen:
            seen.add(each.id)
            yield each


def _not_understood(spilled: Spilled, reason: str) -> Spilled:
    """For quarantine; what came with a wrong token stays known as such."""
    if spilled.status is not None:
        return spilled
    return spilled._replace(status=NOT_UNDERSTOOD, reason=reason)


def _rounds(found: Iterable[Found]) -> Iterator[list[Found]]:
    """In their order, no contact twice in one: what comes after a word depends on it."""
    taken: list[Found] = []
    contacts: set[tuple[str, str]] = set()
    for spilled, event in found:
        contact = spilled.callback.source, event.data["mobile"] if event else spilled.id
        if contact in contacts:
            yield taken
            taken, contacts = [], set()
        taken.append((spilled, event))
        contacts.add(contact)
    if taken:
        yield taken

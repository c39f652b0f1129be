"""The store on SQLite: nearly every method of the port runs one function on a database's thread.

`_reading` and `_writing` make such methods, with the signature of the function behind its
connection (and the writer's state).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import apsw

from relay.clock import Clock, SystemClock
from relay.event import RawCallback
from relay.redact import NumberMatcher
from relay.state_directory import wal
from relay.store import (
    QUARANTINE_SIZE,
    BacklogAge,
    ContactRows,
    NewEvent,
    PurgeCutoffs,
    Purged,
    Receipt,
    Scrubbed,
    StoreError,
)
from relay.store.port import Notify
from relay.store.sqlite import claim as claims
from relay.store.sqlite import erase, ingest, notes, operator, queries, rows
from relay.store.sqlite import purge as purges
from relay.store.sqlite import quarantine as quarantines
from relay.store.sqlite import settle as settlements
from relay.store.sqlite.database import Database
from relay.store.sqlite.ingest import ReusedIds
from relay.store.sqlite.queries import BacklogReader
from relay.store.sqlite.state import WriterState

P = ParamSpec("P")
T = TypeVar("T")
StoreMethod = Callable[Concatenate["SqliteStore", P], Coroutine[Any, Any, T]]


def _reading(run: Callable[Concatenate[apsw.Connection, P], T]) -> "StoreMethod[P, T]":
    """A method that runs the function on a reader's thread."""

    @wraps(run)
    async def method(self: "SqliteStore", /, *arguments: P.args, **named: P.kwargs) -> T:
        return await self.database.read(run, *arguments, **named)

    return method


def _writing(run: Callable[Concatenate[apsw.Connection, WriterState, P], T]) -> "StoreMethod[P, T]":
    """A method that runs the function in a transaction; it returns once that is on disk."""

    @wraps(run)
    async def method(self: "SqliteStore", /, *arguments: P.args, **named: P.kwargs) -> T:
        return await self.database.write(run, *arguments, **named)

    return method


class SqliteStore:
    """The port on one file, which one process owns. Made by `open`."""

    def __init__(self, database: Database, clock: Clock, subscribers: list[Notify]) -> None:
        self.database = database
        self._state = database.state
        self._subscribers = subscribers
        self._waits = BacklogReader()
        self._reused_ids = ReusedIds(clock.monotonic)
        self._adding: list[tuple[NewEvent, asyncio.Future[Receipt]]] = []
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock | None = None,
        on_broken: Callable[[], None] = lambda: None,
        vfs: str | None = None,
        kept_lock: int | None = None,
        quarantine_size: int = QUARANTINE_SIZE,
    ) -> Self:
        """Own the file at `path`, made and migrated as needed.

        `on_broken` is called on the event loop when a commit failed on I/O: the process must
        end then. `kept_lock` is what an earlier store's `keep_lock` gave. Above `quarantine_size`
        bytes the oldest quarantined callbacks are dropped. Raises StoreLocked, StoreNewer or
        StoreError.
        """
        clock = clock or SystemClock()
        subscribers: list[Notify] = []
        database = Database(
            path,
            WriterState(clock, quarantine_size),
            on_work=partial(_notify, subscribers),
            on_broken=on_broken,
            vfs=vfs,
            kept_lock=kept_lock,
        )
        await database.start()
        return cls(database, clock, subscribers)

    async def close(self, *, clean: bool = True) -> None:
        """As in Store. Tests of crashes close it without `clean`: then nothing is put back."""
        await self.database.close(clean=clean)

    def keep_lock(self) -> int:
        """A descriptor that goes on holding the lock when the store is closed."""
        return self.database.keep_lock()

    def subscribe(self, notify: Notify) -> None:
        """As in Store."""
        self._subscribers.append(notify)

    def alive(self) -> bool:
        """Whether the writer still works."""
        return self.database.writer.alive()

    @property
    def trouble(self) -> str:
        """Why it broke; empty where it did not."""
        return self.database.writer.trouble

    def statistics(self) -> Mapping[str, Any]:
        """Figures of this process: commits, reused message ids by source, the files' bytes."""
        path, writer = self.database.path, self.database.writer
        return {
            "commits": self.database.commits,
            "commit_size": writer.commit_size,
            "commit_seconds": writer.commit_seconds,
            "reused_ids": self._reused_ids.counts,
            "bytes": _size(path),
            "wal_bytes": _size(wal(path)),
        }

    flush = _writing(notes.nothing)
    try_write = _writing(notes.note_try)
    reusable = _reading(queries.reusable)

    # ingest

    async def add(self, arrival: NewEvent) -> Receipt:
        """As in Store; what arrives in a row is handed over together."""
        receipt: asyncio.Future[Receipt] = self._loop.create_future()
        self._adding.append((arrival, receipt))
        if len(self._adding) == 1:
            self._loop.call_soon(self._hand_over)
        return await receipt

    def _hand_over(self, before: int = 0) -> None:
        """Wait while each turn of the event loop brings more: large commits are the cheaper ones.

        `before`: how many there were a turn ago.
        """
        if before < len(self._adding) < rows.LARGEST:
            self._loop.call_soon(self._hand_over, len(self._adding))
            return
        batch, self._adding = self._adding, []
        self._submit(batch)

    def _submit(self, batch: Sequence[tuple[NewEvent, asyncio.Future[Receipt]]]) -> None:
        done = self.database.writer.submit(
            partial(ingest.add_all, writer=self._state, arrivals=[each for each, _ in batch]),
            len(batch),
        )
        done.add_done_callback(partial(self._added, batch))

    def _added(
        self,
        batch: Sequence[tuple[NewEvent, asyncio.Future[Receipt]]],
        done: asyncio.Future[list[Receipt]],
    ) -> None:
        error = done.exception()
        if error is not None and type(error) is StoreError and len(batch) > 1:
            for each in batch:  # one bad arrival must not take the others with it
                if not each[1].cancelled():  # its caller has given up: it is in the spill
                    self._submit([each])
            return
        for number, (arrival, receipt) in enumerate(batch):
            if error is None:
                self._reused_ids.note(arrival.source, done.result()[number])
            if receipt.cancelled():
                continue
            if error is not None:
                receipt.set_exception(error)
            else:
                receipt.set_result(done.result()[number])

    known = _reading(queries.known)
    spill_is_older = _reading(notes.spill_is_older)
    note_spill_is_older = _writing(notes.note_spill_is_older)

    # quarantine

    quarantine = _writing(quarantines.quarantine)
    quarantine_count = _reading(queries.quarantine_count)
    quarantined = _reading(quarantines.some)
    quarantined_one = _reading(quarantines.one)
    quarantined_since = _reading(quarantines.since)
    discard_quarantined = _writing(quarantines.discard)

    async def release(
        self,
        quarantine_id: str,
        arrivals: Sequence[NewEvent],
        invalid: Sequence[tuple[RawCallback, str]] = (),
    ) -> list[Receipt] | None:
        """As in Store."""
        receipts = await self.database.write(quarantines.release, quarantine_id, arrivals, invalid)
        for arrival, receipt in zip(arrivals, receipts or (), strict=False):
            self._reused_ids.note(arrival.source, receipt)
        return receipts

    # consent

    consent_log = _reading(queries.consent_log)
    later_consent = _reading(queries.later_consent)

    async def last_word(self, contact: str) -> str | None:
        """As in Store."""
        contacts = [self._state.contact(source, contact) for source in self._state.consent_sources]
        return await self.database.read(queries.last_word, contacts) if contacts else None

    async def opted_out(self, source: str, contact: str | None) -> bool:
        """As in Store."""
        if contact is None or not self._state.any_consent:
            return False
        return await self.database.read(queries.opted_out, self._state.contact(source, contact))

    # deliveries

    claim = _writing(claims.claim)
    claim_consent = _writing(claims.claim_consent)
    claim_after_crash = _writing(claims.claim_after_crash)
    settle = _writing(settlements.settle)
    retry_dead = _writing(operator.retry_dead)
    replay = _writing(operator.replay)
    discard = _writing(operator.discard)

    async def rename_sink(self, old: str, new: str) -> int:
        """As in Store."""
        if old not in self._state.sink_ids:
            raise ValueError(f"no sink {old} ever had a delivery")
        return await self.database.write(operator.rename, old, new)

    # what is kept for sinks

    sink_states = _reading(notes.sink_states)
    save_sink_state = _writing(notes.save_sink_state)
    recall = _reading(notes.recall)
    keep = _writing(notes.keep)

    # queries

    event_count = _reading(queries.event_count)
    sink_counts = _reading(queries.sink_counts)
    last_seq = _reading(queries.last_seq)
    keywords = _reading(queries.keywords)
    dead_since = _reading(queries.dead_since)
    events = _reading(queries.events)
    events_after = _reading(queries.events_after)
    event = _reading(queries.event)
    deliveries = _reading(queries.deliveries)

    async def backlog_age(self) -> dict[str, BacklogAge]:
        """As in Store."""
        return await self.database.read(self._waits.look)

    # purge

    last_purge = _reading(notes.last_purge)
    note_purge = _writing(notes.note_purge)

    def purge(self, before: PurgeCutoffs, *, dry_run: bool = False) -> AsyncIterator[Purged]:
        """As in Store."""
        return purges.sweep(self.database, before, dry_run=dry_run)

    # erasure

    discard_open = _writing(erase.discard_open)
    note_erasure = _writing(erase.note_erasure)

    async def find_contact(self, matcher: NumberMatcher) -> ContactRows:
        """As in Store."""
        return await self.database.read(erase.find_contact, self._state, matcher)

    async def delete_contact(self, contact: ContactRows, matcher: NumberMatcher) -> Counter[str]:
        """As in Store."""
        return await erase.delete_contact(self.database, contact, matcher)

    async def scrub(self, matcher: NumberMatcher) -> Scrubbed:
        """As in Store."""
        return await erase.scrub(self.database, matcher)


def _notify(subscribers: Sequence[Notify], new_work: Mapping[str, bool]) -> None:
    for notify in subscribers:
        notify(new_work)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

"""The store on SQLite: what relay.store.Store promises, handed to the writer and the readers."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw
import orjson
from uuid_utils import uuid7

from relay.clock import Clock, SystemClock
from relay.event import RawCallback
from relay.store import (
    QUARANTINE_SIZE,
    Arrival,
    Claim,
    Claimed,
    DeliveryRow,
    EventFilter,
    EventRow,
    Notify,
    Quarantined,
    Receipt,
    Settlement,
    SinkCounts,
    SinkState,
    State,
    StoreError,
    Waits,
)
from relay.store.sqlite import (
    accounts,
    ingest,
    operator,
    quarantine,
    queries,
    rows,
)
from relay.store.sqlite import (
    claim as claims,
)
from relay.store.sqlite import (
    settle as settlements,
)
from relay.store.sqlite.backlog import WaitReader, died
from relay.store.sqlite.connection import connect_reader, connect_writer, lock
from relay.store.sqlite.file_identity import Presence
from relay.store.sqlite.maintenance import Upkeep
from relay.store.sqlite.reuse import ReusedIds
from relay.store.sqlite.state import Memory
from relay.store.sqlite.writer import Writer

READERS = 2
T = TypeVar("T")


class SqliteStore(Upkeep):
    """One file, one process. Made by `open`."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        on_broken: Callable[[], None],
        vfs: str | None,
        kept_lock: int | None,
        quarantine_size: int,
    ) -> None:
        self._path = path
        self._clock = clock
        self._vfs = vfs
        self._memory = Memory()
        self._quarantine_size = quarantine_size
        self._waits = WaitReader()
        self._reused_ids = ReusedIds(clock.monotonic)
        self._notify: list[Notify] = []
        self._adding: list[tuple[Arrival, asyncio.Future[Receipt]]] = []
        self._loop = asyncio.get_running_loop()
        self._local = threading.local()
        self._reading: list[apsw.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, "store-reader")
        self._commits = 0
        self._lock = lock(path, kept_lock)
        self._writer = Writer(
            self._connect,
            before_commit=self._memory.write_counts,
            after_commit=self._after_commit,
            after_rollback=self._memory.load,
            presence=partial(Presence, path),
            on_broken=on_broken,
        )

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
        store = cls(path, clock or SystemClock(), on_broken, vfs, kept_lock, quarantine_size)
        try:
            await store._writer.start()
        except apsw.Error as error:
            store._lock.close()
            raise StoreError(f"{path} cannot be opened: {error}") from error
        except BaseException:
            store._lock.close()
            raise
        return store

    async def close(self, *, clean: bool = True) -> None:
        """As in Store. Tests of crashes say that it was not `clean`: then nothing is put back."""
        if clean and self._writer.alive():
            with contextlib.suppress(StoreError):
                await self._write(settlements.put_back_all, self._memory)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._reading:
            connection.close()
        await self._writer.stop()
        self._lock.close()

    def keep_lock(self) -> int:
        """A descriptor that goes on holding the lock when the store is closed."""
        return os.dup(self._lock.fileno())

    async def reusable(self) -> int:
        """As in Store."""
        return await self._read(queries.reusable)

    async def pulse(self) -> None:
        """As in Store."""
        await self._write(lambda _: None)

    async def try_write(self) -> None:
        """As in Store."""
        await self._write(_note_try, self._now())

    def alive(self) -> bool:
        """Whether the writer still works."""
        return self._writer.alive()

    @property
    def trouble(self) -> str:
        """Why it broke; empty where it did not."""
        return self._writer.trouble

    def subscribe(self, notify: Notify) -> None:
        """As in Store."""
        self._notify.append(notify)

    def statistics(self) -> Mapping[str, Any]:
        """Figures of this process: commits, reused message ids by source, the files' bytes."""
        return {
            "commits": self._commits,
            "commit_size": self._writer.commit_size,
            "commit_seconds": self._writer.commit_seconds,
            "reused_ids": self._reused_ids.counts,
            "bytes": _size(self._path),
            "wal_bytes": _size(Path(f"{self._path}-wal")),
        }

    # arrivals

    async def add(self, arrival: Arrival) -> Receipt:
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

    def _submit(self, batch: Sequence[tuple[Arrival, asyncio.Future[Receipt]]]) -> None:
        done = self._writer.submit(
            partial(ingest.add_all, memory=self._memory, arrivals=[each for each, _ in batch]),
            len(batch),
        )
        done.add_done_callback(partial(self._added, batch))

    def _added(
        self,
        batch: Sequence[tuple[Arrival, asyncio.Future[Receipt]]],
        done: asyncio.Future[list[Receipt]],
    ) -> None:
        error = done.exception()
        if error is not None and type(error) is StoreError and len(batch) > 1:
            for each in batch:  # one bad arrival must not take the others with it
                if not each[1].cancelled():  # nobody waits for it any more: it is in the spill
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

    async def quarantine(
        self, callback: RawCallback, status: int, reason: str, quarantine_id: str | None = None
    ) -> str:
        """As in Store."""
        return await self._write(
            partial(quarantine.quarantine, memory=self._memory, limit=self._quarantine_size),
            quarantine_id or str(uuid7()),
            callback,
            status,
            reason,
        )

    async def known(self, ids: Sequence[str]) -> set[str]:
        """As in Store."""
        return await self._read(queries.known, ids)

    async def spill_is_older(self) -> bool:
        """As in Store."""
        return await self._read(queries.spill_is_older)

    async def note_spill_is_older(self, older: bool) -> None:
        """As in Store."""
        await self._write(operator.note_spill_is_older, older)

    async def release(self, quarantine_id: str, arrival: Arrival) -> Receipt | None:
        """As in Store."""
        receipt = await self._write(quarantine.release, self._memory, quarantine_id, arrival)
        if receipt is not None:
            self._reused_ids.note(arrival.source, receipt)
        return receipt

    async def last_word(self, mobile: str) -> str | None:
        """As in Store."""
        contacts = [self._memory.contact(source, mobile) for source in self._memory.consent_sources]
        return await self._read(queries.last_word, contacts) if contacts else None

    async def opted_out(self, source: str, mobile: str) -> bool:
        """As in Store."""
        if not self._memory.any_consent:
            return False
        return await self._read(queries.opted_out, self._memory.contact(source, mobile))

    # deliveries

    async def claim(
        self, sink: str, limit: int, *, ordered: bool = True, urgent: bool | None = None
    ) -> Claimed:
        """As in Store."""
        return await self._write(
            partial(claims.claim, ordered=ordered, urgent=urgent),
            self._memory,
            sink,
            limit,
            self._now(),
        )

    async def claim_consent(self, sink: str, limit: int) -> list[Claim]:
        """As in Store."""
        return await self._write(claims.claim_consent, self._memory, sink, limit)

    async def claim_suspects(
        self, sink: str, limit: int = 1, *, accused: bool = False
    ) -> list[Claim]:
        """As in Store."""
        return await self._write(
            partial(claims.claim_suspects, accused=accused), self._memory, sink, limit
        )

    async def settle(self, settlements_: Sequence[Settlement]) -> None:
        """As in Store."""
        await self._write(settlements.settle, self._memory, settlements_, self._now())

    async def revive(self, sink: str, seqs: Sequence[int], *, replayed: bool = True) -> int:
        """As in Store."""
        return await self._write(operator.revive, self._memory, sink, seqs, replayed)

    async def replay(self, sink: str, seqs: Sequence[int]) -> int:
        """As in Store."""
        return await self._write(operator.replay, self._memory, sink, seqs)

    async def discard(self, sink: str, seqs: Sequence[int] | None) -> int:
        """As in Store."""
        return await self._write(operator.discard, self._memory, sink, seqs)

    async def rename_sink(self, old: str, new: str) -> int:
        """As in Store."""
        if old not in self._memory.sink_ids:
            raise ValueError(f"no sink {old} ever had a delivery")
        return await self._write(operator.rename, self._memory, old, new)

    async def sink_states(self) -> dict[str, SinkState]:
        """As in Store."""
        return await self._read(_sink_states)

    async def save_sink_state(self, sink: str, state: SinkState) -> None:
        """As in Store."""
        await self._write(_save_sink_state, self._memory, sink, state)

    async def recall(self, account: str, name: str) -> str | None:
        """As in Store."""
        return await self._read(accounts.recall, account, name)

    async def keep(self, account: str, name: str, value: str) -> None:
        """As in Store."""
        await self._write(accounts.keep, account, name, value, self._now())

    # reads

    async def event_count(self) -> int:
        """As in Store."""
        return await self._read(queries.event_count)

    async def quarantine_count(self) -> int:
        """As in Store."""
        return await self._read(queries.quarantine_count)

    async def sink_counts(self) -> dict[str, SinkCounts]:
        """As in Store."""
        return await self._read(queries.sink_counts)

    async def waits(self) -> dict[str, Waits]:
        """As in Store."""
        return await self._read(self._waits.look)

    async def died(self, *, since: int, until: int) -> dict[str, int]:
        """As in Store. Of no more than the newest events'."""
        return await self._read(died, since, until)

    async def keywords(self, *, after: int, limit: int) -> tuple[int, dict[str, int]]:
        """As in Store."""
        return await self._read(queries.keywords, after, limit)

    async def quarantined_since(self, count: int) -> int | None:
        """As in Store."""
        return await self._read(quarantine.since, count)

    async def last_seq(self) -> int:
        """As in Store."""
        return await self._read(queries.last_seq)

    async def events(
        self, where: EventFilter, *, before: int | None = None, limit: int = 50
    ) -> list[EventRow]:
        """As in Store."""
        return await self._read(partial(queries.events, before=before, limit=limit), where)

    async def events_after(
        self, where: EventFilter, *, after: int, limit: int = 500
    ) -> list[EventRow]:
        """As in Store."""
        return await self._read(partial(queries.events_after, after=after, limit=limit), where)

    async def words_behind(self, sink: str, seqs: Sequence[int]) -> list[EventRow]:
        """As in Store."""
        return await self._read(queries.words_behind, sink, seqs)

    async def event(self, event_id: str) -> EventRow | None:
        """As in Store. Raises ValueError for what is no id."""
        return await self._read(queries.event, event_id)

    async def deliveries(
        self,
        states: Sequence[State],
        *,
        sink: str | None = None,
        before: tuple[int, str] | None = None,
        limit: int = 50,
    ) -> list[DeliveryRow]:
        """As in Store."""
        return await self._read(
            partial(queries.deliveries, sink=sink, before=before, limit=limit), states
        )

    async def quarantined(self, *, before: int | None = None, limit: int = 50) -> list[Quarantined]:
        """As in Store."""
        return await self._read(quarantine.some, before, limit)

    async def quarantined_one(self, quarantine_id: str) -> Quarantined | None:
        """As in Store. Raises ValueError for what is no id."""
        return await self._read(quarantine.one, quarantine_id)

    async def discard_quarantined(self, ids: Sequence[str] | None) -> int:
        """As in Store."""
        return await self._write(quarantine.discard, ids)

    # the threads

    def _now(self) -> int:
        return int(self._clock.now() * 1_000_000)

    def _connect(self) -> apsw.Connection:
        connection = connect_writer(self._path, self._vfs)
        with connection:
            self._memory.load(connection)
            settlements.put_back_after_death(connection, self._memory, self._now())
            claims.heed_clock(connection, self._memory, self._now())
            self._memory.write_counts(connection)
        return connection

    def _write(self, run: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return self._writer.submit(lambda connection: run(connection, *arguments))

    async def _read(self, run: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._loop.run_in_executor(
                self._readers, lambda: run(self._reader(), *arguments)
            )
        except apsw.Error as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def _reader(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect_reader(self._path, self._vfs)
            self._reading.append(connection)
        return connection

    def _after_commit(self) -> None:
        self._commits += 1
        if self._memory.wake:
            wake = dict(self._memory.wake)
            self._memory.wake.clear()
            self._loop.call_soon_threadsafe(self._tell, wake)

    def _tell(self, wake: Mapping[str, bool]) -> None:
        for notify in self._notify:
            notify(wake)


def _sink_states(connection: apsw.Connection) -> dict[str, SinkState]:
    found = rows.every(connection, "SELECT name, state FROM sinks")
    return {name: SinkState(**orjson.loads(state)) for name, state in found}


def _save_sink_state(
    connection: apsw.Connection, memory: Memory, sink: str, state: SinkState
) -> None:
    connection.execute(
        "UPDATE sinks SET state = ? WHERE id = ?",
        (orjson.dumps(asdict(state)).decode(), memory.sink(connection, sink)),
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note_try(connection: apsw.Connection, now: int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('last_try', ?)", (now,))

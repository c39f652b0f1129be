"""The database file and the threads that use it: one writes, two read."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from relay.store import StoreError
from relay.store.sqlite import claim, settle
from relay.store.sqlite.connection import connect_reader, lock
from relay.store.sqlite.migrate import connect_writer
from relay.store.sqlite.state import WriterState
from relay.store.sqlite.writer import FileIdentity, WriterThread

READERS = 2
P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """An open database file: work is handed to its writer's thread or to a reader's.

    `on_work` is called on the event loop after a commit that made work for sinks; `on_broken`
    when a commit failed on I/O. `kept_lock` is the descriptor of a lock that is held already.
    """

    def __init__(
        self,
        path: Path,
        state: WriterState,
        *,
        on_work: Callable[[Mapping[str, bool]], None],
        on_broken: Callable[[], None],
        vfs: str | None = None,
        kept_lock: int | None = None,
    ) -> None:
        self.path = path
        self.state = state
        self.commits = 0
        self._on_work = on_work
        self._vfs = vfs
        self._loop = asyncio.get_running_loop()
        self._local = threading.local()
        self._reading: list[apsw.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, "store-reader")
        self._lock = lock(path, kept_lock)
        self.writer = WriterThread(
            self._connect,
            before_commit=state.write_counts,
            after_commit=self._after_commit,
            after_rollback=state.load,
            identify=partial(FileIdentity, path),
            on_broken=on_broken,
        )

    async def start(self) -> None:
        """Open the file, made and migrated as needed. Raises StoreError."""
        try:
            await self.writer.start()
        except apsw.Error as error:
            self._lock.close()
            raise StoreError(f"{self.path} cannot be opened: {error}") from error
        except BaseException:
            self._lock.close()
            raise

    async def close(self, *, clean: bool) -> None:
        """Finish what was handed over, and put back what is in flight if `clean`."""
        if clean and self.writer.alive():
            with contextlib.suppress(StoreError):
                await self.write(settle.put_back_all)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._reading:
            connection.close()
        await self.writer.stop()
        self._lock.close()

    def keep_lock(self) -> int:
        """A descriptor that goes on holding the lock when the file is closed."""
        return os.dup(self._lock.fileno())

    def write(
        self,
        run: Callable[Concatenate[apsw.Connection, WriterState, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> asyncio.Future[T]:
        """Run it in a transaction; the future is done once that is on disk."""
        return self.writer.submit(lambda db: run(db, self.state, *arguments, **named))

    def write_alone(self, run: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Run what cannot be part of a transaction."""
        return self.writer.submit(run, alone=True)

    async def read(
        self,
        run: Callable[Concatenate[apsw.Connection, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run it with a connection that cannot write. Raises StoreError."""
        try:
            return await self._loop.run_in_executor(
                self._readers, lambda: run(self._reader(), *arguments, **named)
            )
        except apsw.Error as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def _connect(self) -> apsw.Connection:
        connection = connect_writer(self.path, self._vfs)
        with connection:
            self.state.load(connection)
            settle.put_back_after_crash(connection, self.state)
            claim.adjust_to_clock(connection, self.state, self.state.now())
            self.state.write_counts(connection)
        return connection

    def _reader(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect_reader(self.path, self._vfs)
            self._reading.append(connection)
        return connection

    def _after_commit(self) -> None:
        self.commits += 1
        if self.state.notified:
            new_work = dict(self.state.notified)
            self.state.notified.clear()
            self._loop.call_soon_threadsafe(self._on_work, new_work)

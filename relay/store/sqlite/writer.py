"""The writer: one thread that owns the one writing connection, and commits in groups.

SQLite does not notice when a file that it has open is deleted or replaced. What it writes after
that is lost when the process ends. So after each commit the writer checks that the names still
belong to the files that it opened, and answers only then.
"""

import asyncio
import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import apsw
from prometheus_client import Histogram

from relay.counters import SECONDS
from relay.state_directory import wal_files
from relay.store import StoreBroken, StoreError, StoreFull

Identity = tuple[int, int]


class FileIdentity:
    """The identities of the store's files. Create it just after opening them. Raises OSError."""

    def __init__(self, path: Path) -> None:
        os.stat(path)  # noqa: PTH116  a store without its file is none
        self._names = [str(each) for each in (path, *wal_files(path))]
        self._opened = [_identity(name) for name in self._names]

    def displaced(self) -> list[str]:
        """The names that belong to another file by now, or to none."""
        return [
            name
            for name, opened in zip(self._names, self._opened, strict=True)
            if _identity(name) != opened
        ]

    def log_was_replaced(self) -> bool:
        """Whether both the store and its write-ahead log were replaced, by another store's."""
        store, log, _ = self._names
        return {store, log} <= set(self.displaced())


def _identity(name: str) -> Identity | None:
    try:
        found = os.stat(name)  # noqa: PTH116  called before each answer, and a Path costs more
    except OSError:
        return None
    return found.st_dev, found.st_ino


log = logging.getLogger("relay.store")

GROUP = 512
"""The most pieces of work in one transaction. It limits how long the first of them waits."""

COMMIT_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
COMMIT_SIZE = ("relay_store_commit_size", "How many callbacks and other changes one commit wrote.")
COMMIT_SECONDS = ("relay_store_commit_seconds", "How long a commit took. Each commit is one fsync.")

STOP = None


@dataclass(slots=True)
class Work:
    """A function to run in a transaction, and the future of its result."""

    run: Callable[[apsw.Connection], Any]
    done: asyncio.Future[Any]
    size: int = 1
    """How many changes it makes, for the metric of the commit size."""
    alone: bool = False
    """Whether it runs outside of the writer's transaction, and begins its own."""


class WriterThread:
    """Runs work in the order it was handed over, many pieces in one commit (group commit).

    The functions given run on the thread, except `on_broken`, which the event loop runs.
    `before_commit` runs inside each transaction, after its work. `after_commit` runs after the
    commit. `after_rollback` runs after a rollback. `identify` returns the identity of the files
    that were just opened.
    """

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        *,
        before_commit: Callable[[apsw.Connection], None],
        after_commit: Callable[[], None],
        after_rollback: Callable[[apsw.Connection], None],
        identify: Callable[[], FileIdentity],
        on_broken: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._after_rollback = after_rollback
        self._identify = identify
        self._on_broken = on_broken
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._next: Work | None = None
        self._broken = False
        self.trouble = ""
        """Why the writer is broken; empty while it works."""
        self._thread = threading.Thread(target=self._main, name="store-writer", daemon=True)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self.commit_size = Histogram(
            *COMMIT_SIZE,
            buckets=COMMIT_SIZES,
            registry=None,
        )
        self.commit_seconds = Histogram(
            *COMMIT_SECONDS,
            buckets=SECONDS,
            registry=None,
        )

    async def start(self) -> None:
        """Open the connection on the thread. Raises what opening raised."""
        self._thread.start()
        await self._opened

    def submit(
        self, run: Callable[[apsw.Connection], Any], size: int = 1, *, alone: bool = False
    ) -> asyncio.Future[Any]:
        """Hand over work. The future is done when the commit of the work is on disk.

        Work that cannot be part of the writer's transaction is submitted as `alone`.
        """
        done = self._loop.create_future()
        if self._broken:
            done.set_exception(StoreBroken("the store is broken"))
        else:
            self._queue.put(Work(run, done, size, alone))
        return done

    async def stop(self) -> None:
        """Finish what was handed over, then close the connection."""
        self._queue.put(STOP)
        await asyncio.to_thread(self._thread.join)

    def alive(self) -> bool:
        return self._thread.is_alive() and not self._broken

    # on the thread

    def _main(self) -> None:
        try:
            connection = self._connect()
            self._identity = self._identify()
        except BaseException as error:  # noqa: BLE001  start() raises it
            self._loop.call_soon_threadsafe(self._opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        while group := self._next_group():
            try:
                self._commit(connection, group)
            except Exception as error:  # noqa: BLE001  a rollback can fail, too
                self._break(error, group)
        if not self._broken:
            with contextlib.suppress(apsw.Error):  # a full disk: the write-ahead log keeps the data
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self._identity.log_was_replaced():  # SQLite would delete that log
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close()

    def _next_group(self) -> list[Work]:
        """Wait for work, then take all that is queued. An empty list ends the thread."""
        group: list[Work] = []
        work, self._next = self._next or self._queue.get(), None
        while work is not STOP:
            if work.alone and group:
                self._next = work
                return group
            group.append(work)
            if work.alone or len(group) == GROUP or self._queue.empty():
                return group
            work = self._queue.get()
        if group:
            self._queue.put(STOP)
        return group

    def _commit(self, connection: apsw.Connection, group: list[Work]) -> None:
        if self._broken:
            self._answer([(work, StoreBroken("the store is broken")) for work in group])
            return
        begun = perf_counter()
        try:
            results = self._transaction(connection, group)
        except (apsw.FullError, apsw.BusyError) as error:
            self._rolled_back(connection)
            full = isinstance(error, apsw.FullError)
            reason = "the disk is full" if full else "another program keeps the store locked"
            self._answer([(work, StoreFull(reason)) for work in group])
        except (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError) as error:
            self._break(error, group)
        except StoreBroken as error:
            self._break(error, group)
        except Exception as error:
            self._rolled_back(connection)
            if len(group) > 1:  # one piece that fails must not fail the others
                for work in group:
                    self._commit(connection, [work])
            else:
                log.exception("the store refused a piece of work")
                self._answer([(group[0], StoreError(f"the store refused it: {error}"))])
        else:
            self.commit_seconds.observe(perf_counter() - begun)
            self.commit_size.observe(sum(work.size for work in group))
            self._after_commit()
            self._answer(list(zip(group, results, strict=True)))

    def _transaction(self, connection: apsw.Connection, group: list[Work]) -> list[Any]:
        if group[0].alone:
            results = [group[0].run(connection)]
        else:
            connection.execute("BEGIN IMMEDIATE")
            results = [work.run(connection) for work in group]
            self._before_commit(connection)
            connection.execute("COMMIT")
        self._check_identity()
        return results

    def _check_identity(self) -> None:
        if displaced := self._identity.displaced():
            raise StoreBroken(
                f"{' and '.join(displaced)} was deleted or replaced while the relay had it open;"
                " what it held is there no more, unless it is put back while the relay is stopped"
            )

    def _rolled_back(self, connection: apsw.Connection) -> None:
        if connection.in_transaction:  # SQLite has often rolled back by itself
            connection.execute("ROLLBACK")
        self._after_rollback(connection)

    def _break(self, error: Exception, group: list[Work]) -> None:
        """Fail all work from here on: it is unknown whether the commit is on disk."""
        log.critical("the store failed: %s", error)
        self._broken = True
        self.trouble = str(error) if isinstance(error, StoreBroken) else "a write failed"
        self._answer([(work, StoreBroken(f"the store failed: {error}")) for work in group])
        self._loop.call_soon_threadsafe(self._on_broken)

    def _answer(self, results: list[tuple[Work, Any]]) -> None:
        self._loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: list[tuple[Work, Any]]) -> None:
    for work, result in results:
        if work.done.done():  # cancelled, or answered already
            continue
        if isinstance(result, Exception):
            work.done.set_exception(result)
        else:
            work.done.set_result(result)

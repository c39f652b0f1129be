"""The queue in front of the spill file: a thread appends all waiting records at once.

The records that come while the disk is busy are written together, with one sync. A disk that does
not answer is an error after a time-out.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar, TypeVarTuple

from relay.spill.disk import DISK_TIMEOUT
from relay.spill.file import Chunk, Redact, SpillFile
from relay.spill.records import Spilled, encode
from relay.store import StoreLocked

OPEN_TIMEOUT = 5.0
"""Seconds that opening the file may take: it may be a large one."""

log = logging.getLogger("relay.spill")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SpillQueue:
    """A spill file that is read from its start while it grows at its end. Made by `open`.

    Each operation may take `disk_timeout` seconds.
    """

    def __init__(self, path: Path, disk_timeout: float) -> None:
        self._file = SpillFile(path)
        self._timeout = disk_timeout
        self._thread = ThreadPoolExecutor(1, "spill")
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._position = 0
        self._passed = 0
        self._hangs = False
        self.trouble = ""
        """Why it cannot be opened; empty where it can, or is not there."""

    @classmethod
    async def open(cls, path: Path, disk_timeout: float = DISK_TIMEOUT) -> Self:
        """Open the file if there is one. Raises StoreLocked where another process has it.

        A file that cannot be opened counts as there: `reopen` tries it again.
        """
        spill = cls(path, disk_timeout)
        try:
            await spill._open()
        except OSError as error:  # the store may be well
            log.error("the spill cannot be opened: %s", error)
        except BaseException:
            await spill.close()
            raise
        return spill

    async def reopen(self) -> None:
        """Open the file where that was not possible so far. Raises OSError."""
        if not self._file.unopened:
            return
        try:
            await self._open()
        except StoreLocked as error:
            self.trouble = str(error)
            raise OSError(errno.EBUSY, self.trouble) from error
        self._position = self._passed = 0

    async def _open(self) -> None:
        try:
            torn = await _in_time(self._run(self._file.open), max(OPEN_TIMEOUT, self._timeout))
        except OSError as error:
            self.trouble = str(error)
            raise
        self.trouble = ""
        if torn:
            log.warning("%s: %d bytes that were never acknowledged are cut off", self.path, torn)

    async def detect(self) -> bool:
        """Whether there is a file that has not been opened, as one that has appeared since."""
        await self._in_time(self._run(self._file.detect))
        return self._file.unopened

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def records(self) -> int:
        """How many callbacks it holds, as far as that is known."""
        if self._position >= self._file.size:
            return 0
        return max(1, self._file.lines - self._passed)  # line breaks that are damaged are not seen

    @property
    def unopened(self) -> bool:
        """Whether there may be a file, with callbacks of which nothing is known."""
        return self._file.unopened

    @property
    def unread(self) -> bool:
        """Whether there is anything to read, or will be in a moment."""
        return self.records > 0 or self._writing is not None or self.unopened

    async def append(self, spilled: Spilled) -> None:
        """Return when the record is on disk. Raises OSError.

        While the disk does not answer, all appends but the first fail at once.
        """
        if self._hangs:
            raise _no_answer()
        done = self._loop.create_future()
        entry = (encode(spilled), done)
        self._waiting.append(entry)
        if self._writing is None:
            self._writing = self._loop.create_task(self._write())
        try:
            await self._in_time(done)
        except TimeoutError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            self._hangs = self._writing is not None
            raise

    async def try_write(self) -> None:
        """Return when something could be written. Raises OSError."""
        await self._in_time(self._run(self._file.try_write))

    async def flushed(self) -> None:
        """Return when all that was appended has been written, or could not be."""
        while self._writing is not None:
            await asyncio.wait({self._writing})

    async def read(self, limit: int) -> Chunk:
        """The next records on disk. Raises OSError."""
        return await self._in_time(self._run(self._file.read, self._position, limit))

    def advance(self, chunk: Chunk) -> None:
        """Read on behind the chunk, the last that was read."""
        self._position = chunk.end
        self._passed += chunk.lines

    async def put_aside(self, *lines: bytes) -> None:
        """Append lines that are no records to a file of their own, for a person. Raises OSError."""
        await self._in_time(self._run(self._file.put_aside, lines))
        log.error("%d records are wrong, and kept in %s", len(lines), self._file.rejected)

    async def remove(self) -> None:
        """Remove the file, unless it holds more than was read. Raises OSError."""
        removing = self._run(self._file.remove, self._position)
        removing.add_done_callback(self._removed)
        await self._in_time(asyncio.shield(removing))

    def _removed(self, removing: asyncio.Future[bool]) -> None:
        """Reset the position, even after a time-out: the next record is the first of a new file."""
        if not removing.cancelled() and removing.exception() is None and removing.result():
            self._position = self._passed = 0

    async def erase(self, redact: Redact) -> int:
        """Rewrite the file with what is to be kept; return how many callbacks lost something.

        The next read begins at the start. Call it while no chunk is being stored. Raises OSError.
        """
        number = await self._run(self._file.erase, redact)
        self._position = self._passed = 0
        return number

    async def close(self) -> None:
        """Finish the appends, and close the file."""
        with contextlib.suppress(OSError):
            await _in_time(self._finish(), max(OPEN_TIMEOUT, self._timeout))
        self._thread.shutdown(wait=False)

    async def _finish(self) -> None:
        await self.flushed()
        with contextlib.suppress(OSError):
            await self._run(self._file.restore_if_deleted)
        await self._run(self._file.close)

    def _in_time(self, result: Awaitable[T]) -> Coroutine[Any, Any, T]:
        return _in_time(result, self._timeout)

    def _run(self, work: Callable[[*Ts], T], *arguments: *Ts) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._thread, work, *arguments)

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            error = None
            try:
                await self._run(self._file.append, [line for line, _ in group])
            except Exception as failure:  # noqa: BLE001  each append raises it
                error = failure
            for _, done in group:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)
            self._hangs = False
        self._writing = None


async def _in_time(result: Awaitable[T], seconds: float) -> T:
    """The result. Raises OSError where the disk takes too long."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await result
    except TimeoutError:
        if limit.expired():
            raise _no_answer() from None
        raise


def _no_answer() -> OSError:
    return TimeoutError(errno.ETIMEDOUT, "the disk does not answer")

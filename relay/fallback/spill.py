"""The spill: where callbacks are kept while the store cannot be written.

Its file is read and written on a thread of its own. All that comes while the disk is busy goes
there together, with one sync.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar, TypeVarTuple

from relay.fallback.spillfile import Chunk, Matches, Spilled, SpillFile, encode

log = logging.getLogger("relay.spill")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Spill:
    """One file, read from its start while it grows at its end. Made by `open`."""

    def __init__(self, path: Path) -> None:
        self._file = SpillFile(path)
        self._thread = ThreadPoolExecutor(1, "spill")
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._position = 0
        self._passed = 0

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Own what is there already. Raises StoreLocked where another process has it."""
        spill = cls(path)
        try:
            if torn := await spill._run(spill._file.open):
                log.warning("%s: %d bytes that were never acknowledged are cut off", path, torn)
        except OSError as error:  # the store may be well; it is tried again when it is needed
            log.error("the spill cannot be opened: %s", error)
        except BaseException:
            await spill.close()
            raise
        return spill

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def records(self) -> int:
        """How many callbacks wait in it."""
        return max(0, self._file.lines - self._passed)

    @property
    def unread(self) -> bool:
        """Whether there is anything to read, or will be in a moment."""
        return self.records > 0 or self._writing is not None

    async def append(self, spilled: Spilled) -> None:
        """Return when it is on disk. Raises OSError."""
        done = self._loop.create_future()
        self._waiting.append((encode(spilled), done))
        if self._writing is None:
            self._writing = self._loop.create_task(self._write())
        await done

    async def try_write(self) -> None:
        """Return when something could be written. Raises OSError."""
        await self._run(self._file.try_write)

    async def written(self) -> None:
        """Return when all that was handed over has been written, or could not be."""
        while self._writing is not None:
            await asyncio.wait({self._writing})

    async def read(self, limit: int) -> Chunk:
        """The next of what is on disk. Raises OSError."""
        return await self._run(self._file.read, self._position, limit)

    def passed(self, chunk: Chunk) -> None:
        """Go on behind the chunk, the last that was read."""
        self._position = chunk.end
        self._passed += chunk.lines

    async def put_aside(self, *lines: bytes) -> None:
        """Keep lines that cannot be stored where a person can look at them. Raises OSError."""
        await self._run(self._file.put_aside, lines)
        log.error("%d records are wrong, and kept in %s", len(lines), self._file.aside)

    async def remove(self) -> None:
        """Remove the file, unless there is more behind what has been passed. Raises OSError."""
        if await self._run(self._file.remove, self._position):
            self._position = self._passed = 0

    async def erase(self, matches: Matches) -> int:
        """Take out the callbacks that match; return how many there were.

        It is read from the start again. Call it while nobody holds what was read. Raises OSError.
        """
        number = await self._run(self._file.erase, matches)
        self._position = self._passed = 0
        return number

    async def close(self) -> None:
        """Finish what was handed over, and let go of the file."""
        await self.written()
        with contextlib.suppress(OSError):
            await self._run(self._file.put_back)
        await self._run(self._file.close)
        self._thread.shutdown()

    def _run(self, work: Callable[[*Ts], T], *arguments: *Ts) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._thread, work, *arguments)

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            error = None
            try:
                await self._run(self._file.append, [line for line, _ in group])
            except Exception as failure:  # noqa: BLE001  each of them hears of it
                error = failure
            for _, done in group:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)
        self._writing = None

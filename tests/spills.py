"""A failover over a real store and a real spill, for tests of the way from one to the other."""

import asyncio
import threading
from contextlib import asynccontextmanager

from listening import config

from relay.clock import SystemClock
from relay.event import RawCallback
from relay.sources.router import Router
from relay.spill.disk import DiskGuard
from relay.spill.failover import FailoverStore
from relay.spill.queue import SpillQueue
from relay.state_directory import StateDirectory
from relay.store import EventFilter, StoreFull
from relay.store.sqlite import SqliteStore

PATIENCE = 10.0


def callback(contact: int = 0, message: str = "hello", **more) -> RawCallback:
    """A web form; with `smsid` a message."""
    pairs = {"mobile": 2125550000 + contact, "carrierId": "T", "key": "JOIN", "msg": message}
    query = "&".join(f"{name}={value}" for name, value in (pairs | more).items())
    return RawCallback("sumotext", "GET", query.encode("latin-1"), "", b"", 1_800_000_000_000_000)


def nonsense() -> RawCallback:
    return RawCallback("sumotext", "POST", b"a=1", "text/plain", bytes(range(256)), 7, test=True)


class Soon(SystemClock):
    """Does not wait for long."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


class FailoverParts:
    """The parts, and what became of the callbacks."""

    def __init__(
        self, failover: FailoverStore, store, spill: SpillQueue, reserve: DiskGuard
    ) -> None:
        self.failover = failover
        self.store = store
        self.spill = spill
        self.reserve = reserve

    async def send(self, *arguments, **more) -> str:
        return (await self.failover.receive(callback(*arguments, **more))).id

    async def home(self) -> None:
        """Wait until callbacks go to the store."""
        async with asyncio.timeout(PATIENCE):
            while self.failover.notices() or self.spill.path.exists():
                await asyncio.sleep(0.005)

    async def stored(self) -> list[str]:
        """The ids of all events, in the order of the store."""
        return [row.event.id for row in await self.store.events_after(EventFilter(), after=0)]


@asynccontextmanager
async def failover_parts(
    folder, *, store=None, wrap=lambda store: store, sinks=("crm",), timeout=PATIENCE
):
    """A failover that has started. `wrap` puts something between it and the store."""
    opened = store or await SqliteStore.open(folder / "relay.db")
    spill = await SpillQueue.open(folder / "relay.db.spill", timeout)
    between = wrap(opened)
    reserve = DiskGuard(StateDirectory.around(folder / "relay.db", spill.path), 0)
    router = Router(config(sinks=sinks), between, SystemClock())
    failover = FailoverStore(router, spill, reserve, Soon(), timeout)
    await failover.start()
    await failover.attach_store(router, between)
    try:
        yield FailoverParts(failover, opened, spill, reserve)
    finally:
        await failover.stop()
        await spill.close()
        if store is None:
            await opened.close()


class Trouble:
    """A store that raises `error` for what would be written, while it has one.

    With a number in `takes`, it takes so many more writes and has a full disk then.
    """

    def __init__(self, store, error: Exception | None = None) -> None:
        self._store = store
        self.error = error
        self.takes: int | None = None
        self.tries = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def _fail(self):
        self.tries += 1
        if self.error:
            raise self.error
        if self.takes is not None:
            self.takes -= 1
            if self.takes < 0:
                raise StoreFull("the disk is full")

    async def add(self, arrival):
        self._fail()
        return await self._store.add(arrival)

    async def quarantine(self, *arguments):
        self._fail()
        return await self._store.quarantine(*arguments)


async def until(true) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


class Disk:
    """The store's disk: it is almost full until the test says that there is room."""

    store_low = True
    spill_low = False

    async def check(self, _) -> None:
        pass

    def has_room(self) -> None:
        self.store_low = False


@asynccontextmanager
async def with_a_spill(folder, *, timeout=PATIENCE):
    """A failover whose store takes nothing for now, with two callbacks in the spill."""
    async with failover_parts(folder, timeout=timeout) as parts:
        disk = parts.failover._disk_guard = Disk()
        await until(parts.failover.notices)
        sent = [await parts.send(number) for number in range(2)]
        assert parts.failover.records() == 2
        yield parts, sent, disk


async def passed_by(parts) -> None:
    """Wait until callbacks go to the store although there is a spill."""
    await until(lambda: parts.failover.unreadable() and len(parts.failover.notices()) == 1)


class Hang:
    """Work on the store's own writing thread, which all that comes later has to wait for."""

    def __init__(self, parts: FailoverParts, error: Exception | None = None) -> None:
        self._ended = threading.Event()
        self._error = error
        self.work = parts.store.database.writer.submit(self._wait)

    def _wait(self, _) -> None:
        assert self._ended.wait(PATIENCE)
        if self._error:
            raise self._error

    def end(self) -> None:
        self._ended.set()

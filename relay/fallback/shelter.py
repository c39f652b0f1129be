"""The shelter: sees to it that a callback is kept, in the store or, where that fails, in the spill.

While there is a spill, new callbacks go to it too, and what it holds goes to the store in its
order. For the last of it, new ones are held up for as long as a commit or two take: otherwise
there would always be one more.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import cast

from relay.callbacks.callback import Callback
from relay.callbacks.intake import Intake, new_id
from relay.clock import Clock
from relay.configuration.config import Config
from relay.fallback.importer import Importer
from relay.fallback.reserve import Reserve
from relay.fallback.spill import Spill
from relay.fallback.spillfile import Matches, Spilled
from relay.senders import household
from relay.store import UNAUTHORIZED, UNAUTHORIZED_KEPT, Receipt, Store, StoreError, StoreFull

TRY_AGAIN = 1.0
"""Seconds between tries to bring the spill to the store."""
CHUNK = 128
ALMOST_FULL = "its disk is almost full"

log = logging.getLogger("relay.shelter")


class Shelter:
    """What the ingress hands its callbacks to. Until there is a store, all go to the spill."""

    def __init__(self, intake: Intake, spill: Spill, reserve: Reserve, clock: Clock) -> None:
        self._intake = intake
        self._store: Store | None = None
        self._spill = spill
        self._reserve = reserve
        self._clock = clock
        self._trouble = "there is no store"
        self._refusal = ""
        self._unauthorized: Counter[str] = Counter()
        """How many callbacks with a wrong token each sender has in the spill."""
        self._direct = False
        """Whether callbacks go to the store, and not to the spill."""
        self._wanted = asyncio.Event()
        """Set while there is a spill to be imported."""
        self._turned = asyncio.Event()
        """Clear while the last of the spill is imported, for which new callbacks wait."""
        self._turned.set()
        self._importing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Look after the disks from now on."""
        await self._look()
        self._tasks = [asyncio.create_task(self._watch())]

    async def join(self, intake: Intake, store: Store) -> None:
        """From now on there is a store: callbacks go there, after what the spill holds."""
        self._intake, self._store = intake, store
        self._trouble = "there is a spill"
        self._direct = not self._spill.unread
        await self._look()
        if not self._direct:
            self._wanted.set()
        importer = Importer(intake, store, self._spill)
        self._tasks.append(asyncio.create_task(self._import_when_wanted(importer)))

    async def stop(self) -> None:
        """What is in the spill stays there for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def records(self) -> int:
        """How many callbacks wait in the spill."""
        return self._spill.records

    def refusal(self) -> str:
        """Why callbacks are refused; empty while they are taken."""
        if not self._direct and self._reserve.spill_low:
            return f"{self._trouble}, and the spill's disk is almost full"
        return self._refusal

    def facts(self) -> Mapping[str, float]:
        """For the metrics."""
        return {"relay_spill_records": self.records()}

    def notices(self) -> list[str]:
        """What an operator should know."""
        if self._direct:
            return []
        return [
            f"store: callbacks go to {self._spill.path}, {self.records()} so far: {self._trouble}"
        ]

    # what the ingress asks for

    def now(self) -> int:
        return self._intake.now()

    async def receive(self, callback: Callback) -> Receipt:
        """Return when the event that it makes is on disk. Raises NotUnderstood or StoreError."""
        event = self._intake.event(callback)
        if self._direct or await self._goes_to_store():
            assert self._store is not None
            try:
                return await self._store.add(await self._intake.arrival(callback, event))
            except StoreError as error:
                self._turn_away(error)
        await self._keep(Spilled(event.id, callback))
        return Receipt(event.id, event.type)

    async def quarantine(self, callback: Callback, status: int, reason: str) -> str:
        """Keep what became no event; return its id. Raises StoreError."""
        quarantine_id = new_id()
        if self._direct or await self._goes_to_store():
            assert self._store is not None
            try:
                return await self._store.quarantine(callback, status, reason, quarantine_id)
            except StoreError as error:
                self._turn_away(error)
        await self._keep(Spilled(quarantine_id, callback, status, reason))
        return quarantine_id

    async def erase(self, matches: Matches) -> int:
        """Take out of the spill the callbacks that match; return how many. Raises OSError."""
        async with self._importing:
            return await self._spill.erase(matches)

    # to the spill

    async def _goes_to_store(self) -> bool:
        await self._turned.wait()
        return self._direct

    def _turn_away(self, error: Exception) -> None:
        """From now on callbacks go to the spill."""
        if self._direct:
            log.error("callbacks go to %s: %s", self._spill.path, error)
        self._trouble = str(error)
        self._direct = False
        self._wanted.set()

    async def _keep(self, spilled: Spilled) -> None:
        if spilled.status == UNAUTHORIZED:
            self._count_unauthorized(household(spilled.callback.sender))
        self._direct = False  # where it was turned away, and the others have turned back since
        self._wanted.set()
        if self._reserve.spill_low:
            raise StoreFull(self.refusal())
        try:
            await self._spill.append(spilled)
        except OSError as error:
            self._refusal = f"{self._trouble}, and the spill cannot be written: {error.strerror}"
            raise StoreFull(self._refusal) from error
        self._refusal = ""

    def _count_unauthorized(self, sender: str) -> None:
        """Raise StoreFull where the sender has its share: as much as is left for the others."""
        left = UNAUTHORIZED_KEPT - self._unauthorized.total()
        if left <= self._unauthorized[sender]:
            raise StoreFull(f"{self._trouble}, and the spill has enough of those")
        self._unauthorized[sender] += 1

    # back to the store

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(TRY_AGAIN)
            await self._look()
            if self._refusal and await self._can_be_kept():
                self._refusal = ""

    async def _can_be_kept(self) -> bool:
        """Whether something can be written again: nobody may come before that is known."""
        with contextlib.suppress(OSError):
            await self._spill.try_write()
            return True
        with contextlib.suppress(StoreError):
            if self._direct and self._store is not None:
                await self._store.try_write()
                return True
        return False

    async def _look(self) -> None:
        """Turn callbacks away before the disk is full."""
        await self._reserve.look(_nothing if self._store is None else self._store.reusable)
        if self._reserve.store_low and self._direct:
            self._turn_away(StoreFull(ALMOST_FULL))

    async def _import_when_wanted(self, importer: Importer) -> None:
        while True:
            await self._wanted.wait()
            await self._clock.sleep(TRY_AGAIN)
            try:
                await self._import(importer)
            except Exception as error:  # noqa: BLE001  whatever it is, callbacks are to be kept
                self._import_failed(error)

    def _import_failed(self, error: Exception) -> None:
        expected = isinstance(error, StoreError | OSError)
        trouble = str(error) if expected else type(error).__name__
        if trouble != self._trouble:
            log.error("the spill has to wait: %s", trouble, exc_info=None if expected else error)
        self._trouble = trouble

    async def _bring(self, importer: Importer) -> int:
        """Bring the next chunk of the spill to the store; return how many lines it was."""
        self._want_room()
        async with self._importing:
            return await importer.bring(CHUNK)

    def _want_room(self) -> None:
        if self._reserve.store_low:
            raise StoreFull(ALMOST_FULL)

    async def _import(self, importer: Importer) -> None:
        """Bring the spill to the store, then turn the callbacks there."""
        number = brought = await self._bring(importer)
        while brought == CHUNK:
            brought = await self._bring(importer)
            number += brought
        self._turned.clear()
        try:
            while self._spill.unread:
                await self._spill.written()
                number += await self._bring(importer)
            self._direct = True
            self._wanted.clear()
        finally:
            self._turned.set()
        self._unauthorized.clear()
        log.warning("callbacks go to the store again; %d from the spill were brought there", number)
        try:
            await self._spill.remove()
        except OSError as error:
            log.warning("%s cannot be removed, and is read once more: %s", self._spill.path, error)


@contextlib.asynccontextmanager
async def sheltering(config: Config, clock: Clock) -> AsyncIterator[Shelter]:
    """A shelter at work. Raises StoreLocked where another process has the spill."""
    # Before it is joined by a store, it asks the intake for nothing that would need one.
    intake = Intake(config, cast("Store", None), clock)
    spill = await Spill.open(config.store_fallback)
    shelter = Shelter(intake, spill, Reserve.of(config), clock)
    try:
        await shelter.start()
        yield shelter
    finally:
        await shelter.stop()
        await spill.close()


async def _nothing() -> int:
    return 0

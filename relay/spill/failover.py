"""The shelter: sees to it that a callback is kept, in the store or, where that fails, in the spill.

While there is a spill, new callbacks go to it too, and what it holds goes to the store in its
order. For the last of it, new ones are held up for as long as a commit or two take: otherwise
there would always be one more.

A spill that cannot be opened or read holds up nothing: new callbacks go to the store, which keeps
that the spill is older. What it holds comes late then, and is no contact's last word.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import cast

from relay.clock import Clock
from relay.config.loader import Config
from relay.event import RawCallback
from relay.senders import client_key
from relay.sources.router import Intake, new_id
from relay.spill.disk_guard import Reserve
from relay.spill.file import Kept
from relay.spill.line import Spilled
from relay.spill.queue import Spill
from relay.spill.replayer import Importer
from relay.spill.shared_timeout import DISK_TIMEOUT, SharedTimeout
from relay.store import (
    UNAUTHORIZED,
    UNAUTHORIZED_KEPT,
    Receipt,
    Store,
    StoreError,
    StoreFull,
    StoreLocked,
)

TRY_AGAIN = 1.0
"""Seconds between tries to bring the spill to the store."""
LONGEST_PAUSE = 8.0
"""Seconds between tries to read a spill that cannot be read; the first are sooner."""
CHUNK = 128
ALMOST_FULL = "its disk is almost full"

log = logging.getLogger("relay.shelter")


class Shelter:
    """What the ingress hands its callbacks to. Until there is a store, all go to the spill.

    The store is waited for for so many seconds (`disk_timeout`).
    """

    def __init__(
        self,
        intake: Intake,
        spill: Spill,
        reserve: Reserve,
        clock: Clock,
        disk_timeout: float = DISK_TIMEOUT,
    ) -> None:
        self._intake = intake
        self._store: Store | None = None
        self._spill = spill
        self._reserve = reserve
        self._clock = clock
        self._timeout = SharedTimeout(disk_timeout)
        self._trouble = "there is no store"
        self._refusal = ""
        self._unauthorized: Counter[str] = Counter()
        """How many callbacks with a wrong token each sender has in the spill."""
        self._unreadable = spill.trouble
        """Why what the spill holds cannot be brought to the store."""
        self._older = False
        """Whether the spill may hold callbacks that came before some of the store's."""
        self._pause = TRY_AGAIN
        self._leftover = False
        """Whether the spill's file is still there though all of it has been brought."""
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
        """From now on there is a store: callbacks go there, after what the spill holds.

        Where that cannot be opened, they go there at once.
        """
        self._intake, self._store = intake, store
        self._trouble = "there is a spill"
        self._direct = not self._spill.unread
        with contextlib.suppress(StoreError):
            self._older = await store.spill_is_older()
            if self._spill.unopened:
                await self._join_without_spill()
        await self._look()
        if self._spill.unread:
            self._wanted.set()
        importer = Importer(intake, store, self._spill)
        self._tasks.append(asyncio.create_task(self._import_when_wanted(importer)))

    async def _join_without_spill(self) -> None:
        self._turned.clear()
        try:
            async with self._timeout.bounded():
                await self._spill.find()
            self._unreadable = ""
        except OSError as error:
            async with self._timeout.bounded():
                await self._pass_by(str(error))
        finally:
            self._turned.set()

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
        """For the metrics. Of a spill that cannot be read, it is not known how many it holds."""
        readable = not self.unreadable()
        return {
            "relay_spill_records": self.records() if readable else max(1, self.records()),
            "relay_spill_readable": float(readable),
        }

    def unreadable(self) -> str:
        """Why what the spill holds is not delivered; empty where it is, or will be."""
        if self._spill.unopened or self._store is not None:
            return self._unreadable
        return ""

    def notices(self) -> list[str]:
        """What an operator should know."""
        if self._direct:
            return self.spill_notices()
        return [
            f"store: callbacks go to {self._spill.path}, {self.records()} so far: {self._trouble}",
            *self.spill_notices(),
        ]

    def spill_notices(self) -> list[str]:
        """The same, of the spill alone."""
        if reason := self.unreadable():
            return [f"spill: what {self._spill.path} holds cannot be delivered so far: {reason}"]
        return []

    # what the ingress asks for

    def now(self) -> int:
        return self._intake.now()

    async def receive(self, callback: RawCallback) -> Receipt:
        """Return when the event that it makes is on disk. Raises InvalidCallback or StoreError.

        Its id is the same in the store and in the spill: where a write that was given up reaches
        the disk after all, it is one event.
        """
        event = self._intake.event(callback)
        try:
            async with self._timeout.bounded():
                if self._direct or await self._goes_to_store():
                    assert self._store is not None
                    return await self._store.add(await self._intake.arrival(callback, event))
        except StoreError as error:
            self._turn_away(error)
        await self._keep(Spilled(event.id, callback))
        return Receipt(event.id, event.type)

    async def quarantine(self, callback: RawCallback, status: int, reason: str) -> str:
        """Keep what became no event; return its id. Raises StoreError."""
        quarantine_id = new_id()
        try:
            async with self._timeout.bounded():
                if self._direct or await self._goes_to_store():
                    assert self._store is not None
                    return await self._store.quarantine(callback, status, reason, quarantine_id)
        except StoreError as error:
            self._turn_away(error)
        await self._keep(Spilled(quarantine_id, callback, status, reason))
        return quarantine_id

    async def erase(self, kept: Kept) -> int:
        """As Spill.erase. Raises OSError."""
        async with self._importing:
            return await self._spill.erase(kept)

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
            self._count_unauthorized(client_key(spilled.callback.sender))
        self._direct = False  # where it was turned away, and the others have turned back since
        self._wanted.set()
        if self._reserve.spill_low:
            raise StoreFull(self.refusal())
        try:
            await self._spill.append(spilled)
        except (OSError, StoreLocked) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._refusal = f"{self._trouble}, and the spill cannot be written: {reason}"
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
            await self._look_at_spill()
            if self._refusal and await self._can_be_kept():
                self._refusal = ""

    async def _look_at_spill(self) -> None:
        """See whether one has come by itself, and whether an old one can be removed now."""
        with contextlib.suppress(OSError, StoreError):
            if self._direct and not self._unreadable and await self._spill.look():
                await self._pass_by("it was not there before")
                self._wanted.set()
            if self._leftover:
                await self._remove()

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
            await self._clock.sleep(self._pause if self._direct else TRY_AGAIN)
            try:
                await self._import(importer)
            except StoreError as error:
                self._import_failed(error)
            except Exception as error:  # noqa: BLE001  whatever it is, callbacks are to be kept
                await self._spill_failed(error)

    def _import_failed(self, error: StoreError) -> None:
        if str(error) != self._trouble:
            log.error("the spill has to wait: %s", error)
        self._trouble = str(error)

    async def _spill_failed(self, error: Exception) -> None:
        """The spill is tried again, less and less often; the store is used meanwhile."""
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        expected = isinstance(error, OSError)
        if not expected:
            log.error("the spill cannot be brought to the store", exc_info=error)
        try:
            self._want_room()
            await self._pass_by(str(error) if expected else type(error).__name__)
        except StoreError as trouble:
            self._import_failed(trouble)

    async def _pass_by(self, reason: str) -> None:
        """Have callbacks go to the store though the spill holds others. Raises StoreError."""
        assert self._store is not None
        if reason != self._unreadable or not self._direct:
            log.error(
                "what %s holds has to wait, callbacks go to the store: %s",
                self._spill.path,
                reason,
            )
        self._unreadable = reason
        await self._store.note_spill_is_older(True)
        self._older = self._direct = True

    async def _bring(self, importer: Importer) -> int:
        """Bring the next chunk of the spill to the store; return how many lines it was."""
        self._want_room()
        async with self._importing:
            brought = await importer.bring(CHUNK, late=self._older)
        self._pause, self._unreadable = TRY_AGAIN, ""
        return brought

    def _want_room(self) -> None:
        if self._reserve.store_low:
            raise StoreFull(ALMOST_FULL)

    async def _import(self, importer: Importer) -> None:
        """Bring the spill to the store, then turn the callbacks there."""
        number = brought = await self._bring(importer)
        while brought == CHUNK:
            brought = await self._bring(importer)
            number += brought
        number += await self._bring_last(importer)
        self._unauthorized.clear()
        log.warning("callbacks go to the store again; %d from the spill were brought there", number)
        try:
            await self._remove()
        except OSError as error:
            self._leftover = True
            log.warning("%s cannot be removed so far: %s", self._spill.path, error)

    async def _bring_last(self, importer: Importer) -> int:
        """Bring what is left, while new callbacks wait, and turn them; return how many it was."""
        number = 0
        if not self._direct:
            self._turned.clear()
        try:
            async with self._timeout.bounded():
                while self._spill.unread:
                    await self._spill.written()
                    number += await self._bring(importer)
            self._direct = True
            self._wanted.clear()
        finally:
            self._turned.set()
        return number

    async def _remove(self) -> None:
        """Raises OSError."""
        await self._spill.remove()
        self._leftover = False
        if self._older and self._store is not None and not self._spill.unread:
            self._older = False
            with contextlib.suppress(StoreError):  # it is kept for longer than need be
                await self._store.note_spill_is_older(False)


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

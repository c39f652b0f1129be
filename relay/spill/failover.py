"""Failover: callbacks are stored, or spilled while the store cannot be written.

While there is a spill, new callbacks are spilled too, so that their order is kept. The records of
the spill are replayed: they are stored, in their order. While the last of them are replayed, new
callbacks wait for a commit or two. Otherwise the spill could grow as fast as it is replayed.

While a spill cannot be opened or read, new callbacks are stored, and the store notes that the spill
is older. The spill's records are stored later, marked as late. A late record does not become its
contact's last word if a newer word is stored already.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import zip_longest
from typing import cast

from relay.clock import Clock
from relay.config.loader import Config
from relay.event import Event, InvalidCallback, RawCallback
from relay.senders import client_key
from relay.slices import Slices
from relay.source import new_id
from relay.sources.router import Router, Words
from relay.spill.disk import DISK_TIMEOUT, DiskGuard, SharedTimeout
from relay.spill.file import Redact
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled
from relay.spill.replayer import Replayer, ReplayItem, rounds
from relay.store import (
    UNAUTHORIZED,
    UNAUTHORIZED_KEPT,
    NewEvent,
    Receipt,
    StoreError,
    StoreFull,
    StoreLocked,
)
from relay.store.port import Store

TRY_AGAIN = 1.0
"""Seconds between tries to replay the spill."""
LONGEST_PAUSE = 8.0
"""The most seconds between tries to read a spill that cannot be read; the first are sooner."""
CHUNK = 128
"""The most lines of the spill that are replayed at a time."""
TOGETHER = 250
"""The most parts of a request that are stored at a time."""
ALMOST_FULL = "its disk is almost full"

log = logging.getLogger("relay.shelter")


class FailoverStore:
    """Stores or spills the callbacks of the ingress. It spills all until a store is attached.

    A callback waits at most `disk_timeout` seconds for the store, and is then spilled.
    """

    def __init__(
        self,
        router: Router,
        spill: SpillQueue,
        disk_guard: DiskGuard,
        clock: Clock,
        disk_timeout: float = DISK_TIMEOUT,
    ) -> None:
        self._router = router
        self._store: Store | None = None
        self._spill = spill
        self._disk_guard = disk_guard
        self._clock = clock
        self._timeout = SharedTimeout(disk_timeout)
        self._reason = "there is no store"
        self._refusal = ""
        self._unauthorized: Counter[str] = Counter()
        """How many callbacks with a wrong token each sender has in the spill."""
        self._unreadable = spill.trouble
        """Why the spill cannot be replayed."""
        self._spill_is_older = False
        """Whether the spill may hold callbacks that came before some of the store's."""
        self._pause = TRY_AGAIN
        self._leftover = False
        """Whether all of the spill was replayed, but its file could not be removed."""
        self._store_in_use = False
        """Whether callbacks are stored, and not spilled."""
        self._replay_due = asyncio.Event()
        """Set while there is a spill to be replayed."""
        self._cutover_done = asyncio.Event()
        """Clear while the last of the spill is replayed; new callbacks wait until it is set."""
        self._cutover_done.set()
        self._replaying = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the task that checks the disks and the spill file."""
        await self._check_disks()
        self._tasks = [asyncio.create_task(self._watch())]

    async def attach_store(self, router: Router, store: Store) -> None:
        """Store callbacks from now on, after the records of the spill.

        If the spill cannot be opened, new callbacks are stored without waiting for it.
        """
        self._router, self._store = router, store
        self._reason = "there is a spill"
        self._store_in_use = not self._spill.unread
        with contextlib.suppress(StoreError):
            self._spill_is_older = await store.spill_is_older()
            if self._spill.unopened:
                await self._attach_without_spill()
        await self._check_disks()
        if self._spill.unread:
            self._replay_due.set()
        replayer = Replayer(router, store, self._spill)
        self._tasks.append(asyncio.create_task(self._replay_when_due(replayer)))

    async def _attach_without_spill(self) -> None:
        self._cutover_done.clear()
        try:
            async with self._timeout.bounded():
                await self._spill.reopen()
            self._unreadable = ""
        except OSError as error:
            async with self._timeout.bounded():
                await self._bypass_spill(str(error))
        finally:
            self._cutover_done.set()

    async def stop(self) -> None:
        """End the tasks. The next start replays what is still spilled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def records(self) -> int:
        """How many callbacks the spill holds."""
        return self._spill.records

    def refusal(self) -> str:
        """Why callbacks are refused; empty while they are taken."""
        if not self._store_in_use and self._disk_guard.spill_low:
            return f"{self._reason}, and the spill's disk is almost full"
        return self._refusal

    def facts(self) -> Mapping[str, float]:
        """Values for the metrics. How many records an unreadable spill holds is not known."""
        readable = not self.unreadable()
        return {
            "relay_spill_records": self.records() if readable else max(1, self.records()),
            "relay_spill_readable": float(readable),
        }

    def unreadable(self) -> str:
        """Why the spilled callbacks cannot be delivered; empty where they can."""
        if self._spill.unopened or self._store is not None:
            return self._unreadable
        return ""

    def notices(self) -> list[str]:
        """What an operator should know."""
        if self._store_in_use:
            return self.spill_notices()
        return [
            f"store: callbacks go to {self._spill.path}, {self.records()} so far: {self._reason}",
            *self.spill_notices(),
        ]

    def spill_notices(self) -> list[str]:
        """Those of the notices that concern the spill."""
        if reason := self.unreadable():
            return [f"spill: what {self._spill.path} holds cannot be delivered so far: {reason}"]
        return []

    # the methods of Acceptor (relay.server.ingress)

    def now(self) -> int:
        return self._router.now()

    async def receive(self, callback: RawCallback) -> Receipt:
        """Return when its event is stored, or the callback is spilled, and on disk.

        Raises InvalidCallback or StoreError. The event has the same id in the store and in the
        spill. A write to the store may time out and yet reach the disk. The replay then finds the
        id in the store, and does not store the event twice.
        """
        event = self._router.event(callback)
        try:
            async with self._timeout.bounded():
                if self._store_in_use or await self._uses_store():
                    assert self._store is not None
                    return await self._store.add(await self._router.new_event(callback, event))
        except StoreError as error:
            self._switch_to_spill(error)
        await self._append(Spilled(event.id, callback))
        return Receipt(event.id, event.type)

    async def receive_all(self, callbacks: Sequence[RawCallback]) -> list[Receipt | str]:
        """As `receive`, for the parts of one request. A part that makes no event has its reason.

        Raises StoreError where not all of them are on disk.
        """
        found: list[tuple[Spilled, Event] | str] = []
        slices = Slices()
        for callback in callbacks:
            try:
                event = self._router.event(callback)
                found.append((Spilled(event.id, callback), event))
            except InvalidCallback as error:
                found.append(error.reason)
            await slices.rest()
        receipts: dict[str, Receipt] = {}
        valid: list[ReplayItem] = [each for each in found if not isinstance(each, str)]
        words: Words = {}
        for together in rounds(valid, TOGETHER):
            arrivals = await self._arrivals(together, words, slices)
            receipts |= await self._receive_round(together, arrivals)
        return [each if isinstance(each, str) else receipts[each[0].id] for each in found]

    async def _arrivals(
        self, items: Sequence[ReplayItem], words: Words, slices: Slices
    ) -> list[NewEvent]:
        """What the store gets of the items; nothing where they are to be spilled.

        Each has the time-out to itself: making many is work, and no disk that hangs.
        """
        arrivals = []
        try:
            for spilled, event in items:
                async with self._timeout.bounded():
                    if not (self._store_in_use or await self._uses_store()):
                        return []
                    arrivals.append(await self._router.new_event(spilled.callback, event, words))
                await slices.rest()
        except StoreError as error:
            self._switch_to_spill(error)
            return []
        return arrivals

    async def _receive_round(
        self, items: Sequence[ReplayItem], arrivals: Sequence[NewEvent]
    ) -> dict[str, Receipt]:
        """Store or spill the items; return the receipt of each by its id."""
        results: list[Receipt | BaseException] = []
        try:
            async with self._timeout.bounded():
                if arrivals and (self._store_in_use or await self._uses_store()):
                    assert self._store is not None
                    adding = map(self._store.add, arrivals)
                    results = await asyncio.gather(*adding, return_exceptions=True)
        except StoreError as error:
            self._switch_to_spill(error)
            results = []
        receipts, left = {}, []
        for (spilled, event), result in zip_longest(items, results):
            assert event is not None
            if isinstance(result, StoreError):
                self._switch_to_spill(result)
            elif isinstance(result, BaseException):
                raise result
            left += [spilled] if not isinstance(result, Receipt) else []
            own = Receipt(event.id, event.type)
            receipts[spilled.id] = result if isinstance(result, Receipt) else own
        await asyncio.gather(*map(self._append, left))
        return receipts

    async def quarantine(self, callback: RawCallback, status: int, reason: str) -> str:
        """Store or spill a callback that became no event; return its id. Raises StoreError."""
        quarantine_id = new_id()
        try:
            async with self._timeout.bounded():
                if self._store_in_use or await self._uses_store():
                    assert self._store is not None
                    return await self._store.quarantine(callback, status, reason, quarantine_id)
        except StoreError as error:
            self._switch_to_spill(error)
        await self._append(Spilled(quarantine_id, callback, status, reason))
        return quarantine_id

    async def erase(self, redact: Redact) -> int:
        """As in SpillQueue. Raises OSError."""
        async with self._replaying:
            return await self._spill.erase(redact)

    # to the spill

    async def _uses_store(self) -> bool:
        await self._cutover_done.wait()
        return self._store_in_use

    def _switch_to_spill(self, error: Exception) -> None:
        """Spill callbacks from now on."""
        if self._store_in_use:
            log.error("callbacks go to %s: %s", self._spill.path, error)
        self._reason = str(error)
        self._store_in_use = False
        self._replay_due.set()

    async def _append(self, spilled: Spilled) -> None:
        if spilled.status == UNAUTHORIZED:
            self._count_unauthorized(client_key(spilled.callback.sender))
        # The cutover may have ended after this callback was sent here. The next callbacks must then
        # be spilled too: they come after this one.
        self._store_in_use = False
        self._replay_due.set()
        if self._disk_guard.spill_low:
            raise StoreFull(self.refusal())
        try:
            await self._spill.append(spilled)
        except (OSError, StoreLocked) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._refusal = f"{self._reason}, and the spill cannot be written: {reason}"
            raise StoreFull(self._refusal) from error
        self._refusal = ""

    def _count_unauthorized(self, sender: str) -> None:
        """Count one of the sender. Raises StoreFull if it has as many as are left for all."""
        left = UNAUTHORIZED_KEPT - self._unauthorized.total()
        if left <= self._unauthorized[sender]:
            raise StoreFull(f"{self._reason}, and the spill has enough of those")
        self._unauthorized[sender] += 1

    # back to the store

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(TRY_AGAIN)
            await self._check_disks()
            await self._check_spill()
            if self._refusal and await self._can_write():
                self._refusal = ""

    async def _check_spill(self) -> None:
        """Look for a new spill file; remove an old one that could not be removed before."""
        with contextlib.suppress(OSError, StoreError):
            if self._store_in_use and not self._unreadable and await self._spill.detect():
                await self._bypass_spill("it was not there before")
                self._replay_due.set()
            if self._leftover:
                await self._remove()

    async def _can_write(self) -> bool:
        """Whether a test write to the spill or the store succeeds. It needs no callback."""
        with contextlib.suppress(OSError):
            await self._spill.try_write()
            return True
        with contextlib.suppress(StoreError):
            if self._store_in_use and self._store is not None:
                await self._store.try_write()
                return True
        return False

    async def _check_disks(self) -> None:
        """Spill callbacks when the store's disk is almost full."""
        await self._disk_guard.check(_nothing if self._store is None else self._store.reusable)
        if self._disk_guard.store_low and self._store_in_use:
            self._switch_to_spill(StoreFull(ALMOST_FULL))

    async def _replay_when_due(self, replayer: Replayer) -> None:
        while True:
            await self._replay_due.wait()
            await self._clock.sleep(self._pause if self._store_in_use else TRY_AGAIN)
            try:
                await self._replay(replayer)
            except StoreError as error:
                self._replay_failed(error)
            except Exception as error:  # noqa: BLE001  any error: callbacks must still be stored
                await self._spill_failed(error)

    def _replay_failed(self, error: StoreError) -> None:
        if str(error) != self._reason:
            log.error("the spill has to wait: %s", error)
        self._reason = str(error)

    async def _spill_failed(self, error: Exception) -> None:
        """Store new callbacks meanwhile. Try the spill again, each time after a longer pause."""
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        expected = isinstance(error, OSError)
        if not expected:
            log.error("the spill cannot be brought to the store", exc_info=error)
        try:
            self._require_space()
            await self._bypass_spill(str(error) if expected else type(error).__name__)
        except StoreError as trouble:
            self._replay_failed(trouble)

    async def _bypass_spill(self, reason: str) -> None:
        """Store new callbacks although older ones are spilled. Raises StoreError."""
        assert self._store is not None
        if reason != self._unreadable or not self._store_in_use:
            log.error(
                "what %s holds has to wait, callbacks go to the store: %s",
                self._spill.path,
                reason,
            )
        self._unreadable = reason
        await self._store.note_spill_is_older(True)
        self._spill_is_older = self._store_in_use = True

    async def _replay_chunk(self, replayer: Replayer) -> int:
        """Replay the next chunk; return how many lines it was."""
        self._require_space()
        async with self._replaying:
            replayed = await replayer.replay(CHUNK, late=self._spill_is_older)
        self._pause, self._unreadable = TRY_AGAIN, ""
        return replayed

    def _require_space(self) -> None:
        if self._disk_guard.store_low:
            raise StoreFull(ALMOST_FULL)

    async def _replay(self, replayer: Replayer) -> None:
        """Replay the spill, then switch to the store."""
        number = replayed = await self._replay_chunk(replayer)
        while replayed == CHUNK:
            replayed = await self._replay_chunk(replayer)
            number += replayed
        number += await self._replay_rest(replayer)
        self._unauthorized.clear()
        log.warning("callbacks go to the store again; %d from the spill were brought there", number)
        try:
            await self._remove()
        except OSError as error:
            self._leftover = True
            log.warning("%s cannot be removed so far: %s", self._spill.path, error)

    async def _replay_rest(self, replayer: Replayer) -> int:
        """Replay the rest while new callbacks wait, then switch; return how many lines it was."""
        number = 0
        if not self._store_in_use:
            self._cutover_done.clear()
        try:
            async with self._timeout.bounded():
                while self._spill.unread:
                    await self._spill.flushed()
                    number += await self._replay_chunk(replayer)
            self._store_in_use = True
            self._replay_due.clear()
        finally:
            self._cutover_done.set()
        return number

    async def _remove(self) -> None:
        """Remove the spill file. Raises OSError."""
        await self._spill.remove()
        self._leftover = False
        if self._spill_is_older and self._store is not None and not self._spill.unread:
            self._spill_is_older = False
            with contextlib.suppress(StoreError):  # the note only stays too long
                await self._store.note_spill_is_older(False)


@contextlib.asynccontextmanager
async def running_failover(config: Config, clock: Clock) -> AsyncIterator[FailoverStore]:
    """A FailoverStore without a store. Raises StoreLocked if another process has the spill."""
    # Until a store is attached, no method of the router that needs one is called.
    router = Router(config, cast("Store", None), clock)
    spill = await SpillQueue.open(config.state.spill)
    failover = FailoverStore(router, spill, DiskGuard(config.state, config.store_reserve), clock)
    try:
        await failover.start()
        yield failover
    finally:
        await failover.stop()
        await spill.close()


async def _nothing() -> int:
    return 0

"""The watch: looks at everything now and then, and tells the channels what the policy lets it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relay.alerts import message as words
from relay.alerts.email import Mailbox
from relay.alerts.keywords import Keywords
from relay.alerts.policy import Finding, Memory, Note
from relay.alerts.rules import UNREADABLE, Look, findings
from relay.alerts.state_file import Notebook
from relay.alerts.webhook import Channel, NotSaid, Webhook
from relay.clock import MICROSECONDS, Clock
from relay.config.model import Alerts
from relay.monitoring.metrics import Readings
from relay.redact import mask_all
from relay.store import Store, StoreError

LOOK_EVERY = 15.0
LOOK_WITHIN = 30.0
"""Seconds for which the store's disk is waited for: one that hangs must not silence the alerts."""
TRY_AGAIN = (30.0, 60.0, 300.0, 900.0)
"""Seconds after which a channel that did not take a note is tried again."""

log = logging.getLogger("relay.alerts")


class Journal:
    """The log as a channel: there always is one that has the alerts."""

    name = "log"

    async def say(self, note: Note) -> None:
        """As in Channel."""
        for bad, line in words.lines(note):
            log.log(logging.ERROR if bad else logging.INFO, "%s", line)

    async def close(self) -> None:
        """As in Channel."""


def channels(settings: Alerts) -> list[Channel]:
    """Those of relay.yaml."""
    found: list[Channel] = []
    if settings.webhook is not None:
        found.append(Webhook(settings.webhook))
    if settings.email is not None:
        found.append(Mailbox(settings.email))
    return found


class Teller:
    """Tells one channel; what it has not taken is said again, after a while."""

    def __init__(self, channel: Channel, memory: Memory, repeat: float) -> None:
        self.channel = channel
        self.memory = memory
        self._repeat = repeat
        self._failures = 0
        self._not_before = 0.0

    async def tell(
        self, found: Sequence[Finding], now: float, ticks: float, *, blind: bool
    ) -> None:
        """`now` is the time of day, `ticks` that of a clock that never jumps."""
        self.memory.observe(found, now, repeat=self._repeat, blind=blind)
        note = self.memory.note(now, repeat=self._repeat)
        if note is None or ticks < self._not_before:
            return
        try:
            await self.channel.say(note)
        except NotSaid as error:
            wait = TRY_AGAIN[min(self._failures, len(TRY_AGAIN) - 1)]
            self._failures, self._not_before = self._failures + 1, ticks + wait
            reason = mask_all(str(error))
            log.error(
                "the %s did not take a note, again in %g s: %s", self.channel.name, wait, reason
            )
        else:
            self._failures, self._not_before = 0, 0.0
            self.memory.took(note)


class Watch:
    """Looks every few seconds, from `start` to `stop`."""

    def __init__(
        self,
        settings: Alerts,
        read: Callable[[], Awaitable[Readings]],
        store: Store | None,
        place: Path,
        clock: Clock,
        others: Sequence[Channel],
    ) -> None:
        self._settings = settings
        self._read = read
        self._store = store
        self._clock = clock
        self._notebook = Notebook(place)
        kept = self._notebook.read()
        self._keywords = Keywords(settings.rules.keyword_silent, _times(kept.get("keywords")))
        self._tellers = [
            Teller(each, _memory(kept.get("channels"), each.name), settings.repeat)
            for each in (Journal(), *others)
        ]
        self._task: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more, and write down what was told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._keep()
        for teller in self._tellers:
            await teller.channel.close()

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # the alerts must outlive whatever else goes wrong
                log.exception("a look at everything failed: %s", type(error).__name__)
            await self._clock.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """See what is wrong, and tell each channel what is news to it."""
        found, blind = await self._findings()
        now, ticks = self._clock.now(), self._clock.monotonic()
        await asyncio.gather(
            *(teller.tell(found, now, ticks, blind=blind) for teller in self._tellers)
        )
        await self._keep()

    async def _findings(self) -> tuple[list[Finding], bool]:
        """What is wrong, and whether there may be more that could not be seen."""
        try:
            look = await asyncio.wait_for(self._look(), LOOK_WITHIN)
        except (StoreError, TimeoutError):
            return [UNREADABLE], True
        return findings(look, self._settings.rules), self._store is None

    async def _look(self) -> Look:
        readings = await self._read()
        if self._store is None:
            return Look(readings)
        await self._keywords.look(self._store, readings.at)
        return Look(
            readings,
            await self._dead(self._store, readings.at),
            await self._quarantined(self._store),
            self._keywords.last,
        )

    async def _dead(self, store: Store, now: float) -> Mapping[str, int]:
        if (many := self._settings.rules.dead) is None:
            return {}
        since = int((now - many.per) * MICROSECONDS)
        return await store.died(since=since, until=int(now * MICROSECONDS))

    async def _quarantined(self, store: Store) -> float | None:
        if (many := self._settings.rules.quarantine) is None:
            return None
        came = await store.quarantined_since(many.count)
        return None if came is None else came / MICROSECONDS

    async def _keep(self) -> None:
        kept = {
            "channels": {each.channel.name: each.memory.to_dict() for each in self._tellers},
            "keywords": self._keywords.last,
        }
        if self._keeping is None or self._keeping.done():
            writing = asyncio.to_thread(self._notebook.write, kept)
            self._keeping = asyncio.create_task(writing)
        await asyncio.wait({self._keeping}, timeout=LOOK_WITHIN)


def _memory(kept: Any, name: str) -> Memory:
    try:
        return Memory.from_dict(kept[name])
    except (KeyError, TypeError, AttributeError):
        return Memory()


def _times(kept: Any) -> dict[str, float]:
    if not isinstance(kept, dict):
        return {}
    return {name: each for name, each in kept.items() if isinstance(each, float)}


@contextlib.asynccontextmanager
async def watching(
    settings: Alerts,
    read: Callable[[], Awaitable[Readings]],
    store: Store | None,
    place: Path,
    clock: Clock,
) -> AsyncIterator[Watch]:
    """A watch at work, as relay.yaml wants it; `place` is the store's, also where there is none."""
    watch = Watch(settings, read, store, place, clock, channels(settings))
    watch.start()
    try:
        yield watch
    finally:
        await watch.stop()

"""The alert monitor: evaluates the rules every few seconds and notifies the channels.

What each channel has been notified of is kept over restarts, in a file of the state directory.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from relay import fsutil
from relay.alerts.notifiers import LogNotifier, NotificationFailed, Notifier, make_notifiers
from relay.alerts.policy import AlertCondition, ChannelState
from relay.alerts.rules import UNREADABLE, KeywordActivity, Snapshot, conditions
from relay.clock import MICROSECONDS, Clock
from relay.config.model import Alerts
from relay.monitoring.metrics import Readings
from relay.redact import mask_all
from relay.store import StoreError
from relay.store.port import Store

EVALUATE_EVERY = 15.0
"""Seconds from one evaluation to the next."""
DISK_TIMEOUT = 30.0
"""The most seconds to wait for the store's disk: one that hangs must not silence the alerts."""
TRY_AGAIN = (30.0, 60.0, 300.0, 900.0)
"""Seconds after which a channel that did not take a notification is tried again."""

log = logging.getLogger("relay.alerts")

Read = Callable[[], Awaitable[Readings]]


class StateFile:
    """A file with one JSON object. If it is lost, each channel is notified of all alerts again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""
        self._logged_error: str | None = None

    def read(self) -> dict[str, Any]:
        """What was written last; empty if there is no file, or if it makes no sense."""
        try:
            self._written = fsutil.content(self._path)
            state = orjson.loads(self._written)
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write(self, state: dict[str, Any]) -> None:
        """Replace what is there. A full disk must not silence the alerts."""
        text = orjson.dumps(state)
        if text == self._written:
            return
        try:
            with fsutil.replaced(self._path) as file:
                file.write(text)
        except OSError as error:
            if error.strerror != self._logged_error:
                log.warning("what was told cannot be written down: %s", error.strerror)
            self._logged_error = error.strerror
        else:
            self._written, self._logged_error = text, None


class ChannelNotifier:
    """Notifies one channel; what it has not taken is sent again, after a while."""

    def __init__(self, notifier: Notifier, state: ChannelState, repeat: float) -> None:
        self.notifier = notifier
        self.state = state
        self._repeat = repeat
        self._failures = 0
        self._not_before = 0.0

    async def notify(
        self, found: Sequence[AlertCondition], now: float, monotonic: float, *, partial: bool
    ) -> None:
        """`now` is the time of day, `monotonic` that of a clock that never jumps."""
        self.state.observe(found, now, repeat=self._repeat, partial=partial)
        notification = self.state.due(now, repeat=self._repeat)
        if notification is None or monotonic < self._not_before:
            return
        try:
            await self.notifier.send(notification)
        except NotificationFailed as error:
            wait = TRY_AGAIN[min(self._failures, len(TRY_AGAIN) - 1)]
            self._failures, self._not_before = self._failures + 1, monotonic + wait
            log.error(
                "the %s did not take a note, again in %g s: %s",
                self.notifier.name,
                wait,
                mask_all(str(error)),
            )
        else:
            self._failures, self._not_before = 0, 0.0
            self.state.mark_sent(notification)


class AlertMonitor:
    """Evaluates the rules every few seconds, from `start` to `stop`."""

    def __init__(
        self,
        settings: Alerts,
        read: Read,
        store: Store | None,
        state_file: Path,
        clock: Clock,
        notifiers: Sequence[Notifier],
    ) -> None:
        self._settings = settings
        self._read = read
        self._store = store
        self._clock = clock
        self._file = StateFile(state_file)
        state = self._file.read()
        self._keywords = KeywordActivity(
            settings.rules.keyword_silent, _times(state.get("keywords"))
        )
        self._channels = [
            ChannelNotifier(each, _state(state.get("channels"), each.name), settings.repeat)
            for each in (LogNotifier(), *notifiers)
        ]
        self._task: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End, and save what the channels were notified of."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._save()
        for channel in self._channels:
            await channel.notifier.close()

    async def _run(self) -> None:
        while True:
            try:
                await self.evaluate()
            except Exception as error:  # the alerts must outlive whatever else goes wrong
                log.exception("a look at everything failed: %s", type(error).__name__)
            await self._clock.sleep(EVALUATE_EVERY)

    async def evaluate(self) -> None:
        """Find what is wrong, and notify each channel of what is news to it."""
        found, partial = await self._conditions()
        now, monotonic = self._clock.now(), self._clock.monotonic()
        await asyncio.gather(
            *(each.notify(found, now, monotonic, partial=partial) for each in self._channels)
        )
        await self._save()

    async def _conditions(self) -> tuple[list[AlertCondition], bool]:
        """What is wrong, and whether there may be more that could not be seen."""
        try:
            snapshot = await asyncio.wait_for(self._snapshot(), DISK_TIMEOUT)
        except (StoreError, TimeoutError):
            return [UNREADABLE], True
        return conditions(snapshot, self._settings.rules), self._store is None

    async def _snapshot(self) -> Snapshot:
        readings = await self._read()
        if self._store is None:
            return Snapshot(readings)
        await self._keywords.update(self._store, readings.at)
        return Snapshot(
            readings,
            await self._dead(self._store, readings.at),
            await self._quarantined(self._store),
            self._keywords.last,
        )

    async def _dead(self, store: Store, now: float) -> Mapping[str, int]:
        if (limit := self._settings.rules.dead) is None:
            return {}
        since = int((now - limit.per) * MICROSECONDS)
        return await store.dead_since(since=since, until=int(now * MICROSECONDS))

    async def _quarantined(self, store: Store) -> float | None:
        if (limit := self._settings.rules.quarantine) is None:
            return None
        received = await store.quarantined_since(limit.count)
        return None if received is None else received / MICROSECONDS

    async def _save(self) -> None:
        state = {
            "channels": {each.notifier.name: each.state.to_dict() for each in self._channels},
            "keywords": self._keywords.last,
        }
        if self._saving is None or self._saving.done():
            writing = asyncio.to_thread(self._file.write, state)
            self._saving = asyncio.create_task(writing)
        await asyncio.wait({self._saving}, timeout=DISK_TIMEOUT)


def _state(kept: Any, name: str) -> ChannelState:
    try:
        return ChannelState.from_dict(kept[name])
    except (KeyError, TypeError, AttributeError):
        return ChannelState()


def _times(kept: Any) -> dict[str, float]:
    if not isinstance(kept, dict):
        return {}
    return {name: each for name, each in kept.items() if isinstance(each, float)}


@contextlib.asynccontextmanager
async def run_monitor(
    settings: Alerts, read: Read, store: Store | None, state_file: Path, clock: Clock
) -> AsyncIterator[AlertMonitor]:
    """Run a monitor during the block."""
    monitor = AlertMonitor(settings, read, store, state_file, clock, make_notifiers(settings))
    monitor.start()
    try:
        yield monitor
    finally:
        await monitor.stop()

"""Housekeeping: what a person asks for now and then, and waits for: a purge, an erasure."""

import contextlib
from typing import Any

from relay import retention
from relay.clock import Clock, SystemClock
from relay.config.loader import Config
from relay.delivery.manager import Workers
from relay.erasure import EraseSpill, Erasure
from relay.event import timestamp
from relay.jobs import Job, Jobs
from relay.spill.file import Kept
from relay.spill.queue import Spill
from relay.store import Store, Word


class Housekeeping:
    """Starts jobs, and tells how they get on."""

    def __init__(
        self,
        store: Store,
        config: Config,
        workers: Workers,
        erase_spill: EraseSpill | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock or SystemClock()
        self._erasure = Erasure(
            store, config, workers, self._clock, erase_spill or self._erase_spill
        )
        self._jobs = Jobs()

    def purge(self, older_than: float | None, *, dry_run: bool) -> int:
        """Begin a purge: of what is older than that, or than what relay.yaml says."""

        async def work(job: Job) -> dict[str, Any]:
            return await self._purge(job, older_than, dry_run=dry_run)

        return self._jobs.start(work)

    def erase(self, mobile: str) -> int:
        """Begin an erasure."""

        async def work(job: Job) -> dict[str, Any]:
            return await self._erasure.erase(mobile, job)

        return self._jobs.start(work)

    def job(self, number: int) -> dict[str, Any] | None:
        job = self._jobs.find(number)
        return None if job is None else job.view()

    async def words(self, after: int, limit: int) -> list[dict[str, Any]]:
        return [_view(word) for word in await self._store.words(after=after, limit=limit)]

    async def _purge(self, job: Job, older_than: float | None, *, dry_run: bool) -> dict[str, Any]:
        now = self._clock.now()
        what = (
            retention.before(self._config.retention, now)
            if older_than is None
            else retention.older_than(older_than, now)
        )
        total = {"events": 0, "callbacks": 0}
        pace = retention.Throttle(self._clock)
        job.total = await self._store.last_seq()
        async for step in self._store.purge(what, dry_run=dry_run):
            total["events"] += step.events
            total["callbacks"] += step.callbacks
            job.done = max(job.done, step.seq)
            await pace.rest()
        return total

    async def _erase_spill(self, kept: Kept) -> int:
        """Where no service runs, the spill is this process's to change."""
        spill = await Spill.open(self._config.store_fallback)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(spill.close)
            return await spill.erase(kept)


def _view(word: Word) -> dict[str, Any]:
    return {
        "seq": word.seq,
        "received": timestamp(word.received),
        "source": word.source,
        "mobile": word.mobile,
        "contact": word.contact,
        "word": word.word,
        "test": word.test,
        "accepted": {sink: timestamp(at) for sink, at in word.accepted.items()},
    }

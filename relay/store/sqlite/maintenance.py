"""The store's upkeep: purges, erasures, and the log of consent."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from relay.redact import NumberMatcher
from relay.store import Before, ContactRows, Purged, Scrubbed, Word
from relay.store.sqlite import consents, erase, quarantine, rows, scrub
from relay.store.sqlite import purge as purges
from relay.store.sqlite.state import Memory
from relay.store.sqlite.writer import Writer

T = TypeVar("T")


class Upkeep:
    """What SqliteStore does beside its daily work."""

    _path: Path
    _memory: Memory
    _writer: Writer

    def _read(self, run: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """Run it with a connection that cannot write. Raises StoreError."""
        raise NotImplementedError  # the store has it

    def _write(self, run: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """Run it in a transaction; what it returns, once that is on disk. Raises StoreError."""
        raise NotImplementedError  # the store has it

    async def words(self, *, after: int, limit: int = 500) -> list[Word]:
        """As in Store."""
        return await self._read(consents.words, after, limit)

    async def purge(self, before: Before, *, dry_run: bool = False) -> AsyncIterator[Purged]:
        """As in Store."""
        remaining = purges.Remaining()
        after, end = 0, False
        while not end:
            found = await self._read(purges.look, after, purges.LOOK)
            end = purges.is_end(found, purges.LOOK, before)
            for step in purges.steps(found, before):
                after = step[-1].seq
                gone = await self._purge_events(step, before, remaining, dry_run=dry_run)
                yield Purged(after, events=gone)
        async for purged in self._purge_quarantine(before, dry_run=dry_run):
            yield purged
        while not dry_run and await self._write(purges.forget_heard, purges.STEP) == purges.STEP:
            yield Purged(after)
        while not dry_run and await self._write(purges.give_back):
            yield Purged(after)

    async def _purge_events(
        self,
        step: Sequence[purges.Candidate],
        before: Before,
        remaining: purges.Remaining,
        *,
        dry_run: bool,
    ) -> int:
        if dry_run or not any(each.may_go(before) for each in step):
            choice = await self._read(purges.choose, step, before, remaining)
            return len(choice.going)
        return await self._write(purges.remove, self._memory, step, before, remaining)

    async def _purge_quarantine(self, before: Before, *, dry_run: bool) -> AsyncIterator[Purged]:
        after, found = 0, [(0, 0)]
        while found:
            found = await self._read(purges.old_callbacks, after, purges.STEP)
            old = [seq for seq, received in found if received < before.quarantine]
            gone = len(old)
            if old and not dry_run:
                gone = await self._write(quarantine.remove, old)
            if found:
                after = found[-1][0]
                yield Purged(0, callbacks=gone)

    async def last_round(self) -> float | None:
        """As in Store."""
        query = "SELECT value FROM meta WHERE name = 'last_purge'"
        return await self._read(rows.value, query)

    async def note_round(self, now: float) -> None:
        """As in Store."""
        await self._write(_note_round, now)

    # erasure

    async def find_contact(self, matcher: NumberMatcher) -> ContactRows:
        """As in Store."""
        return await self._read(erase.find_contact, self._memory, matcher)

    async def halt(self, rows: ContactRows) -> int:
        """As in Store."""
        return await self._write(erase.halt, self._memory, rows)

    async def forget(self, rows: ContactRows, matcher: NumberMatcher) -> Counter[str]:
        """As in Store."""
        done: Counter[str] = Counter()
        seqs = list(rows.events)
        for start in range(0, len(seqs), purges.STEP) or (0,):
            some = seqs[start : start + purges.STEP]
            done["events"] += await self._write(erase.forget, self._memory, rows.contacts, some)
        after: int | None = 0
        while after is not None:
            after, held = await self._read(erase.callbacks, matcher, after)
            if held:
                done["quarantine"] += await self._write(quarantine.remove, held)
        after = 0
        while after is not None:
            after, found = await self._read(erase.page, rows.contacts, matcher, after)
            if found:
                done["mentions"] += (await self._write(erase.black_out, found)).total()
        if found := await self._read(erase.quotes, matcher):
            done += await self._write(erase.black_out, found)
        return done

    async def scrub(self, matcher: NumberMatcher) -> Scrubbed:
        """As in Store."""
        await self._writer.submit(scrub.empty_log, alone=True)
        done = await self._read(scrub.search, self._path, matcher)
        if done.traces:
            await self._writer.submit(scrub.write_anew, alone=True)
            done = await self._read(scrub.search, self._path, matcher)
        return done

    async def note_erasure(self, matcher: NumberMatcher, report: str) -> None:
        """As in Store."""
        number = self._memory.contact("", matcher.mobile)
        await self._write(partial(_note_erasure, number=number, report=report))


def _note_round(connection: Any, now: float) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('last_purge', ?)", (now,))


def _note_erasure(connection: Any, number: int, report: str) -> None:
    at = time.time_ns() // 1000
    connection.execute("INSERT OR REPLACE INTO erasures VALUES (?, ?, ?)", (at, number, report))

"""The store's upkeep: purges, erasures, and the log of consent."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from relay.sqlite import consents
from relay.sqlite import purge as purges
from relay.sqlite.memory import Memory
from relay.store import Before, Purged, Word

T = TypeVar("T")


class Upkeep:
    """What SqliteStore does beside its daily work."""

    _memory: Memory
    _read: Callable[..., Awaitable[Any]]
    _write: Callable[..., Awaitable[Any]]

    async def words(self, *, after: int, limit: int = 500) -> list[Word]:
        """As in Store."""
        return await self._read(consents.words, after, limit)  # type: ignore[no-any-return]

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
        gone: int = await self._write(purges.remove, self._memory, step, before, remaining)
        return gone

    async def _purge_quarantine(self, before: Before, *, dry_run: bool) -> AsyncIterator[Purged]:
        after, found = 0, [(0, 0)]
        while found:
            found = await self._read(purges.old_callbacks, after, purges.STEP)
            old = [seq for seq, received in found if received < before.quarantine]
            gone = len(old)
            if old and not dry_run:
                gone = await self._write(purges.remove_callbacks, old)
            if found:
                after = found[-1][0]
                yield Purged(0, callbacks=gone)

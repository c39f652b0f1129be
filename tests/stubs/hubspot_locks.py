"""HubSpot locks what it is writing: a second write at the same time is refused with 423."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stubs.hubspot_errors import locked


class Locks:
    """Matters where the stub has a latency; else no two requests are ever at work together."""

    def __init__(self, fired: Counter[str]) -> None:
        self._fired = fired
        self._held: Counter[str] = Counter()

    @asynccontextmanager
    async def held(self, records: frozenset[str]) -> AsyncIterator[bool]:
        """Gives whether somebody else has one of them."""
        busy = any(self._held[record] for record in records)
        self._held.update(records)
        try:
            yield busy
        finally:
            self._held.subtract(records)
            self._held += Counter()  # drops those that nobody holds

    def check(self, busy: bool) -> None:
        """Raises Refusal; counted in `fired` as `locked`."""
        if busy:
            self._fired["locked"] += 1
            raise locked()

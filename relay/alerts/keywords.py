"""The keywords: when each of those that must not fall silent came last."""

from collections.abc import Iterable

from relay.clock import MICROSECONDS
from relay.store import Store

LOOKED_AT = 20_000
"""So many events are gone through in one look; the next one goes on."""


class Keywords:
    """Reads each event once. A keyword that has not come yet counts from the first look on."""

    def __init__(self, wanted: Iterable[str], last: dict[str, float]) -> None:
        self.last = {keyword: last[keyword] for keyword in wanted if keyword in last}
        self._wanted = {keyword.upper(): keyword for keyword in wanted}
        self._seq: int | None = None

    async def look(self, store: Store, now: float) -> None:
        """Take in what has come since the last look."""
        if not self._wanted:
            return
        if self._seq is None:
            self._seq = max(0, await store.last_seq() - LOOKED_AT)
        self._seq, came = await store.keywords(after=self._seq, limit=LOOKED_AT)
        for keyword in self._wanted.values():
            # Not from the future, which a clock that was set back leaves behind.
            self.last[keyword] = min(now, self.last.get(keyword, now))
        for spelling, received in came.items():
            if known := self._wanted.get(spelling.upper()):
                self.last[known] = min(now, received / MICROSECONDS)

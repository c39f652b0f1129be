"""Questions about the whole."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from relay.api.sinks import Sinks
from relay.config.status import Standing
from relay.store import Store


class Status:
    """The endpoint of `relay status`."""

    def __init__(
        self,
        sinks: Sinks,
        store: Store,
        standing: Standing,
        spilled: Callable[[], int],
        unreadable: Callable[[], str],
        refusal: Callable[[], str],
    ) -> None:
        self._sinks = sinks
        self._store = store
        self._standing = standing
        self._spilled = spilled
        self._unreadable = unreadable
        self._refusal = refusal

    async def show(self, _: Request) -> dict[str, Any]:
        return {
            "events": await self._store.event_count(),
            "quarantine": await self._store.quarantine_count(),
            "spill": self._spilled(),
            "spill_trouble": self._unreadable(),
            "refusal": self._refusal(),
            "sinks": await self._sinks.views(),
            "configuration": self._standing.view(),
        }

"""Questions about events."""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request

from relay.api import paging
from relay.api.requests import EventsQuery
from relay.api.responses import found, query_of
from relay.api.serialise import callback_view, delivery_view, event_view
from relay.event import timestamp
from relay.store import Store


class Events:
    """The endpoints of `relay events`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, request: Request) -> dict[str, Any]:
        """The newest first; with `after` the oldest first."""
        query = query_of(request, EventsQuery)
        if query.after is None:
            last = paging.decode(query.cursor)
            rows = await self._store.events(
                query.filter(), before=last and last[0], limit=query.limit
            )
        else:
            rows = await self._store.events_after(
                query.filter(), after=query.after, limit=query.limit
            )
        return paging.page(rows, query.limit, event_view, lambda row: (row.seq, ""))

    async def show(self, request: Request) -> dict[str, Any]:
        event_id = request.path_params["id"]
        row = await found(self._store.event(event_id), f"event {event_id}")
        return {
            **event_view(row),
            "opted_out": await self._store.opted_out(row.source, row.event.data["mobile"]),
            "deliveries": [delivery_view(each) for each in row.deliveries],
            "attempts": [
                {"sink": sink, "number": number, **asdict(attempt)}
                | {"started": timestamp(attempt.started)}
                for sink, number, attempt in row.attempts
            ],
            "callback": callback_view(row.callback),
        }

"""Questions about events."""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request

from relay.control.answers import found, query_of
from relay.control.questions import EventsQuery
from relay.control.views import callback_view, delivery_view, event_view
from relay.event import timestamp
from relay.store import Store


class Events:
    """The endpoints of `relay events`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, request: Request) -> list[dict[str, Any]]:
        """The newest first; with `after` the oldest first."""
        query = query_of(request, EventsQuery)
        if query.after is None:
            rows = await self._store.events(query.filter(), before=query.before, limit=query.limit)
        else:
            rows = await self._store.events_after(
                query.filter(), after=query.after, limit=query.limit
            )
        return [event_view(row) for row in rows]

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

"""Endpoints of events and of their deliveries: list, show, dead deliveries, replay; their JSON."""

import asyncio
import base64
from dataclasses import asdict, replace
from typing import Any

import pydantic
from starlette.requests import Request

from relay.api import CHUNK, PAGE
from relay.api.endpoints import (
    RequestBody,
    SinkLookup,
    body_of,
    decode_cursor,
    make_page,
    or_404,
    query_of,
)
from relay.callback.coding import as_utf8, charset_of, decode, unpacked
from relay.callback.form import parameters
from relay.config.sinks import SinkConfig
from relay.delivery.manager import Workers
from relay.event import InvalidCallback, RawCallback, timestamp
from relay.preview import preview
from relay.sources.router import Router
from relay.store import DeliveryRow, EventFilter, EventRow, State
from relay.store.port import Store
from relay.templating.expressions import EvaluationError


class Where(RequestBody):
    """A query for events. `since` and `until` are in microseconds; `until` itself is out."""

    source: str | None = None
    kind: str | None = None
    keyword: str | None = None
    since: int | None = None
    until: int | None = None

    def filter(self) -> EventFilter:
        return EventFilter(self.source, self.kind, self.keyword, self.since, self.until)


class EventsQuery(Where):
    cursor: str | None = None
    after: int | None = None
    limit: int = pydantic.Field(default=50, ge=1, le=PAGE)


class DeadQuery(RequestBody):
    sink: str | None = None
    cursor: str | None = None
    limit: int = pydantic.Field(default=50, ge=1, le=PAGE)


class DeliveriesBody(RequestBody):
    sink: str
    seqs: list[int] = pydantic.Field(max_length=CHUNK)


class ReplayBody(Where):
    """One chunk of a replay. `through` is the last seq at its start, so that the replay ends."""

    sink: str
    after: int = 0
    through: int | None = None
    limit: int = pydantic.Field(default=CHUNK, ge=1, le=CHUNK)
    as_new: bool = False
    dry_run: bool = False

    def filter(self) -> EventFilter:
        """Without copies, as each was made for one sink, which has it."""
        return replace(super().filter(), copies=False)


class EventEndpoints:
    """The endpoints of `relay events`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, request: Request) -> dict[str, Any]:
        """A page of events, the newest first; with `after` the oldest first."""
        query = query_of(request, EventsQuery)
        if query.after is None:
            last = decode_cursor(query.cursor)
            rows = await self._store.events(
                query.filter(), before=last and last[0], limit=query.limit
            )
        else:
            rows = await self._store.events_after(
                query.filter(), after=query.after, limit=query.limit
            )
        return make_page(rows, query.limit, event_view, lambda row: (row.seq, ""))

    async def show(self, request: Request) -> dict[str, Any]:
        event_id = request.path_params["id"]
        row = await or_404(self._store.event(event_id), f"event {event_id}")
        return {
            **event_view(row),
            "opted_out": await self._store.opted_out(row.source, row.event.contact),
            "deliveries": [delivery_view(each) for each in row.deliveries],
            "attempts": [
                {"sink": sink, "number": number, **asdict(attempt)}
                | {"started": timestamp(attempt.started)}
                for sink, number, attempt in row.attempts
            ],
            "callback": callback_view(row.callback),
        }


class DeliveryEndpoints:
    """The endpoints of `relay dead` and `relay replay`."""

    def __init__(self, lookup: SinkLookup, store: Store, workers: Workers, router: Router) -> None:
        self._lookup = lookup
        self._store = store
        self._workers = workers
        self._router = router

    async def list_dead(self, request: Request) -> dict[str, Any]:
        query = query_of(request, DeadQuery)
        if query.sink is not None and query.sink not in self._lookup.sinks:
            await self._lookup.check_remembered(query.sink)
        rows = await self._store.deliveries(
            [State.DEAD],
            sink=query.sink,
            before=decode_cursor(query.cursor),
            limit=query.limit,
        )
        return make_page(rows, query.limit, delivery_view, lambda row: (row.seq, row.sink))

    async def replay_dead(self, request: Request) -> dict[str, Any]:
        """Retry the deliveries that the sink's `when` still lets through. The others stay dead."""
        body = await body_of(request, DeliveriesBody)
        sink = self._lookup.sink(body.sink)
        rows = [row for seq in body.seqs if (row := await self._row_at(seq))]
        wanted, errors = await _wanted(self._store, sink, rows)
        made = await self._store.retry_dead(sink.name, [row.seq for row in wanted])
        words = await words_behind(self._store, sink, [row.seq for row in wanted])
        await self._store.replay(sink.name, [row.seq for row in words])
        self._workers.wake(sink.name)
        return {"made": made, "skipped": len(body.seqs) - made, "errors": errors}

    async def discard_dead(self, request: Request) -> dict[str, Any]:
        body = await body_of(request, DeliveriesBody)
        return {"discarded": await self._store.discard(body.sink, body.seqs)}

    async def replay(self, request: Request) -> dict[str, Any]:
        """One chunk; `next` is the `after` of the following one, None at the end.

        `behind` is the moment after its last event came.
        """
        body = await body_of(request, ReplayBody)
        sink = self._lookup.enabled(body.sink)
        through = await self._store.last_seq() if body.through is None else body.through
        rows = await self._store.events_after(body.filter(), after=body.after, limit=body.limit)
        more = len(rows) == body.limit and rows[-1].seq < through
        rows = [row for row in rows if row.seq <= through]
        wanted, errors = await _wanted(self._store, sink, rows)
        words = await words_behind(self._store, sink, [row.seq for row in wanted])
        answer = {
            "made": len(wanted) + len(words),
            "skipped": len(rows) - len(wanted),
            "errors": errors,
            "first": rows[0].seq if rows else None,
            "next": rows[-1].seq if more else None,
            "through": through,
            "behind": timestamp(rows[-1].received + 1) if rows else None,
        }
        if body.dry_run:
            answer["records"] = [await self._record(sink, row) for row in wanted + words]
        elif body.as_new:
            copies = (self._router.copy(row, sink.name) for row in wanted)
            await asyncio.gather(*(self._store.add(copy) for copy in copies))
            await self._store.replay(sink.name, [row.seq for row in words])
        elif wanted:
            seqs = [row.seq for row in wanted + words]
            answer["made"] = await self._store.replay(sink.name, seqs)
        self._workers.wake(sink.name)
        return answer

    async def _row_at(self, seq: int) -> EventRow | None:
        rows = await self._store.events_after(EventFilter(), after=seq - 1, limit=1)
        return rows[0] if rows and rows[0].seq == seq else None

    async def _record(self, sink: SinkConfig, row: EventRow) -> dict[str, Any]:
        would = preview(sink, row.event, await _opted_out(self._store, row))
        return {"id": row.event.id, "mobile": row.event.contact, **would.to_dict()}


async def words_behind(store: Store, sink: SinkConfig, seqs: list[int]) -> list[EventRow]:
    """Later opt-outs and opt-ins of these events' contacts that the sink has never had.

    A sink that is new, or was disabled, lacks them. An opt-in of the past without the opt-out that
    followed would make the contact a subscriber again there.
    """
    words = await store.later_consent(sink.name, seqs)
    return (await _wanted(store, sink, [row for row in words if row.seq not in seqs]))[0]


async def _wanted(
    store: Store, sink: SinkConfig, rows: list[EventRow]
) -> tuple[list[EventRow], list[dict[str, str]]]:
    """The events that the sink gets by its present settings, and the errors of its `when`."""
    wanted, errors = [], []
    for row in rows:
        try:
            if sink.gets(row.event, await _opted_out(store, row)):
                wanted.append(row)
        except EvaluationError as error:
            errors.append({"id": row.event.id, "error": f"when: {error}"})
    return wanted, errors


async def _opted_out(store: Store, row: EventRow) -> bool:
    return await store.opted_out(row.source, row.event.contact)


def event_view(row: EventRow) -> dict[str, Any]:
    """The event, with the relay's attributes beside it."""
    return {"seq": row.seq, **row.event.to_dict(), "attributes": row.event.attributes()}


def delivery_view(row: DeliveryRow) -> dict[str, Any]:
    """A delivery. `note` is what was left out of one that was delivered."""
    delivered = row.state == State.DELIVERED
    return {
        "sink": row.sink,
        "seq": row.seq,
        "id": row.event_id,
        "type": row.type,
        "received": timestamp(row.received),
        "state": row.state.name.lower(),
        "attempts": row.attempts,
        "due": timestamp(row.due) if row.due else None,
        "error": None if delivered else row.error,
        "note": row.error if delivered else None,
        "reference": row.reference,
        "settled": timestamp(row.settled) if row.settled else None,
    }


def callback_view(callback: RawCallback) -> dict[str, Any]:
    """A callback as it was received: `raw` in Base64; `query` and `body` decoded for people."""
    try:
        pairs = parameters(callback)
    except InvalidCallback:
        pairs = None
    return {
        "method": callback.method,
        "query": decode(callback.query),
        "content_type": callback.content_type,
        "content_encoding": callback.encoding,
        "body": _text(callback),
        "parameters": pairs,
        "raw": {"query": _base64(callback.query), "body": _base64(callback.body)},
    }


def _text(callback: RawCallback) -> str:
    """The body unpacked, where it can be, and decoded."""
    try:
        body = unpacked(callback.body, callback.encoding) if callback.body else b""
        return decode(as_utf8(body, callback.content_type), charset_of(callback.content_type))
    except InvalidCallback:
        return decode(callback.body)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""Questions about what is to go once more: dead deliveries, and events that went long ago."""

import asyncio
from typing import Any

from starlette.requests import Request

from relay.api import paging
from relay.api.lookup import Named
from relay.api.requests import DeadQuery, Deliveries, ReplayBody
from relay.api.responses import body_of, query_of
from relay.api.serialise import delivery_view
from relay.config.loader import SinkConfig
from relay.delivery.manager import Workers
from relay.event import timestamp
from relay.preview import preview
from relay.sources.router import Intake
from relay.store import EventFilter, EventRow, State, Store
from relay.templating.expressions import EvaluationError


class Replays:
    """The endpoints of `relay dead` and `relay replay`."""

    def __init__(self, named: Named, store: Store, workers: Workers, intake: Intake) -> None:
        self._named = named
        self._store = store
        self._workers = workers
        self._intake = intake

    async def list_dead(self, request: Request) -> dict[str, Any]:
        query = query_of(request, DeadQuery)
        if query.sink is not None and query.sink not in self._named.sinks:
            await self._named.check_remembered(query.sink)
        rows = await self._store.deliveries(
            [State.DEAD], sink=query.sink, before=paging.decode(query.cursor), limit=query.limit
        )
        return paging.page(rows, query.limit, delivery_view, lambda row: (row.seq, row.sink))

    async def replay_dead(self, request: Request) -> dict[str, Any]:
        """Those that the sink's `when` still lets through go again; the others stay dead."""
        body = await body_of(request, Deliveries)
        sink = self._named.sink(body.sink)
        rows = [row for seq in body.seqs if (row := await self._row_at(seq))]
        wanted, errors = await _wanted(self._store, sink, rows)
        made = await self._store.revive(sink.name, [row.seq for row in wanted])
        words = await words_behind(self._store, sink, [row.seq for row in wanted])
        await self._store.replay(sink.name, [row.seq for row in words])
        self._workers.wake(sink.name)
        return {"made": made, "skipped": len(body.seqs) - made, "errors": errors}

    async def discard_dead(self, request: Request) -> dict[str, Any]:
        body = await body_of(request, Deliveries)
        return {"discarded": await self._store.discard(body.sink, body.seqs)}

    async def replay(self, request: Request) -> dict[str, Any]:
        """One chunk; `next` is the `after` of the following one, None at the end.

        `behind` is the moment after its last event came.
        """
        body = await body_of(request, ReplayBody)
        sink = self._named.enabled(body.sink)
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
            copies = (self._intake.copy(row, sink.name) for row in wanted)
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
        return {"id": row.event.id, "mobile": row.event.data["mobile"], **would.to_dict()}


async def words_behind(store: Store, sink: SinkConfig, seqs: list[int]) -> list[EventRow]:
    """What the contacts of these events have said since, where the sink has never had it.

    It is new, or was off. An opt-in of the past would make them subscribers again there.
    """
    words = await store.words_behind(sink.name, seqs)
    return (await _wanted(store, sink, [row for row in words if row.seq not in seqs]))[0]


async def _wanted(
    store: Store, sink: SinkConfig, rows: list[EventRow]
) -> tuple[list[EventRow], list[dict[str, str]]]:
    """The events that the sink gets by its settings of today; and where its `when` fails."""
    wanted, errors = [], []
    for row in rows:
        try:
            if sink.gets(row.event, await _opted_out(store, row)):
                wanted.append(row)
        except EvaluationError as error:
            errors.append({"id": row.event.id, "error": f"when: {error}"})
    return wanted, errors


async def _opted_out(store: Store, row: EventRow) -> bool:
    return await store.opted_out(row.source, row.event.data["mobile"])

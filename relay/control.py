"""Control: what the commands ask of the store and the sinks, as JSON over HTTP.

The running service serves it on a unix socket beside the store. Where no service runs, the
commands serve it to themselves, in their own process, under the store's lock.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import orjson
import pydantic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import spillfile
from relay.config import Config, SinkConfig
from relay.event import timestamp
from relay.expressions import EvaluationError
from relay.housekeeping import Housekeeping
from relay.intake import Intake
from relay.normalise import NotUnderstood
from relay.preview import matches, preview, preview_all
from relay.problem import CONTENT_TYPE, problem
from relay.questions import (
    DeadQuery,
    Deliveries,
    DiscardBody,
    EraseBody,
    EventsQuery,
    PauseBody,
    PurgeBody,
    QuarantineQuery,
    ReleaseBody,
    RenameBody,
    ReplayBody,
    WordsQuery,
)
from relay.standing import Standing
from relay.store import (
    EventFilter,
    EventRow,
    Quarantined,
    SinkCounts,
    SinkState,
    State,
    Store,
    StoreError,
    StoreFull,
)
from relay.views import (
    callback_view,
    delivery_view,
    event_view,
    quarantined_view,
    sink_view,
    stored_state,
)
from relay.workers import Workers

Endpoint = Callable[[Request], Awaitable[Any]]
B = TypeVar("B", bound=pydantic.BaseModel)
T = TypeVar("T")


class Refused(Exception):
    """What was asked cannot be done; the text says why, to the person who asked."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def app(
    intake: Intake,
    store: Store,
    config: Config,
    workers: Workers,
    standing: Standing | None = None,
    spilled: Callable[[], int] | None = None,
    housekeeping: Housekeeping | None = None,
) -> Starlette:
    """The control API as an ASGI application. `spilled` tells how many callbacks are spilled."""
    standing = standing or Standing(config)
    spilled = spilled or partial(spillfile.count, config.store_fallback)
    housekeeping = housekeeping or Housekeeping(store, config, workers)
    control = Control(intake, store, config, workers, standing, spilled, housekeeping)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/status", control.status),
        ("GET", "/sinks", control.sinks),
        ("POST", "/sinks/{name}/pause", control.pause),
        ("POST", "/sinks/{name}/resume", control.resume),
        ("POST", "/sinks/{name}/rename", control.rename),
        ("POST", "/sinks/{name}/discard", control.discard),
        ("GET", "/events", control.events),
        ("GET", "/events/{id}", control.event),
        ("GET", "/dead", control.dead),
        ("POST", "/dead/replay", control.dead_replay),
        ("POST", "/dead/discard", control.dead_discard),
        ("GET", "/quarantine", control.quarantine),
        ("POST", "/quarantine/release", control.release),
        ("POST", "/quarantine/discard", control.quarantine_discard),
        ("GET", "/quarantine/{id}", control.quarantined),
        ("POST", "/replay", control.replay),
        ("POST", "/purge", control.purge),
        ("POST", "/erase", control.erase),
        ("GET", "/jobs/{number:int}", control.job),
        ("GET", "/words", control.words),
    ]
    return Starlette(
        routes=[
            Route(f"/api/v1{path}", _answered(endpoint), methods=[method])
            for method, path, endpoint in table
        ]
    )


class Control:
    """The endpoints. Each returns what becomes the JSON of its answer."""

    def __init__(
        self,
        intake: Intake,
        store: Store,
        config: Config,
        workers: Workers,
        standing: Standing,
        spilled: Callable[[], int],
        housekeeping: Housekeeping,
    ) -> None:
        self._intake = intake
        self._store = store
        self._config = config
        self._workers = workers
        self._standing = standing
        self._spilled = spilled
        self._housekeeping = housekeeping

    # the whole

    async def status(self, _: Request) -> dict[str, Any]:
        return {
            "events": await self._store.event_count(),
            "quarantine": await self._store.quarantine_count(),
            "spill": self._spilled(),
            "sinks": await self._sinks(),
            "configuration": self._standing.view(),
        }

    # sinks

    async def sinks(self, _: Request) -> list[dict[str, Any]]:
        plugins = {name: sink.plugin for name, sink in self._config.sinks.items()}
        return [
            {"name": name, "plugin": plugins.get(name), **view}
            for name, view in (await self._sinks()).items()
        ]

    async def pause(self, request: Request) -> dict[str, Any]:
        sink = self._enabled(request.path_params["name"])
        await self._workers.pause(sink.name, (await _body(request, PauseBody)).reason)
        return {"paused": sink.name}

    async def resume(self, request: Request) -> dict[str, Any]:
        sink = self._enabled(request.path_params["name"])
        await self._workers.resume(sink.name)
        return {"resumed": sink.name}

    async def rename(self, request: Request) -> dict[str, Any]:
        old, new = request.path_params["name"], (await _body(request, RenameBody)).to
        if old in self._config.sinks:
            raise Refused(
                409, f"the sink {old} is still in use; rename it in relay.yaml and restart first"
            )
        sink = self._sink(new)
        await self._orphan(old)
        try:
            renamed = await self._store.rename_sink(old, new)
        except ValueError as error:
            raise Refused(409, str(error)) from error
        self._workers.wake(sink.name)
        return {"renamed": renamed}

    async def discard(self, request: Request) -> dict[str, Any]:
        name = request.path_params["name"]
        if name in self._config.sinks:
            raise Refused(
                409,
                f"the sink {name} is still in use; take it out of relay.yaml and restart first,"
                " or give up its dead deliveries with `relay dead discard`",
            )
        await self._orphan(name)
        return {"discarded": await self._store.discard(name, None)}

    async def _orphan(self, name: str) -> None:
        if name not in await self._store.sink_counts():
            raise Refused(404, f"no sink {name} ever had a delivery")

    async def _sinks(self) -> dict[str, dict[str, Any]]:
        """Every sink of relay.yaml, then those that have gone and left something behind."""
        counts = await self._store.sink_counts()
        states = await self._store.sink_states()
        live = self._workers.states()
        now = self._intake.now()
        views: dict[str, dict[str, Any]] = {}
        for name, sink in self._config.sinks.items():
            state = live.get(name) or stored_state(sink, states.get(name) or SinkState(), now)
            views[name] = sink_view(state, counts.get(name) or SinkCounts())
        for name, count in counts.items():
            if name not in views and (count.pending or count.dead):
                views[name] = sink_view({"state": "orphaned"}, count)
        return views

    def _enabled(self, name: str) -> SinkConfig:
        sink = self._sink(name)
        if not sink.enabled:
            raise Refused(409, f"the sink {name} is disabled; enable it in relay.yaml first")
        if sink.held is not None:
            raise Refused(409, f"the sink {name} is held: {sink.held}; mend relay.yaml first")
        return sink

    def _sink(self, name: str) -> SinkConfig:
        if sink := self._config.sinks.get(name):
            return sink
        known = ", ".join(self._config.sinks) or "none"
        raise Refused(404, f"no sink {name} in relay.yaml (known: {known})")

    # events

    async def events(self, request: Request) -> list[dict[str, Any]]:
        """The newest first; with `after` the oldest first."""
        query = _query(request, EventsQuery)
        if query.after is None:
            rows = await self._store.events(query.filter(), before=query.before, limit=query.limit)
        else:
            rows = await self._store.events_after(
                query.filter(), after=query.after, limit=query.limit
            )
        return [event_view(row) for row in rows]

    async def event(self, request: Request) -> dict[str, Any]:
        row = await self._event_row(request.path_params["id"])
        return {
            **event_view(row),
            "opted_out": await self._opted_out(row),
            "deliveries": [delivery_view(each) for each in row.deliveries],
            "attempts": [
                {"sink": sink, "number": number, **asdict(attempt)}
                | {"started": timestamp(attempt.started)}
                for sink, number, attempt in row.attempts
            ],
        }

    async def _event_row(self, event_id: str) -> EventRow:
        return await _found(self._store.event(event_id), f"event {event_id}")

    async def _opted_out(self, row: EventRow) -> bool:
        return await self._store.opted_out(row.source, row.event.data["mobile"])

    # dead deliveries

    async def dead(self, request: Request) -> list[dict[str, Any]]:
        query = _query(request, DeadQuery)
        if query.sink is not None and query.sink not in self._config.sinks:
            await self._orphan(query.sink)
        rows = await self._store.deliveries(
            [State.DEAD], sink=query.sink, before=query.before, limit=query.limit
        )
        return [delivery_view(row) for row in rows]

    async def dead_replay(self, request: Request) -> dict[str, Any]:
        """Those that the sink's `when` still lets through go again; the others stay dead."""
        body = await _body(request, Deliveries)
        sink = self._sink(body.sink)
        rows = [row for seq in body.seqs if (row := await self._row_at(seq))]
        wanted, errors = await self._wanted(sink, rows)
        made = await self._store.revive(sink.name, [row.seq for row in wanted])
        self._workers.wake(sink.name)
        return {"made": made, "skipped": len(body.seqs) - made, "errors": errors}

    async def dead_discard(self, request: Request) -> dict[str, Any]:
        body = await _body(request, Deliveries)
        return {"discarded": await self._store.discard(body.sink, body.seqs)}

    async def _row_at(self, seq: int) -> EventRow | None:
        rows = await self._store.events_after(EventFilter(), after=seq - 1, limit=1)
        return rows[0] if rows and rows[0].seq == seq else None

    # quarantine

    async def quarantine(self, request: Request) -> list[dict[str, Any]]:
        query = _query(request, QuarantineQuery)
        rows = await self._store.quarantined(before=query.before, limit=query.limit)
        return [quarantined_view(row) for row in rows]

    async def quarantined(self, request: Request) -> dict[str, Any]:
        row = await self._quarantined_row(request.path_params["id"])
        return {**quarantined_view(row), "callback": callback_view(row)}

    async def release(self, request: Request) -> dict[str, Any]:
        """Take callbacks in after all, in the order asked for."""
        body = await _body(request, ReleaseBody)
        released: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for each in body.ids:
            try:
                released.append(await (self._would if body.dry_run else self._release)(each))
            except NotUnderstood as error:
                failed.append({"id": each, "reason": error.reason})
            except Refused as error:
                failed.append({"id": each, "reason": str(error)})
        return {"released": released, "failed": failed}

    async def quarantine_discard(self, request: Request) -> dict[str, Any]:
        body = await _body(request, DiscardBody)
        ids = None if body.ids is None else [str(each) for each in body.ids]
        return {"discarded": await self._store.discard_quarantined(ids)}

    async def _release(self, quarantine_id: str) -> dict[str, Any]:
        receipt = await _found(self._intake.release(quarantine_id), _callback(quarantine_id))
        return {"id": quarantine_id, "event": receipt.id, "type": receipt.type}

    async def _would(self, quarantine_id: str) -> dict[str, Any]:
        row = await self._quarantined_row(quarantine_id)
        event = self._intake.event(row.callback)
        return {
            "id": quarantine_id,
            "type": event.type,
            "mobile": event.data["mobile"],
            "sinks": [
                each.to_dict()
                for each in preview_all(
                    self._config.sinks.values(),
                    event,
                    await self._store.opted_out(row.source, event.data["mobile"]),
                )
            ],
        }

    async def _quarantined_row(self, quarantine_id: str) -> Quarantined:
        return await _found(self._store.quarantined_one(quarantine_id), _callback(quarantine_id))

    # housekeeping

    async def purge(self, request: Request) -> dict[str, Any]:
        body = await _body(request, PurgeBody)
        return {"job": self._housekeeping.purge(body.older_than, dry_run=body.dry_run)}

    async def erase(self, request: Request) -> dict[str, Any]:
        return {"job": self._housekeeping.erase((await _body(request, EraseBody)).mobile)}

    async def job(self, request: Request) -> dict[str, Any]:
        number = request.path_params["number"]
        job = self._housekeeping.job(number)
        if job is None:
            raise Refused(404, f"no job {number}")
        return job

    async def words(self, request: Request) -> list[dict[str, Any]]:
        query = _query(request, WordsQuery)
        return await self._housekeeping.words(query.after, query.limit)

    # replay

    async def replay(self, request: Request) -> dict[str, Any]:
        """One chunk; `next` is the `after` of the following one, None at the end."""
        body = await _body(request, ReplayBody)
        sink = self._enabled(body.sink)
        through = await self._store.last_seq() if body.through is None else body.through
        rows = await self._store.events_after(body.filter(), after=body.after, limit=body.limit)
        more = len(rows) == body.limit and rows[-1].seq < through
        rows = [row for row in rows if row.seq <= through]
        wanted, errors = await self._wanted(sink, rows)
        answer = {
            "made": len(wanted),
            "skipped": len(rows) - len(wanted),
            "errors": errors,
            "first": rows[0].seq if rows else None,
            "next": rows[-1].seq if more else None,
            "through": through,
        }
        if body.dry_run:
            answer["records"] = [await self._record(sink, row) for row in wanted]
        elif body.as_new:
            copies = (self._intake.copy(row, sink.name) for row in wanted)
            await asyncio.gather(*(self._store.add(copy) for copy in copies))
        elif wanted:
            answer["made"] = await self._store.replay(sink.name, [row.seq for row in wanted])
        self._workers.wake(sink.name)
        return answer

    async def _wanted(
        self, sink: SinkConfig, rows: list[EventRow]
    ) -> tuple[list[EventRow], list[dict[str, str]]]:
        """The events that the sink's `when` of today lets through; and where it fails."""
        wanted, errors = [], []
        for row in rows:
            try:
                if matches(sink, row.event, await self._opted_out(row)):
                    wanted.append(row)
            except EvaluationError as error:
                errors.append({"id": row.event.id, "error": f"when: {error}"})
        return wanted, errors

    async def _record(self, sink: SinkConfig, row: EventRow) -> dict[str, Any]:
        would = preview(sink, row.event, await self._opted_out(row))
        return {"id": row.event.id, "mobile": row.event.data["mobile"], **would.to_dict()}


async def _found(reading: Awaitable[T | None], what: str) -> T:
    """What is read; refused where it is not there, or its id is none at all."""
    try:
        found = await reading
    except ValueError:
        found = None
    if found is None:
        raise Refused(404, f"no {what}")
    return found


def _callback(quarantine_id: str) -> str:
    return f"callback {quarantine_id} in quarantine"


def _answered(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint's value as a JSON response, its refusals as problems."""

    async def answer(request: Request) -> Response:
        try:
            return _json(200, orjson.dumps(await endpoint(request)))
        except Refused as error:
            return _problem(error.status, str(error))
        except StoreFull as error:
            return _problem(507, f"{error}: nothing was changed")
        except StoreError as error:
            return _problem(503, str(error))

    return answer


def _problem(status: int, detail: str) -> Response:
    return Response(problem(status, detail), status, media_type=CONTENT_TYPE.decode())


def _json(status: int, body: bytes) -> Response:
    return Response(body, status, media_type="application/json")


async def _body(request: Request, model: type[B]) -> B:
    return _checked(model, await request.body() or b"{}")


def _query(request: Request, model: type[B]) -> B:
    return _checked(model, orjson.dumps(dict(request.query_params)))


def _checked(model: type[B], text: bytes) -> B:
    try:
        return model.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(400, f"{where}: {first['msg']}") from None

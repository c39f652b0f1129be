"""Endpoints of sinks: state, pause, resume, check, and what a sink has left that is gone."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request

from relay.api import CHUNK
from relay.api.endpoints import EndpointError, RequestBody, SinkLookup, body_of
from relay.api.events import words_behind
from relay.config.plugins import PluginError
from relay.config.sinks import SinkConfig
from relay.delivery.classify import split_notices
from relay.delivery.gate import SinkStatus, stored_status
from relay.delivery.manager import Workers, check_sink
from relay.event import timestamp
from relay.store import OPEN_STATES, SinkCounts, SinkState, State
from relay.store.port import Store


class PauseBody(RequestBody):
    reason: str = "paused by hand"


class RenameBody(RequestBody):
    to: str


class SinkEndpoints:
    """The endpoints of `relay sinks`."""

    def __init__(
        self, lookup: SinkLookup, store: Store, workers: Workers, now: Callable[[], int]
    ) -> None:
        self._lookup = lookup
        self._store = store
        self._workers = workers
        self._now = now

    async def every(self, _: Request) -> list[dict[str, Any]]:
        plugins = {name: sink.plugin for name, sink in self._lookup.sinks.items()}
        return [
            {"name": name, "plugin": plugins.get(name), **view}
            for name, view in (await self.views()).items()
        ]

    async def pause(self, request: Request) -> dict[str, Any]:
        sink = self._made(request.path_params["name"])
        await self._workers.pause(sink.name, (await body_of(request, PauseBody)).reason)
        return {"paused": sink.name}

    async def resume(self, request: Request) -> dict[str, Any]:
        sink = self._lookup.enabled(request.path_params["name"])
        try:
            await self._workers.resume(sink.name)
        except PluginError as error:
            raise EndpointError(
                409,
                f"the sink {sink.name} is held: {error.message}; `relay reload` when it is mended",
            ) from error
        return {"resumed": sink.name}

    async def check(self, request: Request) -> dict[str, Any]:
        sink = self._lookup.enabled(request.path_params["name"])
        if (reason := self._held(sink.name)) is not None:
            return {"problems": [f"it is held: {reason}"], "notices": []}
        problems, notices = split_notices(await check_sink(sink, self._workers.accounts))
        return {"problems": problems, "notices": notices}

    async def rename(self, request: Request) -> dict[str, Any]:
        old, new = request.path_params["name"], (await body_of(request, RenameBody)).to
        if old in self._lookup.sinks:
            raise EndpointError(
                409, f"the sink {old} is still in use; rename it in relay.yaml and restart first"
            )
        heir = self._lookup.sink(new)
        await self._lookup.check_remembered(old)
        left = await self._left(old)
        try:
            renamed = await self._store.rename_sink(old, new)
        except ValueError as error:
            raise EndpointError(409, str(error)) from error
        for start in range(0, len(left), CHUNK):
            words = await words_behind(self._store, heir, left[start : start + CHUNK])
            await self._store.replay(heir.name, [row.seq for row in words])
        self._workers.wake(heir.name)
        return {"renamed": renamed}

    async def _left(self, name: str) -> list[int]:
        """The seqs of its open and dead deliveries."""
        seqs: list[int] = []
        states = [*OPEN_STATES, State.DEAD]
        while rows := await self._store.deliveries(
            states, sink=name, before=(seqs[-1], name) if seqs else None, limit=CHUNK
        ):
            seqs += [row.seq for row in rows]
        return seqs

    async def discard(self, request: Request) -> dict[str, Any]:
        name = request.path_params["name"]
        if name in self._lookup.sinks:
            raise EndpointError(
                409,
                f"the sink {name} is still in use; take it out of relay.yaml and restart first,"
                " or give up its dead deliveries with `relay dead discard`",
            )
        await self._lookup.check_remembered(name)
        return {"discarded": await self._store.discard(name, None)}

    def _made(self, name: str) -> SinkConfig:
        """One that delivers, as far as its plugin let it be made. Raises ApiError."""
        sink = self._lookup.enabled(name)
        if (reason := self._held(name)) is not None:
            raise EndpointError(409, f"the sink {name} is held: {reason}")
        return sink

    def _held(self, name: str) -> str | None:
        """The reason why the sink is held by the running service; None where it is not."""
        live = self._workers.states().get(name)
        return live.reason if live and live.state == "held" else None

    async def views(self) -> dict[str, dict[str, Any]]:
        """The sinks of relay.yaml, then the removed ones that have pending or dead deliveries."""
        counts = await self._store.sink_counts()
        states = await self._store.sink_states()
        live = self._workers.states()
        now = self._now()
        views: dict[str, dict[str, Any]] = {}
        for name, sink in self._lookup.sinks.items():
            state = live.get(name) or stored_state(sink, states.get(name) or SinkState(), now)
            views[name] = sink_view(state, counts.get(name) or SinkCounts())
        for name, count in counts.items():
            if name not in views and (count.pending or count.dead):
                views[name] = sink_view(SinkStatus("orphaned"), count)
        return views


def stored_state(sink: SinkConfig, state: SinkState, now: int) -> SinkStatus:
    """The status of a sink without a worker: no relay runs, or the sink is disabled or held."""
    if not sink.enabled:
        return SinkStatus("disabled")
    if sink.held is not None:
        return SinkStatus("held", sink.held)
    if state.held is not None:
        return SinkStatus("held", state.held)
    if state.paused is None and state.parked_until <= now:
        return SinkStatus("not running")
    return stored_status(state)


def sink_view(status: SinkStatus, counts: SinkCounts) -> dict[str, Any]:
    """A sink as `status` shows it; `until` when it is tried again, where that is known."""
    view = {name: value for name, value in asdict(status).items() if value is not None}
    for name in {"since", "until"} & view.keys():
        view[name] = timestamp(view[name])
    if error := view.get("last_error"):
        times = {name: timestamp(error[name]) for name in ("at", "since")}
        view["last_error"] = error | times
    return view | asdict(counts)

"""The control API's application: its routes, and the status of the whole."""

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from relay.api.endpoints import Endpoint, SinkLookup, endpoint
from relay.api.events import DeliveryEndpoints, EventEndpoints
from relay.api.maintenance import Maintenance
from relay.api.quarantine import QuarantineEndpoints
from relay.api.sinks import SinkEndpoints
from relay.config.last_good import ConfigStatus
from relay.config.loader import Config
from relay.delivery.manager import Workers
from relay.sources.router import Router
from relay.spill import file
from relay.store.port import Store


class StatusEndpoint:
    """The endpoint of `relay status`."""

    def __init__(
        self,
        sinks: SinkEndpoints,
        store: Store,
        config_status: ConfigStatus,
        spilled: Callable[[], int],
        unreadable: Callable[[], str],
        refusal: Callable[[], str],
    ) -> None:
        self._sinks = sinks
        self._store = store
        self._config_status = config_status
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
            "configuration": self._config_status.view(),
        }


def app(
    router: Router,
    store: Store,
    config: Config,
    workers: Workers,
    config_status: ConfigStatus | None = None,
    *,
    spilled: Callable[[], int] | None = None,
    maintenance: Maintenance | None = None,
    refusal: Callable[[], str] | None = None,
    unreadable: Callable[[], str] | None = None,
) -> Starlette:
    """The API as an ASGI application; what is left out is as where no service runs.

    `spilled` tells how many callbacks wait in the spill, `unreadable` why that is not known, and
    `refusal` why callbacks are refused; these two are empty where all is well.
    """
    config_status = config_status or ConfigStatus(config)
    path = config.state.spill
    spilled = spilled or partial(file.count_if_readable, path)
    unreadable = unreadable or partial(file.unreadable, path)
    maintenance = maintenance or Maintenance(store, config, workers)

    lookup = SinkLookup(config.sinks, store)
    sinks = SinkEndpoints(lookup, store, workers, router.now)
    status = StatusEndpoint(
        sinks, store, config_status, spilled, unreadable, refusal or _nothing_refused
    )
    events = EventEndpoints(store)
    replays = DeliveryEndpoints(lookup, store, workers, router)
    quarantine = QuarantineEndpoints(config, store, router)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/status", status.show),
        ("GET", "/sinks", sinks.every),
        ("POST", "/sinks/{name}/pause", sinks.pause),
        ("POST", "/sinks/{name}/resume", sinks.resume),
        ("POST", "/sinks/{name}/check", sinks.check),
        ("POST", "/sinks/{name}/rename", sinks.rename),
        ("POST", "/sinks/{name}/discard", sinks.discard),
        ("GET", "/events", events.page),
        ("GET", "/events/{id}", events.show),
        ("GET", "/dead", replays.list_dead),
        ("POST", "/dead/replay", replays.replay_dead),
        ("POST", "/dead/discard", replays.discard_dead),
        ("POST", "/replay", replays.replay),
        ("GET", "/quarantine", quarantine.page),
        ("POST", "/quarantine/release", quarantine.release),
        ("POST", "/quarantine/discard", quarantine.discard),
        ("GET", "/quarantine/{id}", quarantine.show),
        ("POST", "/purge", maintenance.purge),
        ("POST", "/erase", maintenance.erase),
        ("GET", "/jobs/{number:int}", maintenance.job),
        ("GET", "/words", maintenance.words),
        ("POST", "/accounts", maintenance.keep),
    ]
    return Starlette(
        routes=[
            Route(f"/api/v1{path}", endpoint(handler), methods=[method])
            for method, path, handler in table
        ]
    )


def _nothing_refused() -> str:
    return ""

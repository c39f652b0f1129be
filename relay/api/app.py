"""The control API's applications: the store's, with its routes, and the one of reloads."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from relay.api import RELOAD, ROOT
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


@dataclass(frozen=True, slots=True)
class StatusEndpoint:
    """The endpoint of `relay status`."""

    sinks: SinkEndpoints
    store: Store
    config_status: ConfigStatus
    spilled: Callable[[], int]
    unreadable: Callable[[], str]
    refusal: Callable[[], str]

    async def show(self, _: Request) -> dict[str, Any]:
        return {
            "events": await self.store.event_count(),
            "quarantine": await self.store.quarantine_count(),
            "spill": self.spilled(),
            "spill_trouble": self.unreadable(),
            "refusal": self.refusal(),
            "sinks": await self.sinks.views(),
            "configuration": self.config_status.view(),
        }


def make_app(
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
    """The API as an ASGI application. A parameter that is left out is as where no service runs.

    `spilled` counts the callbacks in the spill. `unreadable` is the reason why their number is not
    known, `refusal` the reason why callbacks are refused; both are empty where all is well.
    """
    config_status = config_status or ConfigStatus(config)
    path = config.state.spill
    spilled = spilled or partial(file.count_if_readable, path)
    unreadable = unreadable or partial(file.unreadable, path)
    maintenance = maintenance or Maintenance(router, store, config, workers)

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
            Route(f"{ROOT}{path}", endpoint(handler), methods=[method])
            for method, path, handler in table
        ]
    )


def _nothing_refused() -> str:
    return ""


class Reload:
    """Requests to read relay.yaml again, by a signal or by `relay reload`.

    `asked` is set while there is one. `image` names this image of the process: after a reload there
    is another.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.image = secrets.token_hex(8)
        self._answers: list[asyncio.Future[list[str]]] = []
        self._taken = False

    async def problems(self) -> list[str]:
        """Ask for a reload. Returns what is wrong with relay.yaml: nothing where it is taken."""
        if self._taken:
            return []
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self.asked.set()
        return await answer

    def answer(self, problems: Sequence[str]) -> None:
        """Answer all requests."""
        self._taken = not problems
        for each in self._answers:
            if not each.done():
                each.set_result(list(problems))
        self._answers.clear()

    def app(self, config_status: ConfigStatus) -> Starlette:
        """The endpoint of `relay reload`, which needs no store."""

        async def ask(_: Request) -> dict[str, Any]:
            return {"image": self.image, "problems": await self.problems()}

        async def show(_: Request) -> dict[str, Any]:
            return {"image": self.image, **config_status.view()}

        return Starlette(
            routes=[
                Route(RELOAD, endpoint(ask), methods=["POST"]),
                Route(RELOAD, endpoint(show), methods=["GET"]),
            ]
        )

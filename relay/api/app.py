"""The control API: which question is answered where."""

from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette
from starlette.routing import Route

from relay.api.accounts import Kept
from relay.api.deliveries import Replays
from relay.api.events import Events
from relay.api.lookup import Named
from relay.api.maintenance import Chores
from relay.api.quarantine import Quarantine
from relay.api.responses import Endpoint, answered
from relay.api.sinks import Sinks
from relay.api.status import Status
from relay.config.loader import Config
from relay.config.status import Standing
from relay.delivery.manager import Workers
from relay.maintenance import Housekeeping
from relay.sources.router import Intake
from relay.spill import file
from relay.store import Store


def app(
    intake: Intake,
    store: Store,
    config: Config,
    workers: Workers,
    standing: Standing | None = None,
    *,
    spilled: Callable[[], int] | None = None,
    housekeeping: Housekeeping | None = None,
    refusal: Callable[[], str] | None = None,
    unreadable: Callable[[], str] | None = None,
) -> Starlette:
    """The API as an ASGI application; what is left out is as where no service runs.

    `spilled` tells how many callbacks wait in the spill, `unreadable` why that is not known, and
    `refusal` why callbacks are refused; these two are empty where all is well.
    """
    standing = standing or Standing(config)
    path = config.store_fallback
    spilled = spilled or partial(file.count_if_readable, path)
    unreadable = unreadable or partial(file.unreadable, path)
    housekeeping = housekeeping or Housekeeping(store, config, workers)

    named = Named(config.sinks, store)
    sinks = Sinks(named, store, workers, intake.now)
    status = Status(sinks, store, standing, spilled, unreadable, refusal or _nothing_refused)
    events = Events(store)
    replays = Replays(named, store, workers, intake)
    quarantine = Quarantine(config, store, intake)
    chores = Chores(housekeeping)
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
        ("POST", "/purge", chores.purge),
        ("POST", "/erase", chores.erase),
        ("GET", "/jobs/{number:int}", chores.job),
        ("GET", "/words", chores.words),
        ("POST", "/accounts", Kept(store).keep),
    ]
    return Starlette(
        routes=[
            Route(f"/api/v1{path}", answered(endpoint), methods=[method])
            for method, path, endpoint in table
        ]
    )


def _nothing_refused() -> str:
    return ""

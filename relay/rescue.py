"""The rescue: takes callbacks into the spill alone while the store cannot be opened."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import ingress, localsocket
from relay.alerts.watch import watching
from relay.anew import Kept
from relay.clock import Clock
from relay.front import drain, front
from relay.intake import Intake
from relay.metrics import Readings
from relay.problem import CONTENT_TYPE, problem
from relay.server import Server, make_server
from relay.shelter import Shelter, sheltering
from relay.sqlite import SqliteStore
from relay.standing import Standing
from relay.store import Store, StoreError

TRY_AGAIN = 5.0
"""Seconds between tries to open the store."""

log = logging.getLogger("relay.rescue")


class Rescue:
    """What runs in place of a service. Made by `rescued`, which also stops it."""

    def __init__(
        self, path: Path, trouble: str, shelter: Shelter, standing: Standing, clock: Clock
    ) -> None:
        self._path = path
        self._trouble = trouble
        self._shelter = shelter
        self._standing = standing
        self._clock = clock
        self._lock: int | None = None
        self.public: list[Server] = []
        self.inner: list[Server] = []
        self.goes_on = False
        self.callbacks: ingress.Ingress

    @property
    def servers(self) -> list[Server]:
        return self.public + self.inner

    @property
    def address(self) -> Any:
        """What the public listener is bound to."""
        return self.public[0].address

    async def pulse(self) -> None:
        """There is no writer to wait for."""

    async def failure(self) -> None:
        """Never: what could fail has failed."""
        await asyncio.Event().wait()

    async def recovery(self) -> None:
        """Return when the store can be opened: the process is to start anew then."""
        while True:
            await self._clock.sleep(TRY_AGAIN)
            try:
                store = await SqliteStore.open(self._path)
            except (StoreError, OSError) as error:
                self._trouble = str(error)
            else:
                self._lock = store.keep_lock()
                await store.close()
                log.warning("the store can be opened again")
                return

    def go_on(self) -> int | None:
        """As in Service."""
        self.goes_on = True
        return self._lock

    @property
    def plight(self) -> str:
        """How things stand, in one sentence."""
        return (
            f"{self._trouble}; callbacks are taken, and {self._shelter.records} of them wait for it"
        )

    async def health(self) -> dict[str, Any]:
        """As in Service."""
        reasons = [f"store: {self.plight}", *self._standing.notices()]
        return {"ready": False, "reasons": reasons, "store": {"state": "unopened"}, "sinks": {}}

    async def readings(self) -> Readings:
        """As in Service, without what only a store could tell."""
        return Readings(
            at=self._clock.now(),
            answers=self.callbacks.answers,
            refusals=sum((each.server_state.refusals for each in self.public), Counter()),
            sinks={},
            waits={},
            states={},
            breakers=frozenset(),
            deliveries={},
            statistics={},
            quarantined=0,
            facts={
                "relay_store_writable": 0.0,
                **self._standing.facts(),
                **self._shelter.facts(),
            },
        )

    async def sorry(self, _: Request) -> Response:
        """The answer to every command."""
        return Response(problem(503, self.plight), 503, media_type=CONTENT_TYPE.decode())


@contextlib.asynccontextmanager
async def rescued(
    path: Path, error: Exception, clock: Clock, kept: Kept, standing: Standing
) -> AsyncIterator[Rescue]:
    """A relay without its store, for which `error` is the reason. Raises OSError."""
    config = standing.config
    log.critical("%s; callbacks are kept in %s", error, config.store_fallback)
    # Without a store, the shelter asks the intake for nothing that would need one.
    intake = Intake(config, cast("Store", None), clock)
    async with sheltering(config, intake, None, clock) as shelter:
        rescue = Rescue(path, str(error), shelter, standing, clock)
        rescue.callbacks = ingress.app(shelter, config)
        try:
            rescue.public, rescue.inner = front(
                config, kept.listeners, rescue.callbacks, rescue.health, rescue.readings
            )
            with contextlib.suppress(OSError):  # its folder may be what is wrong
                rescue.inner.append(make_server(_sorry(rescue), localsocket.listen(path)))
            for server in rescue.servers:
                await server.start()
            async with watching(config.alerts, rescue.readings, None, path, clock):
                yield rescue
        finally:
            if not rescue.goes_on:
                kept.listeners.close()
            await drain(rescue.servers)


def _sorry(rescue: Rescue) -> Starlette:
    methods = ["GET", "POST"]
    return Starlette(routes=[Route("/{path:path}", rescue.sorry, methods=methods)])

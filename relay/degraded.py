"""The rescue: what the relay says while it has no store, and takes callbacks all the same."""

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.monitoring.metrics import Readings
from relay.server.refusals import PROBLEM_TYPE, problem_body
from relay.vitals import Vitals

TRY_AGAIN = 5.0
"""Seconds between tries to open the store."""


class Rescue:
    """Stands in for the overview and the commands.

    `trouble` is why there is no store; while it is empty, the store is being opened.
    """

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self.trouble = ""

    @property
    def plight(self) -> str:
        """How things stand, in one sentence."""
        trouble = self.trouble or "the store is being opened"
        facts = self._vitals.facts()
        waiting = facts["relay_spill_records"]
        wait = "1 of them waits" if waiting == 1 else f"{waiting:.0f} of them wait"
        if not facts.get("relay_spill_readable", 1.0):
            wait = "an unknown number of them waits"
        if refusal := self._vitals.refusal():
            return f"{trouble}; callbacks are refused: {refusal}; and {wait} for it"
        return f"{trouble}; callbacks are taken, and {wait} for it"

    def health(self) -> dict[str, Any]:
        """As in Overview."""
        return {
            "ready": False,
            "reasons": [f"store: {self.plight}", *self._vitals.notices()],
            "store": {"state": "unopened" if self.trouble else "opening"},
            "sinks": {},
        }

    async def readings(self) -> Readings:
        """As in Overview, without what only a store could tell."""
        return Readings(
            at=self._vitals.clock.now(),
            answers=self._vitals.answers,
            refusals=self._vitals.refusals(),
            sinks={},
            waits={},
            states={},
            breakers=frozenset(),
            deliveries={},
            statistics={},
            quarantined=0,
            facts={"relay_store_writable": 0.0, **self._vitals.facts()},
        )

    def commands(self) -> Starlette:
        """The answer to every command."""

        async def sorry(_: Request) -> Response:
            return Response(problem_body(503, self.plight), 503, media_type=PROBLEM_TYPE.decode())

        return Starlette(routes=[Route("/{path:path}", sorry, methods=["GET", "POST"])])

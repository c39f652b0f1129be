"""The rescue: what the relay says while it has no store, and takes callbacks all the same."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.clock import Clock
from relay.telemetry.metrics import Readings
from relay.telemetry.tally import Answers
from relay.web.problem import CONTENT_TYPE, problem

TRY_AGAIN = 5.0
"""Seconds between tries to open the store."""


class Rescue:
    """Stands in for the overview and the commands. The arguments are as in Overview.

    `trouble` is why there is no store; while it is empty, the store is being opened.
    """

    def __init__(
        self,
        clock: Clock,
        answers: Answers,
        refusals: Callable[[], Counter[int]],
        facts: Callable[[], Mapping[str, float]],
        notices: Callable[[], list[str]],
        refusal: Callable[[], str] = str,
    ) -> None:
        self._clock = clock
        self._answers = answers
        self._refusals = refusals
        self._facts = facts
        self._notices = notices
        self._refusal = refusal
        self.trouble = ""

    @property
    def plight(self) -> str:
        """How things stand, in one sentence."""
        trouble = self.trouble or "the store is being opened"
        waiting = self._facts()["relay_spill_records"]
        wait = "1 of them waits" if waiting == 1 else f"{waiting:.0f} of them wait"
        if refusal := self._refusal():
            return f"{trouble}; callbacks are refused: {refusal}; and {wait} for it"
        return f"{trouble}; callbacks are taken, and {wait} for it"

    def health(self) -> dict[str, Any]:
        """As in Overview."""
        return {
            "ready": False,
            "reasons": [f"store: {self.plight}", *self._notices()],
            "store": {"state": "unopened" if self.trouble else "opening"},
            "sinks": {},
        }

    async def readings(self) -> Readings:
        """As in Overview, without what only a store could tell."""
        return Readings(
            at=self._clock.now(),
            answers=self._answers,
            refusals=self._refusals(),
            sinks={},
            waits={},
            states={},
            breakers=frozenset(),
            deliveries={},
            statistics={},
            quarantined=0,
            facts={"relay_store_writable": 0.0, **self._facts()},
        )

    def commands(self) -> Starlette:
        """The answer to every command."""

        async def sorry(_: Request) -> Response:
            return Response(problem(503, self.plight), 503, media_type=CONTENT_TYPE.decode())

        return Starlette(routes=[Route("/{path:path}", sorry, methods=["GET", "POST"])])

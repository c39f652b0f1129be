"""Health and readings, with a store and without one, and the back-off after it failed.

The admin listener, the metrics and the alerts ask here.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.clock import Clock
from relay.counters import IngressCounters
from relay.delivery.gate import SinkStatus
from relay.delivery.manager import SinkManager
from relay.monitoring.metrics import Readings
from relay.redact import mask_all
from relay.server.refusals import PROBLEM_TYPE, problem_body
from relay.store.port import Store

TRY_AGAIN = 5.0
"""Seconds between tries to open the store."""
BACKOFF_FIRST = 5.0
BACKOFF_MAX = 60.0
BACKOFF_RESET = 600.0
"""Seconds of use after which a store that breaks is no longer one that breaks repeatedly."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What can be asked of the relay whether or not it has a store.

    `answers` and `refusals` are the public listener's. `facts` gives what metrics.FACTS names,
    `notices` sentences for the operator, and `refusal` why callbacks are refused;
    that is empty while they are taken.
    """

    clock: Clock
    answers: IngressCounters
    refusals: Callable[[], Counter[int]]
    facts: Callable[[], Mapping[str, float]]
    notices: Callable[[], list[str]]
    refusal: Callable[[], str]


class Health:
    """The health and the readings of a relay that has its store."""

    def __init__(self, store: Store, sink_manager: SinkManager, probes: Probes) -> None:
        self._store = store
        self._sink_manager = sink_manager
        self._probes = probes

    async def readings(self) -> Readings:
        """What the metrics and the alerts are made of."""
        return Readings(
            at=self._probes.clock.now(),
            answers=self._probes.answers,
            refusals=self._probes.refusals(),
            sinks=await self._store.sink_counts(),
            waits=await self._store.backlog_age(),
            states=self._sink_manager.states(),
            breakers=self._sink_manager.open_breakers(),
            deliveries=self._sink_manager.counters(),
            statistics=self._store.statistics(),
            quarantined=await self._store.quarantine_count(),
            facts={
                "relay_store_writable": float(self._store.alive() and not self._probes.refusal()),
                **self._probes.facts(),
            },
        )

    def health(self) -> dict[str, Any]:
        """Whether callbacks are taken, and what is wrong, with the part that it is wrong with.

        A sink that is halted is named, but is no reason against taking callbacks.
        """
        alive, refusal = self._store.alive(), self._probes.refusal()
        states = self._sink_manager.states()
        reasons = [] if alive else ["store: it cannot be written; see the log"]
        reasons += [f"store: callbacks are refused: {refusal}"] if refusal else []
        reasons += self._probes.notices()
        reasons += [
            f"sink {name}: {state.state}: {mask_all(str(state.reason))}"
            for name, state in states.items()
            if state.halted
        ]
        store = {"state": self._store_state(alive, refusal)}
        views = {name: _view(state) for name, state in states.items()}
        ready = alive and not refusal
        return {"ready": ready, "reasons": reasons, "store": store, "sinks": views}

    def _store_state(self, alive: bool, refusal: str) -> str:
        if not alive:
            return "broken"
        if refusal:
            return "refuses"
        facts = self._probes.facts()
        spills = facts.get("relay_spill_records") and facts.get("relay_spill_readable", 1.0)
        return "spills" if spills else "writable"


class Degraded:
    """The health, the readings and the answer to every command while there is no store.

    Callbacks are taken all the same. `error` is why there is no store; while it is empty, the
    store is being opened.
    """

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self.error = ""

    @property
    def reason(self) -> str:
        """What is wrong and what becomes of callbacks, in one sentence."""
        error = self.error or "the store is being opened"
        facts = self._probes.facts()
        waiting = facts["relay_spill_records"]
        wait = "1 of them waits" if waiting == 1 else f"{waiting:.0f} of them wait"
        if not facts.get("relay_spill_readable", 1.0):
            wait = "an unknown number of them waits"
        if refusal := self._probes.refusal():
            return f"{error}; callbacks are refused: {refusal}; and {wait} for it"
        return f"{error}; callbacks are taken, and {wait} for it"

    def health(self) -> dict[str, Any]:
        """As in Health."""
        return {
            "ready": False,
            "reasons": [f"store: {self.reason}", *self._probes.notices()],
            "store": {"state": "unopened" if self.error else "opening"},
            "sinks": {},
        }

    async def readings(self) -> Readings:
        """As in Health, without what is in the store."""
        return Readings(
            at=self._probes.clock.now(),
            answers=self._probes.answers,
            refusals=self._probes.refusals(),
            sinks={},
            waits={},
            states={},
            breakers=frozenset(),
            deliveries={},
            statistics={},
            quarantined=0,
            facts={"relay_store_writable": 0.0, **self._probes.facts()},
        )

    def app(self) -> Starlette:
        """An API that answers every command with 503 and the reason."""

        async def unavailable(_: Request) -> Response:
            return Response(problem_body(503, self.reason), 503, media_type=PROBLEM_TYPE.decode())

        return Starlette(routes=[Route("/{path:path}", unavailable, methods=["GET", "POST"])])


@dataclass(frozen=True, slots=True)
class StoreBackoff:
    """Why a store broke while it was used, and for how many seconds it is not tried again."""

    reason: str
    pause: float

    @classmethod
    def after(cls, reason: str, lasted: float, last: Self | None) -> Self:
        """The back-off of a store that was used for `lasted` seconds; `last` is the one before."""
        again = last is not None and lasted < BACKOFF_RESET
        return cls(reason, min(2 * last.pause, BACKOFF_MAX) if last and again else BACKOFF_FIRST)


def _view(status: SinkStatus) -> dict[str, Any]:
    """The status as JSON, without contacts' numbers, which a reason may quote."""
    view = status.to_dict()
    if status.reason is not None:
        view["reason"] = mask_all(status.reason)
    return view

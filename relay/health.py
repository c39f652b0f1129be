"""The overview: how all of it stands, for the metrics, the health check and the alerts."""

from typing import Any

from relay.delivery.gate import SinkStatus
from relay.delivery.manager import SinkManager
from relay.monitoring.metrics import Readings
from relay.redact import mask_all
from relay.store import Store
from relay.vitals import Vitals


class Overview:
    """Asks the parts; each is asked anew each time."""

    def __init__(self, store: Store, fleet: SinkManager, vitals: Vitals) -> None:
        self._store = store
        self._fleet = fleet
        self._vitals = vitals

    async def readings(self) -> Readings:
        """What the metrics show."""
        tallies = self._fleet.tallies()
        return Readings(
            at=self._vitals.clock.now(),
            answers=self._vitals.answers,
            refusals=self._vitals.refusals(),
            sinks=await self._store.sink_counts(),
            waits=await self._store.waits(),
            states=self._fleet.states(),
            breakers=self._fleet.open_breakers(),
            deliveries=tallies,
            statistics=self._store.statistics(),
            quarantined=await self._store.quarantine_count(),
            facts={
                "relay_store_writable": float(self._store.alive() and not self._vitals.refusal()),
                **self._vitals.facts(),
            },
        )

    def health(self) -> dict[str, Any]:
        """Whether callbacks are taken, and what is wrong, with the part that it is wrong with.

        A sink in trouble is told, but is no reason against taking callbacks.
        """
        alive, refusal = self._store.alive(), self._vitals.refusal()
        states = self._fleet.states()
        reasons = [] if alive else ["store: it cannot be written; see the log"]
        reasons += [f"store: callbacks are refused: {refusal}"] if refusal else []
        reasons += self._vitals.notices()
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
        facts = self._vitals.facts()
        spills = facts.get("relay_spill_records") and facts.get("relay_spill_readable", 1.0)
        return "spills" if spills else "writable"


def _view(status: SinkStatus) -> dict[str, Any]:
    """As JSON. What others say may quote a contact's number."""
    view = status.to_dict()
    if status.reason is not None:
        view["reason"] = mask_all(status.reason)
    return view

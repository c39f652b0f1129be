"""What /readyz says: a broken store is told from a broken sink, and neither from the other."""

from dataclasses import replace

import httpx
import pytest
from relaying import relaying
from stubs.receiver import Receiver, status

from relay.health import BACKOFF_MAX, BACKOFF_RESET, StoreBackoff


@pytest.fixture
async def relay(tmp_path):
    async with Receiver() as receiver:
        receiver.otherwise = status(401)
        sink = {"plugin": "webhook", "options": {"url": receiver.url}}
        async with relaying(tmp_path, sink) as relay:
            yield relay


async def readyz(relay):
    """Of the public listener, then of the operators'."""
    public, inner = relay._running.public[0], relay._running.inner[0]
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        return [
            await http.get(f"http://127.0.0.1:{server.address[1]}/readyz")
            for server in (public, inner)
        ]


async def test_a_sink_in_trouble_is_told_but_callbacks_are_taken(relay):
    await relay.send(1)
    await relay.reached(state="paused")
    public, inner = await readyz(relay)
    assert (public.status_code, inner.status_code) == (200, 200)
    report = inner.json()
    assert report["ready"]
    assert report["store"] == {"state": "writable"}
    (reason,) = report["reasons"]
    assert reason.startswith("sink crm: paused: ")
    assert "401" in reason


async def test_a_broken_store_is_told_as_such(relay, monkeypatch):
    store = relay._running._store
    monkeypatch.setattr(store, "alive", lambda: False)
    public, inner = await readyz(relay)
    assert (public.status_code, inner.status_code) == (503, 503)
    assert public.json() == {"status": "not ready"}
    report = inner.json()
    assert report["reasons"] == ["store: it cannot be written; see the log"]
    assert report["store"] == {"state": "broken"}
    assert report["sinks"] == {"crm": {"state": "running"}}


async def test_a_reason_shows_no_number(relay):
    await relay._running._sink_manager.pause("crm", "call +12125550177")
    _, inner = await readyz(relay)
    assert inner.json()["reasons"] == ["sink crm: paused: call …0177"]
    assert "5550177" not in inner.text


async def test_a_store_that_spills_is_told(relay):
    await relay._running.opened()  # till then it is Degraded
    status = relay._running.status
    status._probes = replace(status._probes, facts=lambda: {"relay_spill_records": 3.0})
    _, inner = await readyz(relay)
    assert (inner.status_code, inner.json()["store"]) == (200, {"state": "spills"})


async def no() -> bool:
    return False


async def test_a_relay_that_refuses_is_not_ready_and_says_why(relay, monkeypatch):
    failover = relay._running._failover
    monkeypatch.setattr(failover, "_refusal", "the disk is full, and so is the other")
    monkeypatch.setattr(failover, "_can_write", no)
    public, inner = await readyz(relay)
    assert (public.status_code, inner.status_code) == (503, 503)
    report = inner.json()
    assert report["store"] == {"state": "refuses"}
    assert report["reasons"][0] == (
        "store: callbacks are refused: the disk is full, and so is the other"
    )
    assert (await relay._running.readings()).facts["relay_store_writable"] == 0


# the back-off after a failure


def test_the_pause_grows_while_it_breaks_soon_and_begins_anew_after_it_held():
    pauses, last = [], None
    for lasted in (0.0, 1.0, 1.0, 1.0, 1.0, 1.0, BACKOFF_RESET, 1.0):
        last = StoreBackoff.after("EIO", lasted, last)
        pauses.append(last.pause)
    assert pauses == [5, 10, 20, 40, 60, 60, 5, 10]
    assert max(pauses) == BACKOFF_MAX
    assert last == StoreBackoff("EIO", 10)

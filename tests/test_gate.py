"""The gate: which kinds of sends pass while a sink is halted."""

import logging

import pytest
from workers import ScriptedSink, sink_config

from relay.delivery.gate import SinkGate, SinkStatus
from relay.delivery.policy import SendKind
from relay.delivery.safe_quota import SafeQuota
from relay.quota import Quota
from relay.store import SinkState

ALL = set(SendKind) - {SendKind.CONSENT}


@pytest.fixture
def sink(clock):
    made = ScriptedSink()
    made.quota = Quota(clock)
    return made


@pytest.fixture
def gate(clock, sink):
    async def save(_state):
        pass

    quota = SafeQuota("crm", sink, logging.getLogger("relay.sinks.crm"))
    return SinkGate(sink_config(), SinkState(), quota, clock, save, lambda: None)


def passing(gate):
    return {kind for kind in SendKind if gate.may_send(kind)}


async def test_all_pass_while_it_runs(gate):
    assert passing(gate) == ALL
    assert gate.status() == SinkStatus("running")


async def test_only_words_of_consent_pass_a_pause_until_one_fails(gate, clock):
    await gate.pause("the field Zip does not exist")
    assert passing(gate) == {SendKind.CONSENT}
    gate.suspend_consent()
    assert passing(gate) == set()
    await clock.advance(300)  # the probe is due
    assert passing(gate) == ALL
    await gate.trial_failed("still missing")
    assert passing(gate) == {SendKind.CONSENT}


async def test_nothing_passes_a_park_or_an_operators_pause(gate, clock):
    await gate.park("asked to wait", 60)
    assert passing(gate) == set()
    await clock.advance(60)
    assert passing(gate) == ALL
    await gate.pause("maintenance", by_operator=True)
    await clock.advance(10**6)
    assert passing(gate) == set()
    await gate.resume()
    assert passing(gate) == ALL


async def test_no_opt_out_is_sent_beside_the_trial_of_an_trip_breaker(gate, clock):
    await gate.trip_breaker("3 contacts failed in a row")
    assert passing(gate) == set()
    await clock.advance(sink_config().breaker.cooldown)
    assert passing(gate) == ALL - {SendKind.URGENT}


async def test_ordinary_deliveries_wait_for_a_quota_that_is_short(gate, sink):
    sink.quota.daily(95, 100)
    assert passing(gate) == ALL - {SendKind.ORDINARY}
    status = gate.status()
    assert status.state == "running"
    assert status.reason == "quota: 95 of 100 calls of the day used; only opt-outs go"

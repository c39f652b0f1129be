"""The sender: whatever a plugin does, the others and the relay go on."""

import asyncio
import itertools
import math

import httpx
import pytest
from workers import sink_config

from relay import send_context
from relay.clock import SystemClock
from relay.delivery.classify import MOST_LINES, lines
from relay.delivery.plugin_calls import PluginExit, run_with_timeout
from relay.delivery.sender import Sender
from relay.event import Event
from relay.outcome import Delivered, Pause, Reject, Retry
from relay.sink import Sink
from relay.store import Claim


class Panic(BaseException):
    """As libraries in Rust raise it."""


class Mute(Exception):
    """One that cannot even be shown."""

    def __str__(self):
        raise RuntimeError


class Scripted(Sink):
    """A sink as a plugin has it, with `send` alone."""

    def __init__(self, send):
        super().__init__("crm", None, None, None)
        self._send = send

    async def send(self, _delivery):
        return self._send()


def throw(error):
    raise error


def claim(*, urgent=False):
    return Claim(
        sink="crm",
        seq=1,
        event=Event("1", "/callbacks/a", "com.sumotext.message", None, "", {}),
        attempt=1,
        urgent=urgent,
        replayed=False,
        stale=False,
        opted_out=False,
        failed_at=None,
        contact=1,
    )


async def outcome_of(send):
    (result,) = await Sender(sink_config(), Scripted(send), SystemClock()).send([claim()])
    return result.outcome


async def test_what_holds_for_one_send_does_not_hold_for_what_the_task_does_next():
    """A check() after a trial with an opt-out would otherwise pass the sink's `rate`."""
    seen = []

    def look():
        seen.append((send_context.current().urgent, send_context.time_left() < math.inf))

    sink = Scripted(look)
    look()
    await Sender(sink_config(), sink, SystemClock()).send([claim(urgent=True)])
    look()
    await Sender(sink_config(), sink, SystemClock()).send([claim()])
    look()
    assert seen == [(False, False), (True, True), (False, False), (False, True), (False, False)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(3), "PluginExit: SystemExit"),
        (KeyboardInterrupt(), "PluginExit: KeyboardInterrupt"),
        (GeneratorExit(), "PluginExit: GeneratorExit"),
        (Panic("+12125550177"), "PluginExit: Panic"),
        (Mute(), "Mute"),
    ],
)
async def test_what_a_plugin_raises_ends_no_more_than_the_delivery(error, reason):
    outcome = await outcome_of(lambda: throw(error))
    assert isinstance(outcome, Retry)
    assert outcome.reason == reason


@pytest.mark.parametrize("outcome", [Retry("x"), Reject("x"), Pause("x")])
async def test_an_outcome_that_is_returned_counts_as_if_it_were_raised(outcome):
    assert await outcome_of(lambda: outcome) is outcome


async def test_what_says_no_is_no_success():
    assert (await outcome_of(lambda: False)).reason == "send returned False"


@pytest.mark.parametrize(("status", "outcome"), [(204, Delivered), (400, Reject), (503, Retry)])
async def test_an_answer_that_is_returned_is_looked_at(status, outcome):
    answer = httpx.Response(status, request=httpx.Request("POST", "http://crm"))
    assert type(await outcome_of(lambda: answer)) is outcome


async def test_anything_else_that_is_returned_is_a_success():
    assert await outcome_of(lambda: "an answer") == Delivered()


async def test_what_is_returned_and_not_looked_at_is_told_of_once(caplog):
    sink = Scripted(lambda: {"errors": ["+12125550177"]})
    for _ in range(3):
        (result,) = await Sender(sink_config(), sink, SystemClock()).send([claim()])
        assert result.outcome == Delivered()
    (said,) = caplog.messages
    assert said.startswith("sink crm: send returned dict, which")
    assert "counts as delivered" in said
    assert "+12125550177" not in said


@pytest.mark.parametrize("answer", [None, Delivered("1")])
async def test_what_says_that_it_is_delivered_is_not_warned_of(answer, caplog):
    assert type(await outcome_of(lambda: answer)) is Delivered
    assert not caplog.records


async def test_work_that_would_end_the_process_is_an_error_of_its_own():
    async def leave():
        await asyncio.sleep(0)
        raise SystemExit

    with pytest.raises(PluginExit, match="SystemExit"):
        await run_with_timeout(1, leave())


class Generating(Sink):
    """Its `send_batch` returns what this gives, one after the other."""

    max_batch = 10

    def __init__(self, outcomes):
        super().__init__("crm", None, None, None)
        self._outcomes = outcomes

    async def send_batch(self, _deliveries):
        return self._outcomes()


def endless():
    while True:
        yield Delivered()


def failing(error):
    yield Delivered()
    raise error


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        (endless, "returned 1001 outcomes for 1 deliveries"),
        (lambda: failing(ValueError("wrong")), "ValueError: wrong"),
        (lambda: failing(SystemExit(3)), "SystemExit"),
    ],
)
async def test_outcomes_may_come_from_a_generator_that_misbehaves(outcomes, reason):
    event = Event("1", "/callbacks/a", "com.sumotext.message", None, "", {})
    claim = Claim("crm", 1, event, 1, False, False, False, False, None, 1)
    sender = Sender(sink_config(), Generating(outcomes), SystemClock())
    async with asyncio.timeout(5):
        (result,) = await sender.send([claim])
    assert isinstance(result.outcome, Retry)
    assert reason in result.outcome.reason


async def test_a_check_may_find_problems_without_end():
    assert len(lines(itertools.repeat("no"))) == MOST_LINES

"""The dispatch: whatever a plugin does, the others and the relay go on."""

import asyncio

import httpx
import pytest
from couriers import sink_config

from relay.clock import SystemClock
from relay.delivery.dispatch import Dispatch, Unruly, within
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


async def outcome_of(send):
    event = Event("1", "/callbacks/a", "com.sumotext.message", None, "", {})
    claim = Claim(
        sink="crm",
        seq=1,
        event=event,
        attempt=1,
        urgent=False,
        replayed=False,
        stale=False,
        opted_out=False,
        failed_at=None,
        contact=1,
    )
    (result,) = await Dispatch(sink_config(), Scripted(send), SystemClock()).send([claim])
    return result.outcome


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(3), "Unruly: SystemExit"),
        (KeyboardInterrupt(), "Unruly: KeyboardInterrupt"),
        (GeneratorExit(), "Unruly: GeneratorExit"),
        (Panic("+12125550177"), "Unruly: Panic"),
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


async def test_work_that_would_end_the_process_is_an_error_of_its_own():
    async def leave():
        await asyncio.sleep(0)
        raise SystemExit

    with pytest.raises(Unruly, match="SystemExit"):
        await within(1, leave())

"""Which outcome an error means, and that no reason gives a secret away."""

import asyncio
import ssl

import aiohttp
import httpx
import pytest

from relay.delivery.classify import outcome_of
from relay.outcome import NotDelivered, Pause, Reject, Retry

NOW = 1_800_000_000.0
URL = "https://user:hunter2@api.example:8443/T0P/SECRET/path?token=abc123#frag"


def answered(status, headers=None, body=b"", url=URL):
    request = httpx.Request("POST", url)
    response = httpx.Response(status, headers=headers, content=body, request=request)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    return outcome_of(caught.value, NOW)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 520, 599])
def test_what_may_pass_is_tried_again(status):
    outcome = answered(status)
    assert type(outcome) is Retry
    assert outcome.status == status
    assert outcome.after is None
    assert outcome.reason.startswith(str(status))


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_taken_along(status):
    assert answered(status, {"retry-after": "17"}).after == 17
    assert answered(status, {"retry-after": "Fri, 15 Jan 2027 08:01:00 GMT"}).after == 60
    assert answered(status, {"retry-after": "999999999"}).after == 86_400
    assert answered(status, {"retry-after": "1e99"}).after is None


def test_refused_credentials_pause():
    outcome = answered(401, body=b"who are you")
    assert type(outcome) is Pause
    assert "credentials" in outcome.reason
    assert (outcome.status, outcome.answer) == (401, "who are you")


@pytest.mark.parametrize(
    "status", [300, 301, 302, 303, 304, 307, 308, 400, 402, 403, 404, 405, 409, 410, 413, 422, 451]
)
def test_other_refusals_are_for_this_record(status):
    outcome = answered(status)
    assert type(outcome) is Reject
    assert outcome.status == status


def test_a_redirect_names_the_host_alone():
    reason = answered(302, {"location": "https://u:p@other.example/a/b?key=s3cret"}).reason
    assert reason == "302 Found: sent on to other.example, which is not followed"
    assert "another path" in answered(301, {"location": "/elsewhere?key=s3cret"}).reason
    assert "nowhere" in answered(301, {"location": "http://[::1"}).reason


def test_the_answer_is_kept_up_to_2_kib_as_text():
    assert answered(400, body="naïve ☃".encode()).answer == "naïve ☃"
    assert answered(400, body=b"\xff\x00ok").answer == "\ufffd\x00ok"
    assert len(answered(500, body=b"x" * 5000).answer) == 2048


def test_an_answer_that_was_not_read_is_left_out():
    async def chunks():
        yield b"x"

    unread = httpx.Response(503, content=chunks(), request=httpx.Request("POST", URL))
    outcome = outcome_of(httpx.HTTPStatusError("x", request=unread.request, response=unread), NOW)
    assert type(outcome) is Retry
    assert outcome.answer is None


@pytest.mark.parametrize("outcome", [Retry("later", 5), Reject("no"), Pause("act")])
def test_what_a_sink_says_itself_stands(outcome):
    assert outcome_of(outcome, NOW) is outcome


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectTimeout("no connection in time"),
        httpx.ReadTimeout(""),
        httpx.PoolTimeout(""),
        httpx.ConnectError("Cannot connect to host a.example:443"),
        httpx.RemoteProtocolError("closed without an answer"),
        httpx.ReadError("broke"),
        aiohttp.ServerDisconnectedError(),
        TimeoutError(),
        OSError(111, "refused"),
        ssl.SSLError("bad"),
        ValueError("a plugin's mistake"),
        ZeroDivisionError("division by zero"),
        NotDelivered("a plugin that raises the base"),
        asyncio.CancelledError(),
    ],
)
def test_every_other_error_is_tried_again_and_named(error):
    outcome = outcome_of(error, NOW)
    assert type(outcome) is Retry
    assert outcome.reason.startswith(type(error).__name__)
    assert outcome.status is None


@pytest.mark.parametrize(
    "error",
    [
        httpx.InvalidURL("Invalid port"),
        httpx.UnsupportedProtocol("ftp"),
        httpx.LocalProtocolError("Illegal header value"),
    ],
)
def test_a_request_that_cannot_be_sent_is_rejected(error):
    """It is the record's fault, and would be so again: poison, no retry."""
    assert type(outcome_of(error, NOW)) is Reject


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.InvalidURL(URL),
        aiohttp.ConnectionTimeoutError(f"Connection timeout to host {URL}"),
        ValueError(f"bad thing at '{URL}' and {URL}"),
        httpx.RemoteProtocolError(f"Invalid URL in location header: {URL}."),
        httpx.UnsupportedProtocol(f"<{URL}>"),
        RuntimeError(URL),
        RuntimeError("postgresql://user:hunter2@api.example/T0P?token=abc123"),
        RuntimeError("//user:hunter2@api.example/T0P?token=abc123"),
    ],
)
def test_no_reason_holds_more_of_a_url_than_its_host(error):
    reason = outcome_of(error, NOW).reason
    assert "api.example" in reason
    for secret in ("user", "hunter2", "T0P", "SECRET", "abc123", "frag"):
        assert secret not in reason


def test_the_status_of_an_answer_comes_without_the_url():
    reason = answered(503).reason
    assert reason == "503 Service Unavailable"


def test_a_long_reason_is_cut():
    assert len(outcome_of(RuntimeError("x" * 100_000), NOW).reason) < 600

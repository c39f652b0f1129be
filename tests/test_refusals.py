"""The log of refusals: one line a minute for each kind, with their number."""

import logging

import pytest
from listening import QUERIES, listening, serving

from relay.config.loader import SourceConfig
from relay.server.refusals import PERIOD, RefusalLog
from relay.store.sqlite import SqliteStore

log = logging.getLogger("relay.test")


class Timer:
    """Runs what is to run later when a test says so."""

    def __init__(self) -> None:
        self.due = []

    def __call__(self, seconds, run):
        assert seconds == PERIOD
        self.due.append(run)

    def elapse(self):
        due, self.due = self.due, []
        for run in due:
            run()


@pytest.fixture
def timer():
    return Timer()


@pytest.fixture
def refusals(timer):
    return RefusalLog(log, timer)


def test_the_first_is_logged_at_once_and_then_their_number(refusals, timer, caplog):
    for number in range(101):
        refusals.record(503, "nothing can be stored", source="sumotext", last=f"reason {number}")
    begin = "source sumotext: refused with 503, nothing can be stored"
    assert caplog.messages == [f"{begin} (reason 0): 1"]
    timer.elapse()
    assert caplog.messages[1:] == [f"{begin} (reason 100): 100"]


def test_the_number_is_logged_though_no_other_comes(refusals, timer, caplog):
    refusals.record(401, "wrong")
    refusals.record(401, "wrong")
    timer.elapse()
    timer.elapse()
    assert caplog.messages == ["refused with 401, wrong: 1"] * 2
    assert not timer.due
    refusals.record(401, "wrong")
    assert len(caplog.messages) == 3


def test_each_kind_has_a_line_of_its_own(refusals, caplog):
    for source in ("one", "two", ""):
        for status in (401, 422):
            for kind in ("this", "that"):
                refusals.record(status, kind, source=source)
    assert len(set(caplog.messages)) == len(caplog.messages) == 12


def test_what_is_left_is_logged_at_the_end(refusals, caplog):
    for _ in range(3):
        refusals.record(429, "too many")
    refusals.flush()
    refusals.flush()
    assert caplog.messages == ["refused with 429, too many: 1", "refused with 429, too many: 2"]


REFUSED = [
    (401, b"GET /callbacks/guarded/wrong?%s HTTP/1.1\r\n" % QUERIES[0]),
    (403, b"GET /callbacks/far?%s HTTP/1.1\r\n" % QUERIES[0]),
    (404, b"GET /callbacks/none?%s HTTP/1.1\r\n" % QUERIES[0]),
    (404, b"GET /none HTTP/1.1\r\n"),
    (405, b"PUT /callbacks/open?%s HTTP/1.1\r\n" % QUERIES[0]),
    (413, b"POST /callbacks/open HTTP/1.1\r\nContent-Length: 999999\r\n"),
    (422, b"GET /callbacks/open?mobile=1 HTTP/1.1\r\n"),
    (429, b"GET /callbacks/limited?%s HTTP/1.1\r\n" % QUERIES[0]),
    (400, b"nonsense\r\n"),
    (414, b"GET /%s HTTP/1.1\r\n" % (b"x" * 20_000)),
    (431, b"GET / HTTP/1.1\r\nX: %s\r\n" % (b"x" * 20_000)),
    (501, b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n"),
]
SOURCES = {
    "guarded": SourceConfig(tokens=["right"]),
    "far": SourceConfig(allow_from=["203.0.113.0/24"]),
    "open": SourceConfig(),
    "limited": SourceConfig(limit={"rate": "1/1h"}),
}


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(tmp_path / "relay.db")
    yield opened
    await opened.close()


async def test_an_application_that_fails_makes_two_lines_and_shows_its_frames_once(caplog):
    async def fails(scope, receive, send):
        raise ZeroDivisionError("a secret")

    async with serving(fails) as relay:
        for _ in range(20):
            assert (await relay.ask(b"/")).status == 500
    said = "refused with 500, the application failed with ZeroDivisionError"
    assert caplog.messages == [f"{said}: 1", f"{said}: 19"]
    assert [bool(each.exc_info) for each in caplog.records] == [True, False]


@pytest.mark.parametrize(("status", "request_"), REFUSED, ids=lambda each: str(each)[:30])
async def test_a_flood_of_refusals_of_any_kind_makes_two_lines(store, status, request_, caplog):
    """One for the first, one for the others when the listener ends, within a minute."""
    caplog.set_level(logging.INFO, "relay")
    async with listening(store, sources=SOURCES) as relay:
        if status == 429:
            await relay.raw(request_ + b"Connection: close\r\n\r\n")
        for _ in range(20):
            answer = await relay.raw(request_ + b"Connection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert len(caplog.messages) == 1
    relay.application.refusal_log.flush()
    first, second = caplog.messages
    assert f"refused with {status}, " in first
    assert first.endswith(": 1")
    assert second.endswith(": 19")

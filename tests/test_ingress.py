"""The public listener: what it takes, what it answers, what it keeps, what it never tells."""

import asyncio
import base64
import gzip
import logging
import zlib
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace

import orjson
import pytest
from listening import KINDS, QUERIES, config, listening, serving
from sumotextsource import Sumotext

from relay import Source
from relay.config.loader import SourceConfig
from relay.server import ingress
from relay.server.access import TokenSet
from relay.server.ingress import CallbackTarget
from relay.store import Receipt, State, StoreBroken, StoreError, StoreFull
from relay.store.sqlite import SqliteStore

FIRST = b"/callbacks/sumotext?" + QUERIES[0]


def gzip_of(data, level=9):
    """Packed without the time, as every worker of pytest-xdist must collect the same tests."""
    return gzip.compress(data, level, mtime=0)


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(tmp_path / "relay.db")
    yield opened
    await opened.close()


@pytest.fixture
async def relay(store):
    async with listening(store, sinks=("archive", "crm")) as running:
        yield running


async def stored(relay, answer):
    """The event that a 200 promised."""
    assert answer.status == 200, answer
    row = await relay.store.event(answer.json()["id"])
    assert answer.json() == {"id": row.event.id, "type": row.event.type}
    return row


async def test_a_callback_is_on_disk_with_a_delivery_for_each_sink(relay):
    answer = await relay.ask(FIRST)
    row = await stored(relay, answer)
    assert row.callback.query == QUERIES[0]
    assert [(each.sink, each.state) for each in row.deliveries] == [
        ("archive", State.PENDING),
        ("crm", State.PENDING),
    ]
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers


async def test_the_examples_as_printed_are_taken(relay):
    for query, kind in zip(QUERIES, KINDS, strict=True):
        row = await stored(relay, await relay.ask(b"/callbacks/sumotext?" + query))
        assert row.event.type == f"com.sumotext.{kind}"
        if kind == "poll":
            assert row.event.data["label"] == "Tampa"


@pytest.mark.parametrize("query", QUERIES[:5])
async def test_get_post_and_any_body_make_the_same_event(relay, query):
    path = b"/callbacks/sumotext"
    half = query.index(b"&") + 1
    form = query.replace(b" ", b"+")
    plain = [pair.partition("=") for pair in query.decode().split("&") if pair]
    parts = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % (name.encode(), value.encode())
        for name, _, value in plain
    )
    requests = [
        {"target": path + b"?" + query},
        {"target": path + b"?" + query, "method": b"POST"},
        {"target": path, "method": b"POST", "headers": FORM, "body": form},
        {"target": path, "method": b"POST", "body": form},
        {"target": path, "body": form},
        {
            "target": path + b"?" + query[:half],
            "method": b"POST",
            "headers": FORM,
            "body": form[half:],
        },
        {
            "target": path,
            "method": b"POST",
            "headers": b"Content-Type: application/json\r\n",
            "body": orjson.dumps({name: value for name, _, value in plain}),
        },
        {
            "target": path,
            "method": b"POST",
            "headers": b"Content-Type: multipart/form-data; boundary=b\r\n",
            "body": parts + b"--b--\r\n",
        },
    ]
    events = []
    for request in requests:
        row = await stored(relay, await relay.ask(**request))
        assert row.callback.method == request.get("method", b"GET").decode()
        assert row.callback.body == request.get("body", b"")
        events.append((row.event.type, row.event.subject, row.event.data))
    assert all(event == events[0] for event in events)


async def test_a_message_id_seen_before_answers_with_the_first_event(relay):
    target = b"/callbacks/sumotext?" + QUERIES[5]
    first, second = await relay.ask(target), await relay.ask(target)
    assert first.json() == second.json()
    assert await relay.store.event_count() == 1


async def test_two_equal_votes_are_two_events(relay):
    target = b"/callbacks/sumotext?" + QUERIES[1]
    first, second = await relay.ask(target), await relay.ask(target)
    assert first.json() != second.json()
    assert await relay.store.event_count() == 2


async def test_what_is_not_understood_is_kept_and_can_be_found_by_its_id(relay, caplog):
    answer = await relay.ask(b"/callbacks/sumotext?reply=A&mobile=5551212")
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    kept = await relay.store.quarantined_one(answer.json()["id"])
    assert kept.status == 422
    assert kept.callback.query == b"reply=A&mobile=5551212"
    assert kept.reason in answer.json()["detail"]
    assert kept.id in caplog.text
    assert "1212" not in caplog.text + answer.body.decode()


JSON = b"Content-Type: application/json\r\n"
PARTS = b"Content-Type: multipart/form-data; boundary=b\r\n"
GZIP = b"Content-Encoding: gzip\r\n"
COMPLETE = b"/callbacks/sumotext?mobile=2125551212&carrierId=X&key=K"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b'{"msg":"STOP",}'),
        (FORM, b'{"msg":"STOP",}'),
        (b"", b'{"msg":"STOP",}'),
        (FORM + b"Content-Encoding: br\r\n", b"\x8b\x04\x80msg=STOP\x03"),
        (FORM + GZIP, gzip_of(b"msg=STOP")[:-4]),
        (FORM + GZIP + b"Content-Encoding: br\r\n", gzip_of(b"msg=STOP")),
        (PARTS, b"--b\r\nmsg=STOP"),
        (FORM, b"\xff\xfem"),
    ],
)
async def test_what_cannot_be_read_is_kept_as_it_came_beside_a_complete_query(relay, headers, body):
    answer = await relay.ask(COMPLETE, method=b"POST", headers=headers, body=body)
    assert answer.status == 422
    assert await relay.store.event_count() == 0
    callback = (await relay.store.quarantined_one(answer.json()["id"])).callback
    sent = dict(line.split(": ") for line in headers.decode().splitlines())
    assert (callback.query, callback.body) == (COMPLETE.partition(b"?")[2], body)
    assert callback.content_type == sent.get("Content-Type", "")
    encodings = [line for line in headers.decode().splitlines() if "Encoding" in line]
    assert callback.encoding == ", ".join(line.split(": ")[1] for line in encodings)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (FORM + GZIP, gzip_of(b"msg=STOP")),
        (JSON + GZIP, gzip_of(b'{"msg":"STOP"}')),
        (FORM + b"Content-Encoding: deflate\r\n", zlib.compress(b"msg=STOP")),
        (FORM, b"\xef\xbb\xbfmsg=STOP"),
        (FORM, "\ufeffmsg=STOP".encode("utf-16-le")),
        (FORM, b"msg=%u0053TOP"),
        (FORM + FORM, b"msg=STOP"),
        (2 * PARTS, b'--b\r\nContent-Disposition: form-data; name="msg"\r\n\r\nSTOP\r\n--b--\r\n'),
        (JSON, '{"msg":"STOP"}'.encode("utf-16")),
    ],
)
async def test_what_can_be_unpacked_and_decoded_is_an_event(relay, headers, body):
    row = await stored(relay, await relay.ask(COMPLETE, method=b"POST", headers=headers, body=body))
    assert (row.event.data["message"], row.event.data["consent"]) == ("STOP", "opt_out")
    assert row.callback.body == body
    assert row.callback.encoding in headers.decode()


async def test_a_packed_body_counts_as_large_as_it_is_unpacked(store):
    sources = {"sumotext": SourceConfig(limit={"bytes": "1MiB/1h"})}
    packed = gzip_of(b"msg=" + b"x" * 250_000)
    assert len(packed) < 1_000
    async with listening(store, sources=sources) as relay:
        answers = [
            await relay.ask(COMPLETE, method=b"POST", headers=FORM + GZIP, body=packed)
            for _ in range(6)
        ]
    assert [answer.status for answer in answers] == [200] * 4 + [429] * 2


class Reading:
    """Keeps nothing; in which turns of the event loop it was handed callbacks."""

    def __init__(self) -> None:
        self.turn = 0
        self.turns = []

    def now(self):
        return 0

    async def receive(self, _):
        self.turns.append(self.turn)
        return Receipt("id", "com.sumotext.message")

    async def count(self):
        while True:
            self.turn += 1
            await asyncio.sleep(0)


async def turns_of(body: bytes, headers=()) -> list[int]:
    """The turns in which five such bodies are read that arrive at once."""
    acceptor = Reading()
    application = ingress.app(acceptor, config())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/callbacks/sumotext",
        "query_string": b"",
        "headers": [(b"content-length", b"%d" % len(body)), *headers],
        "client": ("127.0.0.1", 1),
    }

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        assert message.get("status", 200) == 200

    counting = asyncio.create_task(acceptor.count())
    await asyncio.gather(*(application(scope, receive, send) for _ in range(5)))
    counting.cancel()
    return acceptor.turns


SOME_TURNS = 4


async def test_of_large_bodies_one_is_read_in_a_turn_of_the_event_loop():
    gzipped = [(b"content-encoding", b"gzip")]
    assert len(set(await turns_of(b"x" * (ingress.LARGE + 1)))) == 5
    assert len(set(await turns_of(gzip_of(b"x" * (ingress.LARGE + 1)), gzipped))) == 5
    assert len(set(await turns_of(b"x" * 1000))) == 1


async def test_between_large_bodies_others_are_answered():
    """From its socket to its answer a callback takes some turns, also by way of the store."""
    turns = await turns_of(b"x" * (ingress.LARGE + 1))
    assert min(after - before for before, after in pairwise(turns)) > SOME_TURNS


@pytest.mark.parametrize("method", [b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"])
async def test_other_methods_are_refused(relay, method):
    answer = await relay.ask(FIRST, method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, POST"
    assert await relay.store.event_count() == 0


@pytest.mark.parametrize(
    "path", [b"/callbacks/other", b"/callbacks/", b"/callbacks", b"/", b"/callbacks/%00", b"/x?a=1"]
)
async def test_an_unknown_source_or_path_is_404(relay, path):
    answer = await relay.ask(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


async def test_a_source_without_tokens_ignores_the_rest_of_the_path(relay):
    await stored(relay, await relay.ask(b"/callbacks/sumotext/?" + QUERIES[0]))
    await stored(relay, await relay.ask(b"/callbacks/sumotext/Post.aspx?" + QUERIES[0]))


async def test_a_test_header_makes_a_test_event(relay):
    row = await stored(relay, await relay.ask(FIRST, headers=b"X-Relay-Test: true\r\n"))
    assert row.event.test


async def test_health(relay):
    for path in (b"/healthz", b"/readyz"):
        assert (await relay.ask(path)).status == 200
        assert (await relay.ask(path, method=b"OPTIONS")).status == 200
        assert (await relay.ask(path, method=b"POST")).status == 405


# tokens

OLD, NEW = "old-ä-token", "new/token"
TOKENS = {"sumotext": SourceConfig(tokens=[OLD, NEW])}


def basic(password: str) -> bytes:
    return b"Authorization: Basic %s\r\n" % base64.b64encode(f"any:{password}".encode())


@pytest.fixture
async def guarded(store):
    async with listening(store, sources=TOKENS) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (b"/old-%C3%A4-token", b""),
        (b"/new/token", b""),
        (b"/new%2Ftoken", b""),
        (b"/wrong", b"X-Relay-Token: new/token\r\n"),
        (b"", b"X-Relay-Token: old-\xc3\xa4-token\r\n"),
        (b"", basic(OLD)),
        (b"", basic(NEW)),
        (b"", b"authorization: basic " + base64.b64encode(b":new/token") + b"\r\n"),
    ],
)
async def test_a_token_is_taken_from_path_password_or_header(guarded, path, headers):
    await stored(
        guarded,
        await guarded.ask(b"/callbacks/sumotext" + path + b"?" + QUERIES[0], headers=headers),
    )


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (b"", b""),
        (b"/", b""),
        (b"/secret-guess", b""),
        (b"/%FF%FE", b""),
        (b"/new/token/", b""),
        (b"", b"X-Relay-Token: secret-guess\r\n"),
        (b"", b"X-Relay-Token: \xff\r\n"),
        (b"", basic("secret-guess")),
        (b"", b"Authorization: Basic %%%\r\n"),
        (b"", b"Authorization: Basic\r\n"),
        (b"", b"Authorization: Bearer new/token\r\n"),
    ],
)
async def test_a_wrong_or_missing_token_is_401_and_kept_without_the_token(
    guarded, path, headers, caplog
):
    caplog.set_level(logging.DEBUG)
    answer = await guarded.ask(b"/callbacks/sumotext" + path + b"?" + QUERIES[0], headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    (kept,) = await guarded.store.quarantined()
    assert (kept.status, kept.callback.query) == (401, QUERIES[0])
    assert "secret-guess" not in caplog.text + str(kept) + answer.body.decode()
    assert await guarded.store.event_count() == 0


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (b"/new/token&" + QUERIES[0], QUERIES[0]),
        (b"/old-%C3%A4-token&" + QUERIES[0], QUERIES[0]),
        (b"/new/token&a=1?" + QUERIES[0], b"a=1&" + QUERIES[0]),
        (b"/new/token?" + QUERIES[0], QUERIES[0]),
    ],
)
async def test_an_address_with_an_ampersand_for_its_question_mark_is_read(guarded, path, query):
    row = await stored(guarded, await guarded.ask(b"/callbacks/sumotext" + path))
    assert row.callback.query == query.replace(b" ", b"%20")


async def test_so_it_is_without_a_token_and_with_a_wrong_one(relay, guarded):
    await stored(relay, await relay.ask(b"/callbacks/sumotext&" + QUERIES[0]))
    answer = await guarded.ask(b"/callbacks/sumotext/wrong&" + QUERIES[0])
    assert answer.status == 401
    (kept,) = await guarded.store.quarantined()
    assert kept.callback.query == QUERIES[0].replace(b" ", b"%20")
    assert TokenSet(["wrong"]).accepts_digest(kept.callback.token_digest)


async def test_a_token_may_hold_an_ampersand(store):
    sources = {"sumotext": SourceConfig(tokens=["a&b=c"])}
    async with listening(store, sources=sources) as relay:
        for token in (b"a&b=c", b"a%26b%3Dc"):
            path = b"/callbacks/sumotext/" + token
            row = await stored(relay, await relay.ask(path + b"?" + QUERIES[0]))
            assert row.callback.query == QUERIES[0]


def test_what_a_target_holds_is_not_shown():
    shown = repr(CallbackTarget("sumotext", "a-secret-token", b"mobile=2125551212"))
    assert "sumotext" in shown
    assert "secret" not in shown
    assert "2125551212" not in shown


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_request_without_parameters_is_not_kept(relay, guarded, method):
    """A monitor sends it, or a browser; the control is one with a parameter."""
    for running, status in ((relay, 422), (guarded, 401)):
        for target, kept in ((b"/callbacks/sumotext", 0), (b"/callbacks/sumotext?a=1", 1)):
            answer = await running.ask(target, method=method)
            assert answer.status == status
            assert await running.store.quarantine_count() == kept
        await running.store.discard_quarantined(None)


async def test_a_page_of_another_site_sends_nothing_to_an_open_source(relay, guarded):
    """With a token it is as good as any other sender."""
    for method in (b"GET", b"POST"):
        for site, status in (
            (b"cross-site", 403),
            (b"same-origin", 200),
            (b"none", 200),
        ):
            headers = b"Sec-Fetch-Site: " + site + b"\r\n"
            answer = await relay.ask(FIRST, method=method, headers=headers)
            assert answer.status == status
            target = FIRST.replace(b"?", b"/new/token?")
            assert (await guarded.ask(target, method=method, headers=headers)).status == 200
    assert await relay.store.quarantine_count() == 0


def counted(counters):
    """What was counted, by source, kind and outcome."""
    (family,) = counters.callbacks.collect()
    totals = [each for each in family.samples if each.name.endswith("_total") and each.value]
    return {tuple(each.labels.values()): each.value for each in totals}


async def test_only_the_networks_of_allow_from_may_send(store):
    sources = {
        "near": SourceConfig(allow_from=["127.0.0.0/8"]),
        "far": SourceConfig(allow_from=["203.0.113.0/24", "::/0"]),
    }
    async with listening(store, sources=sources) as relay:
        assert (await relay.ask(b"/callbacks/near?" + QUERIES[0])).status == 200
        pretending = b"X-Forwarded-For: 203.0.113.1\r\n"
        answer = await relay.ask(b"/callbacks/far?" + QUERIES[0], headers=pretending)
        assert answer.status == 403
        assert counted(relay.application.answers) == {
            ("near", "web_form", "accepted"): 1,
            ("far", "", "forbidden"): 1,
        }


# the store fails


class FailingStore:
    """Raises what it was given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def add(self, *_):
        raise self.error

    async def quarantine(self, *_):
        raise self.error


@pytest.mark.parametrize("query", [QUERIES[0], b"mobile=1"])
@pytest.mark.parametrize(
    "error", [StoreFull("the disk is full"), StoreError("a mistake of ours"), StoreBroken("EIO")]
)
async def test_what_cannot_be_stored_is_503_with_retry_after(query, error):
    async with listening(FailingStore(error)) as relay:
        answer = await relay.ask(b"/callbacks/sumotext?" + query)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0


async def test_a_wrong_token_on_a_full_disk_is_still_401():
    async with listening(FailingStore(StoreFull()), sources=TOKENS) as relay:
        assert (await relay.ask(FIRST)).status == 401


async def test_an_unexpected_error_of_ours_keeps_the_callback(relay, monkeypatch, caplog):
    def fails(*_):
        raise ZeroDivisionError("2125551212")

    monkeypatch.setattr(Sumotext, "parse", fails)
    answer = await relay.ask(FIRST)
    assert answer.status == 422
    assert (await relay.store.quarantined_one(answer.json()["id"])).callback.query == QUERIES[0]
    assert "2125551212" not in caplog.text


async def test_no_log_line_holds_a_number_or_a_query(relay, caplog):
    caplog.set_level(logging.DEBUG)
    for query in QUERIES:
        await relay.ask(b"/callbacks/sumotext?" + query)
        await relay.ask(b"/callbacks/nobody?" + query)
        await relay.ask(b"/callbacks/sumotext?" + query + b"&mobile=2125551213")
    ours = "\n".join(record.getMessage() for record in caplog.records)
    assert "source sumotext: com.sumotext.web_form" in ours
    for secret in ("555121", "84700", "Tampa", "Bill"):
        assert secret not in ours


# several parts


class Several(Source):
    """Each letter of the body is a part, of which none makes an event."""

    def split(self, callback):
        return [callback.body[place : place + 1] for place in range(len(callback.body))]


class Keeping:
    """An acceptor that takes all and counts how often a batch began."""

    def __init__(self) -> None:
        self.under_way = self.begun = 0

    def now(self):
        return 1_800_000_000_000_000

    async def receive_all(self, callbacks):
        return ["no event"] * len(callbacks)

    async def quarantine(self, *_):
        self.begun += not self.under_way
        self.under_way += 1
        await asyncio.sleep(0)
        self.under_way -= 1
        return "1"


@asynccontextmanager
async def several(acceptor, **settings):
    made = SimpleNamespace(
        sources={"mine": SourceConfig(**settings)},
        source_plugins={"mine": Several("mine", None, logging.getLogger("test"))},
    )
    async with serving(ingress.app(acceptor, made)) as running:
        yield running


async def test_the_bad_parts_of_a_request_go_to_quarantine_together():
    acceptor = Keeping()
    async with several(acceptor) as relay:
        answer = await relay.ask(b"/callbacks/mine", method=b"POST", body=b"x" * 600)
    assert (answer.status, len(answer.json()["items"])) == (422, 600)
    assert acceptor.begun <= 3


async def test_each_part_counts_against_the_rate():
    acceptor = Keeping()
    async with several(acceptor, limit={"rate": "10/1h"}) as relay:
        statuses = [
            (await relay.ask(b"/callbacks/mine", method=b"POST", body=b"x" * number)).status
            for number in (4, 4, 4, 2, 1)
        ]
    assert statuses == [422, 422, 429, 422, 429]


async def test_a_request_with_more_parts_than_the_rate_is_taken_once():
    acceptor = Keeping()
    async with several(acceptor, limit={"rate": "10/1h"}) as relay:
        statuses = [
            (await relay.ask(b"/callbacks/mine", method=b"POST", body=b"x" * 30)).status
            for _ in range(2)
        ]
    assert statuses == [422, 429]

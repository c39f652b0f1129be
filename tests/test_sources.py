"""A source of another vendor, as a user writes it, through a running relay."""

import asyncio
import hashlib
import hmac
import json
import logging
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml
from click.testing import CliRunner

from relay import (
    Accepted,
    Answer,
    Invalid,
    InvalidCallback,
    Outgoing,
    Source,
    Unauthorized,
    daemon,
    preflight,
    service,
)
from relay.cli import main
from relay.config import last_good, loader
from relay.config.last_good import ConfigStatus
from relay.config.loader import ConfigError
from relay.doctor import security
from relay.event import RawCallback
from relay.sources.calls import MOST_BYTES, MOST_PARTS, SourceCalls, SourceFailed
from relay.units import HostPort

MADEUP = Path(__file__).parent / "madeup"
OLD, NEW = "an-old-secret", "a-new-secret"
ALICE, BOB = "+12125550101", "+12125550102"


def message(number, text, message_id):
    return {"id": message_id, "from": number, "text": text}


THREE = [
    message(ALICE, "JOIN us", "m1"),
    message("nobody", "JOIN", "m2"),
    message(BOB, "STOP", "m3"),
]


class Relay:
    """A relay with the source texter, its sender and its commands."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "relay.yaml"
        self.url = ""
        self.configure()

    def configure(self, *, listen="127.0.0.1:0", plugins=str(MADEUP), **source):
        settings = {
            "server": {"listen": listen},
            "admin": {"listen": "127.0.0.1:0"},
            "plugins": [plugins],
            "sources": {"texter": {"plugin": "texter", "options": {"secrets": [NEW]}, **source}},
            "sinks": {"archive": {"plugin": "csv", "options": {"path": "events.csv"}}},
        }
        self.path.write_text(yaml.safe_dump(settings))

    @asynccontextmanager
    async def running(self, config=None):
        async with service.started(config or loader.load(self.path, {})) as running:
            await running.opened()
            self.url = f"http://127.0.0.1:{running.address[1]}/callbacks/texter"
            yield running

    async def send(self, content, secret=NEW, method="POST"):
        body = json.dumps(content).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        async with httpx.AsyncClient() as http:
            headers = {"X-Texter-Signature": signature, "Content-Type": "application/json"}
            return await http.request(method, self.url, content=body, headers=headers)

    async def command(self, *words, number=None, code=0):
        words = [*words, "--config", str(self.path)]
        result = await asyncio.to_thread(CliRunner().invoke, main, words, input=number)
        assert result.exit_code == code, result.output
        return result.stdout if not code else result.output

    async def listed(self, *words):
        return json.loads(await self.command(*words, "--json"))


@pytest.fixture
def relay(tmp_path):
    return Relay(tmp_path)


async def test_three_events_in_one_request_of_which_one_is_bad(relay):
    async with relay.running():
        answer = await relay.send(THREE)
        assert (answer.status_code, answer.text) == (202, "kept unclear kept")
        events = await relay.listed("events", "list")
        assert [each["type"] for each in events] == ["com.texter.message"] * 2
        assert {each["data"]["sender"] for each in events} == {ALICE, BOB}
        (kept,) = await relay.listed("quarantine", "list")
        assert kept["reason"] == "`from` is no number"
        shown = await relay.listed("quarantine", "show", kept["id"])
        assert json.loads(shown["callback"]["body"]) == THREE[1]

        again = await relay.send(THREE)
        assert again.text == "again unclear again"
        assert len(await relay.listed("events", "list")) == 2


async def test_a_repeat_after_a_restart_is_known(relay):
    async with relay.running():
        await relay.send(THREE[:1])
    async with relay.running():
        assert (await relay.send(THREE[:1])).text == "again"
        assert (await relay.send(THREE[2:])).text == "kept"
        consents = await relay.command("consent", "export")
        assert "opt_out" in consents


async def test_a_wrong_signature_is_refused_in_the_words_of_the_source(relay):
    async with relay.running():
        answer = await relay.send(THREE, secret=OLD)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "text/xml"
        assert answer.text == "<error>The callback is not authentic.</error>"
        assert await relay.listed("events", "list") == []
        (kept,) = await relay.listed("quarantine", "list")
        assert (kept["status"], kept["token"]) == (401, "unverified")
        assert kept["reason"] == "the signature is wrong or missing"


async def test_what_was_not_authentic_is_released_by_a_person_alone(relay):
    async with relay.running():
        await relay.send(THREE, secret=OLD)
        (kept,) = await relay.listed("quarantine", "list")
        for words in (["--all"], ["--token-now-valid"]):
            await relay.command("quarantine", "release", *words)
            assert await relay.listed("events", "list") == []
        await relay.command("quarantine", "release", kept["id"], "--yes")
        events = await relay.listed("events", "list")
        assert {each["data"]["sender"] for each in events} == {ALICE, BOB}
        (left,) = await relay.listed("quarantine", "list")
        assert (left["status"], left["reason"]) == (422, "`from` is no number")


async def test_a_release_heeds_an_opt_out_in_the_same_request(relay):
    settings = yaml.safe_load(relay.path.read_text())
    options = {"path": "asking.csv"}
    settings["sinks"]["asking"] = {"plugin": "csv", "when": "not opted_out", "options": options}
    relay.path.write_text(yaml.safe_dump(settings))
    async with relay.running():
        await relay.send([message(BOB, "STOP", "m1"), message(BOB, "hello", "m2")], secret=OLD)
        (kept,) = await relay.listed("quarantine", "list")
        would = await relay.listed("quarantine", "release", kept["id"], "--dry-run")
        sinks = [{each["sink"]: each for each in part["sinks"]} for part in would["released"]]
        assert [part["asking"]["matches"] for part in sinks] == [False, False]
        await relay.command("quarantine", "release", kept["id"], "--yes")
        (hello,) = await relay.listed("events", "list", "--keyword", "hello")
        shown = await relay.listed("events", "show", hello["id"])
        assert [each["sink"] for each in shown["deliveries"]] == ["archive"]


async def test_a_handshake_stores_nothing(relay):
    async with relay.running():
        answer = await relay.send([], method="GET")
        assert (answer.status_code, answer.text) == (200, "Texter may come")
        assert await relay.listed("quarantine", "list") == []


async def test_a_contact_is_erased_wherever_the_source_wrote_it(relay):
    async with relay.running():
        await relay.send([*THREE, message(ALICE, "", "m4")])
        await relay.command("erase", "--yes", number=ALICE)
        (left,) = await relay.listed("events", "list")
        assert left["data"]["sender"] == BOB
        assert len(await relay.listed("quarantine", "list")) == 1


def test_a_source_that_verifies_may_be_reached_by_others(relay):
    relay.configure(listen="0.0.0.0:0")
    config = loader.load(relay.path, {})
    assert not config.server.listen.loopback
    assert config.sources["texter"].tokens == []


UNVERIFIED = """
import relay

class Unverified(relay.Source):
    def verify(self, request):
        return relay.Answer("pong") if request.query == b"ping" else None

    def parse(self, callback):
        return self.event(callback, type="com.unverified.note", data={})

@relay.hookimpl
def register_sources(register):
    register("unverified", Unverified)
"""


INIT = """def __init__(self, *given):
        super().__init__(*given)
        self.authenticates = ANSWER

"""


@pytest.mark.parametrize(
    ("listen", "guard", "refused"),
    [
        ("0.0.0.0:0", {}, True),
        ("0.0.0.0:0", {"tokens": ["5dXl0kq2vVJwR8uXnZt1cA"]}, False),
        ("0.0.0.0:0", {"allow_from": ["203.0.113.0/24"]}, False),
        ("127.0.0.1:0", {}, False),
    ],
)
def test_a_source_that_does_not_authenticate_needs_another_guard_for_that(
    relay, listen, guard, refused
):
    (relay.folder / "plugins").mkdir()
    (relay.folder / "plugins" / "unverified.py").write_text(UNVERIFIED)
    relay.configure(listen=listen, plugins="plugins", plugin="unverified", options={}, **guard)
    if not refused:
        assert loader.load(relay.path, {}).sources["texter"].plugin == "unverified"
        return
    with pytest.raises(ConfigError) as wrong:
        loader.load(relay.path, {})
    (issue,) = wrong.value.issues
    assert issue.path == "sources.texter"
    assert "needs tokens or allow_from" in issue.message


@pytest.mark.parametrize("authenticates", [True, False])
def test_a_source_may_authenticate_by_its_options(relay, authenticates):
    (relay.folder / "plugins").mkdir()
    made = UNVERIFIED.replace("def parse", INIT + "    def parse").replace(
        "ANSWER", str(authenticates)
    )
    (relay.folder / "plugins" / "unverified.py").write_text(made)
    relay.configure(listen="127.0.0.1:0", plugins="plugins", plugin="unverified", options={})
    config = loader.load(relay.path, {})
    guarded = not list(preflight._source_issues(config, HostPort("0.0.0.0", 80)))
    assert guarded is authenticates
    assert (list(security.sources(config)) == []) is authenticates


def without_secret(relay):
    (relay.folder / "secret").unlink()


def with_a_broken_plugin(relay):
    (relay.folder / "plugins" / "texter.py").write_text("import nothing_of_that_name")


@pytest.mark.parametrize(
    ("breaks", "why"),
    [(without_secret, "secret"), (with_a_broken_plugin, "nothing_of_that_name")],
)
async def test_a_held_source_answers_503_until_it_can_be_made(relay, caplog, breaks, why):
    for folder in ("plugins", "data"):
        (relay.folder / folder).mkdir()
    (relay.folder / "plugins" / "texter.py").write_text((MADEUP / "texter.py").read_text())
    (relay.folder / "secret").write_text(NEW)
    relay.configure(plugins="plugins", options={"secrets": ["${file:secret}"]})
    right = loader.load(relay.path, {})
    last_good.keep(right)
    breaks(relay)
    with pytest.raises(ConfigError) as wrong:
        loader.load(relay.path, {})
    held = last_good.load(relay.path, {}, wrong.value, fill=True)
    async with relay.running(held):
        for secret in (NEW, OLD):
            answer = await relay.send(THREE, secret=secret)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
        assert await relay.listed("events", "list") == []
        assert await relay.listed("quarantine", "list") == []
        status = ConfigStatus(held)
        assert why in status.complaints()[-1]
        assert "source texter is held, its callbacks are refused: " in status.complaints()[-1]
        assert "source texter: held: " in status.notices()[-1]
        assert "The source texter is held" in await relay.command("status")
        address = SimpleNamespace(address=("127.0.0.1", 80))
        assert daemon._url(held, address) == "http://127.0.0.1:80/callbacks/…"
    assert why in caplog.text
    assert NEW not in caplog.text
    async with relay.running(right):
        assert (await relay.send(THREE)).text == "kept unclear kept"


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({"country": "US"}, "sources.texter.country"),
        ({"options": {"secrets": []}}, "sources.texter.options.secrets"),
        ({"options": {"secrets": [""]}}, "sources.texter.options.secrets[0]"),
        ({"options": {"secrets": ["x"], "secret": "x"}}, "sources.texter.options.secret"),
        ({"plugin": "textr"}, "sources.texter.plugin"),
        ({"plugin": "sumotext", "options": {"country": "US"}}, "sources.texter.options.country"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(relay, source, place):
    relay.configure(**source)
    with pytest.raises(ConfigError) as wrong:
        loader.load(relay.path, {})
    (issue,) = wrong.value.issues
    assert issue.path == place
    assert issue.line


# a plugin's mistakes

CALLBACK = RawCallback("mine", "POST", b"", "application/json", b"{}", 1_800_000_000_000_000)


def calls(**methods):
    made = type("Mine", (Source,), methods)("mine", None, logging.getLogger("test"))
    return SourceCalls(made)


def raising(*_, **__):
    raise SystemExit(ALICE)


@pytest.mark.parametrize(
    "bodies", [None, b"{}", "{}", 5, [1], ["a"], [b"a", None], iter([b"a"]), {b"a": 1}]
)
def test_a_split_into_no_bodies_quarantines_the_whole(bodies):
    with pytest.raises(InvalidCallback, match="failed to split it"):
        calls(split=lambda *_: bodies).parts(CALLBACK)


@pytest.mark.parametrize(
    "bodies", [[], [b"a"] * (MOST_PARTS + 1), [b"a" * MOST_BYTES, b"a"], [b"a"] * 10_000]
)
def test_a_split_into_none_or_too_much_quarantines_the_whole(bodies):
    with pytest.raises(InvalidCallback):
        calls(split=lambda *_: bodies).parts(CALLBACK)


def test_each_part_counts_with_the_query_that_it_repeats():
    mine = calls(split=lambda *_: [b"a"] * 100)
    assert len(mine.parts(CALLBACK._replace(query=b"x" * 5_000))) == 100
    with pytest.raises(InvalidCallback, match="512 KiB"):
        mine.parts(CALLBACK._replace(query=b"x" * 5_500))


def test_a_part_that_is_the_body_stays_as_it_came():
    packed = CALLBACK._replace(encoding="gzip")
    assert calls(split=lambda _, callback: [callback.body]).parts(packed) == [packed]
    (part,) = calls(split=lambda *_: [b"x"]).parts(packed)
    assert (part.body, part.encoding) == (b"x", "")


@pytest.mark.parametrize(
    "event",
    [
        None,
        {"type": "a.b"},
        {"data": {"x": {1, 2}}},
        {"data": {"x": "\ud800"}},
        {"contact": 5},
        {"consent": "maybe"},
        {"dedup_key": b"x"},
        {"data": {"x": "a" * 5_000_000}},
        {"data": ["x"]},
        {"data": "text"},
        {"data": {1: "x"}},
        {"contact": "\ud800"},
        {"type": ""},
        {"type": "com.mine.a note"},
        {"type": "com.mine\n.note"},
        {"type": "com.mine." + "a" * 300},
        {"subject": "a\r\nb"},
    ],
)
def test_what_is_no_event_that_can_be_stored_is_invalid(event):
    def parse(self, callback):
        if event is None or event == {"type": "a.b"}:
            return event
        return self.event(callback, **{"type": "com.mine.note", "data": {}, **event})

    with pytest.raises(InvalidCallback):
        calls(parse=parse).event(CALLBACK)


def test_whatever_a_method_raises_is_contained():
    mine = calls(verify=raising, split=raising, parse=raising, answer=raising, refusal=raising)
    for call, error in (
        (lambda: mine.verify(None), SourceFailed),
        (lambda: mine.parts(CALLBACK), InvalidCallback),
        (lambda: mine.event(CALLBACK), InvalidCallback),
        (lambda: mine.answer([Accepted("1", "a")]), SourceFailed),
        (lambda: mine.refusal(503, "x"), SourceFailed),
    ):
        with pytest.raises(error) as raised:
            call()
        assert ALICE not in str(raised.value)


def test_the_words_of_a_plugin_hold_no_number():
    def verify(self, request):
        raise Unauthorized(f"{ALICE} is unknown")

    def parse(self, callback):
        raise InvalidCallback(f"{ALICE} is unknown")

    for call, error in (
        (lambda: calls(verify=verify).verify(None), Unauthorized),
        (lambda: calls(parse=parse).event(CALLBACK), InvalidCallback),
    ):
        with pytest.raises(error) as raised:
            call()
        assert ALICE not in raised.value.reason


class Terse(InvalidCallback):
    def __init__(self):
        pass


class Rude(Unauthorized):
    def __init__(self):
        pass

    @property
    def reason(self):
        raise SystemExit


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (InvalidCallback("kind \ud800\n unknown"), "kind    unknown"),
        (Unauthorized("no \ud800"), "no"),
        (InvalidCallback(""), "InvalidCallback"),
        (InvalidCallback(5), "5"),
        (Terse(), "Terse"),
        (Rude(), "Rude"),
    ],
)
def test_the_words_of_a_plugin_can_be_stored(raised, reason):
    def method(self, given):
        raise raised

    mine = calls(verify=method, split=method, parse=method)
    invalid = isinstance(raised, InvalidCallback)
    for call in (mine.parts, mine.event) if invalid else (mine.verify,):
        with pytest.raises((InvalidCallback, Unauthorized)) as found:
            call(CALLBACK)
        assert found.value.reason == reason


def test_an_event_that_a_plugin_keeps_gets_an_id_for_each_callback():
    def parse(self, callback):
        self.kept = getattr(self, "kept", None) or self.event(callback, type="a.b", data={})
        return self.kept

    mine = calls(parse=parse)
    later = CALLBACK._replace(received=CALLBACK.received + 1)
    first, second = mine.event(CALLBACK), mine.event(later)
    assert first.id != second.id
    assert first.time != second.time


def test_an_empty_attribute_is_none():
    names = ("subject", "contact", "dedup_key", "topic")
    empty = dict.fromkeys(names, "")

    def parse(self, callback):
        return self.event(callback, type="a.b", data={}, consent="opt_out", **empty)

    event = calls(parse=parse).event(CALLBACK)
    assert [getattr(event, name) for name in (*names, "consent")] == [None] * 5


@pytest.mark.parametrize(
    "answer",
    [
        True,
        False,
        "text",
        Answer(status=100),
        Answer(status="200"),
        Answer(body=5),
        Answer(headers=[("X", "a\r\nb")]),
        Answer(headers=[("Content-Length", "5")]),
        Answer(content_type="a\nb"),
    ],
)
def test_an_answer_that_cannot_be_given_is_none(answer):
    mine = calls(verify=lambda *_: answer, answer=lambda *_: answer, refusal=lambda *_: answer)
    for call in (lambda: mine.verify(None), lambda: mine.answer([]), lambda: mine.refusal(401, "")):
        with pytest.raises(SourceFailed):
            call()


FAILING = """
import relay

class Failing(relay.Source):
    def {method}(self, *given):
        raise BaseException("+12125550101")
{parse}

@relay.hookimpl
def register_sources(register):
    register("failing", Failing)
"""
PARSE = """
    def parse(self, callback):
        return self.event(callback, type="com.failing.note", data={})
"""


@pytest.mark.parametrize(
    ("method", "status", "events", "quarantined"),
    [
        ("verify", 503, 0, 0),
        ("split", 422, 0, 1),
        ("parse", 422, 0, 1),
        ("answer", 200, 1, 0),
        ("refusal", 200, 1, 0),
    ],
)
async def test_an_error_in_a_method_loses_no_callback(
    tmp_path, caplog, method, status, events, quarantined
):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    parse = "" if method == "parse" else PARSE
    (plugins / "failing.py").write_text(
        FAILING.replace("{method}", method).replace("{parse}", parse)
    )
    relay = Relay(tmp_path)
    settings = yaml.safe_load(relay.path.read_text())
    settings |= {"plugins": ["plugins"], "sources": {"texter": {"plugin": "failing"}}}
    relay.path.write_text(yaml.safe_dump(settings))
    async with relay.running():
        answer = await relay.send(THREE)
        assert answer.status_code == status
        assert len(await relay.listed("events", "list")) == events
        assert len(await relay.listed("quarantine", "list")) == quarantined
    assert ALICE not in caplog.text


def test_a_repr_shows_nothing_of_a_callback():
    for made in (
        Outgoing(f"from={ALICE}", ALICE.encode(), headers={"X-Signature": ALICE}),
        Answer(ALICE, headers=[("X-Number", ALICE)]),
        Invalid("1", ALICE),
    ):
        assert ALICE not in repr(made)


def test_a_result_says_what_became_of_a_part():
    assert Invalid("1", "why").reason == "why"


# relay send, preview


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_send_acts_as_the_vendor(relay):
    text = relay.path.read_text()
    port = free_port()
    relay.path.write_text(
        text.replace("server:\n  listen: 127.0.0.1:0", f"server:\n  listen: 127.0.0.1:{port}")
    )
    async with relay.running():
        said = await relay.command("send", "message", "text=VIP list", number=ALICE)
        assert said == "Answered with 202: kept\n"
        (event,) = await relay.listed("events", "list")
        assert (event["test"], event["data"]["words"]) == (True, "VIP list")
        assert "own words" in await relay.command("test", code=1)
    await relay.command("send", "poll", number=ALICE, code=2)


SAMPLED = """
import relay

class Sampled(relay.Source):
    kinds = ("note",)

    def verify(self, request):
        if request.headers["x-url"] != request.url:
            raise relay.Unauthorized("another URL is signed")

    def split(self, callback):
        return callback.body.split(b";")

    def parse(self, callback):
        if callback.body == b"bad":
            raise relay.InvalidCallback("it is bad")
        return self.event(callback, type="com.sampled.note", data={"labels": 1})

    def answer(self, results):
        return ANSWER

    def sample(self, kind, number, values, url):
        return relay.Outgoing(body=BODY, headers={"X-Url": url})

@relay.hookimpl
def register_sources(register):
    register("sampled", Sampled)
"""


@pytest.mark.parametrize(
    ("answer", "body", "said", "followed"),
    [
        ("None", "a", "Stored as com.sampled.note, event ", "Stored as event "),
        ("None", "a;bad", "Not understood: in quarantine as ", "several events"),
        ("relay.Answer('{\"ok\": true}')", "a", 'Answered with 200: {"ok": true}', "own words"),
        ("relay.Answer('{\"id\": 7}')", "a", 'Answered with 200: {"id": 7}', "own words"),
        ("relay.Answer('{\"items\": [5]}')", "a", "Answered with 200: ", "own words"),
        ("relay.Answer('[1]')", "a", "Answered with 200: [1]", "own words"),
    ],
)
@pytest.mark.parametrize("public_url", [None, "https://texts.example/hook/"])
async def test_send_and_test_show_any_answer(relay, answer, body, said, followed, public_url):
    (relay.folder / "plugins").mkdir()
    made = SAMPLED.replace("ANSWER", answer).replace("BODY", repr(body.encode()))
    (relay.folder / "plugins" / "sampled.py").write_text(made)
    more = {"public_url": public_url} if public_url else {}
    listen = f"127.0.0.1:{free_port()}"
    relay.configure(listen=listen, plugins="plugins", plugin="sampled", options={}, **more)
    async with relay.running():
        assert said in await relay.command("send", "note", number=ALICE)
        code = 0 if followed.startswith("Stored") else 1
        assert followed in await relay.command("test", code=code)


@pytest.mark.parametrize(("plugin", "right"), [("sampled", True), ("sumotext", False)])
def test_a_template_may_use_the_names_of_another_vendors_data(relay, plugin, right):
    (relay.folder / "plugins").mkdir()
    (relay.folder / "plugins" / "sampled.py").write_text(SAMPLED)
    relay.configure(plugins="plugins", plugin=plugin, options={})
    settings = yaml.safe_load(relay.path.read_text())
    settings["sinks"]["archive"] |= {"when": "data.labels == 1"}
    relay.path.write_text(yaml.safe_dump(settings))
    if right:
        assert loader.load(relay.path, {})
        return
    with pytest.raises(ConfigError, match=r'did you mean "data\.label"'):
        loader.load(relay.path, {})


async def test_preview_shows_what_a_sink_would_get(relay):
    found = await relay.listed("preview", "message", "text=STOP")
    assert found["event"]["data"]["words"] == "STOP"

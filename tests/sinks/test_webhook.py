"""The webhook sink against a real receiver, read by independent packages."""

import base64
import importlib.util
import ipaddress
import json
import logging
import random
import socket
from datetime import UTC, datetime

import httpx
import pydantic
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.v1.http import from_json
from standardwebhooks import Webhook, WebhookVerificationError
from stubs.receiver import Receiver, drip, drop, endless, hang, redirect, status

import relay
import relay.delivery.http
from relay.delivery.classify import outcome_of
from relay.signing import signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture(scope="module")
def webhook(plugins_folder):
    """The plugin as a module."""
    spec = importlib.util.spec_from_file_location("webhook_plugin", plugins_folder / "webhook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def sink(webhook, receiver):
    """Make a sink with these options, opened; `columns` as if it had a `map`."""
    async with relay.delivery.http.client(timeout=2, allow_private=LOOPBACK) as http:

        async def make(columns=None, **options):
            options = webhook.Options(**{"url": receiver.url} | options)
            made = webhook.Webhook("hook", options, http, logging.getLogger("hook"), columns)
            await made.open()
            return made

        yield make


def event(number=1, **changes):
    attributes = {
        "id": f"0198a1b2-c3d4-7e5f-8a9b-{number:012x}",
        "source": "/callbacks/sumotext",
        "type": "com.sumotext.message",
        "subject": "77948/JOIN",
        "time": "2026-11-23T04:34:00.123456Z",
        "data": {"mobile": "+12125551212", "message": "grüße ☃ \x00", "fields": {"a": ["1", "2"]}},
    }
    return relay.Event(**attributes | changes)


def delivery(number=1, record=None, **changes):
    made = event(number, **changes)
    return relay.Delivery(made.id, made, record or made.to_dict())


def attributes(cloud_event):
    return {
        name: cloud_event.get_attributes()[name]
        for name in ("id", "source", "type", "subject", "specversion")
    }


EXPECTED = {
    "id": event().id,
    "source": "/callbacks/sumotext",
    "type": "com.sumotext.message",
    "subject": "77948/JOIN",
    "specversion": "1.0",
}


# Bodies


@pytest.mark.parametrize("body", ["structured", "binary"])
async def test_a_cloudevents_reader_reads_it(sink, receiver, body):
    outcome = await (await sink(body=body)).send(delivery())
    (got,) = receiver.requests
    read = from_http_event(HTTPMessage(got.headers, got.body))
    assert outcome == relay.Delivered("200")
    assert attributes(read) == EXPECTED
    assert read.get_time() == datetime(2026, 11, 23, 4, 34, 0, 123456, tzinfo=UTC)
    assert read.get_datacontenttype() == "application/json"
    assert read.get_data() == event().data


async def test_binary_mode_encodes_the_attributes_as_the_specification_says(sink, receiver):
    await (await sink(body="binary")).send(delivery(subject='7/é "100%"\n', test=True))
    (got,) = receiver.requests
    assert got.headers["ce-subject"] == "7/%C3%A9%20%22100%25%22%0A"
    assert got.headers["ce-test"] == "true"
    assert got.headers["content-type"] == "application/json"
    read = from_http_event(HTTPMessage(got.headers, got.body))
    assert read.get_subject() == '7/é "100%"\n'


async def test_without_a_subject_none_is_sent(sink, receiver):
    await (await sink(body="binary")).send(delivery(subject=None))
    await (await sink(body="structured")).send(delivery(subject=None))
    assert "ce-subject" not in receiver.requests[0].headers
    assert "subject" not in json.loads(receiver.requests[1].body)


async def test_a_batch_is_one_request(sink, receiver):
    hook = await sink(body="batch", secrets=[SECRET])
    batch = [delivery(number) for number in range(100)]
    assert await hook.send_batch(batch) == [relay.Delivered("200")] * 100
    (got,) = receiver.requests
    assert got.headers["content-type"] == "application/cloudevents-batch+json"
    Webhook(SECRET).verify(got.body, got.headers)
    read = [from_json(json.dumps(each)) for each in json.loads(got.body)]
    assert [each["id"] for each in read] == [each.id for each in batch]
    assert all(each.data == event().data for each in read)


@pytest.mark.parametrize("body", ["structured", "binary", "batch"])
async def test_a_map_takes_the_place_of_data(sink, receiver, body):
    record = {"Name": "Ada", "Zip": "10024"}
    hook = await sink(columns=("Name", "Zip"), body=body)
    await hook.send_batch([delivery(record=record)])
    (got,) = receiver.requests
    sent = json.loads(got.body)
    assert {
        "structured": lambda: sent["data"],
        "binary": lambda: sent,
        "batch": lambda: sent[0]["data"],
    }[body]() == record


async def test_the_record_as_json_and_as_a_form(sink, receiver):
    record = {
        "Name": "Ada & Søn",
        "Tags": ["a", "b"],
        "Gone": None,
        "Vip": True,
        "N": 7,
        "In": {"x": 1},
    }
    await (await sink(columns=tuple(record), body="record")).send(delivery(record=record))
    await (await sink(columns=tuple(record), body="form")).send(delivery(record=record))
    as_json, as_form = receiver.requests
    assert json.loads(as_json.body) == record
    assert as_json.headers["content-type"] == "application/json"
    assert as_form.headers["content-type"] == "application/x-www-form-urlencoded"
    assert as_form.form == [
        ("Name", "Ada & Søn"),
        ("Tags", "a"),
        ("Tags", "b"),
        ("Gone", ""),
        ("Vip", "true"),
        ("N", "7"),
        ("In", '{"x":1}'),
    ]


@pytest.mark.parametrize("record", [{"n": 1 << 80}, {"o": object()}, {"s": "\ud800"}])
async def test_a_record_that_is_no_json_is_rejected(sink, receiver, record):
    hook = await sink(columns=("n",), body="record")
    with pytest.raises(relay.Reject, match="cannot be written as JSON"):
        await hook.send(delivery(record=record))
    assert receiver.requests == []


# Requests


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_method_headers_and_credentials(sink, receiver, method):
    basic = {"basic": {"username": "relay", "password": "pä:ss"}}
    await (await sink(method=method, headers={"X-Tenant": "7"}, auth=basic)).send(delivery())
    await (await sink(method=method, auth={"bearer": "t0ken"})).send(delivery())
    first, second = receiver.requests
    assert (first.method, first.headers["x-tenant"]) == (method, "7")
    credentials = first.headers["authorization"].removeprefix("Basic ")
    assert base64.b64decode(credentials).decode() == "relay:pä:ss"
    assert second.headers["authorization"] == "Bearer t0ken"
    assert first.headers["user-agent"].startswith("sumotext-relay/")


async def test_the_id_is_the_events_in_every_attempt(sink, receiver):
    hook = await sink(secrets=[SECRET])
    receiver.then(status(503))
    with pytest.raises(Exception):  # noqa: B017, PT011
        await hook.send(delivery())
    await hook.send(delivery())
    assert [got.headers["webhook-id"] for got in receiver.requests] == [event().id] * 2


async def test_the_id_of_a_batch_is_that_of_its_events(sink, receiver):
    hook = await sink(body="batch")
    one_two, three = [delivery(1), delivery(2)], [delivery(3)]
    for batch in (one_two, one_two, three):
        await hook.send_batch(batch)
    first, again, other = (got.headers["webhook-id"] for got in receiver.requests)
    assert first == again != other
    assert "." not in first


def test_only_a_batch_takes_several(webhook):
    """What `batch.size` may be depends on `body`."""
    url = "https://receiver.example/"
    batch = webhook.Options(url=url, body="batch")
    assert webhook.Webhook.batch_limit(batch) == 100
    assert webhook.Webhook.batch_limit(webhook.Options(url=url)) == 1
    assert relay.Sink.batch_limit(relay.Options()) == 1


# Signatures


def test_the_signature_is_that_of_the_published_example():
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("body", ["structured", "binary", "batch", "record", "form"])
async def test_each_secret_of_a_rotation_verifies(sink, receiver, body):
    await (await sink(body=body, secrets=[SECRET, OTHER])).send_batch([delivery()])
    (got,) = receiver.requests
    for secret in (SECRET, OTHER):
        Webhook(secret).verify(got.body, got.headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(got.body, got.headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(got.body + b" ", got.headers, json_parse=False)


def test_random_messages_verify():
    """10,000 bodies, keys of all lengths; read by the other implementation."""
    chance = random.Random(7)
    now = int(datetime.now(UTC).timestamp())
    for number in range(10_000):
        key = chance.randbytes(chance.randint(24, 64))
        body = "".join(chr(chance.randint(0, 0xD7FF)) for _ in range(chance.randint(0, 40)))
        headers = {
            "webhook-id": f"id-{number}",
            "webhook-timestamp": str(now),
            "webhook-signature": signature([key], f"id-{number}", now, body.encode()),
        }
        Webhook(key).verify(body, headers, json_parse=False)


async def test_without_secrets_nothing_is_signed(sink, receiver):
    await (await sink()).send(delivery())
    headers = receiver.requests[0].headers
    assert "webhook-signature" not in headers
    assert headers["webhook-id"] == event().id
    assert headers["webhook-timestamp"].isdigit()


# Answers


async def failed(hook):
    """The outcome that the engine sees."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        await hook.send(delivery())
    return outcome_of(caught.value, 1_800_000_000.0)


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_any_2xx_is_delivered(sink, receiver, code):
    receiver.then(status(code, body=b""))
    assert await (await sink()).send(delivery()) == relay.Delivered(str(code))


async def test_2xx_is_delivered_however_the_rest_comes(sink, receiver, monkeypatch):
    monkeypatch.setattr(relay.delivery.http, "ANSWER_TIME", 0.2)
    receiver.then(drip(), endless(), drip(202))
    hook = await sink()
    assert [await hook.send(delivery()) for _ in range(3)] == [
        relay.Delivered("200"),
        relay.Delivered("200"),
        relay.Delivered("202"),
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (301, relay.Reject),
        (400, relay.Reject),
        (401, relay.Pause),
        (404, relay.Reject),
        (410, relay.Pause),
        (429, relay.Retry),
        (500, relay.Retry),
        (503, relay.Retry),
    ],
)
async def test_the_status_decides(sink, receiver, code, kind):
    receiver.then(status(code, {"retry-after": "7"}, b"because " * 1000))
    outcome = await failed(await sink())
    assert type(outcome) is kind
    assert outcome.status == code
    assert outcome.answer == ("because " * 1000)[:2048]
    assert outcome.after == (7.0 if kind is relay.Retry else None)


async def test_410_says_what_to_do(sink, receiver):
    receiver.then(status(410))
    assert "no more events" in (await failed(await sink())).reason


async def test_a_redirect_is_not_followed(sink, receiver):
    async with Receiver() as other:
        receiver.then(redirect(f"{other.url}?key=s3cret", 307))
        outcome = await failed(await sink())
        assert type(outcome) is relay.Reject
        assert "127.0.0.1, which is not followed" in outcome.reason
        assert "s3cret" not in outcome.reason
        assert other.connections == 0


@pytest.mark.parametrize("answer", [hang, drop], ids=["hang", "commit then drop"])
async def test_no_answer_is_tried_again(sink, receiver, answer):
    receiver.then(answer)
    assert type(await failed(await sink())) is relay.Retry
    assert len(receiver.requests) == 1


async def test_a_refused_address_pauses(webhook):
    async with Receiver() as receiver, relay.delivery.http.client(timeout=2) as http:
        options = webhook.Options(url=receiver.url)
        hook = webhook.Webhook("hook", options, http, logging.getLogger("hook"))
        await hook.open()
        outcome = await failed(hook)
    assert type(outcome) is relay.Pause
    assert "allow_private" in outcome.reason
    assert receiver.connections == 0


@pytest.mark.parametrize("code", [400, 413, 422, 503, 410])
async def test_a_batch_ends_as_one(sink, receiver, code):
    """The outcome is that of all; whether they go again one by one is the engine's to say."""
    receiver.then(status(code))
    hook = await sink(body="batch")
    with pytest.raises((relay.Pause, httpx.HTTPStatusError)):
        await hook.send_batch([delivery(number) for number in range(10)])
    assert len(receiver.requests) == 1


async def test_a_batch_too_large_for_one_request_is_not_sent(sink, receiver):
    hook = await sink(body="batch")
    big = [delivery(number, data={"message": "x" * 600_000}) for number in range(2)]
    with pytest.raises(relay.Reject, match="1 MiB"):
        await hook.send_batch(big)
    assert receiver.requests == []
    assert await hook.send_batch(big[:1]) == [relay.Delivered("200")]


# Options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "ftp://receiver.example"}, "https:// or http://"),
        ({"url": "receiver.example/hook"}, "https:// or http://"),
        ({"url": "http://"}, "and a host"),
        ({"url": "http://[::1"}, "should be a URL"),
        ({"url": "https://user:pw@receiver.example"}, "no user name or password"),
        ({"method": "GET"}, "POST"),
        ({"body": "xml"}, "structured"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "one line"),
        ({"headers": {"X-A": "a\x00"}}, "one line"),
        ({"headers": {"X A": "a"}}, "header's name"),
        ({"headers": {"X-A\r\n": "a"}}, "header's name"),
        ({"headers": {"Webhook-Id": "a"}}, "set by the sink"),
        ({"headers": {"Content-Length": "1"}}, "set by the sink"),
        ({"secrets": ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}, "whsec_"),
        ({"secrets": ["whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}, "whsec_"),
        ({"secrets": ["whsec_###"]}, "base64"),
        ({"secrets": ["whsec_" + "A" * 31 + "é"]}, "base64"),
        ({"secrets": ["whsec_c2hvcnQ="]}, "24 to 64"),
        ({"secrets": ["whsec_" + base64.b64encode(bytes(65)).decode()]}, "24 to 64"),
        ({"auth": {}}, "either basic or bearer"),
        ({"auth": {"bearer": "t", "basic": {"username": "u", "password": "p"}}}, "either"),
        ({"auth": {"bearer": "a\nb"}}, "one line"),
        ({"auth": {"basic": {"username": "a:b", "password": "p"}}}, "pattern"),
        ({"hedaers": {}}, "Extra inputs"),
    ],
)
def test_a_mistake_in_the_options_is_told_without_the_secret(webhook, changes, message):
    with pytest.raises(pydantic.ValidationError) as caught:
        webhook.Options(**{"url": "https://receiver.example"} | changes)
    text = str(caught.value)
    assert message in text
    for secret in ("MfKQ9r8G", "user:pw", "c2hvcnQ"):
        assert secret not in text


def test_options_show_no_secret(webhook):
    options = webhook.Options(
        url="https://receiver.example/T0PSECRET",
        headers={"X-Key": "T0PSECRET"},
        secrets=[SECRET],
        auth={"bearer": "T0PSECRET"},
    )
    assert "T0PSECRET" not in repr(options)
    assert "MfKQ9r8G" not in repr(options)


def test_unpadded_secrets_are_taken(webhook):
    key = base64.b64encode(bytes(25)).decode().rstrip("=")
    assert webhook.Options(url="https://a.example", secrets=[f"whsec_{key}"])


def test_it_registers_itself(webhook):
    registered = {}
    webhook.register_sinks(registered.__setitem__)
    assert registered == {"webhook": webhook.Webhook}


async def test_a_check_reaches_the_receiver_and_sends_nothing(sink, receiver):
    assert await (await sink()).check() == []
    assert receiver.connections + len(receiver.requests) <= 1
    assert receiver.requests == []


async def test_a_check_says_why_a_receiver_cannot_be_reached(sink):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    (problem,) = await (await sink(url=f"http://127.0.0.1:{port}/")).check()
    assert problem == f"127.0.0.1:{port} cannot be reached: Connection refused"


async def test_a_check_dials_no_closed_address(webhook):
    async with Receiver() as receiver, relay.delivery.http.client(timeout=2) as http:
        options = webhook.Options(url=receiver.url)
        (problem,) = await webhook.Webhook("hook", options, http, logging.getLogger()).check()
    assert "allow_private" in problem
    assert receiver.connections == 0


async def test_a_check_completes_tls(sink):
    """A server without TLS behind https:// is found before the first event."""
    async with Receiver() as plain:
        (problem,) = await (await sink(url=plain.url.replace("http:", "https:"))).check()
    assert "cannot be reached" in problem

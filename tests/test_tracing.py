"""Traces: one for each event, from its receipt to its delivery, whatever lies between."""

import asyncio
import random
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx
import pytest
import uuid_utils
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rawserver import RawServer
from relaying import SETTINGS
from stubs.receiver import Receiver, status

from relay import service
from relay.config import crosschecks, loader
from relay.tracing import TraceContext, receipt_context, valid

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
BROUGHT = f"00-{TRACE}-{PARENT}-01"
MOBILE = "2125550177"
CALLBACK = {"mobile": MOBILE, "smsid": "m1", "key": "JOIN", "msg": "a secret", "Name": "Mary"}


# ids


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        (BROUGHT, True),
        (BROUGHT[:-2] + "00", True),
        ("01" + BROUGHT[2:], True),
        ("01" + BROUGHT[2:] + "-more", True),
        (BROUGHT + "-more", False),
        ("ff" + BROUGHT[2:], False),
        (BROUGHT.upper(), False),
        (BROUGHT.replace(TRACE, "0" * 32), False),
        (BROUGHT.replace(PARENT, "0" * 16), False),
        (BROUGHT[:-1], False),
        ("", False),
        (BROUGHT + "\n", False),
        (" " + BROUGHT, False),
    ],
)
def test_what_is_a_traceparent(header, fits):
    assert valid(header.encode()) == (header if fits else None)


@pytest.mark.parametrize("end", [b"\xff", b"1-\xff", b"1-" + b"x" * 257])
def test_what_could_not_be_kept_is_none(end):
    assert valid(b"01" + BROUGHT.encode()[2:-1] + end) is None


def test_a_place_is_written_as_it_is_read():
    place = TraceContext.parse(BROUGHT)
    assert (place.trace, place.span, place.sampled) == (int(TRACE, 16), int(PARENT, 16), True)
    assert place.header == BROUGHT


def test_the_trace_of_an_event_is_its_id():
    event_id = str(uuid_utils.uuid7())
    place = receipt_context(event_id, None, 1.0)
    assert f"{place.trace:032x}" == event_id.replace("-", "")
    assert place.span != 0
    assert place == receipt_context(event_id, None, 1.0)


def test_a_trace_that_was_brought_goes_on_and_its_sender_says_whether_it_is_seen():
    event_id = str(uuid_utils.uuid7())
    place = receipt_context(event_id, BROUGHT, 0.0)
    assert (place.trace, place.sampled) == (int(TRACE, 16), True)
    assert place.span != int(PARENT, 16)
    assert not receipt_context(event_id, BROUGHT[:-1] + "0", 1.0).sampled


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_as_many_are_seen_as_are_asked_for(share):
    """Not all bits of such an id are random, and the SDK's own sampler looks at those others."""
    seen = sum(receipt_context(str(uuid_utils.uuid7()), None, share).sampled for _ in range(5000))
    assert seen / 5000 == pytest.approx(share, abs=0.03)


# the whole


class Collector(Receiver):
    """A collector of spans that speaks OTLP, which also is the sink's other side."""

    def spans(self):
        """Every span so far: its name, ids and attributes."""
        found = []
        for request in self.requests:
            if request.path != "/v1/traces":
                continue
            message = ExportTraceServiceRequest.FromString(request.body)
            for resource in message.resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def deliveries(self):
        return [each for each in self.requests if each.path == "/hook"]


@pytest.fixture
async def collector():
    async with Collector() as collector:
        yield collector


@asynccontextmanager
async def traced(folder, collector, tracing=None, **sink):
    """A relay with a webhook as its sink, and a way to send to it."""
    path = folder / "relay.yaml"
    hook = {"plugin": "webhook", "options": {"url": collector.url} | sink.pop("options", {})}
    hook |= {"allow_private": ["127.0.0.0/8"], "retry": {"initial": "10ms", "max": "20ms"}} | sink
    endpoint = f"http://127.0.0.1:{collector.port}/v1/traces"
    settings = {"sinks": {"crm": hook}, "tracing": {"endpoint": endpoint} | (tracing or {})}
    if tracing == {}:
        del settings["tracing"]
    path.write_text(yaml.safe_dump(SETTINGS | settings))
    async with (
        service.started(loader.load(path, {})) as running,
        httpx.AsyncClient(
            trust_env=False, verify=False, base_url=f"http://127.0.0.1:{running.address[1]}"
        ) as http,
    ):
        yield running, http


async def send(http, headers=None, **parameters):
    answer = await http.get("/callbacks/sumotext", params=CALLBACK | parameters, headers=headers)
    return answer.json()["id"]


async def delivered(running, number=1):
    async with asyncio.timeout(20):
        while (await running.readings()).sinks["crm"].delivered < number:
            await asyncio.sleep(0.01)


def attributes(span):
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_receipt_and_delivery_are_one_trace_whose_id_is_the_events(tmp_path, collector):
    collector.then(status(503))
    async with traced(tmp_path, collector) as (running, http):
        event_id = await send(http)
        await delivered(running)
    receipt, failed, success = collector.spans()
    assert {each.trace_id.hex() for each in (receipt, failed, success)} == {
        event_id.replace("-", "")
    }
    assert (receipt.name, receipt.parent_span_id) == ("callback sumotext", b"")
    assert [each.parent_span_id for each in (failed, success)] == [receipt.span_id] * 2
    assert attributes(receipt) == {
        "relay.source": "sumotext",
        "relay.event.id": event_id,
        "relay.event.type": "com.sumotext.message",
        "relay.outcome": "accepted",
    }
    first = {"relay.sink": "crm", "relay.event.id": event_id, "relay.attempt": 1}
    assert attributes(failed) == first | {
        "relay.outcome": "retry",
        "http.response.status_code": 503,
    }
    assert attributes(success) == first | {"relay.attempt": 2, "relay.outcome": "delivered"}


async def test_the_other_side_is_told_which_span_it_is_called_from(tmp_path, collector):
    async with traced(tmp_path, collector) as (running, http):
        await send(http)
        await delivered(running)
    (request,) = collector.deliveries()
    *_, span = collector.spans()
    told = TraceContext.parse(request.headers["traceparent"])
    assert (told.trace, told.span) == (
        int.from_bytes(span.trace_id, "big"),
        int.from_bytes(span.span_id, "big"),
    )
    assert told.sampled


async def test_a_trace_that_was_brought_outlives_a_restart(tmp_path, collector):
    """It stands in the event, as CloudEvents has it."""
    async with traced(tmp_path, collector) as (running, http):
        await running._sink_manager.pause("crm", "later")
        event_id = await send(http, {"traceparent": BROUGHT})
    async with traced(tmp_path, collector) as (running, _):
        await running._sink_manager.resume("crm")
        await delivered(running)
    receipt, delivery = collector.spans()
    assert receipt.trace_id.hex() == delivery.trace_id.hex() == TRACE
    assert receipt.parent_span_id.hex() == PARENT
    assert delivery.parent_span_id == receipt.span_id
    (request,) = collector.deliveries()
    assert TraceContext.parse(request.headers["traceparent"]).trace == int(TRACE, 16)
    assert f'"traceparent":"{BROUGHT}"'.encode() in request.body
    assert event_id.encode() in request.body


async def test_a_repeat_has_a_span_of_its_own_in_the_first_ones_trace(tmp_path, collector):
    async with traced(tmp_path, collector) as (running, http):
        assert await send(http) == await send(http)
        await delivered(running)
    spans = [each for each in collector.spans() if each.name == "callback sumotext"]
    assert spans[0].trace_id == spans[1].trace_id
    assert spans[0].span_id != spans[1].span_id
    assert attributes(spans[1])["relay.outcome"] == "repeated"


async def test_in_a_batch_each_has_its_own_trace_and_the_request_none(tmp_path, collector):
    batch = {"options": {"body": "batch"}, "batch": {"size": 10, "wait": "200ms"}}
    async with traced(tmp_path, collector, **batch) as (running, http):
        ids = [await send(http, mobile=f"212555{n:04}", smsid=f"n{n}") for n in range(3)]
        await delivered(running, 3)
    spans = [each for each in collector.spans() if each.name == "deliver crm"]
    assert {each.trace_id.hex() for each in spans} == {each.replace("-", "") for each in ids}
    assert not any("traceparent" in each.headers for each in collector.deliveries())


async def test_what_is_not_in_the_share_has_no_span_and_no_header(tmp_path, collector):
    async with traced(tmp_path, collector, {"share": 0}) as (running, http):
        await send(http)
        await delivered(running)
    assert collector.spans() == []
    assert "traceparent" not in collector.deliveries()[0].headers


async def test_without_being_asked_for_there_is_no_trace_at_all(tmp_path, collector):
    async with traced(tmp_path, collector, {}) as (running, http):
        await send(http, {"traceparent": BROUGHT})
        await delivered(running)
    (request,) = collector.requests
    assert "traceparent" not in request.headers
    assert b"traceparent" not in request.body


async def test_no_span_holds_a_contacts_data(tmp_path, collector):
    collector.then(status(400, body=f"no such number {MOBILE}".encode()))
    async with traced(tmp_path, collector) as (running, http):
        await send(http)
        async with asyncio.timeout(20):
            while (await running.readings()).sinks["crm"].dead < 1:
                await asyncio.sleep(0.01)
    traces = b"".join(each.body for each in collector.requests if each.path == "/v1/traces")
    assert b"rejected" in traces
    for word in (MOBILE, MOBILE[-7:], "secret", "Mary"):
        assert word.encode() not in traces


async def test_a_collector_that_is_down_harms_nothing(tmp_path, collector, caplog):
    """Its URL may hold a key."""
    async with Collector() as gone:
        endpoint = f"http://127.0.0.1:{gone.port}/v1/traces?key=sesame"
    async with traced(tmp_path, collector, {"endpoint": endpoint}) as (running, http):
        await send(http)
        await delivered(running)
    assert MOBILE not in caplog.text
    assert "sesame" not in caplog.text


@pytest.mark.parametrize(
    ("beginning", "forever"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        (b"HTTP/1.1 503 Busy\r\n\r\n", b"x" * 50_000),
    ],
    ids=["interim answers", "a body"],
)
async def test_a_collector_that_answers_without_end_is_cut_off(
    tmp_path, collector, beginning, forever, monkeypatch
):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds
    async with RawServer(beginning, forever=forever) as flood:
        async with traced(tmp_path, collector, {"endpoint": flood.url}) as (running, http):
            await send(http)
            await delivered(running)
            async with asyncio.timeout(20):
                while len(flood.requests) < 2:  # it is tried again, so the first is over
                    await asyncio.sleep(0.05)
        assert flood.wrote < 32 * 1024 * 1024


async def test_a_collectors_secret_goes_with_each_request_and_is_not_shown(tmp_path, collector):
    tracing = {"headers": {"authorization": "Bearer open sesame"}}
    async with traced(tmp_path, collector, tracing) as (running, http):
        await send(http)
        await delivered(running)
        assert "sesame" not in repr(loader.load(tmp_path / "relay.yaml", {}))
    (export, *_) = [each for each in collector.requests if each.path == "/v1/traces"]
    assert export.headers["authorization"] == "Bearer open sesame"


def test_the_extra_is_loaded_only_where_it_is_asked_for(root):
    code = "import relay.cli, sys; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_without_the_extra_the_mistake_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(crosschecks, "otel_installed", lambda: False)
    path = tmp_path / "relay.yaml"
    path.write_text("sinks: {}\ntracing: {endpoint: http://127.0.0.1:4318/v1/traces}\n")
    with pytest.raises(loader.ConfigError, match=r"yaml:2: tracing: needs the extra otel: pip"):
        loader.load(path, {})


def test_random_headers_never_fail():
    chance = random.Random(3)
    for _ in range(2000):
        mutated = bytearray(BROUGHT.encode())
        for _ in range(chance.randint(1, 3)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        if header := valid(bytes(mutated)):
            assert TraceContext.parse(header).trace

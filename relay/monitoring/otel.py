"""OpenTelemetry: spans of callbacks and attempts, sent to a collector. Imported only if asked for.

Spans go by OTLP over HTTP through the relay's own client: OpenTelemetry's exporter reads what a
collector answers without any bound, interim answers too.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import httpx
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from relay.config.model import Tracing
from relay.delivery.http import client, read_answer
from relay.outcome import Delivered, NotDelivered, Outcome, word_of
from relay.store import Claim, Receipt
from relay.tracing import TraceContext, receipt_context
from relay.version import version

ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
"""A collector usually is in the own network."""
TIMEOUT = 10.0
"""Seconds for one batch of spans, with all its tries."""
WAITS = (1.0, 2.0)
"""Seconds before the second try and the third."""
LATER = frozenset({408, 429, 502, 503, 504})
TYPE = "application/x-protobuf"

log = logging.getLogger("relay.tracing")


class CollectorRefused(Exception):
    """The collector answered with another status than a success."""


class CollectorBusy(CollectorRefused):
    """The same request may succeed later."""


class OtlpExporter(SpanExporter):
    """`export` is called in a thread of OpenTelemetry's; the requests are made by the loop."""

    def __init__(self, settings: Tracing, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._url = settings.endpoint
        headers = {name: each.get_secret_value() for name, each in settings.headers.items()}
        self._headers = {"content-type": TYPE} | headers
        self._client = client(timeout=TIMEOUT, allow_private=ANYWHERE)
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As in SpanExporter. What cannot be sent is lost, and said in the log."""
        if self._closed:
            return SpanExportResult.FAILURE
        message = encode_spans(spans).SerializePartialToString()
        try:
            sending = asyncio.run_coroutine_threadsafe(self._send(message), self._loop)
            sending.result(2 * TIMEOUT)
        except Exception as error:  # noqa: BLE001  traces must harm nothing else
            reason = str(error) or type(error).__name__
            log.error("the collector did not take %d spans: %s", len(spans), reason)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    async def close(self) -> None:
        """End what is being sent, and take no more."""
        self._closed = True
        if self._sending is not None:
            self._sending.cancel()
        await self._client.aclose()

    async def _send(self, message: bytes) -> None:
        self._sending = asyncio.current_task()
        async with asyncio.timeout(TIMEOUT):
            for wait in WAITS:
                with contextlib.suppress(httpx.TransportError, CollectorBusy):
                    await self._post(message)
                    return
                await asyncio.sleep(wait)
            await self._post(message)

    async def _post(self, message: bytes) -> None:
        """Send once. Raises Refused, or httpx.TransportError, without a URL in its text."""
        request = self._client.build_request(
            "POST", self._url, headers=self._headers, content=message
        )
        response = await self._client.send(request, stream=True)
        await read_answer(response)
        if not response.is_success:
            kind = CollectorBusy if response.status_code in LATER else CollectorRefused
            raise kind(f"it answered {response.status_code}")


NANOSECONDS = 1_000_000_000
CLOSE = 2.0
"""Seconds for what is left when the relay stops."""


def make_tracer(settings: Tracing) -> "OtelTracer":
    """A tracer that sends its spans where relay.yaml says."""
    # Its warnings are about its own queue; that spans are lost is said as an error.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    return OtelTracer(OtlpExporter(settings, asyncio.get_running_loop()), settings.share)


class _Ids(RandomIdGenerator):
    """Gives the next span the ids that are set, which no other way in is for."""

    trace: int | None = None
    span: int | None = None

    def generate_trace_id(self) -> int:
        trace, self.trace = self.trace, None
        return super().generate_trace_id() if trace is None else trace

    def generate_span_id(self) -> int:
        span, self.span = self.span, None
        return super().generate_span_id() if span is None else span


class OtelTracer:
    """As in relay.tracing.Tracer."""

    def __init__(self, exporter: OtlpExporter, share: float) -> None:
        self._share = share
        self._exporter = exporter
        self._ids = _Ids()
        # An event that is not sampled has no span: its id says whether it is sampled.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(
                {"service.name": "sumotext-relay", "service.version": version()}
            ),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("relay", version())

    def received(
        self, source: str, receipt: Receipt, traceparent: str | None, seconds: float
    ) -> None:
        """As in Tracer. A repeat has its own span in the trace of the first."""
        place = receipt_context(receipt.id, traceparent, self._share)
        if not place.sampled:
            return
        parent = Context()
        if traceparent is not None:
            parent = _within(TraceContext.parse(traceparent))
        elif receipt.repeated:
            parent = _within(place)
        else:
            self._ids.trace = place.trace
        if not receipt.repeated:
            self._ids.span = place.span
        now = time.time_ns()
        span = self._tracer.start_span(
            f"callback {source}",
            parent,
            SpanKind.SERVER,
            {
                "relay.source": source,
                "relay.event.id": receipt.id,
                "relay.event.type": receipt.type,
                "relay.outcome": "repeated" if receipt.repeated else "accepted",
            },
            start_time=now - int(seconds * NANOSECONDS),
        )
        span.end(now)

    @contextlib.contextmanager
    def attempts(self, sink: str, claims: Sequence[Claim]) -> Iterator["_AttemptSpans"]:
        """As in Tracer."""
        spans = [self._attempt(sink, claim) for claim in claims]
        try:
            yield _AttemptSpans(spans)
        finally:
            for span in spans:
                if span is not None and span.is_recording():
                    span.end()

    def _attempt(self, sink: str, claim: Claim) -> Span | None:
        place = receipt_context(claim.event.id, claim.event.traceparent, self._share)
        if not place.sampled:
            return None
        attributes: dict[str, str | int] = {
            "relay.sink": sink,
            "relay.event.id": claim.event.id,
            "relay.attempt": claim.attempt,
        }
        return self._tracer.start_span(
            f"deliver {sink}", _within(place), SpanKind.CLIENT, attributes
        )

    async def close(self) -> None:
        """As in Tracer."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), CLOSE)
        await self._exporter.close()


class _AttemptSpans:
    """As in relay.tracing.Attempts."""

    def __init__(self, spans: Sequence[Span | None]) -> None:
        self._spans = spans

    @property
    def traceparent(self) -> str | None:
        """As in Attempts."""
        return _header(self._spans[0]) if len(self._spans) == 1 else None

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """As in Attempts. A reason may quote a record, so only its kind is set."""
        for span, outcome in zip(self._spans, outcomes, strict=True):
            if span is None:
                continue
            span.set_attribute("relay.outcome", word_of(outcome))
            if isinstance(outcome, NotDelivered) and outcome.status is not None:
                span.set_attribute("http.response.status_code", outcome.status)
            span.set_status(StatusCode.OK if isinstance(outcome, Delivered) else StatusCode.ERROR)
            span.end()


def _within(place: TraceContext) -> Context:
    """The context in which a span is the child of the one at this place."""
    flags = TraceFlags(TraceFlags.SAMPLED if place.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(place.trace, place.span, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _header(span: Span | None) -> str | None:
    if span is None:
        return None
    context = span.get_span_context()
    return TraceContext(context.trace_id, context.span_id, sampled=True).header

"""Sends spans to a collector, by OTLP over HTTP, through the relay's own client.

OpenTelemetry's exporter reads what a collector answers without any bound, interim answers too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from ipaddress import ip_network

import httpx
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from relay.config.model import Tracing
from relay.delivery.http import client, read_answer

ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
"""A collector usually is in the own network."""
TIMEOUT = 10.0
"""Seconds for one batch of spans, with all its tries."""
WAITS = (1.0, 2.0)
"""Seconds before the second try and the third."""
LATER = frozenset({408, 429, 502, 503, 504})
TYPE = "application/x-protobuf"

log = logging.getLogger("relay.tracing")


class Refused(Exception):
    """The collector answered with another status than a success."""


class Busy(Refused):
    """The same request may succeed later."""


class Exporter(SpanExporter):
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
                with contextlib.suppress(httpx.TransportError, Busy):
                    await self._post(message)
                    return
                await asyncio.sleep(wait)
            await self._post(message)

    async def _post(self, message: bytes) -> None:
        """Send once. Raises Refused, or httpx.TransportError, whose text holds no URL."""
        request = self._client.build_request(
            "POST", self._url, headers=self._headers, content=message
        )
        response = await self._client.send(request, stream=True)
        await read_answer(response)
        if not response.is_success:
            kind = Busy if response.status_code in LATER else Refused
            raise kind(f"it answered {response.status_code}")

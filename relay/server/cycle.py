"""The request/response cycle: one complete request and its response, as an ASGI application."""

import asyncio
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from relay.server.refusals import RefusalLog, send_problem

SERVER_ERROR = 500
BODILESS = (204, 304)
"""Statuses of responses that have no body, and no length of one."""
SERVER_ERROR_DETAIL = "The relay failed to answer."

Headers = list[tuple[bytes, bytes]]


class RequestCycle:
    """One request and its response. A short response takes one write, where uvicorn's takes two.

    `on_complete` is called when the response has been written. `on_last` is called before it, where
    no request may follow on the connection.
    """

    def __init__(
        self,
        scope: Scope,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: Headers,
        on_complete: Callable[[], None],
        on_last: Callable[[], None],
        keep_alive: bool,
        refusal_log: RefusalLog,
    ) -> None:
        self.scope = scope
        self.body = bytearray()
        self.keep_alive = keep_alive
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._on_complete = on_complete
        self._on_last = on_last
        self._refusal_log = refusal_log
        self._body_received = False
        self._start: Message | None = None
        self._head_written = False
        self._chunked = False
        self._complete = False
        """The response is written, or the connection is lost."""
        self._disconnected = False
        """For the application: the client sends no more; it may still read."""
        self._disconnect_waiter: asyncio.Future[None] | None = None

    async def run(self, app: ASGIApp) -> None:
        """Call the application."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001  whatever it is, it must be answered
            # The log gets the frames without the error's text, which may quote the request.
            await self._fail(f"the application failed with {type(error).__name__}", error)
        else:
            if not self._complete:
                await self._fail("the application did not answer")

    async def receive(self) -> Message:
        """ASGI's receive: the body in one message, then the end of the client's input."""
        if not self._body_received:
            self._body_received = True
            return {"type": "http.request", "body": bytes(self.body), "more_body": False}
        if not (self._complete or self._disconnected):
            waiter = self._disconnect_waiter or asyncio.get_running_loop().create_future()
            self._disconnect_waiter = waiter
            await asyncio.shield(waiter)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's send. The head is written with the first part of the body."""
        if self._complete:
            return
        if self._flow.write_paused:
            await self._flow.drain()
        if message["type"] == "http.response.start":
            self._start = message
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        self._transport.write(self._head(body, more) + self._framed(body, more))
        if not more:
            self._complete = True
            self._set_disconnected()
            if not self.keep_alive:
                self._on_last()
            self._on_complete()

    def half_closed(self) -> None:
        """The client sends no more. It gets this response, and no other follows."""
        self.keep_alive = False
        self._set_disconnected()

    def connection_lost(self) -> None:
        self._complete = True
        self._set_disconnected()

    def _set_disconnected(self) -> None:
        self._disconnected = True
        if self._disconnect_waiter is not None and not self._disconnect_waiter.done():
            self._disconnect_waiter.set_result(None)

    def _head(self, body: bytes, more: bool) -> bytes:
        if self._head_written:
            return b""
        assert self._start is not None, "an answer starts with its head"
        lines = [STATUS_LINE[self._start["status"]]]
        has_length = False
        for name, value in (*self._default_headers, *self._start.get("headers", ())):
            if name == b"content-length":
                has_length = True
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%s: %s\r\n" % (name, value))
        if not has_length and self._start["status"] not in BODILESS:
            self._chunked = more
            lines.append(
                b"transfer-encoding: chunked\r\n" if more else b"content-length: %d\r\n" % len(body)
            )
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines):
            raise ValueError("a line break in a header")
        self._head_written = True
        return head

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self.scope["method"] == "HEAD":
            return b""
        if not self._chunked:
            return body
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        return chunk if more else chunk + b"0\r\n\r\n"

    async def _fail(self, kind: str, error: Exception | None = None) -> None:
        self._refusal_log.record(SERVER_ERROR, kind, level=logging.ERROR, error=error)
        if self._head_written:
            self._transport.close()
        elif not self._complete:
            await send_problem(self.send, SERVER_ERROR, SERVER_ERROR_DETAIL)

"""The exchange: one request that is whole, and its answer, as the application sees them."""

import asyncio
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from relay.server.problem import send_problem
from relay.server.refusals import RefusalLog

INTERNAL = 500
FAILED = "The relay failed to answer."

Headers = list[tuple[bytes, bytes]]


class Exchange:
    """What uvicorn's cycle does, in one write for a short answer instead of two."""

    def __init__(
        self,
        scope: Scope,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: Headers,
        on_end: Callable[[], None],
        hang_up: Callable[[], None],
        keep_alive: bool,
        refusals: RefusalLog,
    ) -> None:
        self.scope = scope
        self.body = bytearray()
        self.keep_alive = keep_alive
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._on_end = on_end
        self._refusals = refusals
        self._hang_up = hang_up
        self._given = False
        self._start: Message | None = None
        self._begun = False
        self._chunked = False
        self._over = False
        """The answer is out, or the other side has gone."""
        self._left = False
        """The other side sends no more; it may still listen."""
        self._waiting: asyncio.Future[None] | None = None

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001  whatever it is, it must be answered
            # relay.log writes the frames without the error's text, which may quote the request.
            await self._fail(f"the application failed with {type(error).__name__}", error)
        else:
            if not self._over:
                await self._fail("the application did not answer")

    async def receive(self) -> Message:
        """The body in one piece; then, when there is nothing more to come, the end."""
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": bytes(self.body), "more_body": False}
        if not (self._over or self._left):
            self._waiting = self._waiting or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the answer. Its head waits for the first part of the body."""
        if self._over:
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
            self._over = True
            self._leave()
            if not self.keep_alive:
                self._hang_up()
            self._on_end()

    def half_closed(self) -> None:
        """The other side sends no more. It gets its answer, and that is the last."""
        self.keep_alive = False
        self._leave()

    def disconnected(self) -> None:
        """The other side has gone."""
        self._over = True
        self._leave()

    def _leave(self) -> None:
        self._left = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _head(self, body: bytes, more: bool) -> bytes:
        if self._begun:
            return b""
        assert self._start is not None, "an answer starts with its head"
        lines = [STATUS_LINE[self._start["status"]]]
        measured = False
        for name, value in (*self._default_headers, *self._start.get("headers", ())):
            if name == b"content-length":
                measured = True
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%s: %s\r\n" % (name, value))
        if not measured:
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
        self._begun = True
        return head

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self.scope["method"] == "HEAD":
            return b""
        if not self._chunked:
            return body
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        return chunk if more else chunk + b"0\r\n\r\n"

    async def _fail(self, kind: str, error: Exception | None = None) -> None:
        self._refusals.note(INTERNAL, kind, level=logging.ERROR, error=error)
        if self._begun:
            self._transport.close()
        elif not self._over:
            await send_problem(self.send, INTERNAL, FAILED)

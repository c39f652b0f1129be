"""aiohttp's connections with a lenient parser of responses: a status that has been read decides.

aiohttp's own parser raises for a stray byte before there is a response object, so that a 2xx is
lost, and it takes interim answers without end. The parser here replaces it. An error behind the
status line makes only the body unreadable, and ends the connection.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpVersion, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy

from relay.delivery import http_message
from relay.delivery.http_message import (
    BadChunks,
    BadHead,
    BodyFraming,
    ChunkedResponseDecoder,
    Head,
)

log = logging.getLogger("relay.delivery")

MOST_INTERIM = 8
"""The most interim answers (1xx) before the answer itself. No request asks for any."""
NO_END = "where it ends is unclear"
BROKE_OFF = "it broke off"

ParsedMessage = tuple[RawResponseMessage, aiohttp.StreamReader]
Fed = tuple[tuple[ParsedMessage, ...], bool, bytes]
"""What aiohttp's parser returns: messages, whether the protocol changes, and what is left over."""


class BadResponse(aiohttp.ClientError):
    """There is no answer that could be read. The text says why, and quotes nothing."""


class Payload(aiohttp.StreamReader):
    """The body of a response. `flaw` says what is wrong with it, once all of it has been read."""

    __slots__ = ("flaw",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.flaw: str | None = None


class Peer:
    """The server at the other end of a connector's connections."""

    sends_strays = False
    """Whether it has sent bytes after an answer: they would be taken for the next answer."""


class Parser:
    """Reads one response. `feed_data`, `feed_eof` and `pause_reading` are what aiohttp calls."""

    def __init__(
        self, connection: "PooledConnection", timer: Any, limit: int, *, to_head: bool
    ) -> None:
        self._connection = connection
        self._timer = timer
        self._limit = limit
        self._to_head = to_head
        self._head = bytearray()
        self._interim = 0
        self._body: BodyFraming | None = None
        self._left = 0
        self._chunks = ChunkedResponseDecoder()
        self._payload: Payload | None = None
        self._reusable = False
        self._over = False

    def feed_data(self, data: bytes) -> Fed:
        """The response, when its head is complete.

        aiohttp takes whatever this raises for a fault of the other side, and logs nothing.
        """
        messages: tuple[ParsedMessage, ...] = ()
        try:
            if self._body is None and not self._over:
                messages, data = self._feed_head(data)
            self._feed_body(data)
        except Exception as error:
            kind = type(error).__name__
            log.exception("an answer could not be read: the relay failed with %s", kind)
            self._break_off(f"the relay failed with {kind}")
        return messages, False, b""

    def _feed_head(self, data: bytes) -> tuple[tuple[ParsedMessage, ...], bytes]:
        """The response, and what follows its head."""
        try:
            head, rest = self._read_head(data)
        except BadHead as error:
            self._connection.peer.sends_strays |= self._connection.reused
            self._break_off(str(error))
            return (), b""
        return ((self._begin(head),) if head else ()), rest

    def _break_off(self, reason: str) -> None:
        """End with what has been read: the status of a head, or no answer at all."""
        if self._body is not None:
            self._end(reason)
            return
        self._over = True
        self._connection.set_exception(BadResponse(f"the answer cannot be read: {reason}"))
        self._connection.cut()

    def lost(self, *, cleanly: bool) -> None:
        """End with the connection."""
        if self._payload is not None:
            whole = cleanly and self._body is BodyFraming.UNTIL_CLOSE
            self._end(None if whole else BROKE_OFF)

    def feed_eof(self) -> None:
        """Nothing is left to do: `lost` has been called."""

    def pause_reading(self) -> None:
        """No-op: the bytes that have come are parsed, and the transport reads no more."""

    def _read_head(self, data: bytes) -> tuple[Head | None, bytes]:
        """The head, and what follows it; interim answers are left out. Raises BadHead."""
        searched = max(len(self._head) - len(b"\n\r"), 0)
        self._head += data
        if self._head.startswith((b"\r", b"\n")):
            self._head, searched = self._head.lstrip(b"\r\n"), 0
        while (end := http_message.end_of_head(self._head, searched)) >= 0:
            head = http_message.parse_head(bytes(self._head[:end]))
            del self._head[:end]
            searched = 0
            if not head.is_interim():
                return head, bytes(self._head)
            self._interim += 1
            if self._interim > MOST_INTERIM:
                raise BadHead(f"more than {MOST_INTERIM} interim answers (1xx) precede it")
        return None, b""

    def _begin(self, head: Head) -> ParsedMessage:
        self._head = bytearray()
        self._body, self._left = http_message.body_of(head, to_head=self._to_head)
        self._reusable = (
            head.keeps_connection()
            and not http_message.framing_conflicts(head, self._body)
            and not self._connection.peer.sends_strays
        )
        message = _message(head, should_close=not self._reusable)
        if self._body is BodyFraming.NONE or (self._body is BodyFraming.LENGTH and not self._left):
            self._end(None)
            return message, EMPTY_PAYLOAD
        loop = asyncio.get_running_loop()
        self._payload = Payload(self._connection, self._limit, timer=self._timer, loop=loop)
        payload = self._payload
        if self._body is BodyFraming.UNKNOWN:
            self._end(NO_END)
        return message, payload

    def _feed_body(self, data: bytes) -> None:
        if not data:
            return
        if self._payload is None:
            self._end(None, data)
        elif self._body is BodyFraming.LENGTH:
            self._payload.feed_data(data[: self._left])
            rest = data[self._left :]
            self._left -= len(data) - len(rest)
            if not self._left:
                self._end(None, rest)
        elif self._body is BodyFraming.CHUNKED:
            self._feed_chunks(data, self._payload)
        else:
            self._payload.feed_data(data)

    def _feed_chunks(self, data: bytes, payload: Payload) -> None:
        try:
            body, rest = self._chunks.feed(data)
        except BadChunks as error:
            self._end(str(error))
            return
        payload.feed_data(body)
        if self._chunks.complete:
            # The body is whole. Nothing waits for its trailers.
            self._reusable = self._reusable and self._chunks.ended
            self._end(None, rest)

    def _end(self, flaw: str | None, rest: bytes = b"") -> None:
        self._over = True
        payload, self._payload = self._payload, None
        self._connection.peer.sends_strays |= bool(rest)
        broken = flaw is not None or bool(rest)
        if broken or not self._reusable:
            self._connection.force_close()  # before the reader of the body releases it
        if payload is not None:
            payload.flaw = flaw
            payload.feed_eof()
        if broken:
            self._connection.cut()


class PooledConnection(ResponseHandler):
    """aiohttp's connection with the parser above.

    It is closed after the first response that ends more than `age` seconds (by `now`) after it was
    made.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, peer: Peer, now: Callable[[], float], age: float
    ) -> None:
        super().__init__(loop)
        self.peer = peer
        self.reused = False
        self._now = now
        self._last = now() + age

    @property
    def should_close(self) -> bool:
        """As in ResponseHandler; also where the connection is old."""
        return super().should_close or self._now() > self._last

    def set_response_params(self, **params: Any) -> None:
        """Expect the response to one request; the parameters are aiohttp's."""
        self._skip_payload = params["skip_payload"]
        self._read_timeout = params["read_timeout"]
        self._read_bufsize = params["read_bufsize"]
        self._timeout_ceil_threshold = params["timeout_ceil_threshold"]
        self.reused = self._parser is not None
        self._parser: Any = Parser(
            self, params["timer"], self._read_bufsize, to_head=self._skip_payload
        )
        early, self._tail = self._tail, b""
        if early:
            self.data_received(early)

    def connection_lost(self, exc: BaseException | None) -> None:
        """As in asyncio.Protocol."""
        if self._parser is not None:
            self._parser.lost(cleanly=exc is None)
        super().connection_lost(exc)

    def close(self) -> None:
        """As in ResponseHandler, but at once: a server that reads no more would keep it open."""
        self.abort()

    def cut(self) -> None:
        """End the connection at once, and drop what is still to come from it."""
        self.force_close()
        if self.transport is not None:
            self.transport.abort()


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector with the connections above; each is kept for `max_age` seconds."""

    def __init__(self, *, max_age: float, now: Callable[[], float], **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = functools.partial(PooledConnection, self._loop, Peer(), now, max_age)


def _message(head: Head, *, should_close: bool) -> RawResponseMessage:
    headers = CIMultiDict(
        (name.decode(), value.decode(errors="surrogateescape")) for name, value in head.headers
    )
    return RawResponseMessage(
        version=HttpVersion(*head.version),
        code=head.status,
        reason="",
        headers=CIMultiDictProxy(headers),
        raw_headers=head.headers,
        should_close=should_close,
        compression=None,
        upgrade=False,
        chunked=False,
    )

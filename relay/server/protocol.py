"""HTTP/1.1 connections: lenient about the request line, strict about size and time.

uvicorn's protocol waits without end for the rest of a request, takes a header block of any size,
and refuses what Sumotext's own examples hold: spaces and 8-bit bytes in the request line. Here a
head is collected and normalised before the parser sees it, and the application is called when the
request is complete. Above the limits of connections and memory, the limiter evicts connections.
"""

import asyncio
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn.server
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from relay.server.connections import ConnectionLimiter, Deadline
from relay.server.cycle import SERVER_ERROR, SERVER_ERROR_DETAIL, RequestCycle
from relay.server.parsing import (
    FREE_FRAMING,
    ChunkedRequestDecoder,
    MalformedChunk,
    TooMuchFraming,
    normalise_head,
    split_target,
)
from relay.server.refusals import PROBLEM_TYPE, RefusalLog, problem_body

log = logging.getLogger("relay.server")

MAX_HEAD = 16 * 1024
MAX_BODY = 256 * 1024
VERSIONS = ("1.0", "1.1")
OVERLOADED = 503
UNREAD = "relay.unread"
"""The key in the scope of a request with an unread body, which no answer needs."""
ASGI = {"version": "3.0", "spec_version": "2.3"}
HEADER_MEMORY = 200
"""Bytes of memory that a header takes, however short it is."""

_HEAD_END = re.compile(rb"\n\r?\n")
_HEAD_END_SIZE = 3
_TOKEN_START = re.compile(rb"[!#-'*+\-.0-9A-Z^-z|~]")


class ServerState(uvicorn.server.ServerState):
    """State that the connections of one server share."""

    def __init__(self, limiter: ConnectionLimiter) -> None:
        super().__init__()
        self.limiter = limiter
        self.draining = False
        """While True, each response is the last of its connection."""
        self.refusals: Counter[int] = Counter()
        """Requests that did not reach the application, by status."""
        self.refusal_log = RefusalLog(log)


class Protocol(HttpToolsProtocol):
    """One connection."""

    receive_timeout = 10.0
    """Seconds from a request's first byte to its last; also from connecting to the first."""
    idle_timeout = 30.0
    """Seconds between a response and the next request."""
    linger_timeout = 1.0
    """Seconds for which a refused client may go on sending, so that it can read the response."""

    server_state: ServerState

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self.request_cycle: RequestCycle | None = None
        self._buffer = b""
        self._request_active = False
        """A complete request is with the application; what follows it waits in the buffer."""
        self._discarding = False
        """A request was refused or answered unread; all further input is discarded."""
        self._receiving = False
        """A request has begun and has no response yet."""
        self._served = False
        """There has been a response on this connection."""
        self._scanned = 0
        """Bytes of the buffer already searched for the end of a head: each is searched once."""
        self._body_limit_of: Callable[[Scope], int] = getattr(
            self.app, "body_limit", _default_body_limit
        )
        self._max_body = MAX_BODY
        """Bytes of the present body that are read at most."""
        self._body_left = 0
        """Bytes of a body of known length still to come."""
        self._chunked: ChunkedRequestDecoder | None = None
        self._client_host = ""
        """The host that the limiter counts: the peer or, behind a trusted proxy, the client."""
        self._proxy = ""
        """The peer, if it is a trusted proxy; else empty."""
        self._deadline = Deadline(self.loop, self._on_deadline)

    # the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline.set(self.receive_timeout)
        self._client_host = self.client[0] if self.client else ""
        limiter = self.server_state.limiter
        if limiter.proxies.trusts(self._client_host):
            self._proxy = self._client_host
        limiter.add(self, self._client_host)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.connections.discard(self)
        self.server_state.limiter.remove(self, self._client_host)
        self.flow.resume_writing()
        if self.request_cycle is not None:
            self.request_cycle.connection_lost()
        self._deadline.close()
        self._discarding = True
        self._buffer = b""
        # These refer to the connection: the garbage collector would find the cycle far too late.
        self.request_cycle = None
        del self.parser

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer the request of a client that has closed its side only."""
        if self.scheme == "https":
            return None
        if self._request_active and self.request_cycle is not None:
            self.request_cycle.half_closed()
            return True
        if self._receiving and not self._discarding:
            self._refuse(400, "The request is cut short.")
        return None

    def shutdown(self) -> None:
        """Uvicorn calls this at a shutdown: close once a request that has begun is answered."""
        if self._request_active and self.request_cycle is not None:
            self.request_cycle.keep_alive = False
        elif not self._receiving:
            self.transport.close()

    # limits

    def elapsed_share(self) -> float:
        """The part of its deadline that is used up; -1 while the application has its request."""
        if self._discarding and not self._request_active:
            return math.inf
        return self._deadline.elapsed_share()

    def evict(self) -> None:
        """Close, after the present response or a 503 where one is due."""
        if self._request_active and not self.flow.write_paused:
            self._finish_then_close()
            return
        self.server_state.limiter.remove(self, self._client_host)
        if self._discarding or self._request_active:
            self.transport.abort()
            return
        if self._receiving or not self._served:
            self._refuse(OVERLOADED, "There is no room for this request.", b"retry-after: 1\r\n")
        self._close()

    def _finish_then_close(self) -> None:
        """Make the present response the last; input after its request is discarded."""
        assert self.request_cycle is not None
        self.request_cycle.keep_alive = False
        self.flow.pause_reading()
        self._buffer = b""
        self._account_memory()

    def _set_client_host(self, host: str) -> None:
        self.server_state.limiter.remove(self, self._client_host)
        self._client_host = host
        self.server_state.limiter.add(self, host)

    # receiving

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._request_active:
            self.flow.pause_reading()
            self._account_memory()
        else:
            self._process_buffer()

    def _process_buffer(self) -> None:
        """Parse the buffer. An exception in our own code is answered with 500."""
        try:
            self._parse()
        except Exception as error:  # noqa: BLE001  whatever it is, the client is not to blame
            self._fail(error)

    def _parse(self) -> None:
        began, self._receiving = self._receiving, True
        if self._body_left or self._chunked:
            self._read_body()
        else:
            self._read_head()
        if self._discarding:
            return
        if not (began or self._request_active):
            self._deadline.set(self.receive_timeout)
        if began or self._buffer or not self._request_active:
            self._account_memory()

    def _account_memory(self) -> None:
        """Account for the bytes of requests that the application does not have yet."""
        size = len(self._buffer)
        if self.request_cycle is not None and not self._request_active:
            size += len(self.request_cycle.body) + len(self.url) + HEADER_MEMORY * len(self.headers)
        self.server_state.limiter.account(self, size)

    def _read_head(self) -> None:
        buffer = self._buffer
        if buffer[0] in b"\r\n":
            buffer = self._buffer = buffer.lstrip(b"\r\n")
        found = _HEAD_END.search(buffer, max(0, self._scanned - _HEAD_END_SIZE))
        self._scanned = 0 if found else len(buffer)
        end = found.end() if found else len(buffer)
        if end > MAX_HEAD:
            self._refuse_head(buffer)
        elif found:
            self._buffer = buffer[end:]
            self._feed_parser(normalise_head(buffer[:end]))
            if self._body_left or self._chunked:
                self._read_body()
        elif buffer and not _TOKEN_START.match(buffer):
            self._refuse(400, "This is not HTTP.")

    def _read_body(self) -> None:
        if self._chunked is not None:
            self._read_chunks(self._chunked)
            return
        size = min(self._body_left, len(self._buffer))
        self._body_left -= size
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        if body:
            self._feed_parser(body)

    def _read_chunks(self, chunked: ChunkedRequestDecoder) -> None:
        """Feed all content that has come as one chunk: each chunk costs the parser time."""
        try:
            size, body = chunked.decode(self._buffer)
        except TooMuchFraming:
            self._refuse_chunks()
            return
        except MalformedChunk:
            self._refuse(400, "The chunked body is malformed.")
            return
        self._buffer = self._buffer[size:]
        if body:
            self._feed_parser(b"%x\r\n%s\r\n" % (len(body), body))
        if chunked.ended and not self._discarding:
            self._feed_parser(b"0\r\n\r\n")

    def _feed_parser(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # raised by a callback below
        except httptools.HttpParserError:
            self._refuse(400, "The request is malformed.")

    # callbacks of the parser

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.request_cycle = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.request_cycle is not None:
            return  # a trailer
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._body_left = int(value)
        elif name == b"transfer-encoding":
            self._chunked = ChunkedRequestDecoder()

    def on_headers_complete(self) -> None:
        raw_path, query = split_target(self.url)
        path = raw_path.decode("ascii")
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            self._refuse(400, "Requests are HTTP/1.0 or HTTP/1.1.")
            return
        if sum(name == b"host" for name, _ in self.headers) > 1:
            self._refuse(400, "The request has two Host headers.")
            return
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "server": self.server,
            "client": self._forwarded_client() if self._proxy else self.client,
            "scheme": self._forwarded_scheme() or self.scheme or "http",
            "method": self.parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.request_cycle = RequestCycle(
            scope,
            self.transport,
            self.flow,
            self.server_state.default_headers,
            self.on_response_complete,
            self._on_last_response,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            refusal_log=self.server_state.refusal_log,
        )
        codings = _transfer_codings(self.headers) if self._chunked else []
        if codings not in ([], [b"chunked"]):
            self._refuse_codings(codings)
        elif self._body_left > MAX_BODY:
            self._refuse_body()
        elif (self._body_left or self._chunked) and not self._discarding:
            self._max_body = self._body_limit_of(scope)
            if self._body_left > self._max_body or not self._max_body:
                self._answer_unread()
            else:
                self._send_100_continue()

    def _forwarded_scheme(self) -> str | None:
        """The scheme that the client used, where a trusted proxy says it."""
        proxies = self.server_state.limiter.proxies
        return proxies.scheme(self.headers) if self._proxy else None

    def _forwarded_client(self) -> tuple[str, int] | None:
        """The client behind the trusted proxy; None where it is unknown."""
        host = self.server_state.limiter.proxies.client(self._proxy, self.headers)
        self._set_client_host(host or self._proxy)
        return (host, 0) if host else None

    def on_body(self, body: bytes) -> None:
        if self._discarding:
            return
        assert self.request_cycle is not None
        self.request_cycle.body += body
        if len(self.request_cycle.body) <= self._max_body:
            return
        if self._max_body < MAX_BODY:
            self._answer_unread()
        else:
            self._refuse_body()

    def on_message_complete(self) -> None:
        if self._discarding:
            return
        assert self.request_cycle is not None
        if self.server_state.draining:
            self.request_cycle.keep_alive = False
        self._body_left, self._chunked = 0, None
        if self.flow.write_paused:
            self._deadline.set(self.receive_timeout)
        else:
            self._deadline.clear()
        self._start_application()

    def _answer_unread(self) -> None:
        """Let the application answer without the body. All further input is discarded."""
        assert self.request_cycle is not None
        self._discarding = True
        self._buffer = b""
        self.server_state.limiter.account(self, 0)
        self.request_cycle.scope[UNREAD] = True
        self.request_cycle.body.clear()
        self.request_cycle.keep_alive = False
        self._deadline.clear()
        self._start_application()

    def _start_application(self) -> None:
        assert self.request_cycle is not None
        self._request_active = True
        task = self.loop.create_task(self.request_cycle.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self.request_cycle = None
        self._request_active = self._receiving = False
        self._served = True
        if self.transport.is_closing():
            self._deadline.set(self.receive_timeout)  # for the client to take the response
            return
        if self._discarding:
            return
        if self._proxy:
            self._set_client_host(self._proxy)
        self._deadline.set(self.idle_timeout)
        self.flow.resume_reading()
        if self._buffer:
            self._process_buffer()
            self._account_memory()

    def _send_100_continue(self) -> None:
        """Answer `Expect: 100-continue`. HTTP/1.0 does not have it (RFC 9110, 10.1.1)."""
        assert self.request_cycle is not None
        if self.request_cycle.scope["http_version"] != "1.0" and _expects_100_continue(
            self.headers
        ):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # deadline and end

    def _on_deadline(self) -> None:
        if self.transport.is_closing() or self._request_active:
            self.transport.abort()  # the client does not read
        elif self._discarding or (self._served and not self._receiving):
            self._close()
        else:
            self._refuse(408, f"The request took longer than {self.receive_timeout:g} s.")
            self._close()

    def _close(self) -> None:
        """Close, and give the client linger_timeout to read what has been written."""
        self.transport.close()
        self._deadline.set(self.linger_timeout)

    def _on_last_response(self) -> None:
        """Close after the last response."""
        if self._discarding:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Close our side only, so that the client reads the response before a reset."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline.set(self.linger_timeout)

    def pause_writing(self) -> None:
        """The client does not read its response: it has as long for it as for a request."""
        super().pause_writing()
        self._deadline.set(self.receive_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._request_active:
            self._deadline.clear()

    # refusals

    def _refuse_head(self, buffer: bytes) -> None:
        if 0 <= buffer.find(b"\n") < MAX_HEAD:
            self._refuse(431, f"A header block has at most {MAX_HEAD} bytes.")
        else:
            self._refuse(414, f"A request line has at most {MAX_HEAD} bytes.")

    def _refuse_body(self) -> None:
        self._refuse(413, f"A body has at most {MAX_BODY} bytes.")

    def _refuse_chunks(self) -> None:
        most = f"{FREE_FRAMING} bytes and a quarter of its content"
        self._refuse(413, f"A chunked body has at most {most} between its chunks.")

    def _refuse_codings(self, codings: Sequence[bytes]) -> None:
        """RFC 9112, 6.1 and 6.3: an unsupported coding, or a body without a known end."""
        if codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
            self._refuse(501, "A body is sent as it is or chunked, in no other transfer coding.")
        else:
            self._refuse(400, "The end of the body cannot be found.")

    def _fail(self, error: Exception) -> None:
        """Answer 500 for an exception in our own code. The log has its frames, without its text."""
        kind = f"the protocol failed with {type(error).__name__}"
        self.server_state.refusal_log.record(SERVER_ERROR, kind, level=logging.ERROR, error=error)
        if self._request_active:
            self._finish_then_close()
        else:
            self._refuse(SERVER_ERROR, SERVER_ERROR_DETAIL)

    def _refuse(self, status: int, detail: str, headers: bytes = b"") -> None:
        """Answer a request that does not reach the application, and discard all further input."""
        if self._discarding:
            return
        self._discarding = True
        self._buffer, self.request_cycle, self.headers = b"", None, []
        self.server_state.limiter.account(self, 0)
        self.server_state.refusals[status] += 1
        if status != SERVER_ERROR:
            level = logging.WARNING if status == OVERLOADED else logging.INFO
            kind = f"{detail[0].lower()}{detail[1:-1]}"
            self.server_state.refusal_log.record(status, kind, level=level)
        body = problem_body(status, detail)
        self.transport.write(
            b"%s%scontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (STATUS_LINE[status], headers, PROBLEM_TYPE, len(body), body)
        )
        self._linger()


def _expects_100_continue(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"expect" and v.lower() == b"100-continue" for name, v in headers)


def _default_body_limit(_: Scope) -> int:
    """The limit where the application has no `body_limit`."""
    return MAX_BODY


def _transfer_codings(headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The transfer codings of the body in their order."""
    values = [value for name, value in headers if name == b"transfer-encoding"]
    return [each.strip().lower() for value in values for each in value.split(b",")]

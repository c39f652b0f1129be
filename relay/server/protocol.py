"""HTTP as the relay takes it: liberal in the request line, strict in size and time.

uvicorn's protocol waits for ever for the rest of a request, takes a header block of any size,
and refuses what Sumotext's own examples show: spaces and 8-bit bytes in the request line. Here
a head is collected and tidied before the parser sees it, and the application is called when
the whole request is there. Where there are too many connections, or too much of what is not
whole, the slow ones make room.
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

from relay.server.connections import Guests
from relay.server.cycle import FAILED, INTERNAL, Exchange
from relay.server.deadline import Deadline
from relay.server.parsing import (
    FREE_FRAMING,
    ChunkedDecoder,
    MalformedChunk,
    TooMuchFraming,
    normalise_head,
    split_target,
)
from relay.server.problem import CONTENT_TYPE, problem
from relay.server.refusals import RefusalLog

log = logging.getLogger("relay.server")

MAX_HEAD = 16 * 1024
MAX_BODY = 256 * 1024
VERSIONS = ("1.0", "1.1")
NO_ROOM = 503
UNREAD = "relay.unread"
"""In the scope where the body was not read, as nothing would be done with it."""
ASGI = {"version": "3.0", "spec_version": "2.3"}
HEADER = 200
"""Bytes that a header takes in memory, however short it is."""

_HEAD_END = re.compile(rb"\n\r?\n")
LONGEST_END = 3
_TOKEN_START = re.compile(rb"[!#-'*+\-.0-9A-Z^-z|~]")


class ServerState(uvicorn.server.ServerState):
    """What the connections of one server share."""

    def __init__(self, guests: Guests) -> None:
        super().__init__()
        self.guests = guests
        self.draining = False
        """While True, every answer says that it is the connection's last."""
        self.refusals: Counter[int] = Counter()
        """Requests that no application saw, by status."""
        self.refusal_log = RefusalLog(log)


class Protocol(HttpToolsProtocol):
    """One connection."""

    receive_timeout = 10.0
    """Seconds from a request's first byte to its last; also from connecting to the first."""
    idle_timeout = 30.0
    """Seconds between an answer and the next request."""
    linger_timeout = 1.0
    """Seconds for which a refused sender may go on sending, so that it gets to read why."""

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
        self.exchange: Exchange | None = None
        self._buffer = b""
        self._busy = False
        """A request is with the application; what follows it waits in the buffer."""
        self._deaf = False
        """A request was refused; what follows it is thrown away."""
        self._receiving = False
        self._served = False
        self._looked_at = 0
        """Bytes of the buffer in which no head ends: each byte is looked at once."""
        self._largest_body: Callable[[Scope], int] = getattr(
            self.app, "largest_body", _largest_body
        )
        self._most = MAX_BODY
        """Bytes of the present body that are read."""
        self._left = 0
        """Bytes of a body of known length still to come."""
        self._chunked: ChunkedDecoder | None = None
        self._host = ""
        """Who counts for the connection: its other end or, behind a proxy, who is there."""
        self._proxy = ""
        """The other end where that is a proxy that we trust."""
        self._deadline = Deadline(self.loop, self._too_late)

    # the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline.set(self.receive_timeout)
        self._host = self.client[0] if self.client else ""
        guests = self.server_state.guests
        if guests.proxies.trusts(self._host):
            self._proxy = self._host
        guests.join(self, self._host)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.connections.discard(self)
        self.server_state.guests.leave(self, self._host)
        self.flow.resume_writing()
        if self.exchange is not None:
            self.exchange.disconnected()
        self._deadline.end()
        self._deaf = True
        self._buffer = b""
        # These know the connection, too: a ring that the garbage collector would find far too late.
        self.exchange = None
        del self.parser

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A sender that only half closes still gets its answer."""
        if self.scheme == "https":
            return None
        if self._busy and self.exchange is not None:
            self.exchange.half_closed()
            return True
        if self._receiving and not self._deaf:
            self._refuse(400, "The request is cut short.")
        return None

    def shutdown(self) -> None:
        """Close once what has begun is answered."""
        if self._busy and self.exchange is not None:
            self.exchange.keep_alive = False
        elif not self._receiving:
            self.transport.close()

    # one of many

    def waited(self) -> float:
        """Which share of its time is up; -1 while its request is with the application."""
        return math.inf if self._deaf and not self._busy else self._deadline.waited()

    def send_away(self) -> None:
        """Make room for others: at once where nothing has come, else with a word."""
        if self._busy and not self.flow.write_paused:
            self._answer_no_more()
            return
        self.server_state.guests.leave(self, self._host)
        if self._deaf or self._busy:
            self.transport.abort()
            return
        if self._receiving or not self._served:
            self._refuse(NO_ROOM, "There is no room for this request.", b"retry-after: 1\r\n")
        self._close()

    def _answer_no_more(self) -> None:
        """The answer that is being made is the last; what was sent behind its request is lost."""
        assert self.exchange is not None
        self.exchange.keep_alive = False
        self.flow.pause_reading()
        self._buffer = b""
        self._hold()

    def _count_for(self, host: str) -> None:
        self.server_state.guests.leave(self, self._host)
        self._host = host
        self.server_state.guests.join(self, host)

    # receiving

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._busy:
            self.flow.pause_reading()
            self._hold()
        else:
            self._advance()

    def _advance(self) -> None:
        """Make a request of the buffer, as far as it is there. An error of ours is a 500."""
        try:
            self._parse()
        except Exception as error:  # noqa: BLE001  whatever it is, the sender is not to blame
            self._fail(error)

    def _parse(self) -> None:
        began, self._receiving = self._receiving, True
        if self._left or self._chunked:
            self._take_body()
        else:
            self._take_head()
        if self._deaf:
            return
        if not (began or self._busy):
            self._deadline.set(self.receive_timeout)
        if began or self._buffer or not self._busy:
            self._hold()

    def _hold(self) -> None:
        """Have counted what is here of requests that no application can answer yet."""
        size = len(self._buffer)
        if self.exchange is not None and not self._busy:
            size += len(self.exchange.body) + len(self.url) + HEADER * len(self.headers)
        self.server_state.guests.hold(self, size)

    def _take_head(self) -> None:
        buffer = self._buffer
        if buffer[0] in b"\r\n":
            buffer = self._buffer = buffer.lstrip(b"\r\n")
        found = _HEAD_END.search(buffer, max(0, self._looked_at - LONGEST_END))
        self._looked_at = 0 if found else len(buffer)
        end = found.end() if found else len(buffer)
        if end > MAX_HEAD:
            self._refuse_head(buffer)
        elif found:
            self._buffer = buffer[end:]
            self._feed(normalise_head(buffer[:end]))
            if self._left or self._chunked:
                self._take_body()
        elif buffer and not _TOKEN_START.match(buffer):
            self._refuse(400, "This is not HTTP.")

    def _take_body(self) -> None:
        if self._chunked is not None:
            self._take_chunks(self._chunked)
            return
        size = min(self._left, len(self._buffer))
        self._left -= size
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        if body:
            self._feed(body)

    def _take_chunks(self, chunked: ChunkedDecoder) -> None:
        """Feed what has come as one chunk: the parser has its work with each."""
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
            self._feed(b"%x\r\n%s\r\n" % (len(body), body))
        if chunked.ended and not self._deaf:
            self._feed(b"0\r\n\r\n")

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # ours: the parser only hands it on
        except httptools.HttpParserError:
            self._refuse(400, "The request is malformed.")

    # what the parser calls

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.exchange = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.exchange is not None:
            return  # a trailer
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._left = int(value)
        elif name == b"transfer-encoding":
            self._chunked = ChunkedDecoder()

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
            "client": self._client() if self._proxy else self.client,
            "scheme": self.scheme or "http",
            "method": self.parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.exchange = Exchange(
            scope,
            self.transport,
            self.flow,
            self.server_state.default_headers,
            self.on_response_complete,
            self._hang_up,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            refusals=self.server_state.refusal_log,
        )
        codings = _codings(self.headers) if self._chunked else []
        if codings not in ([], [b"chunked"]):
            self._refuse_codings(codings)
        elif self._left > MAX_BODY:
            self._refuse_body()
        elif (self._left or self._chunked) and not self._deaf:
            self._most = self._largest_body(scope)
            if self._left > self._most or not self._most:
                self._answer_unread()
            else:
                self._invite()

    def _client(self) -> tuple[str, int] | None:
        """Who is behind the proxy."""
        host = self.server_state.guests.proxies.client(self._proxy, self.headers)
        self._count_for(host or self._proxy)
        return (host, 0) if host else None

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        assert self.exchange is not None
        self.exchange.body += body
        if len(self.exchange.body) <= self._most:
            return
        if self._most < MAX_BODY:
            self._answer_unread()
        else:
            self._refuse_body()

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        assert self.exchange is not None
        if self.server_state.draining:
            self.exchange.keep_alive = False
        self._left, self._chunked = 0, None
        if self.flow.write_paused:
            self._deadline.set(self.receive_timeout)
        else:
            self._deadline.lift()
        self._answer()

    def _answer_unread(self) -> None:
        """Have the request answered at once. The rest of its body is thrown away."""
        assert self.exchange is not None
        self._deaf = True
        self._buffer = b""
        self.server_state.guests.hold(self, 0)
        self.exchange.scope[UNREAD] = True
        self.exchange.body.clear()
        self.exchange.keep_alive = False
        self._deadline.lift()
        self._answer()

    def _answer(self) -> None:
        assert self.exchange is not None
        self._busy = True
        task = self.loop.create_task(self.exchange.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self.exchange = None
        self._busy = self._receiving = False
        self._served = True
        if self.transport.is_closing():
            self._deadline.set(self.receive_timeout)  # for the other side to take the answer
            return
        if self._deaf:
            return
        if self._proxy:
            self._count_for(self._proxy)
        self._deadline.set(self.idle_timeout)
        self.flow.resume_reading()
        if self._buffer:
            self._advance()
            self._hold()

    def _invite(self) -> None:
        """Answer `Expect: 100-continue`, which HTTP/1.0 does not have (RFC 9110, 10.1.1)."""
        assert self.exchange is not None
        if self.exchange.scope["http_version"] != "1.0" and _expects_invitation(self.headers):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # time

    def _too_late(self) -> None:
        if self.transport.is_closing() or self._busy:
            self.transport.abort()  # it does not read
        elif self._deaf or (self._served and not self._receiving):
            self._close()
        else:
            self._refuse(408, f"The request took longer than {self.receive_timeout:g} s.")
            self._close()

    def _close(self) -> None:
        """Close, and do not wait long for the other side to read the rest."""
        self.transport.close()
        self._deadline.set(self.linger_timeout)

    def _hang_up(self) -> None:
        """The answer was the connection's last."""
        if self._deaf:
            self._stop_writing()
        else:
            self.transport.close()

    def _stop_writing(self) -> None:
        """Let the sender read the answer before the connection is closed."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline.set(self.linger_timeout)

    def pause_writing(self) -> None:
        """The other side does not read its answer: it has as long for it as for a request."""
        super().pause_writing()
        self._deadline.set(self.receive_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._busy:
            self._deadline.lift()

    # refusing

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
        """RFC 9112, 6.1 and 6.3: another coding, or a body of which nobody knows the end."""
        if codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
            self._refuse(501, "A body is sent as it is or chunked, in no other transfer coding.")
        else:
            self._refuse(400, "The end of the body cannot be found.")

    def _fail(self, error: Exception) -> None:
        """Answer for an error of ours. The log has its frames, without the error's text."""
        kind = f"the protocol failed with {type(error).__name__}"
        self.server_state.refusal_log.note(INTERNAL, kind, level=logging.ERROR, error=error)
        if self._busy:
            self._answer_no_more()
        else:
            self._refuse(INTERNAL, FAILED)

    def _refuse(self, status: int, detail: str, headers: bytes = b"") -> None:
        """Answer what no application shall see, and hear nothing more on this connection."""
        if self._deaf:
            return
        self._deaf = True
        self._buffer, self.exchange, self.headers = b"", None, []
        self.server_state.guests.hold(self, 0)
        self.server_state.refusals[status] += 1
        if status != INTERNAL:
            level = logging.WARNING if status == NO_ROOM else logging.INFO
            kind = f"{detail[0].lower()}{detail[1:-1]}"
            self.server_state.refusal_log.note(status, kind, level=level)
        body = problem(status, detail)
        self.transport.write(
            b"%s%scontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (STATUS_LINE[status], headers, CONTENT_TYPE, len(body), body)
        )
        self._stop_writing()


def _expects_invitation(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"expect" and v.lower() == b"100-continue" for name, v in headers)


def _largest_body(_: Scope) -> int:
    """How much of a body is read where the application does not say."""
    return MAX_BODY


def _codings(headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The transfer codings of the body in their order."""
    values = [value for name, value in headers if name == b"transfer-encoding"]
    return [each.strip().lower() for value in values for each in value.split(b",")]

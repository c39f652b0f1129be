"""The HTTP client of the sinks: httpx, guarded against SSRF, limited in time, size and rate.

httpx is the API that plugins see; aiohttp carries the requests, as it is several times faster
and shows each address before it is dialled. Nothing here reads the environment, keeps a cookie
or follows a redirect, and no error's text holds a URL.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import aiohttp
import aiohttp.abc
import httpx
import yarl

from relay.delivery import responses
from relay.delivery.http_message import BadCoding, ContentDecoder
from relay.outcome import Pause
from relay.rate_limit import Limiter
from relay.send_context import current, time_left
from relay.ssrf import refusal
from relay.units import IPNetwork
from relay.version import version

CONNECTIONS = 100
# Below the 5 s of many servers, so that no request meets a connection just being closed.
KEEP_ALIVE = 4.0
# A minute with the pause before the last request: then the name is looked up again, as its address
# may have changed.
MAX_AGE = 60.0 - KEEP_ALIVE
CONNECT_TIMEOUT = 10.0
LARGEST_ANSWER = 8 * 1024 * 1024
ANSWER_READ = 64 * 1024
ANSWER_TIME = 5.0
MOST_ADDRESSES = 8
"""The most addresses of a name that are tried: aiohttp dials all, then all but one, and so on."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})

NO_FULL_ANSWER = "no full answer in time"
# The first that fits. aiohttp's own texts may hold the URL with its secrets: they are used only
# for a connection (host and port) and for a header that cannot be sent (line break, NUL).
ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError], str | None], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout, "no connection in time"),
    (TimeoutError, httpx.ReadTimeout, NO_FULL_ANSWER),
    (aiohttp.ClientConnectorError, httpx.ConnectError, None),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError, "closed without an answer"),
    (aiohttp.ClientConnectionError, httpx.ReadError, "the connection broke"),
    (aiohttp.ClientPayloadError, httpx.ReadError, "the answer broke off"),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol, "the URL cannot be requested"),
    (responses.BadResponse, httpx.RemoteProtocolError, None),
    (aiohttp.ClientError, httpx.RemoteProtocolError, "the answer is not valid HTTP"),
    (ValueError, httpx.LocalProtocolError, None),
)


def client(
    *,
    timeout: float,
    allow_private: Sequence[IPNetwork] = (),
    limiter: Limiter | None = None,
    resolver: aiohttp.abc.AbstractResolver | None = None,
    now: Callable[[], float] = time.monotonic,
) -> httpx.AsyncClient:
    """A client for one sink.

    `timeout` covers a request from the lookup of the name to the last byte of the answer; what
    a request asks for itself can only shorten it. `resolver` and `now` (seconds) are for tests.
    """
    # httpx logs each URL at INFO, and URLs hold tokens.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return _SinkClient(
        transport=Transport(timeout, allow_private, limiter, resolver, now),
        timeout=timeout,
        trust_env=False,
        headers={"user-agent": f"sumotext-relay/{version()}", "accept-encoding": "gzip, deflate"},
    )


async def reach(client: httpx.AsyncClient, url: str) -> None:
    """Look the host up, connect and complete TLS, under the guard; nothing is sent.

    `client` is a sink's. Raises httpx.TransportError or Pause, as a request does.
    """
    transport = client._transport  # noqa: SLF001  `client` above made it
    assert isinstance(transport, Transport)
    await transport.reach(httpx.URL(url))


async def read_answer(response: httpx.Response, limit: int = ANSWER_READ) -> bytes:
    """The beginning of a streamed answer, and the response closed.

    The status has been read before, so a body that is slow, too long or broken off changes nothing.
    What comes within five seconds is returned, or within half of the time that is left.
    """
    answer = bytearray()
    try:
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            async with asyncio.timeout(min(ANSWER_TIME, time_left() / 2)):
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) >= limit:
                        break
    finally:
        await response.aclose()
        _break_cycle(response)
    return bytes(answer[:limit])


def _break_cycle(response: httpx.Response) -> None:
    """Break the cycle of a response and its stream, which httpx leaves to the garbage collector."""
    response.stream = httpx.ByteStream(b"")


class Transport(httpx.AsyncBaseTransport):
    """Carries httpx's requests over aiohttp.

    `httpx_aiohttp` does the same, but takes a dropped connection for a time-out of the connect,
    lets errors through with the URL in their text, and has no limit to an answer's time or size.
    """

    def __init__(
        self,
        timeout: float,
        allow_private: Sequence[IPNetwork],
        limiter: Limiter | None,
        resolver: aiohttp.abc.AbstractResolver | None,
        now: Callable[[], float],
    ) -> None:
        self._now = now
        self._timeout = timeout
        self._private = allow_private
        self._limiter = limiter
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._limiter is not None:
            await self._limiter.acquire()
        if self._session is None:
            self._session = self._new_session()
        with _as_httpx_errors():
            answer = await self._session.request(
                request.method,
                _url(request.url),
                headers=_headers(request),
                data=_body(request),
                allow_redirects=False,
                timeout=_time_limit(self._timeout, request.extensions.get("timeout")),
            )
        return _SinkResponse(
            answer.status,
            headers=_answer_headers(answer),
            stream=_ResponseStream(answer),
            request=request,
            extensions={"http_version": b"HTTP/1.1"},
        )

    def _new_session(self) -> aiohttp.ClientSession:
        """A session; made with the first request, as aiohttp needs a running loop."""
        connector = responses.Connector(
            limit=CONNECTIONS,
            keepalive_timeout=KEEP_ALIVE,
            max_age=MAX_AGE,
            now=self._now,
            resolver=self._new_resolver(),
            socket_factory=self._guarded_socket,
            ssl=_trust(),
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=ANSWER_READ,
            # httpx has set all headers; aiohttp adds none.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    def _guarded_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for this address, which is dialled next. Raises Pause for a closed one."""
        family, kind, protocol, _, address = info
        _refuse(str(address[0]), self._private)
        return socket.socket(family, kind, protocol)

    async def reach(self, url: httpx.URL) -> None:
        """Connect and complete TLS. Raises httpx.TransportError or Pause."""
        target = _url(url)
        host, port = str(target.host), target.port
        assert port is not None  # the scheme has one
        tls = _trust() if target.scheme == "https" else None
        name = host if tls else None
        failure = OSError("the name has no address")
        try:
            async with asyncio.timeout(min(self._timeout, CONNECT_TIMEOUT)):
                for address in await self._addresses(host, port):
                    _refuse(address, self._private)
                    try:
                        _, writer = await asyncio.open_connection(
                            address, port, ssl=tls, server_hostname=name
                        )
                    except OSError as error:
                        failure = error
                        continue
                    writer.transport.abort()
                    return
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except OSError as error:
            failure = error
        raise httpx.ConnectError(f"{host}:{port} cannot be reached: {_cause(failure)}")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            resolver = self._new_resolver()
            return [each["host"] for each in await resolver.resolve(host, port)]

    def _new_resolver(self) -> "_GuardedResolver":
        return _GuardedResolver(self._resolver or aiohttp.ThreadedResolver(), self._private)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class _GuardedResolver(aiohttp.abc.AbstractResolver):
    """Refuses a name if any of its addresses is closed.

    The socket factory would stop only the closed ones, and aiohttp, trying several addresses
    at once, would lose the reason.
    """

    def __init__(
        self, resolver: aiohttp.abc.AbstractResolver, private: Sequence[IPNetwork]
    ) -> None:
        self._resolver = resolver
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            _refuse(each["host"], self._private)
        return found[:MOST_ADDRESSES]

    async def close(self) -> None:
        await self._resolver.close()


class _ResponseStream(httpx.AsyncByteStream):
    """An answer's body, decoded. Raises httpx.ReadError at the end of a broken one."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        encoded = decoded = 0
        decoder = ContentDecoder(self._answer.headers.getall("Content-Encoding", ()))
        content = self._answer.content
        with _as_httpx_errors():
            async for part in content.iter_any():
                encoded += len(part)
                for piece in decoder.feed(part):
                    decoded += len(piece)
                    if max(encoded, decoded) > LARGEST_ANSWER:
                        raise httpx.RemoteProtocolError("the answer is larger than 8 MiB")
                    yield piece
            if isinstance(content, responses.Payload) and content.flaw:
                raise httpx.ReadError(f"the answer cannot be read: {content.flaw}")
            decoder.end()

    async def aclose(self) -> None:
        self._answer.release()


class _SinkResponse(httpx.Response):
    """A response whose body may be broken. Only reading `content` raises the error."""

    _body_error: tuple[type[httpx.TransportError], str] | None = None

    async def read_all(self) -> None:
        """Read the body in nine tenths of the time that is left, so that the status decides."""
        left = time_left()
        try:
            async with asyncio.timeout(None if math.isinf(left) else left * 0.9):
                await self.aread()
        except (httpx.TransportError, TimeoutError) as error:
            kind = type(error) if isinstance(error, httpx.TransportError) else httpx.ReadTimeout
            self._body_error = kind, str(error) or NO_FULL_ANSWER
            await self.aclose()

    @property
    def content(self) -> bytes:
        """As in httpx. Raises the error that ended the body too soon."""
        if self._body_error is not None:
            kind, text = self._body_error
            raise kind(text)
        return super().content


class _NoCookies(httpx.Cookies):
    """No cookie is kept: none is to be sent back, and httpx would take long over each answer."""

    def extract_cookies(self, response: httpx.Response) -> None:
        pass


class _SinkClient(httpx.AsyncClient):
    async def send(
        self, request: httpx.Request, *, stream: bool = False, **options: Any
    ) -> httpx.Response:
        response = await super().send(request, stream=True, **options)
        if not stream:
            assert isinstance(response, _SinkResponse)
            await response.read_all()
            _break_cycle(response)
        return response

    @functools.cached_property
    def cookies(self) -> httpx.Cookies:
        return _NoCookies()


@contextlib.contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except BadCoding as error:
        raise httpx.ReadError(f"the answer cannot be read: {error}") from None
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise _translated(error) from error


def _translated(error: Exception) -> httpx.TransportError:
    return next(
        translation(text or _describe(error))
        for kind, translation, text in ERRORS
        if isinstance(error, kind)
    )


def _describe(error: Exception) -> str:
    if type(error) is aiohttp.ClientConnectorError:  # those of TLS and DNS say more themselves
        return f"{error.host}:{error.port} cannot be reached: {_cause(error.os_error)}"
    return str(error)


def _cause(error: OSError) -> str:
    """The system's text, without the address that asyncio puts before it."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _refuse(address: str, private: Sequence[IPNetwork]) -> None:
    """Raise Pause for a closed address: only the operator can change that.

    It is no OSError, which aiohttp would wrap or take for a reason to try the next address.
    """
    if reason := refusal(address, private):
        raise Pause(reason)


def _url(url: httpx.URL) -> yarl.URL:
    """Exactly the URL that httpx built; userinfo has become a header."""
    if url.scheme not in {"http", "https"} or not url.host:
        raise httpx.UnsupportedProtocol("the URL is not http:// or https:// with a host")
    return _yarl(f"{url.scheme}://{url.netloc.decode()}{url.raw_path.decode()}")


@functools.lru_cache(maxsize=64)
def _yarl(url: str) -> yarl.URL:
    return yarl.URL(url, encoded=True)


def _headers(request: httpx.Request) -> list[tuple[str, str]]:
    """The headers without Transfer-Encoding, which aiohttp sets."""
    headers = [
        (name.decode(), value.decode())
        for name, value in request.headers.raw
        if name.lower() != b"transfer-encoding"
    ]
    trace = current().traceparent
    if trace is not None and "traceparent" not in request.headers:
        headers.append(("traceparent", trace))
    return headers


def _body(request: httpx.Request) -> bytes | AsyncIterator[bytes] | None:
    try:
        return request.content or None
    except httpx.RequestNotRead:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        return aiter(request.stream)


def _time_limit(sink: float, asked: dict[str, float | None] | None) -> aiohttp.ClientTimeout:
    read = (asked or {}).get("read")
    return _client_timeout(sink if read is None else min(sink, read))


@functools.lru_cache(maxsize=64)
def _client_timeout(total: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, sock_connect=min(total, CONNECT_TIMEOUT))


def _answer_headers(answer: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    """The headers of the decoded body. The Location of a redirect is cut down to its host."""
    headers = list(answer.raw_headers)
    if "Content-Encoding" in answer.headers:
        gone = (b"content-encoding", b"content-length")
        headers = [(name, value) for name, value in headers if name.lower() not in gone]
    if answer.status in REDIRECTS:
        headers = [(n, _origin(v) if n.lower() == b"location" else v) for n, v in headers]
    return headers


def _origin(location: bytes) -> bytes:
    """`https://host`; the rest may hold secrets, and httpx fails on what is no URL."""
    try:
        url = yarl.URL(location.decode())
        return str(url.origin()).encode()
    except ValueError:
        return b"/"


@functools.cache
def _trust() -> ssl.SSLContext:
    """The usual authorities, and the machine's own."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context

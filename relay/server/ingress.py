"""The ingress: the public listener's application. It stores each callback and then answers 200.

The answer 200 is sent only after `Acceptor.receive` has returned: the callback is then on disk.
"""

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic, perf_counter
from typing import Any, Protocol
from urllib.parse import unquote

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay.callback.coding import unpacked_size
from relay.config.loader import Config
from relay.counters import IngressCounters
from relay.event import InvalidCallback, RawCallback
from relay.server.access import SourceGuard, basic_password, digest_tokens
from relay.server.admin import HEALTH_METHODS
from relay.server.cycle import BODILESS, SERVER_ERROR
from relay.server.protocol import MAX_BODY, UNREAD
from relay.server.refusals import PROBLEM_TYPE, Headers, RefusalLog, problem_body, send_problem
from relay.source import Accepted, Answer, Invalid, Unauthorized
from relay.source import Request as Verifiable
from relay.sources.calls import SourceCalls, SourceFailed
from relay.store import Receipt, StoreError
from relay.tracing import Tracer, valid

log = logging.getLogger("relay.ingress")

PREFIX = "/callbacks/"
METHODS = ("GET", "POST")
NotReady = Callable[[], Sequence[str]]
"""The reasons why the relay is not ready; none when it is."""

MAX_TOKENS = 4
"""The most tokens of one request that are checked. With hundreds, guessing would be cheap."""

LARGE_GAP = 0.01
"""The least seconds between two large callbacks: small ones are processed in between."""
LARGE = 16 * 1024
"""A callback of more bytes is large: two of these are not processed directly after each other."""

TOGETHER = 250
"""The most parts of a request that are put in quarantine at a time."""

MAX_UNAUTHORIZED = 16 * 1024
"""The most bytes of a callback with a wrong token that is stored. No callback of Sumotext is
larger. Anybody can send thousands of these: they must not fill the disk."""

NO_PARAMETERS = "no parameters"
"""The kind of the refusal of a request without parameters. Nothing of it is stored."""

_TOO_LARGE = f"not kept: above {MAX_UNAUTHORIZED // 1024} KiB"
JSON_TYPE = "application/json"
MICROSECONDS = 1_000_000
_CHALLENGE: Headers = [(b"www-authenticate", b'Basic realm="relay", charset="UTF-8"')]
_RETRY_LATER: Headers = [(b"retry-after", b"5")]
_AFTER_SOURCE = re.compile(r"^/[^/]*/[^/&]*")
_ALLOW: Headers = [(b"allow", b"GET, POST")]


class Acceptor(Protocol):
    """Stores callbacks durably.

    `receive` and `quarantine` return when the data is on disk. They raise StoreError if it cannot
    be written.
    """

    def now(self) -> int:
        """The time of receipt, in microseconds since the epoch."""

    async def receive(self, callback: RawCallback) -> Receipt:
        """Store the event of a callback. Raises InvalidCallback where it makes none."""

    async def receive_all(self, callbacks: Sequence[RawCallback]) -> list[Receipt | str]:
        """Store the events of a request's parts. A part that makes none has its reason."""

    async def quarantine(self, callback: RawCallback, status: int, reason: str) -> str:
        """Store a callback that became no event. Returns its id."""


class Ingress(Starlette):
    """A Starlette application that passes callbacks to `CallbackEndpoint` directly.

    Starlette's middleware and routing would add a quarter to the cost of each callback. `answers`
    counts every answer.
    """

    def __init__(self, callbacks: "CallbackEndpoint", not_ready: NotReady) -> None:
        super().__init__(
            routes=[
                Route("/healthz", _healthz, methods=HEALTH_METHODS),
                Route("/readyz", _readyz, methods=HEALTH_METHODS),
            ],
            exception_handlers={HTTPException: _http_problem},
        )
        self.router.redirect_slashes = False
        self.state.not_ready = not_ready
        self._callbacks = callbacks
        self.answers = callbacks.answers
        self.refusal_log = self.state.refusal_log = callbacks.refusal_log

    def body_limit(self, scope: Scope) -> int:
        """Bytes of the request's body that are used. The protocol reads no more."""
        is_callback = scope["path"].startswith(PREFIX)
        return self._callbacks.body_limit(scope) if is_callback else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._callbacks(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def app(
    acceptor: Acceptor,
    config: Config,
    *,
    not_ready: NotReady = lambda: (),
    tracer: Tracer | None = None,
) -> Ingress:
    """The application of the public listener."""
    return Ingress(CallbackEndpoint(acceptor, config, tracer), not_ready)


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _readyz(request: Request) -> Response:
    if request.app.state.not_ready():
        return JSONResponse({"status": "not ready"}, 503)
    return JSONResponse({"status": "ready"})


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request.app.state.refusal_log.record(
        error.status_code, "not the path of a source", level=logging.INFO
    )
    return Response(
        problem_body(error.status_code, error.detail),
        error.status_code,
        error.headers,
        media_type=PROBLEM_TYPE.decode(),
    )


class CallbackRefused(Exception):
    """The refusal of a callback, with its answer.

    The log counts refusals by `kind`, and gives `last` of the latest of each kind.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Headers = (),
        *,
        kind: str,
        last: object = "",
        error: Exception | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.kind = kind
        self.last = last
        self.error = error
        self.members = members
        self.count = 1


class ClientDisconnected(Exception):
    """The client closed the connection before its request was complete."""


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """The parts of a request target: source, token (empty if there is none) and query."""

    source: str
    token: str = field(repr=False)
    query: bytes = field(repr=False)


class CallbackEndpoint:
    """`/callbacks/{source}` and `/callbacks/{source}/{token}`, as a bare ASGI application."""

    def __init__(self, acceptor: Acceptor, config: Config, tracer: Tracer | None) -> None:
        self._acceptor = acceptor
        self._tracer = tracer
        self._large = asyncio.Lock()
        self._calls = {name: SourceCalls(each) for name, each in config.source_plugins.items()}
        self._public_urls = {name: source.public_url for name, source in config.sources.items()}
        self._guards = {
            name: SourceGuard(
                source, monotonic, authenticates=config.source_plugins[name].authenticates
            )
            for name, source in config.sources.items()
        }
        self.answers = IngressCounters(
            {name: config.source_plugins[name].kinds for name in config.sources}
        )
        self.refusal_log = RefusalLog(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = perf_counter()
        target = self._parse_target(scope)
        name = target.source
        try:
            answer = await self._accept(target, scope, receive, begun)
        except CallbackRefused as refusal:
            self._record_refusal(name if name in self._guards else "", refusal)
            await self._send_refusal(send, name, refusal)
        except ClientDisconnected:
            pass
        else:
            await _send(send, answer)

    async def _send_refusal(self, send: Send, name: str, refusal: CallbackRefused) -> None:
        """Answer with problem details, or with the source's own words."""
        calls = self._calls.get(name)
        own = None
        if calls is not None:
            try:
                own = calls.refusal(refusal.status, refusal.detail)
            except SourceFailed as error:
                self._log_failure(name, error)
        if own is not None:
            await _send(send, replace(own, status=refusal.status), refusal.headers)
            return
        await send_problem(
            send,
            refusal.status,
            refusal.detail,
            headers=refusal.headers,
            members=refusal.members,
        )

    def _log_failure(self, name: str, failure: SourceFailed) -> None:
        """Log an error of a plugin that changes nothing but the answer."""
        kind = f"the plugin's own answer: {failure}"
        self.refusal_log.record(
            SERVER_ERROR, kind, source=name, level=logging.ERROR, error=_frames(failure)
        )

    def body_limit(self, scope: Scope) -> int:
        """Bytes of the body that are used: zero for a request that is refused, not quarantined."""
        target = self._parse_target(scope)
        guard = self._guards.get(target.source)
        if guard is None or scope["method"] not in METHODS or not guard.allows(scope["client"]):
            return 0
        if guard.open or not guard.tokens or guard.tokens.accepts(_offered(scope, target.token)):
            return MAX_BODY
        return max(0, MAX_UNAUTHORIZED - len(target.query))

    def _parse_target(self, scope: Scope) -> CallbackTarget:
        """The target. The address may have `&` in the place of `?`, as in `…/TOKEN&mobile=…`."""
        path = scope["path"][len(PREFIX) :]
        source, _, token = path.partition("/")
        guard = self._guards.get(source)
        if "&" not in path or (guard is not None and guard.tokens.accepts([token.encode()])):
            return CallbackTarget(source, token, scope["query_string"])
        raw, _, misplaced = scope["raw_path"].partition(b"&")
        source, _, token = unquote(raw.decode("ascii"))[len(PREFIX) :].partition("/")
        query = b"&".join(filter(None, (misplaced, scope["query_string"])))
        return CallbackTarget(source, token, query)

    def _record_refusal(self, source: str, refusal: CallbackRefused) -> None:
        for _ in range(refusal.count):
            self.answers.refused(source, refusal.status)
        # From 500 on the cause is the relay, not the sender.
        level = logging.WARNING if refusal.status < SERVER_ERROR else logging.ERROR
        self.refusal_log.record(
            refusal.status,
            refusal.kind,
            source=source,
            last=refusal.last,
            level=level,
            error=refusal.error,
        )

    def _record_receipt(self, name: str, receipt: Receipt, scope: Scope, seconds: float) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("source %s: %s %s", name, receipt.type, receipt.id)
        self.answers.acknowledged(name, receipt, seconds)
        if self._tracer is not None:
            self._tracer.received(name, receipt, _traceparent(scope), seconds)

    async def _accept(
        self, target: CallbackTarget, scope: Scope, receive: Receive, begun: float
    ) -> Answer:
        """Store what the request brings, or raise CallbackRefused. Returns the answer."""
        name = target.source
        guard = self._guards.get(name)
        if guard is None:
            raise CallbackRefused(404, "There is no such source.", kind="there is no such source")
        if scope["method"] not in METHODS:
            raise CallbackRefused(
                405, "Callbacks are GET or POST.", _ALLOW, kind="neither GET nor POST"
            )
        callback = await self._read_callback(target, scope, receive)
        calls = self._calls[name]
        try:
            if guard.open:
                _refuse_other_sites(scope)
            else:
                await self._authenticate(guard, callback, scope, target.token)
            answer = None
            if calls.verifies:
                answer = await self._verify(guard, callback, scope)
            elif _is_empty(callback):
                raise CallbackRefused(422, "The request has no parameters.", kind=NO_PARAMETERS)
            size = _size(callback)
            if wait := guard.delay(size):
                raise _too_many(wait, "above its limit")
            if answer is not None:
                self.answers.answered(name)
                return answer
            if size > LARGE:
                await self._wait_for_turn()
            return await self._store(guard, callback, scope, begun)
        except StoreError as error:
            detail = "Nothing can be stored at the moment."
            raise CallbackRefused(
                503, detail, _RETRY_LATER, kind="nothing can be stored", last=error
            ) from None

    async def _store(
        self, guard: SourceGuard, callback: RawCallback, scope: Scope, begun: float
    ) -> Answer:
        """Store a request as its events, or in quarantine. Returns the answer, or raises it."""
        calls = self._calls[callback.source]
        parts = [callback]
        found: list[Receipt | str]
        try:
            parts = calls.parts(callback)
            if len(parts) == 1:
                found = [await self._acceptor.receive(parts[0])]
            elif wait := guard.parts_delay(len(parts)):
                raise _too_many(wait, "above its limit")
            else:
                found = await self._acceptor.receive_all(parts)
        except InvalidCallback as error:
            found = [error.reason]
        ids = await self._quarantine_invalid(parts, found, _sender(scope))
        results: list[Accepted | Invalid] = []
        for each in found:
            if isinstance(each, str):
                results.append(Invalid(next(ids), each))
            else:
                self._record_receipt(callback.source, each, scope, perf_counter() - begun)
                results.append(Accepted(each.id, each.type, each.repeated))
        return self._answer(calls, callback.source, results)

    async def _quarantine_invalid(
        self, parts: Sequence[RawCallback], found: Sequence[Receipt | str], sender: str
    ) -> Iterator[str]:
        """Store the parts that have a reason, many in one commit. Returns their ids."""
        invalid = [
            (part._replace(sender=sender), each)
            for part, each in zip(parts, found, strict=True)
            if isinstance(each, str)
        ]
        ids: list[str] = []
        for start in range(0, len(invalid), TOGETHER):
            together = invalid[start : start + TOGETHER]
            writing = (self._acceptor.quarantine(part, 422, reason) for part, reason in together)
            ids += await asyncio.gather(*writing)
        return iter(ids)

    def _answer(
        self, calls: SourceCalls, name: str, results: Sequence[Accepted | Invalid]
    ) -> Answer:
        """The source's own answer to these results, else the relay's. Raises CallbackRefused."""
        own = None
        try:
            own = calls.answer(results)
        except SourceFailed as error:
            self._log_failure(name, error)
        refusals = [_not_understood(each) for each in results if isinstance(each, Invalid)]
        if own is None and len(refusals) == len(results):
            raise _none_understood(refusals)
        for refusal in refusals:
            self._record_refusal(name, refusal)
        return own or Answer(orjson.dumps(_summary(results)), content_type=JSON_TYPE)

    async def _verify(
        self, guard: SourceGuard, callback: RawCallback, scope: Scope
    ) -> Answer | None:
        """Have the source check who sends. Raises CallbackRefused."""
        name = callback.source
        try:
            return self._calls[name].verify(_request(callback, scope, self._public_urls[name]))
        except Unauthorized as error:
            if wait := guard.unauthenticated_delay(scope["client"]):
                raise _too_many(wait, "too many that are not authentic") from None
            stored = callback._replace(sender=_sender(scope))
            kept = await self._quarantine_unauthorized(stored, error.reason)
            raise CallbackRefused(
                401,
                "The callback is not authentic.",
                _CHALLENGE,
                kind="it is not authentic",
                last=f"{error.reason}; {kept}" if kept else error.reason,
            ) from None
        except SourceFailed as error:
            raise CallbackRefused(
                503,
                "The relay cannot verify the callback at the moment.",
                _RETRY_LATER,
                kind="the plugin failed to verify it",
                last=error,
                error=_frames(error),
            ) from None

    async def _wait_for_turn(self) -> None:
        """Wait, so that large callbacks are processed at least LARGE_GAP apart."""
        async with self._large:
            await asyncio.sleep(LARGE_GAP)

    async def _read_callback(
        self, target: CallbackTarget, scope: Scope, receive: Receive
    ) -> RawCallback:
        """The request as it arrived."""
        content_type, encoding, test, has_body = "", "", False, False
        for header, value in scope["headers"]:
            if header == b"content-type":
                if value.decode("latin-1") != content_type:
                    content_type = _joined(content_type, value)
            elif header == b"content-encoding":
                encoding = _joined(encoding, value)
            elif header == b"content-length":
                has_body = value != b"0"
            elif header == b"transfer-encoding":
                has_body = True
            elif header == b"x-relay-test":
                test = value.lower() == b"true"
        return RawCallback(
            source=target.source,
            method=scope["method"],
            query=target.query,
            content_type=content_type,
            body=await _body(receive) if has_body else b"",
            received=self._acceptor.now(),
            test=test,
            traceparent=None if self._tracer is None else _traceparent(scope),
            encoding=encoding,
        )

    async def _authenticate(
        self, guard: SourceGuard, callback: RawCallback, scope: Scope, token: str
    ) -> None:
        """Check the sender's address and token, or raise CallbackRefused."""
        allowed = guard.allows(scope["client"])
        offered = _offered(scope, token)
        unread = scope.get(UNREAD, False)
        if allowed and not unread and (not guard.tokens or guard.tokens.accepts(offered)):
            return
        if wait := guard.unauthenticated_delay(scope["client"]):
            raise _too_many(wait, "too many with a wrong token or address")
        if not allowed:
            detail = "Callbacks are not taken from this address."
            raise CallbackRefused(403, detail, kind="the address is not in allow_from")
        stored = callback._replace(sender=_sender(scope), token_digest=digest_tokens(offered))
        raise CallbackRefused(
            401,
            "The token is wrong or missing.",
            _CHALLENGE,
            kind="the token is wrong or missing",
            last=_TOO_LARGE
            if unread
            else await self._quarantine_unauthorized(stored, "the token is wrong or missing"),
        )

    async def _quarantine_unauthorized(self, callback: RawCallback, reason: str) -> str:
        """Store a callback with a wrong token: a mistyped token is a common mistake at first.

        Returns why it is not stored; empty if it is stored.
        """
        if _is_empty(callback):
            return f"not kept: {NO_PARAMETERS}"
        if len(callback.query) + len(callback.body) > MAX_UNAUTHORIZED:
            return _TOO_LARGE
        try:
            await self._acceptor.quarantine(callback, 401, reason)
        except StoreError as error:
            return f"not kept: {error}"
        return ""


def _not_understood(invalid: Invalid) -> CallbackRefused:
    return CallbackRefused(
        422,
        f"Not understood: {invalid.reason}.",
        kind="not understood",
        last=f"{invalid.reason}, kept as {invalid.id}",
        id=invalid.id,
    )


def _none_understood(refusals: Sequence[CallbackRefused]) -> CallbackRefused:
    """The refusal of a request of which no part makes an event."""
    first, *others = refusals
    if others:
        first.detail = f"None of {len(refusals)} is understood."
        first.members = {"items": [_member(each) for each in refusals]}
        first.count = len(refusals)
    return first


def _member(refusal: CallbackRefused) -> dict[str, Any]:
    return {"error": refusal.detail, "id": refusal.members["id"]}


def _summary(results: Sequence[Accepted | Invalid]) -> dict[str, Any]:
    """The answer where something is stored: about one event, or about each part."""
    items = [
        {"id": each.id, "type": each.type}
        if isinstance(each, Accepted)
        else _member(_not_understood(each))
        for each in results
    ]
    return items[0] if len(items) == 1 else {"items": items}


async def _send(send: Send, answer: Answer, headers: Headers = ()) -> None:
    lines = [*headers]
    lines += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    body = b"" if answer.status in BODILESS else answer.body
    assert isinstance(body, bytes)
    if answer.status not in BODILESS:
        lines.append((b"content-type", answer.content_type.encode("latin-1")))
        lines.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def _frames(failure: SourceFailed) -> Exception:
    """The error of a plugin, for its frames."""
    error = failure.error
    return error if isinstance(error, Exception) else failure


def _request(callback: RawCallback, scope: Scope, public_url: str | None) -> Verifiable:
    """What the source verifies."""
    headers: dict[str, str] = {}
    for raw_name, raw in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Verifiable(
        method=callback.method,
        url=_public_url(scope, headers.get("host", ""), public_url),
        headers=headers,
        query=callback.query,
        body=callback.body,
        sender=_sender(scope),
        now=callback.received / MICROSECONDS,
    )


def _public_url(scope: Scope, host: str, public_url: str | None) -> str:
    """The URL as the sender called it; `public_url` stands for the part up to the source's name."""
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    base = f"{scope['scheme']}://{host}{path}"
    if public_url is not None:
        rest = _AFTER_SOURCE.sub("", path, count=1)
        base = public_url.rstrip("/") + rest
    return f"{base}?{query}" if query else base


def _too_many(wait: float, kind: str) -> CallbackRefused:
    """The refusal above a rate limit. Nothing is stored: a flood must not fill the disk."""
    later = (b"retry-after", b"%d" % math.ceil(wait))
    return CallbackRefused(429, "There are too many callbacks.", [later], kind=kind)


def _refuse_other_sites(scope: Scope) -> None:
    """Raise CallbackRefused for a request that a page of another site makes a browser send.

    https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
    """
    if (b"sec-fetch-site", b"cross-site") in scope["headers"]:
        detail = "A browser sent this for a page of another site. Open the address itself."
        raise CallbackRefused(403, detail, kind="a browser sent it for another site")


def _is_empty(callback: RawCallback) -> bool:
    """Whether it has no parameters. Monitors and browsers send such requests."""
    return not callback.query and not callback.body


def _size(callback: RawCallback) -> int:
    """Bytes to be parsed, after decompression: this decides how long parsing takes."""
    return len(callback.query) + unpacked_size(callback.body, callback.encoding)


def _joined(before: str, value: bytes) -> str:
    """The values of a header that occurs more than once, joined by commas."""
    text = value.decode("latin-1")
    return f"{before}, {text}" if before else text


def _offered(scope: Scope, path_token: str) -> list[bytes]:
    """The tokens in the request. It may have one in each of three places."""
    offered = [path_token.encode()] if path_token else []
    for header, value in scope["headers"]:
        if header == b"x-relay-token":
            offered.append(value)
        elif header == b"authorization":
            password = basic_password(value)
            if password is not None:
                offered.append(password)
    return offered[:MAX_TOKENS]


def _sender(scope: Scope) -> str:
    """The address that the request came from; empty where it is unknown."""
    return scope["client"][0] if scope["client"] else ""


def _traceparent(scope: Scope) -> str | None:
    """The trace that the request is part of; None for two headers or an invalid one."""
    found = [value for header, value in scope["headers"] if header == b"traceparent"]
    return valid(found[0]) if len(found) == 1 else None


async def _body(receive: Receive) -> bytes:
    """The whole body. relay.server.protocol limits its size."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)

"""The ingress: the public listener's application. It knows no sink."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay.config.loader import Config
from relay.counters import IngressCounters
from relay.event import InvalidCallback, RawCallback
from relay.server.access import SourceGuard, basic_password, digest_tokens
from relay.server.admin import HEALTH_METHODS
from relay.server.protocol import MAX_BODY, UNREAD
from relay.server.refusals import PROBLEM_TYPE, Headers, RefusalLog, problem_body, send_problem
from relay.sources.coding import unpacked_size
from relay.spill.acceptor import Keeper
from relay.store import Receipt, StoreError
from relay.tracing import Tracer, valid

log = logging.getLogger("relay.ingress")

PREFIX = "/callbacks/"
METHODS = ("GET", "POST")
INTERNAL = 500
"""From this status on the relay is at fault, and not the sender."""

Ready = Callable[[], Sequence[str]]

MOST_OFFERED = 4
"""Tokens of one request that are looked at: with hundreds of them, guessing would be cheap."""

GAP = 0.01
"""Seconds between two large callbacks: others need several turns of the loop each."""
LARGE = 16 * 1024
"""Bytes of a callback above which it is read in a turn of the event loop without others like it."""

LARGEST_KEPT = 16 * 1024
"""Bytes of a callback with a wrong token. None of the vendor's is larger, and anybody may send a
thousand of them: they are to fill no disk."""

EMPTY = "no parameters"
"""The kind of a refusal of which nothing is kept."""

_NOT_KEPT = f"not kept: above {LARGEST_KEPT // 1024} KiB"
_JSON = (b"content-type", b"application/json")
_UNAUTHORIZED: Headers = [(b"www-authenticate", b'Basic realm="relay", charset="UTF-8"')]
_FULL: Headers = [(b"retry-after", b"5")]
_ALLOW: Headers = [(b"allow", b"GET, POST")]


class Ingress(Starlette):
    """Starlette's application, with a short way round its layers for callbacks.

    The layers would make each callback dearer by a quarter. `answers` counts every answer.
    """

    def __init__(self, callbacks: "Callbacks", ready: Ready) -> None:
        super().__init__(
            routes=[
                Route("/healthz", _healthz, methods=HEALTH_METHODS),
                Route("/readyz", _readyz, methods=HEALTH_METHODS),
            ],
            exception_handlers={HTTPException: _http_problem},
        )
        self.router.redirect_slashes = False
        self.state.ready = ready
        self._callbacks = callbacks
        self.answers = callbacks.answers
        self.refusals = self.state.refusals = callbacks.refusals

    def body_limit(self, scope: Scope) -> int:
        """Bytes of the request's body that are of use; the protocol reads no more."""
        is_callback = scope["path"].startswith(PREFIX)
        return self._callbacks.body_limit(scope) if is_callback else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._callbacks(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def app(
    keeper: Keeper,
    config: Config,
    *,
    ready: Ready = lambda: (),
    tracer: Tracer | None = None,
) -> Ingress:
    """The application. `ready` gives the reasons why the relay is not ready; none, and it is."""
    return Ingress(Callbacks(keeper, config, tracer), ready)


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _readyz(request: Request) -> Response:
    if request.app.state.ready():
        return JSONResponse({"status": "not ready"}, 503)
    return JSONResponse({"status": "ready"})


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request.app.state.refusals.record(
        error.status_code, "not the path of a source", level=logging.INFO
    )
    return Response(
        problem_body(error.status_code, error.detail),
        error.status_code,
        error.headers,
        media_type=PROBLEM_TYPE.decode(),
    )


class Refused(Exception):
    """A callback that gets no further; with the answer that says why.

    The log counts it under its `kind`, and says what is known of the `last` of that kind.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Headers = (),
        *,
        kind: str,
        last: object = "",
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.kind = kind
        self.last = last
        self.members = members


class Disconnected(Exception):
    """The sender has gone before its request was whole."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the target of a request names: the source, the token or an empty text, the query."""

    source: str
    token: str = field(repr=False)
    query: bytes = field(repr=False)


class Callbacks:
    """`/callbacks/{source}` and `/callbacks/{source}/{token}`, as a bare ASGI application."""

    def __init__(self, keeper: Keeper, config: Config, tracer: Tracer | None) -> None:
        self._keeper = keeper
        self._tracer = tracer
        self._reading = asyncio.Lock()
        self._guards = {
            name: SourceGuard(source, monotonic) for name, source in config.sources.items()
        }
        self.answers = IngressCounters(config.sources)
        self.refusals = RefusalLog(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = perf_counter()
        target = self._target(scope)
        name = target.source
        try:
            receipt = await self._take(target, scope, receive)
        except Refused as refusal:
            self._refused(name if name in self._guards else "", refusal)
            await send_problem(
                send,
                refusal.status,
                refusal.detail,
                headers=refusal.headers,
                members=refusal.members,
            )
        except Disconnected:
            pass
        else:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("source %s: %s %s", name, receipt.type, receipt.id)
            self._acknowledged(name, receipt, scope, perf_counter() - begun)
            body = orjson.dumps({"id": receipt.id, "type": receipt.type})
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": 200, "headers": [_JSON, length]})
            await send({"type": "http.response.body", "body": body})

    def body_limit(self, scope: Scope) -> int:
        """Nothing is done with the body of a request that is refused, unless it is kept."""
        target = self._target(scope)
        guard = self._guards.get(target.source)
        if guard is None or scope["method"] not in METHODS or not guard.allows(scope["client"]):
            return 0
        if guard.open or not guard.tokens or guard.tokens.accepts(_offered(scope, target.token)):
            return MAX_BODY
        return max(0, LARGEST_KEPT - len(target.query))

    def _target(self, scope: Scope) -> Target:
        """The target, also of an address with `&` where `?` belongs, as in `…/TOKEN&mobile=…`."""
        path = scope["path"][len(PREFIX) :]
        source, _, token = path.partition("/")
        guard = self._guards.get(source)
        if "&" not in path or (guard is not None and guard.tokens.accepts([token.encode()])):
            return Target(source, token, scope["query_string"])
        raw, _, misplaced = scope["raw_path"].partition(b"&")
        source, _, token = unquote(raw.decode("ascii"))[len(PREFIX) :].partition("/")
        query = b"&".join(filter(None, (misplaced, scope["query_string"])))
        return Target(source, token, query)

    def _refused(self, source: str, refusal: Refused) -> None:
        self.answers.refused(source, refusal.status)
        level = logging.WARNING if refusal.status < INTERNAL else logging.ERROR
        self.refusals.record(
            refusal.status, refusal.kind, source=source, last=refusal.last, level=level
        )

    def _acknowledged(self, name: str, receipt: Receipt, scope: Scope, seconds: float) -> None:
        self.answers.acknowledged(name, receipt, seconds)
        if self._tracer is not None:
            self._tracer.received(name, receipt, _traceparent(scope), seconds)

    async def _take(self, target: Target, scope: Scope, receive: Receive) -> Receipt:
        """Store the callback, or raise Refused."""
        guard = self._guards.get(target.source)
        if guard is None:
            raise Refused(404, "There is no such source.", kind="there is no such source")
        if scope["method"] not in METHODS:
            raise Refused(405, "Callbacks are GET or POST.", _ALLOW, kind="neither GET nor POST")
        callback = await self._callback(target, scope, receive)
        try:
            if guard.open:
                _refuse_other_sites(scope)
            else:
                await self._authenticate(guard, callback, scope, target.token)
            if _is_empty(callback):
                raise Refused(422, "The request has no parameters.", kind=EMPTY)
            size = _size(callback)
            if wait := guard.delay(size):
                raise _too_many(wait, "above its limit")
            if size > LARGE:
                await self._turn()
            try:
                return await self._keeper.receive(callback)
            except InvalidCallback as error:
                kept = callback._replace(sender=_sender(scope))
                raise await self._quarantined(kept, error.reason) from None
        except StoreError as error:
            detail = "Nothing can be stored at the moment."
            raise Refused(503, detail, _FULL, kind="nothing can be stored", last=error) from None

    async def _turn(self) -> None:
        """Return in a turn of the event loop in which no other large callback is read."""
        async with self._reading:
            await asyncio.sleep(GAP)

    async def _callback(self, target: Target, scope: Scope, receive: Receive) -> RawCallback:
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
            received=self._keeper.now(),
            test=test,
            traceparent=None if self._tracer is None else _traceparent(scope),
            encoding=encoding,
        )

    async def _authenticate(
        self, guard: SourceGuard, callback: RawCallback, scope: Scope, token: str
    ) -> None:
        """Let the sender in by its address and its token, or raise Refused."""
        known = guard.allows(scope["client"])
        offered = _offered(scope, token)
        unread = scope.get(UNREAD, False)
        if known and not unread and (not guard.tokens or guard.tokens.accepts(offered)):
            return
        if wait := guard.unauthenticated_delay(scope["client"]):
            raise _too_many(wait, "too many with a wrong token or address")
        if not known:
            detail = "Callbacks are not taken from this address."
            raise Refused(403, detail, kind="the address is not in allow_from")
        kept = callback._replace(sender=_sender(scope), token_digest=digest_tokens(offered))
        raise Refused(
            401,
            "The token is wrong or missing.",
            _UNAUTHORIZED,
            kind="the token is wrong or missing",
            last=_NOT_KEPT if unread else await self._keep_refused(kept),
        )

    async def _keep_refused(self, callback: RawCallback) -> str:
        """A mistyped token is the commonest mistake of a first day: what came is kept.

        Returns why it is not; empty where it is.
        """
        if _is_empty(callback):
            return f"not kept: {EMPTY}"
        if len(callback.query) + len(callback.body) > LARGEST_KEPT:
            return _NOT_KEPT
        try:
            await self._keeper.quarantine(callback, 401, "the token is wrong or missing")
        except StoreError as error:
            return f"not kept: {error}"
        return ""

    async def _quarantined(self, callback: RawCallback, reason: str) -> Refused:
        quarantine_id = await self._keeper.quarantine(callback, 422, reason)
        return Refused(
            422,
            f"Not understood: {reason}.",
            kind="not understood",
            last=f"{reason}, kept as {quarantine_id}",
            id=quarantine_id,
        )


def _too_many(wait: float, kind: str) -> Refused:
    """Nothing of it is kept: a flood shall not fill the disk."""
    later = (b"retry-after", b"%d" % math.ceil(wait))
    return Refused(429, "There are too many callbacks.", [later], kind=kind)


def _refuse_other_sites(scope: Scope) -> None:
    """Raise Refused for what a page of another site has a browser send to this machine.

    https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
    """
    if (b"sec-fetch-site", b"cross-site") in scope["headers"]:
        detail = "A browser sent this for a page of another site. Open the address itself."
        raise Refused(403, detail, kind="a browser sent it for another site")


def _is_empty(callback: RawCallback) -> bool:
    """Whether a monitor or a browser sent it, to see whether somebody answers."""
    return not callback.query and not callback.body


def _size(callback: RawCallback) -> int:
    """Bytes to be read: a packed body is small and may take as long as a large one."""
    return len(callback.query) + unpacked_size(callback.body, callback.encoding)


def _joined(before: str, value: bytes) -> str:
    """A header that comes twice is a list."""
    text = value.decode("latin-1")
    return f"{before}, {text}" if before else text


def _offered(scope: Scope, path_token: str) -> list[bytes]:
    """The tokens that the request brings: one in each of the three places is all that is meant."""
    offered = [path_token.encode()] if path_token else []
    for header, value in scope["headers"]:
        if header == b"x-relay-token":
            offered.append(value)
        elif header == b"authorization":
            password = basic_password(value)
            if password is not None:
                offered.append(password)
    return offered[:MOST_OFFERED]


def _sender(scope: Scope) -> str:
    """The address that the request came from; empty where it cannot be told."""
    return scope["client"][0] if scope["client"] else ""


def _traceparent(scope: Scope) -> str | None:
    """The trace that the request is part of; none where it says so twice."""
    found = [value for header, value in scope["headers"] if header == b"traceparent"]
    return valid(found[0]) if len(found) == 1 else None


async def _body(receive: Receive) -> bytes:
    """The whole body; relay.server.protocol has seen to its size."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)

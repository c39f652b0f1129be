"""What the stubs of both vendors share: the calls they saw, faults on demand, and a real server.

    class ExampleStub(Stub):
        def __init__(self):
            super().__init__(Starlette(routes=[...]))
            self.answers["503"] = lambda: Response(status_code=503)   # a fault of its own

        def is_data(self, method, path):      # what `fault` without `on` waits for
            return path.startswith("/crm/")

        def records(self, name):
            return self.stored[name]

    stub = ExampleStub()
    async with serving(stub.app) as url:
        stub.fault("503", count=2)                        # the next two data requests
        stub.fault("drop_after_commit", on="PATCH ")      # the write is kept, the answer is not
        ...
        assert stub.fired["503"] == 2
        assert [call.status for call in stub.calls] == [503, 503, None]

Every fault can have `_after_commit` behind its name: the request is done first, and then the
client hears of the fault and not of what was done.

By hand: `POST /_stub/fault/NAME?count=3&on=PATCH`, `GET /_stub/records/OBJECT`,
`GET /_stub/calls`, `GET /_stub/fired`, and `POST /_stub/NAME` for each of the stub's switches.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

AFTER = "_after_commit"
CONTROL = "/_stub/"


@dataclass(frozen=True)
class Call:
    """One request as it came; `status` is None where no answer went out.

    `path` is as the client encoded it, header names are in lower case, and `fault` names what
    was made to go wrong.
    """

    method: str
    path: str
    status: int | None
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    fault: str | None = None

    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Planned:
    """A fault that is to come; `on` is part of `METHOD /path`, None any data request."""

    name: str
    left: int
    on: str | None


class Stub:
    """The base of a vendor's stub: `app` is to be served, the rest is for the test.

    `answers` holds the faults that are an answer, `inside` those that the stub makes happen
    itself while it handles the request (it counts them in `fired` when they do); `hang`, `drop`
    and `garbage` are known to all.
    `chance` is asked for a fault where none is planned, for storms of them. `switches` are the
    methods that can be called by hand.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self.calls: list[Call] = []
        self.fired: Counter[str] = Counter()
        self.answers: dict[str, Callable[[], Response]] = {}
        self.inside: dict[str, Callable[[], object]] = {}
        self.switches: dict[str, Callable[[], object]] = {}
        self.chance: Callable[[str, str], str | None] = lambda _method, _path: None
        self._inner = inner
        self._planned: list[Planned] = []
        self._cuts = {"hang": _hang, "drop": _drop, "garbage": _garbage}
        self._news = asyncio.Event()

    def is_data(self, method: str, path: str) -> bool:
        """Whether a fault that names no request may hit this one."""
        raise NotImplementedError

    def records(self, name: str) -> list[dict[str, Any]]:
        raise NotImplementedError

    def fault(self, name: str, count: int = 1, on: str | None = None) -> None:
        """The next `count` requests fail so. Raises ValueError for a name that means nothing."""
        self._known(name)
        self._planned.append(Planned(name, count, on))

    async def called(self, count: int) -> None:
        """Wait until this many calls have come."""
        while len(self.calls) < count:
            self._news.clear()
            await self._news.wait()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app. The path reaches the routes as it was sent, for they unquote its parts."""
        assert scope["type"] == "http"
        body = await _whole(receive)
        path = scope["raw_path"].decode("latin-1")
        if path.startswith(CONTROL):
            await self._control(scope["method"], path, scope["query_string"].decode())(
                scope, receive, send
            )
            return
        fault = self._next(scope["method"], path)
        if fault in self.inside:
            self.inside[fault]()
        elif fault:
            self.fired[fault] += 1
        gone = await self._serve(scope | {"path": path}, body, send, fault)
        if gone:
            await _disconnected(receive)

    async def _serve(self, scope: Scope, body: bytes, send: Send, fault: str | None) -> bool:
        """Whether the client was left without an answer."""
        messages: list[Message] = []
        if fault is None or fault in self.inside or fault.endswith(AFTER):
            messages = await _answer(self._inner, scope, body)
        name = (fault or "").removesuffix(AFTER)
        if name in self.answers:
            messages = await _answer(self.answers[name](), scope, body)
        if name in self._cuts:
            self._keep(scope, body, None, fault)
            self._cuts[name](scope)
            return True
        self._keep(scope, body, messages[0]["status"], fault)
        for message in messages:
            await send(message)
        return False

    def _keep(self, scope: Scope, body: bytes, status: int | None, fault: str | None) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        call = Call(scope["method"], scope["path"], status, query, headers, body, fault)
        self.calls.append(call)
        self._news.set()

    def _next(self, method: str, path: str) -> str | None:
        line = f"{method} {path}"
        data = self.is_data(method, path)
        for planned in self._planned:
            if data if planned.on is None else planned.on in line:
                planned.left -= 1
                if not planned.left:
                    self._planned.remove(planned)
                return planned.name
        name = self.chance(method, path) if data else None
        if name is not None:
            self._known(name)
        return name

    def _known(self, name: str) -> None:
        cut = {*self.answers, *self._cuts}
        if name not in self.inside and name.removesuffix(AFTER) not in cut:
            names = ", ".join(sorted({*cut, *self.inside}))
            raise ValueError(f"{name} is no fault of this stub: {names}")

    def _control(self, method: str, path: str, query: str) -> Response:
        """What is asked by hand, with curl say."""
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        what, _, name = unquote(path.removeprefix(CONTROL)).partition("/")
        match method, what:
            case "GET", "records":
                return answer(200, self.records(name))
            case "GET", "calls":
                return answer(200, [_told(call) for call in self.calls])
            case "GET", "fired":
                return answer(200, dict(self.fired))
            case "POST", "fault":
                return self._ordered(name, asked)
            case "POST", _ if what in self.switches:
                self.switches[what]()
                return answer(200, {what: "done"})
        known = ["fault/NAME", *self.switches]
        return answer(404, {"GET": ["records/OBJECT", "calls", "fired"], "POST": known})

    def _ordered(self, name: str, asked: dict[str, str]) -> Response:
        try:
            self.fault(name, int(asked.get("count", "1")), asked.get("on"))
        except ValueError as error:
            return answer(400, {"error": str(error)})
        return answer(200, {"fault": name})


def answer(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    """JSON, whatever the status."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _told(call: Call) -> dict[str, Any]:
    return {"method": call.method, "path": call.path, "status": call.status, "fault": call.fault}


async def _whole(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _answer(app: ASGIApp, scope: Scope, body: bytes) -> list[Message]:
    """What an app says, held back."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return messages


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _hang(_scope: Scope) -> None:
    """Say nothing until the client gives up."""


def _drop(scope: Scope) -> None:
    scope["transport"].abort()


def _garbage(scope: Scope) -> None:
    scope["transport"].write(b"no HTTP at all\r\n\r\n")
    scope["transport"].close()


class Protocol(HttpToolsProtocol):
    """Shows the app its connection, so that it can be cut without an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        # asyncio does not do it for a listener it was given; each answer would wait for 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope["transport"] = self.transport


@asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """A real server on 127.0.0.1; gives its address. At the end what still hangs is cut."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        app, interface="asgi3", http=Protocol, lifespan="off", log_config=None, access_log=False
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Not `serve`: it would take the signals, and its loop looks only every 100 ms whether to end.
    await server.on_tick(0)
    await server.startup(sockets=[listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for running in server.servers:
            running.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        tasks = list(server.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for running in server.servers:
            await running.wait_closed()
        listener.close()

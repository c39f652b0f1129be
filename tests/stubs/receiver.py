"""A receiver on loopback: a real HTTP server that keeps what it gets and answers as told.

    async with Receiver() as receiver:
        receiver.then(status(503), status(429, {"retry-after": "7"}))   # the next two
        receiver.otherwise = hang                                       # all others; 200 by default
        ... receiver.url, receiver.requests, receiver.connections

As a program it answers 200 to everything: `python tests/stubs/receiver.py PORT`.
"""

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


@dataclass(frozen=True)
class Received:
    """One request as it came; header names in lower case, of a repeated one the last."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> list[tuple[str, str]]:
        return parse_qsl(self.body.decode(), keep_blank_values=True)


Answer = Callable[[dict, Callable[[dict], Awaitable[None]]], Awaitable[None]]


def status(code: int, headers: dict[str, str] | None = None, body: bytes = b"{}") -> Answer:
    """Answer with this status at once."""

    async def answer(scope, send):
        await send(start(code, {"content-length": str(len(body))} | (headers or {})))
        await send({"type": "http.response.body", "body": body})

    return answer


def redirect(location: str, code: int = 302) -> Answer:
    return status(code, {"location": location}, b"")


async def hang(scope, send):
    """Take the request and say nothing."""
    await asyncio.sleep(3600)


def drip(code: int = 200, every: float = 0.05) -> Answer:
    """Say the status, then a byte now and then, for ever."""

    async def answer(scope, send):
        await send(start(code))
        while True:
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(every)

    return answer


def endless(code: int = 200) -> Answer:
    """Say the status, then as much as is taken."""

    async def answer(scope, send):
        await send(start(code))
        with contextlib.suppress(OSError):
            while not scope["transport"].is_closing():
                body = b"x" * 65536
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.sleep(0)

    return answer


async def drop(scope, send):
    """Keep the request, then cut the connection without a word."""
    scope["transport"].abort()


def broken(code: int = 200) -> Answer:
    """Promise more of a body than comes."""

    async def answer(scope, send):
        await send(start(code, {"content-length": "100"}))
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        scope["transport"].close()

    return answer


def garbage(text: bytes = b"no HTTP at all\r\n\r\n") -> Answer:
    """Answer in another language."""

    async def answer(scope, send):
        scope["transport"].write(text)
        scope["transport"].close()

    return answer


def slow(seconds: float, then: Answer | None = None) -> Answer:
    """Wait, then answer."""

    async def answer(scope, send):
        await asyncio.sleep(seconds)
        await (then or status(200))(scope, send)

    return answer


def start(code: int, headers: dict[str, str] | None = None) -> dict:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return {"type": "http.response.start", "status": code, "headers": raw}


class Receiver:
    """See above.

    `connections` counts those ever accepted, `most_at_once` the requests in hand together, and
    `names` holds the server names that TLS clients asked for.
    """

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.requests: list[Received] = []
        self.otherwise: Answer = status(200)
        self.connections = 0
        self.most_at_once = 0
        self.names: list[str | None] = []
        self._in_hand = 0
        self._next: deque[Answer] = deque()
        self._tls = tls

    def then(self, *answers: Answer) -> None:
        """Give these answers to the next requests, one each."""
        self._next.extend(answers)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/hook"

    async def __aenter__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        cert, key = self._tls or (None, None)
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            http=self._protocol(),
            lifespan="off",
            log_config=None,
            access_log=False,
            ssl_certfile=cert,
            ssl_keyfile=key,
        )
        config.load()
        if config.ssl:
            config.ssl.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            await asyncio.sleep(0.005)
        return self

    async def __aexit__(self, *error):
        self._server.should_exit = self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        for task in list(self._server.server_state.tasks):
            task.cancel()
        await self._task

    async def _app(self, scope, receive, send):
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        self.requests.append(Received(scope["method"], scope["path"], query, headers, body))
        answer = self._next.popleft() if self._next else self.otherwise
        self._in_hand += 1
        self.most_at_once = max(self.most_at_once, self._in_hand)
        try:
            await answer(scope, send)
        finally:
            self._in_hand -= 1

    def _protocol(self):
        receiver = self

        class Protocol(HttpToolsProtocol):
            def connection_made(self, transport):
                receiver.connections += 1
                super().connection_made(transport)

            def on_headers_complete(self):
                super().on_headers_complete()
                self.scope["transport"] = self.transport

        return Protocol


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        """Signals are for the test run."""
        yield


async def main(port: int) -> None:
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await status(200)(scope, send)

    await uvicorn.Server(
        uvicorn.Config(app, port=port, interface="asgi3", log_level="warning")
    ).serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

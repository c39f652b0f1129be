"""A proxy between a sink and its receiver, which does to each request what it is told.

    async with Receiver() as receiver, SinkProxy(receiver.port) as proxy:
        proxy.fault = hang            # from now on; `passes` by default
        ... proxy.url, proxy.struck   # how often the fault has been done to a request
        proxy.heal()                  # connections that hang are cut, and new ones pass

A fault gets the request as it came, the two streams, and `pass_on`, which sends the request to the
receiver and gives its answer: those that call it have delivered, whatever the sink gets to hear.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

PassOn = Callable[[], Awaitable[bytes]]
Fault = Callable[[asyncio.StreamReader, asyncio.StreamWriter, PassOn], Awaitable[None]]

HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n"


async def passes(reader, writer, pass_on):
    writer.write(await pass_on())


def _reset(writer) -> None:
    """Let the close be a reset."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def reset(reader, writer, pass_on):
    """Cut before the receiver hears of it."""
    _reset(writer)


async def reset_after(reader, writer, pass_on):
    """Cut when the receiver has taken it, with half an answer out."""
    answer = await pass_on()
    writer.write(answer[: len(answer) // 2])
    await writer.drain()
    await asyncio.sleep(0.01)
    _reset(writer)


async def closes(reader, writer, pass_on):
    """Take the request and hang up politely."""


async def hang(reader, writer, pass_on):
    await asyncio.Event().wait()


async def hang_after(reader, writer, pass_on):
    """The receiver has it, and nobody says so."""
    await pass_on()
    await asyncio.Event().wait()


def _drips(start: bytes) -> Fault:
    async def fault(reader, writer, pass_on):
        writer.write(start)
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(1)

    return fault


drip_head = _drips(b"HTTP/1.1 200 OK\r\nX-Slow: ")
drip_error = _drips(HEAD % b"503 Busy" + b"Content-Length: 100000\r\n\r\n")


def _floods(start: bytes, piece: bytes) -> Fault:
    async def fault(reader, writer, pass_on):
        writer.write(start)
        while True:
            writer.write(piece)
            await writer.drain()

    return fault


endless_head = _floods(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 500)
endless_line = _floods(b"HTTP/1.1 200 OK\r\nX-More: ", b"more" * 5000)
endless_error = _floods(
    HEAD % b"503 Busy" + b"Transfer-Encoding: chunked\r\n\r\n",
    b"8000\r\n" + b"x" * 0x8000 + b"\r\n",
)


def says(*lines: bytes, body: bytes = b"") -> Fault:
    """Answer exactly this in the receiver's place."""

    async def fault(reader, writer, pass_on):
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        await writer.drain()

    return fault


def lies(length: int, body: bytes = b"{}") -> Fault:
    """Deliver, and name another length of the answer than it has."""

    async def fault(reader, writer, pass_on):
        await pass_on()
        writer.write(HEAD % b"200 OK" + b"Content-Length: %d\r\n\r\n" % length + body)
        await writer.drain()

    return fault


def redirects(location: str) -> Fault:
    return says(
        b"HTTP/1.1 307 Temporary Redirect", b"Location: " + location.encode(), b"Content-Length: 0"
    )


class SinkProxy:
    """See above."""

    def __init__(self, port: int) -> None:
        self._receiver = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()
        self.fault: Fault = passes
        self.struck = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def __aenter__(self):
        await self.listen()
        return self

    async def __aexit__(self, *error):
        await self.refuse()

    async def listen(self) -> None:
        """Take connections, on the same port each time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Nobody listens any more, and who is connected is cut."""
        self._server.close()
        self._cut()

    def heal(self) -> None:
        self.fault = passes
        self._cut()

    async def has_struck(self, times: int, patience: float = 20) -> None:
        async with asyncio.timeout(patience):
            while self.struck < times:
                await asyncio.sleep(0.01)

    def _cut(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                while True:
                    await self._one(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _one(self, reader, writer) -> None:
        request = await _message(reader)
        fault = self.fault
        self.struck += fault is not passes
        await fault(reader, writer, lambda: self._pass_on(request))
        await writer.drain()
        if fault is not passes:
            raise EOFError

    async def _pass_on(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._receiver)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader) -> bytes:
    """A whole request or answer, which has to say its length."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return head + await reader.readexactly(int(value))
    return head

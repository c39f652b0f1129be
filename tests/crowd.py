"""Connections to a listener, each from an address of its own: 127.0.0.0/8 is this machine."""

import asyncio
import contextlib

from listening import answers, serving

GET = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
KEEPING = b"GET / HTTP/1.1\r\n\r\n"
BEGINNING = b"GET / HTTP/1.1\r\nX: "


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


class Crowd:
    """Connections to a listener, each from the address that is asked for."""

    def __init__(self, running) -> None:
        self.running = running
        self._writers = []

    async def open(self, number=1, *, sends=b"", **options):
        """A connection from 127.0.0.`number`."""
        streams = await asyncio.open_connection(
            "127.0.0.1", self.running.port, local_addr=(f"127.0.0.{number}", 0), **options
        )
        self._writers.append(streams[1])
        if sends:
            streams[1].write(sends)
        return streams

    async def ask(self, number=1, request=GET):
        """The one answer to a request on a connection of its own."""
        reader, _ = await self.open(number, sends=request)
        (answer,) = answers(await reader.read())
        return answer

    def close(self):
        for writer in self._writers:
            writer.close()


@contextlib.asynccontextmanager
async def crowd(application=hello, **options):
    async with serving(application, **options) as running:
        found = Crowd(running)
        try:
            yield found
        finally:
            found.close()


async def seen(running, count) -> None:
    """Wait until the server has that many connections."""
    async with asyncio.timeout(5):
        while len(running.server.server_state.limiter) != count:
            await asyncio.sleep(0.005)


async def gone(reader) -> bytes:
    """What a connection says until it ends, which has to be soon."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""

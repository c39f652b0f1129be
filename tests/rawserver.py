"""A server on loopback that answers each request with the bytes it is given, valid HTTP or not.

    async with RawServer(b"HTTP/1.1 204 No Content\\r\\n\\r\\n", b"stray") as server:
        ... server.url, server.requests, server.connections

Each piece is one write; a number between them is a pause in seconds. `forever` is written again
and again behind them, and `closes` ends the connection behind them.
"""

import asyncio
import contextlib


class RawServer:
    """See above. `requests` has the body of each request; `wrote` counts the bytes of `forever`."""

    def __init__(self, *pieces, forever=b"", pause=0.0, closes=False) -> None:
        self.pieces = pieces
        self.forever = forever
        self.pause = pause
        self.closes = closes
        self.requests: list[bytes] = []
        self.connections = 0
        self.wrote = 0
        self._tasks: set[asyncio.Task] = set()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/hook"

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                while not writer.is_closing():
                    self.requests.append(await _request(reader))
                    await self._answer(writer)
        finally:
            writer.transport.abort()

    async def _answer(self, writer):
        for piece in self.pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            else:
                await asyncio.sleep(piece)
        while self.forever:
            writer.write(self.forever)
            self.wrote += len(self.forever)
            await writer.drain()
            await asyncio.sleep(self.pause)
        if self.closes:
            writer.close()
            await writer.wait_closed()


async def _request(reader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)

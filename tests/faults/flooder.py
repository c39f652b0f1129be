"""A receiver that answers 204 until SIGUSR1, and from then on without end.

python flooder.py PORT KIND LOG

A line of LOG is the bytes of one such answer, when it is over.
"""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\n"
KINDS = {
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "headers": (OK, b"X-More: and more\r\n" * 3000),
    "tiny chunks": (BUSY + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
    "a body": (BUSY + b"\r\n", b"x" * 65_536),
}
POLITE = b"HTTP/1.1 204 No Content\r\n\r\n"


class Flooder:
    """See above."""

    def __init__(self, kind: str, log: Path) -> None:
        self.beginning, self.forever = KINDS[kind]
        self.log = log
        self.floods = False

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                await (self.flood(writer) if self.floods else self.say(writer, POLITE))
        writer.transport.abort()

    async def say(self, writer, text):
        writer.write(text)
        await writer.drain()

    async def flood(self, writer):
        wrote = 0
        try:
            await self.say(writer, self.beginning)
            while True:
                await self.say(writer, self.forever)
                wrote += len(self.forever)
        finally:
            with self.log.open("a") as log:
                log.write(f"{wrote}\n")


async def main(port: int, kind: str, log: Path) -> None:
    flooder = Flooder(kind, log)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, setattr, flooder, "floods", True)
    server = await asyncio.start_server(flooder.serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))

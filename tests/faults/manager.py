"""A service manager's end of the notify socket: it hears what systemd would hear."""

import asyncio
import contextlib
import socket


class Manager:
    """See `listening`. `heard` has every message so far, as a dict of its lines."""

    def __init__(self, receiver: socket.socket, name: str) -> None:
        self._receiver = receiver
        self._news = asyncio.Condition()
        self.environ = {"NOTIFY_SOCKET": name}
        self.heard: list[dict[str, str]] = []

    def count(self, name: str) -> int:
        return sum(name in message for message in self.heard)

    async def hear(self, name: str, times: int) -> dict[str, str]:
        """Wait until so many messages with this line have come; the last of them."""
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: self.count(name) >= times)
        return [message for message in self.heard if name in message][times - 1]

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            lines = (await loop.sock_recv(self._receiver, 4096)).decode().split("\n")
            async with self._news:
                self.heard.append(dict(line.split("=", 1) for line in lines))
                self._news.notify_all()


@contextlib.asynccontextmanager
async def listening(folder):
    """A manager that listens in this folder."""
    name = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name)
        receiver.setblocking(False)
        manager = Manager(receiver, name)
        task = asyncio.create_task(manager._listen())
        try:
            yield manager
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

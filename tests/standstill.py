"""A loop that stands still, as when the process is stopped or the machine has too much to do."""

import asyncio
import socket
import time


async def stand_still(seconds, meanwhile):
    """For so long, `meanwhile` at its beginning.

    It is the moment when the loop has asked for what came, and looks at its timers next.
    """
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    ours, others = socket.socketpair()

    def block():
        loop.remove_reader(ours)
        meanwhile()
        time.sleep(seconds)
        over.set()

    with ours, others:
        loop.add_reader(ours, block)
        others.send(b"x")
        await over.wait()

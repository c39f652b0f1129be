"""A receiver that costs little: it counts events, and answers as the path says.

`python receiver.py PORT`. POST /200/NAME counts for NAME; /503, /429 and /400 refuse, /hang
never answers. GET /count/NAME tells how many events came for NAME, GET /stats/NAME all
that was counted, and begins anew.
"""

import asyncio
import gc
import json
import re
import sys
import time
from collections import defaultdict

import uvloop

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
SENT = re.compile(rb'"sent":"(\d+)"')
EVENT = b'"specversion"'


def answer(status: bytes, body: bytes = b"{}", header: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        header,
        len(body),
        body,
    )


ANSWERS = {
    b"200": answer(b"200 OK"),
    b"400": answer(b"400 Bad Request"),
    b"429": answer(b"429 Too Many Requests", header=b"retry-after: 2\r\n"),
    b"503": answer(b"503 Service Unavailable"),
    b"hang": b"",
}


class Counted:
    """What one sink sent: (time, events so far), and how long the events had been on their way."""

    def __init__(self) -> None:
        self.events = 0
        self.steps: list[tuple[float, int]] = []
        self.waits: list[float] = []

    def add(self, body: bytes) -> None:
        self.events += body.count(EVENT)
        self.steps.append((time.perf_counter(), self.events))
        now = time.time_ns()
        self.waits += [(now - int(sent)) / 1e9 for sent in SENT.findall(body)]

    def report(self) -> dict:
        """The rate is that between the first tenth of the events and the last."""
        waits = sorted(self.waits)
        lower, upper = self.events * 0.1, self.events * 0.9
        steps = [step for step in self.steps if lower <= step[1] <= upper]
        report = {"events": self.events, "requests": len(self.steps)}
        if self.steps:
            report["last"] = self.steps[-1][0]
        if len(steps) > 1 and steps[-1][0] > steps[0][0]:
            report["rate"] = (steps[-1][1] - steps[0][1]) / (steps[-1][0] - steps[0][0])
        if waits:
            report |= {"p50": waits[len(waits) // 2], "p99": waits[len(waits) * 99 // 100]}
        return report


class Connection(asyncio.Protocol):
    def __init__(self, counted: defaultdict[bytes, Counted]) -> None:
        self._counted = counted
        self._buffer = bytearray()

    def connection_made(self, transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end])
        length = LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < whole:
            return
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        _, what, name = head.split(b" ", 2)[1].split(b"/")
        if what == b"count":
            report = b'{"events": %d}' % self._counted[name].events
            self._transport.write(answer(b"200 OK", report))
        elif what == b"stats":
            report = json.dumps(self._counted.pop(name, Counted()).report()).encode()
            self._transport.write(answer(b"200 OK", report))
        else:
            self._counted[name].add(body)
            self._transport.write(ANSWERS[what])


async def main(port: int) -> None:
    gc.disable()
    counted: defaultdict[bytes, Counted] = defaultdict(Counted)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(counted), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

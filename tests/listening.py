"""A real listener on loopback for tests, and a client that sends bytes as they are."""

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import orjson
from sumotextsource import source_plugins

from relay.clock import SystemClock
from relay.config.loader import SourceConfig
from relay.event import InvalidCallback
from relay.server import ingress
from relay.server.http_server import HttpServer, make_server
from relay.server.protocol import Protocol
from relay.server.sockets import bind_tcp
from relay.server.tls import Certificate
from relay.sources.router import Router
from relay.store.sqlite.store import SqliteStore
from relay.units import HostPort

EXAMPLES = rb"""
/Post.aspx?country=USA&shortcode=84700&key=SOMEKEY&mobile=2125551212&carrierId=VERIZONUS&Name=Bill&DOB=1/1/2000&Zip=10024
/sumotext.aspx?mobile=2125551212&carrier=VERIZONUS&shortcode=84700&key=FB1&reply=A&city=Tampa
/sumotext.aspx?mobile=2125551212&carrier=VERIZONUS&shortcode=84700&key=FB1&reply=A&label=Tampa
/yourpage.aspx?lead=keyword&&mobile=2125551212&msg=ServerMsg
/Post.aspx?mobile=2125551212&carrierId=VERIZONUS&key=SOMEKEYWORD&country=USA&shortcode=84700&Name=Mary Jane &Zip=10054&msg=MOBILEUSERSMESSAGE
/your-endpoint?mobile=2125551212&carrier=VERIZONUS&smsid=2xgh679okl34x&shortcode=84700&key=SUMOX&msg=have a nice day
""".strip().splitlines()  # noqa: E501  byte for byte as printed
QUERIES = [example.partition(b"?")[2] for example in EXAMPLES]
KINDS = ["web_form", "poll", "poll", "text_4_info", "web_form", "message"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return orjson.loads(self.body)


def config(sources=None, sinks=()):
    """What router and ingress need of a configuration."""
    sources = sources or {"sumotext": SourceConfig()}
    return SimpleNamespace(
        sources=sources,
        source_plugins=source_plugins(sources),
        sinks={
            name: SimpleNamespace(name=name, enabled=True, when=None)
            if isinstance(name, str)
            else name
            for name in sinks
        },
    )


class Straight(Router):
    """Keeps callbacks in the store, and has nothing to fall back on."""

    def __init__(self, configuration, store) -> None:
        super().__init__(configuration, store, SystemClock())
        self.quarantine = store.quarantine

    async def receive(self, callback):
        return await self._store.add(await self.new_event(callback))

    async def receive_all(self, callbacks):
        return [await self._received(each) for each in callbacks]

    async def _received(self, callback):
        try:
            return await self.receive(callback)
        except InvalidCallback as error:
            return error.reason


class Listening:
    """A running listener with what stands behind it."""

    def __init__(self, server: HttpServer, store: SqliteStore | None, application) -> None:
        self.server = server
        self.store = store
        self.application = application
        self.port = server.address[1]
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self):
        """A connection; whoever opened it need not close it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()

    async def raw(self, request: bytes, *, half_close: bool = False, timeout: float = 10) -> bytes:
        """Everything that comes back until the other side closes."""
        async with asyncio.timeout(timeout):
            reader, writer = await self.open()
            try:
                writer.write(request)
                if half_close:
                    writer.write_eof()
                return await reader.read()
            finally:
                writer.close()

    async def ask(
        self, target: bytes, *, method: bytes = b"GET", headers: bytes = b"", body: bytes = b""
    ) -> Answer:
        """One request on a connection of its own."""
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        (answer,) = answers(
            await self.raw(
                b"%s %s HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n%s%s\r\n%s"
                % (method, target, length, headers, body)
            ),
            head=method == b"HEAD",
        )
        return answer


@asynccontextmanager
async def listening(store, *, sources=None, sinks=(), protocol=Protocol, tls=None, limiter=None):
    """The ingress over a store, on a port of its own."""
    configuration = config(sources, sinks)
    application = ingress.app(Straight(configuration, store), configuration)
    options = {"protocol": protocol, "tls": tls, "limiter": limiter}
    async with serving(application, store=store, **options) as running:
        yield running


@asynccontextmanager
async def serving(application, *, store=None, protocol=Protocol, tls=None, limiter=None):
    """Any application, served as the relay serves its own."""
    server = make_server(
        application,
        bind_tcp(HostPort("127.0.0.1", 0)),
        certificate=Certificate(*tls) if tls else None,
        limiter=limiter,
        protocol=protocol,
    )
    server.drain_delay = 0.01
    await server.start()
    running = Listening(server, store, application)
    try:
        yield running
    finally:
        running.close_all()
        await server.drain(grace=1)


_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")


def answers(data: bytes, *, head: bool = False) -> list[Answer]:
    """The answers in what came back; fails on anything that is not a whole answer."""
    found = []
    while data:
        lines, end, data = data.partition(b"\r\n\r\n")
        start = _STATUS.match(lines + b"\r\n")
        assert start, lines
        assert end
        if start[1] == b"100":
            continue
        headers = dict(line.split(": ", 1) for line in lines.decode("latin-1").split("\r\n")[1:])
        length = 0 if head else int(headers["content-length"])
        assert len(data) >= length
        found.append(Answer(int(start[1]), headers, data[:length]))
        data = data[length:]
    return found

"""A worker with a sink that does as a test says, on a real store and a clock moved by hand."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from dataclasses import replace

import httpx

from relay.config.model import BreakerSettings, RetrySettings
from relay.config.sinks import Batch, SinkConfig
from relay.delivery.worker import SinkWorker
from relay.sink import Sink
from relay.store import SinkState, State

PATIENCE = 10.0


class ScriptedSink(Sink):
    """Answers each delivery with what `answer` returns or raises; remembers what it was sent."""

    def __init__(self, answer: Callable | None = None, *, columns=None) -> None:
        super().__init__("crm", None, None, None, columns)
        self.answer = answer or (lambda _: None)
        self.sent = []
        self.sending = 0
        self.most = 0
        self.arrived: asyncio.Queue = asyncio.Queue()

    async def send(self, delivery):
        self.sent.append(delivery)
        self.sending += 1
        self.most = max(self.most, self.sending)
        self.arrived.put_nowait(delivery)
        try:
            result = self.answer(delivery)
            return await result if inspect.isawaitable(result) else result
        finally:
            self.sending -= 1

    @property
    def ids(self) -> list[str]:
        return [delivery.id for delivery in self.sent]

    async def next(self):
        """The next delivery that arrives."""
        return await asyncio.wait_for(self.arrived.get(), PATIENCE)


class CheckedSink(ScriptedSink):
    """One with a `check` of its own."""

    problems: list[str]

    async def check(self):
        return self.problems


class BatchSink(ScriptedSink):
    """One that takes batches; `answer` is given the list."""

    max_batch = 100

    async def send_batch(self, deliveries):
        self.sent.append(list(deliveries))
        self.arrived.put_nowait(list(deliveries))
        result = self.answer(list(deliveries))
        return await result if inspect.isawaitable(result) else result


def sink_config(**changes) -> SinkConfig:
    """A sink's configuration; the defaults of relay.yaml, one at a time unless told."""
    config = SinkConfig(
        name="crm",
        plugin="scripted",
        sink_class=ScriptedSink,
        enabled=True,
        when=None,
        map=None,
        options=None,
        batch=Batch(1, 0.0),
        concurrency=1,
        rate=None,
        timeout=30.0,
        order="contact",
        retry=RetrySettings(),
        breaker=BreakerSettings(),
        allow_private=[],
    )
    return replace(config, **changes)


@contextlib.asynccontextmanager
async def running(store, clock, sink, *, grace: float = 1.0, **changes):
    """A worker at work, going on from what the store kept of it."""
    state = (await store.sink_states()).get("crm") or SinkState()
    worker = SinkWorker(sink_config(**changes), sink, store, clock, state)
    await worker.deliver_after_repeated_crash()

    def wake(work):
        if "crm" in work:
            worker.wake(urgent=work["crm"])

    store.subscribe(wake)
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop(grace)
        await worker.close()


async def eventually(condition, *arguments):
    """Wait until the condition (a function, or one that returns an awaitable) holds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            result = condition(*arguments)
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.002)


async def counts(store) -> tuple[int, int, int]:
    """Pending, delivered, dead."""
    found = (await store.sink_counts())["crm"]
    return found.pending, found.delivered, found.dead


async def reached(store, *expected) -> None:
    """Wait until the counts are as expected."""

    async def same() -> bool:
        return await counts(store) == expected

    await eventually(same)


async def states(store) -> list[State]:
    """The states of the open and dead deliveries, the oldest first."""
    rows = await store.deliveries(list(State), limit=1000)
    return [row.state for row in reversed(rows)]


async def landed(store) -> None:
    """Wait until nothing is in flight."""

    async def none() -> bool:
        return State.IN_FLIGHT not in await states(store)

    await eventually(none)


def status_error(status: int, **headers: str) -> httpx.HTTPStatusError:
    """What `raise_for_status` raises."""
    request = httpx.Request("POST", "http://sink.example/")
    response = httpx.Response(status, headers=headers, request=request, text="the answer")
    return httpx.HTTPStatusError(str(status), request=request, response=response)


def fail(error: BaseException):
    raise error

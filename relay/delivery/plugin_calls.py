"""Marks the event loop's position in plugin code, from a resume to the next await.

A plugin that blocks there, or ends the process there, takes the relay with it. The watch thread
reads `POSITION` to name the sink. A fatal signal leaves only a traceback behind; so the function
that resumes a plugin's coroutine bears the name of the call.
"""

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, Self, TypeVar

from relay.clock import Stopwatch, SystemClock
from relay.send_context import OUTSIDE, SendContext, entered

T = TypeVar("T")

ABANDON_AFTER = 1.0
"""Seconds in which a call has to end once it is cancelled."""
SHORTEST_LOOK = 0.01


class PluginExit(Exception):
    """A plugin raised what is meant to end a process. It ends the one call."""


class PluginCall(NamedTuple):
    """A call of a sink's own code: `crm`, `send`."""

    sink: str
    name: str

    def __str__(self) -> str:
        return f"sink {self.sink}: {self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` gave."""
        sink, _, name = text.removeprefix("sink ").partition(": ")
        return cls(sink, name)


class Position:
    """The call that the event loop is in, or None. `steps` counts the resumes."""

    __slots__ = ("call", "steps")

    def __init__(self) -> None:
        self.call: PluginCall | None = None
        self.steps = 0


POSITION = Position()
"""That of the process, which has one event loop."""

calling: ContextVar[PluginCall | None] = ContextVar("calling", default=None)
"""The call to which a task belongs, or a thread that it has started."""


@contextlib.contextmanager
def inside(call: PluginCall) -> Iterator[None]:
    """Mark a block that runs a sink's code without awaiting."""
    before, POSITION.call = POSITION.call, call
    POSITION.steps += 1
    try:
        yield
    finally:
        POSITION.call = before


async def run(call: PluginCall, work: Any) -> Any:
    """Await a sink's coroutine. Every step of it and of the tasks that it starts is marked."""
    token = calling.set(call)
    try:
        return await _stepping(call)(call, _coroutine(work))
    finally:
        calling.reset(token)


def task_factory(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
    **options: Any,
) -> asyncio.Task[T]:
    """Makes the loop's tasks. Those that a plugin starts are marked as well."""
    call = calling.get()
    work = coroutine if call is None else run(call, coroutine)
    return asyncio.Task(work, loop=loop, **options)


def _steps(call: PluginCall, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    resume, value = work.send, None
    while True:
        before, POSITION.call = POSITION.call, call
        POSITION.steps += 1
        try:
            awaited = resume(value)
        except StopIteration as end:
            return end.value
        finally:
            POSITION.call = before
            value = None  # an error would hold this frame, and this frame the error
        try:
            value = yield awaited
            resume = work.send
        except BaseException as error:  # noqa: BLE001  the coroutine is to see it
            resume, value = work.throw, error


@lru_cache(maxsize=1024)
def _stepping(call: PluginCall) -> Any:
    """`_steps` under the name of the call."""
    code = _steps.__code__.replace(co_name=str(call), co_qualname=str(call))
    return types.coroutine(types.FunctionType(code, globals()))


def _coroutine(work: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    async def awaited() -> Any:
        return await work

    return work if isinstance(work, Coroutine) else awaited()


async def run_with_timeout(
    seconds: float, work: Awaitable[Any], context: SendContext = OUTSIDE
) -> Any:
    """Await a plugin's `work` in a task. Raises TimeoutError, even if it will not be cancelled.

    Waiting for the sink's `rate` or its quota does not count.
    """
    watch = Stopwatch(SystemClock())
    watch.start()
    with entered(replace(context, timeout=seconds, stopwatch=watch)):
        task = asyncio.ensure_future(_contained(work))
    task.add_done_callback(_retrieve_error)
    try:
        while not task.done() and (left := seconds - watch.elapsed()) > 0:
            await asyncio.wait({task}, timeout=max(left, SHORTEST_LOOK))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=ABANDON_AFTER)
    if task.cancelled() or not task.done():
        raise TimeoutError
    return _result(task)


async def _contained(work: Awaitable[Any]) -> Any:
    """The result of `work`. asyncio would hand these two past its task, to the whole relay."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise PluginExit(type(error).__name__) from None


def _result(task: asyncio.Future[Any]) -> Any:
    """The task's result. Libraries in Rust, for one, raise what is no Exception when they fail."""
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise PluginExit(type(error).__name__)
    return task.result()


def _retrieve_error(task: asyncio.Future[Any]) -> None:
    """Retrieve the error of an abandoned call: asyncio would log it, with what it quotes."""
    if not task.cancelled():
        task.exception()

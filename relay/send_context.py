"""The context of a send: what its requests depend on and its plugin does not pass on.

A plugin calls its HTTP client and its quota without an argument for these. They find them here, in
the one context variable of the delivery, which is set for the task that runs the plugin's code.
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from relay.clock import Stopwatch


@dataclass(frozen=True, slots=True)
class SendContext:
    """The defaults are those of a request outside of any send."""

    urgent: bool = False
    """Whether an opt-out is sent: its requests do not wait for a rate or a quota, but count."""
    traceparent: str | None = None
    """The header of its requests, so that the other side's spans are of the same trace."""
    timeout: float = math.inf
    """Seconds, by `stopwatch`, after which the send is cancelled."""
    stopwatch: Stopwatch | None = None

    def elapsed(self) -> float:
        """Seconds since the send began, without those that it waited for a rate or a quota."""
        return 0.0 if self.stopwatch is None else self.stopwatch.elapsed()


OUTSIDE = SendContext()
"""The context of what belongs to no send."""

_current: ContextVar[SendContext] = ContextVar("send_context", default=OUTSIDE)


def current() -> SendContext:
    """The context of the send that the present task belongs to."""
    return _current.get()


@contextlib.contextmanager
def entered(context: SendContext) -> Iterator[None]:
    """Set the context for the block, and for the tasks that are made in it."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def time_left() -> float:
    """Seconds until the present send is cancelled; infinite outside of one."""
    context = current()
    return context.timeout - context.elapsed()


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """Stop the send's stopwatch: what is waited for in the block is no fault of the sink."""
    watch = current().stopwatch
    if watch is None:
        yield
        return
    watch.stop()
    try:
        yield
    finally:
        watch.start()

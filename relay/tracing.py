"""W3C trace context of events, and the interface of a tracer.

A trace needs no column in the store: its id is the event's id, so that a delivery after
days and restarts is still of the same trace, and who has the one has the other. Only where a
callback brought a `traceparent` is that kept with its event, and goes on.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, Self

from relay.outcome import Outcome
from relay.store import Claim, Receipt

# A later version may say more after the flags; this one must not.
TRACEPARENT = re.compile(
    rb"(?:00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    rb"|(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]{0,256})?)"
)
SAMPLED = 0x01
RANDOM_BITS = 32
"""So many of an id's last bits are random; before them a UUIDv7 may count within a millisecond."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace and the id of a span, and whether the trace is recorded (sampled)."""

    trace: int
    span: int
    sampled: bool

    @property
    def header(self) -> str:
        return f"00-{self.trace:032x}-{self.span:016x}-{SAMPLED if self.sampled else 0:02x}"

    @classmethod
    def parse(cls, header: str) -> Self:
        """Read what `valid` let through."""
        _, trace, span, flags, *_ = header.split("-")
        return cls(int(trace, 16), int(span, 16), bool(int(flags, 16) & SAMPLED))


def valid(header: bytes) -> str | None:
    """A callback's traceparent as text; None for what is none."""
    return header.decode() if TRACEPARENT.fullmatch(header) else None


def receipt_context(event_id: str, traceparent: str | None, share: float) -> TraceContext:
    """The context of the span of an event's receipt, which is the parent of its deliveries'."""
    number = int(event_id.replace("-", ""), 16)
    span = number & 0xFFFF_FFFF_FFFF_FFFF
    if traceparent is not None:
        brought = TraceContext.parse(traceparent)
        return TraceContext(brought.trace, span, brought.sampled)
    chance = number & ((1 << RANDOM_BITS) - 1)
    return TraceContext(number, span, chance < share * (1 << RANDOM_BITS))


class Attempts(Protocol):
    """The spans of one attempt, one for each delivery, from when it begins."""

    @property
    def traceparent(self) -> str | None:
        """The header of the attempt's requests; None where it is for several events."""

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """What became of them, in their order."""


class Tracer(Protocol):
    """Where spans are handed over. They hold no contact's data."""

    def received(
        self, source: str, receipt: Receipt, traceparent: str | None, seconds: float
    ) -> None:
        """A callback was acknowledged just now, after so many seconds."""

    def attempts(self, sink: str, claims: Sequence[Claim]) -> AbstractContextManager[Attempts]:
        """The spans of an attempt, which is made in the block."""

    async def close(self) -> None:
        """Hand over what is left, within a short time."""

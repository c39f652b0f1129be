"""The store's values and errors. The port, which every engine implements, is in `port`.

Times are microseconds since the epoch. A `seq` is the store's order of receipt, and the only order
that deliveries follow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Self

from relay.event import Event, RawCallback

UNAUTHORIZED = 401
UNAUTHORIZED_KEPT = 1_000
"""The most callbacks with a wrong token in quarantine, as anyone may send those."""
QUARANTINE_SIZE = 256 * 1024 * 1024
"""Bytes of quarantined callbacks, where relay.yaml names no other size."""


class StoreError(Exception):
    """The base of what the store raises."""


class StoreFull(StoreError):
    """The disk is full, or another program keeps the store locked: nothing was stored."""


class StoreStalled(StoreError):
    """It takes too long: whether it is stored is not known yet."""


class StoreBroken(StoreError):
    """A commit failed on I/O, so what is on disk is not known: the process must end."""


class StoreLocked(StoreError):
    """Another process owns the store."""


class StoreNewer(StoreError):
    """The file was written by a newer release."""


class State(IntEnum):
    """The state of a delivery (docs/delivery-states.md); the values are those of the database."""

    PENDING = 0
    """Never claimed."""
    IN_FLIGHT = 1
    """Claimed by the running process."""
    WAITING = 2
    """Due at a moment: a retry, or what was put back."""
    BLOCKED = 3
    """Behind an older delivery of its contact."""
    DELIVERED = 4
    DEAD = 5
    """Given up: rejected, or out of attempts."""
    DISCARDED = 6
    """Given up by an operator or an erasure."""


OPEN_STATES = (State.PENDING, State.IN_FLIGHT, State.WAITING, State.BLOCKED)

TRANSITIONS: Mapping[State | None, frozenset[State]] = {
    None: frozenset({State.PENDING, State.WAITING, State.DEAD}),
    State.PENDING: frozenset({State.IN_FLIGHT, State.BLOCKED, State.WAITING, State.DISCARDED}),
    State.IN_FLIGHT: frozenset({State.DELIVERED, State.WAITING, State.DEAD}),
    State.WAITING: frozenset({State.IN_FLIGHT, State.BLOCKED, State.DISCARDED}),
    State.BLOCKED: frozenset({State.WAITING, State.IN_FLIGHT, State.DISCARDED}),
    State.DELIVERED: frozenset({State.WAITING}),
    State.DEAD: frozenset({State.WAITING, State.DISCARDED}),
    State.DISCARDED: frozenset({State.WAITING}),
}
"""The states that follow each state. None is a delivery that does not exist yet."""


class NewEvent(NamedTuple):
    """An event to be stored with its deliveries, in one transaction.

    `kind` is that of the event. `deliveries` maps each matching sink's
    name to None, or to the error of a `when` that raised (stored as a dead delivery).
    `copy_of` is the id of the event that this one repeats (`replay --as-new`). One that is `late`
    may be older than what its contact has said since.
    """

    event: Event
    callback: RawCallback
    source: str
    kind: str
    deliveries: Mapping[str, str | None]
    copy_of: str | None = None
    late: bool = False


class Receipt(NamedTuple):
    """The answer to the sender: the event's id and type.

    `repeated`: the first event's, because the same source, `dedup_key`, contact and text
    came before. `id_reused`: the `dedup_key` came before with another contact or text.
    """

    id: str
    type: str
    repeated: bool = False
    id_reused: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery taken by this process, to be settled by it."""

    sink: str
    seq: int
    event: Event
    attempt: int
    urgent: bool
    replayed: bool
    stale: bool
    opted_out: bool
    failed_at: float | None
    """The sink's active clock (seconds) at the first failed attempt; None before it."""
    contact: int


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """`more`: a further claim may find deliveries at once. `urgent`: urgent ones were left out.

    `due`: where there are no more, when the next one is due (microseconds); None without any.
    `cut`: it is full by the size of its events, not by their number.
    """

    claims: list[Claim]
    more: bool
    urgent: bool = False
    due: int | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt. `duration` in seconds; `answer` at most 2 KiB of text."""

    started: int
    duration: float
    error: str
    status: int | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a claim ended: with a delivery that is DELIVERED, DEAD, or WAITING until `due`.

    `due` is in microseconds; 0 is at once. `counted` says whether the claim spends an attempt.
    `failed_at` is as in Claim. Raises ValueError for a state that does not follow IN_FLIGHT.
    """

    sink: str
    seq: int
    state: State
    due: int = 0
    counted: bool = True
    failed_at: float | None = None
    reference: str | None = None
    error: str | None = None
    attempt: Attempt | None = None
    consent: bool = False
    """Whether the sink accepted the word of consent, but not the rest of the record."""

    def __post_init__(self) -> None:
        if self.state not in TRANSITIONS[State.IN_FLIGHT]:
            raise ValueError(f"a claim does not end with a delivery that is {self.state.name}")

    @classmethod
    def put_back(cls, sink: str, seq: int, failed_at: float | None = None) -> Self:
        """The settlement of a claim that counts as never made: it is due again at once."""
        return cls(sink, seq, State.WAITING, counted=False, failed_at=failed_at)

    @property
    def is_put_back(self) -> bool:
        return self.state is State.WAITING and not self.due and not self.counted


@dataclass(slots=True)
class SinkState:
    """What outlives a restart of a sink's worker. `active` is the seconds that it really ran."""

    paused: str | None = None
    """Why it is paused; None when it is not."""
    paused_by_operator: bool = False
    halted_at: int = 0
    """When it was last paused or parked."""
    since: int = 0
    """Since when it has been halted without a break, for any reasons."""
    probe_at: int = 0
    parked_until: int = 0
    """By the breaker or a Retry-After."""
    parked: str | None = None
    breaker_open: bool = False
    active: float = 0.0
    crashes: int = 0
    """How often in a row the process ended inside its code."""
    held: str | None = None
    """Why none of its code is run until an operator resumes it; None if it is run."""


@dataclass(frozen=True, slots=True)
class SinkCounts:
    pending: int = 0
    delivered: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class BacklogAge:
    """When the oldest came that one sink has not got yet; None without any.

    `since` of all deliveries, `opt_out_since` of opt-outs, those that were given up among them.
    """

    since: int | None = None
    opt_out_since: int | None = None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A callback that was not understood, or refused for its token. `reason` holds no number."""

    seq: int
    id: str
    received: int
    source: str
    status: int
    reason: str
    callback: RawCallback


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as the commands show it."""

    sink: str
    seq: int
    event_id: str
    type: str
    received: int
    state: State
    attempts: int
    due: int
    error: str | None
    reference: str | None
    settled: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as the commands show it. `deliveries` and `attempts` only from `event`."""

    seq: int
    source: str
    received: int
    event: Event
    callback: RawCallback
    deliveries: list[DeliveryRow] = field(default_factory=list)
    attempts: list[tuple[str, int, Attempt]] = field(default_factory=list)
    """(sink, number of the attempt, attempt)"""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None is no bound. `since` and `until` are microseconds, `until` exclusive.

    Without `copies`, what was replayed as new is left out.
    """

    source: str | None = None
    kind: str | None = None
    keyword: str | None = None
    since: int | None = None
    until: int | None = None
    copies: bool = True


@dataclass(frozen=True, slots=True)
class PurgeCutoffs:
    """What a purge removes: what was received before these moments; `now` is none of them."""

    delivered: int
    dead: int
    quarantine: int
    now: int


@dataclass(frozen=True, slots=True)
class Purged:
    """A step of a purge, up to `seq`."""

    seq: int
    events: int = 0
    callbacks: int = 0


@dataclass(frozen=True, slots=True)
class ContactRows:
    """A contact's events, by seq and id.

    `waiting` are (sink, state, event id) of an opt-out that a sink does not have.
    """

    contacts: Sequence[int]
    events: Mapping[int, str]
    waiting: Sequence[tuple[str, State, str]]


class Scrubbed(NamedTuple):
    """In how many places a number is still found, and how many bytes were searched."""

    places: int
    searched: int


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """A contact's opt-out or opt-in, and when each sink first accepted it.

    `contact` is a keyed hash; `mobile` the contact itself, None where the event has gone.
    """

    seq: int
    contact: str
    mobile: str | None
    source: str
    word: str
    test: bool
    received: int
    accepted: Mapping[str, int]

"""The store: what every engine (SQLite today, PostgreSQL later) promises to the rest.

Times are microseconds since the epoch. A `seq` is the store's own order of receipt, and the
only order that deliveries follow. All methods are coroutines and may raise `StoreFull` (nothing
was stored, try again later) or `StoreBroken` (the fate of the last commit is not known: end the
process).
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, Self

from relay.event import Event, RawCallback
from relay.redact import NumberMatcher

UNAUTHORIZED = 401
UNAUTHORIZED_KEPT = 1_000
"""The most callbacks with a wrong token in quarantine: anybody may send those."""
QUARANTINE_SIZE = 256 * 1024 * 1024
"""Bytes of quarantined callbacks, where relay.yaml names no other size."""


class StoreError(Exception):
    """The base of what the store raises."""


class StoreFull(StoreError):
    """The disk is full, or another program keeps the store locked: nothing was stored."""


class StoreStalled(StoreError):
    """It takes too long: nobody knows yet whether it is stored."""


class StoreBroken(StoreError):
    """A commit failed on I/O, so nobody knows what is on disk: the process must end."""


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
    """Whether the sink accepted the word of consent, though it did not take the whole."""

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
    """When it was paused or parked the last time."""
    since: int = 0
    """Since when it has been paused or parked, whatever for."""
    probe_at: int = 0
    parked_until: int = 0
    """By the breaker or a Retry-After."""
    parked: str | None = None
    breaker_open: bool = False
    active: float = 0.0
    crashes: int = 0
    """How often in a row the process ended inside its code."""
    held: str | None = None
    """Why none of its code is run until an operator resumes it; None where it is run."""


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
    """A step of a purge. `seq` is where it stands."""

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
    """In how many places a number still stands, in so many bytes as were searched."""

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


Notify = Callable[[Mapping[str, bool]], None]
"""Called on the event loop after a commit: sinks with new work, True where it is urgent."""


class Store(Protocol):
    """Who opens a store owns it until `close`."""

    def subscribe(self, notify: Notify) -> None:
        """Have `notify` called after each commit that made work for a sink."""

    async def add(self, arrival: NewEvent) -> Receipt:
        """Store an event and its deliveries; return when they are on disk."""

    async def quarantine(
        self, callback: RawCallback, status: int, reason: str, quarantine_id: str | None = None
    ) -> str:
        """Keep a callback that became no event; return its id, a new one unless it is given.

        Of 401s 1,000 stay; the sender that has the most of them loses its oldest.
        """

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Which of these are the ids of events, or of callbacks in quarantine."""

    async def spill_is_older(self) -> bool:
        """Whether the spill may hold callbacks that came before some of the store's."""

    async def note_spill_is_older(self, older: bool) -> None:
        """Keep that for the next start."""

    async def last_word(self, contact: str) -> str | None:
        """`opt_out` or `opt_in`: what it said last, to any source; None if nothing."""
        ...

    async def opted_out(self, source: str, contact: str | None) -> bool:
        """Whether the contact's last word is an opt-out."""

    # deliveries
    async def claim(
        self, sink: str, limit: int, *, ordered: bool = True, urgent: bool | None = None
    ) -> ClaimResult:
        """Take due deliveries, no contact twice; count the attempt.

        `urgent`: only opt-outs and what must land before them, or only the others; with None
        both, the urgent ones first.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Write how claims ended; return when it is on disk."""

    async def claim_consent(self, sink: str, limit: int) -> list[Claim]:
        """Take up to `limit` open opt-outs that the sink has not accepted.

        They overtake what is older of their contact, but never go beside it.
        """
        ...

    async def claim_after_crash(
        self, sink: str, limit: int = 1, *, only_repeated: bool = False
    ) -> list[Claim]:
        """Take up to `limit` deliveries that were in flight when a process crashed.

        Those that were in flight at two crashes or more come first, one at a time. With
        `only_repeated` the others are left out.
        """

    async def retry_dead(self, sink: str, seqs: Sequence[int], *, replayed: bool = True) -> int:
        """Put dead deliveries back to pending, with fresh attempts; return how many.

        `replayed` says that somebody asked for it.
        """

    async def sink_states(self) -> dict[str, SinkState]: ...

    async def save_sink_state(self, sink: str, state: SinkState) -> None: ...

    async def recall(self, account: str, name: str) -> str | None:
        """What was kept last of an account under this name; None without it."""
        ...

    async def keep(self, account: str, name: str, value: str) -> None:
        """Keep a secret, or other text, of an account; return when it is on disk."""

    # what the commands need
    async def event_count(self) -> int: ...

    async def quarantine_count(self) -> int: ...

    async def sink_counts(self) -> dict[str, SinkCounts]:
        """Every sink that has deliveries, also those that have gone from relay.yaml."""

    async def backlog_age(self) -> dict[str, BacklogAge]:
        """Of each sink that has something to deliver. What was asked for again does not count."""

    async def dead_since(self, *, since: int, until: int) -> dict[str, int]:
        """How many of each sink's deliveries were given up in this time, and still are dead."""

    async def keywords(self, *, after: int, limit: int) -> tuple[int, dict[str, int]]:
        """When each keyword came last, of so many events newer than the seq `after`.

        With the seq up to which that has looked.
        """

    async def quarantined_since(self, count: int) -> int | None:
        """Since when the last `count` callbacks came to quarantine; None for fewer there."""

    async def events(
        self, where: EventFilter, *, before: int | None = None, limit: int = 50
    ) -> list[EventRow]:
        """The newest first, older than the seq `before`."""

    async def events_after(
        self, where: EventFilter, *, after: int, limit: int = 500
    ) -> list[EventRow]:
        """The oldest first, newer than the seq `after` (`tail`, `replay`)."""

    async def later_consent(self, sink: str, seqs: Sequence[int]) -> list[EventRow]:
        """The last words of these events' contacts that come later, and never went to the sink.

        Without them, what goes there late would stay its contact's last word.
        """

    async def event(self, event_id: str) -> EventRow | None: ...

    async def last_seq(self) -> int: ...

    async def deliveries(
        self,
        states: Sequence[State],
        *,
        sink: str | None = None,
        before: tuple[int, str] | None = None,
        limit: int = 50,
    ) -> list[DeliveryRow]:
        """The newest first; those after the delivery with the seq and sink `before`."""

    async def discard(self, sink: str, seqs: Sequence[int] | None) -> int:
        """Give up dead deliveries; with None every dead and open one of the sink."""

    async def replay(self, sink: str, seqs: Sequence[int]) -> int:
        """Make or renew the deliveries of these events to the sink, marked as replayed."""

    async def rename_sink(self, old: str, new: str) -> int:
        """Give the open and dead deliveries of one sink to another; return how many.

        Raises ValueError where the old one is not known.
        """

    async def quarantined(self, *, before: int | None = None, limit: int = 50) -> list[Quarantined]:
        """The newest first, older than the seq `before`."""

    async def quarantined_one(self, quarantine_id: str) -> Quarantined | None: ...

    async def release(self, quarantine_id: str, arrival: NewEvent) -> Receipt | None:
        """Store the arrival and drop the quarantined callback in one transaction.

        None where that has gone meanwhile; nothing is stored then.
        """

    async def discard_quarantined(self, ids: Sequence[str] | None) -> int: ...

    # upkeep
    def purge(self, before: PurgeCutoffs, *, dry_run: bool = False) -> AsyncIterator[Purged]:
        """Remove events whose deliveries have all ended, and callbacks from quarantine.

        Each step is one short transaction; whoever asks for the next one may pause before.
        """

    async def last_purge(self) -> float | None:
        """What the clock said at the last purge that went by itself, in seconds."""

    async def note_purge(self, now: float) -> None: ...

    async def find_contact(self, matcher: NumberMatcher) -> ContactRows:
        """The events of a contact, from all sources."""

    async def discard_open(self, contact: ContactRows) -> int:
        """Give up the open deliveries of these events; return how many are being sent."""

    async def delete_contact(self, contact: ContactRows, matcher: NumberMatcher) -> Counter[str]:
        """Delete these events; black the number out, or delete callbacks, wherever else it is."""

    async def scrub(self, matcher: NumberMatcher) -> Scrubbed:
        """Rid the files of what was deleted, and look through them for the number."""

    async def note_erasure(self, matcher: NumberMatcher, report: str) -> None:
        """Keep that the number was erased: as a keyed hash."""

    async def consent_log(self, *, after: int, limit: int = 500) -> list[ConsentRecord]:
        """Every word of consent that was ever said, the oldest first, newer than the seq."""

    async def close(self) -> None:
        """Finish what was handed over, put back what is in flight, and let go of the file."""

    async def reusable(self) -> int:
        """Bytes that are free within its file, and need no more of the disk."""

    async def flush(self) -> None:
        """Return when all that was handed over before has had its turn."""

    async def try_write(self) -> None:
        """Return when something could be written. Raises StoreError."""

    def alive(self) -> bool:
        """Whether the store can still be written."""

    def statistics(self) -> Mapping[str, Any]: ...

"""The store's port: what every engine (SQLite today, PostgreSQL later) promises.

All methods are coroutines and may raise `StoreFull` (nothing was stored, try again later) or
`StoreBroken` (the fate of the last commit is not known: end the process).
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from relay.event import RawCallback
from relay.redact import NumberMatcher
from relay.store import (
    BacklogAge,
    Claim,
    ClaimResult,
    ConsentRecord,
    ContactRows,
    DeliveryRow,
    EventFilter,
    EventRow,
    NewEvent,
    PurgeCutoffs,
    Purged,
    Quarantined,
    Receipt,
    Scrubbed,
    Settlement,
    SinkCounts,
    SinkState,
    State,
)

Notify = Callable[[Mapping[str, bool]], None]
"""Called on the event loop after a commit: sinks with new work, True where it is urgent."""


class Store(Protocol):
    """A store. The process that opens it owns it until `close`."""

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
        """Note that for the next start."""

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

        `replayed`: an operator asked for it.
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
        """Of each sink that has something to deliver, without replays."""

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

    async def release(
        self,
        quarantine_id: str,
        arrivals: Sequence[NewEvent],
        invalid: Sequence[tuple[RawCallback, str]] = (),
    ) -> list[Receipt] | None:
        """Store the arrivals and drop the quarantined callback in one transaction.

        Parts of it that are still not understood are put into quarantine, each with its reason.
        None where the callback has gone meanwhile; nothing is stored then.
        """

    async def discard_quarantined(self, ids: Sequence[str] | None) -> int: ...

    # upkeep
    def purge(self, before: PurgeCutoffs, *, dry_run: bool = False) -> AsyncIterator[Purged]:
        """Remove events with no open delivery, and callbacks from quarantine.

        Each step is one short transaction; the caller may pause before the next one.
        """

    async def last_purge(self) -> float | None:
        """The time of the last purge by the retention task, in seconds."""

    async def note_purge(self, now: float) -> None: ...

    async def find_contact(self, matcher: NumberMatcher) -> ContactRows:
        """The events of a contact, from all sources."""

    async def discard_open(self, contact: ContactRows) -> int:
        """Give up the open deliveries of these events; return how many are being sent."""

    async def delete_contact(self, contact: ContactRows, matcher: NumberMatcher) -> Counter[str]:
        """Delete these events; black the number out, or delete callbacks, wherever else it is."""

    async def scrub(self, matcher: NumberMatcher) -> Scrubbed:
        """Remove deleted data from the files, and search them for the number."""

    async def note_erasure(self, matcher: NumberMatcher, report: str) -> None:
        """Keep that the number was erased: as a keyed hash."""

    async def consent_log(self, *, after: int, limit: int = 500) -> list[ConsentRecord]:
        """Every word of consent that was ever said, the oldest first, newer than the seq."""

    async def close(self) -> None:
        """Finish the work handed over, put back what is in flight, and close the file."""

    async def reusable(self) -> int:
        """Bytes that are free within its file, and need no more of the disk."""

    async def flush(self) -> None:
        """Return when all work that was handed over before is done."""

    async def try_write(self) -> None:
        """Return when something could be written. Raises StoreError."""

    def alive(self) -> bool:
        """Whether the store can still be written."""

    def statistics(self) -> Mapping[str, Any]: ...

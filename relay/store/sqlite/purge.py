"""Purge: removes events and quarantined callbacks after their retention, a few at a time.

One sweep looks at the events from the oldest on. An event goes when none of its deliveries is
open and its term is over. What later deliveries need stays:

- a contact's last word stays whole as long as anything older of the contact is left, be it a copy
  or in quarantine: if that lands anywhere, the last word may have to go once more;
- that a sink has heard a later event of a contact is kept, without the event, as long as an older
  one is left, which would be out of date there (the table "heard").

Then the file is shortened, a little at a time. A part of it stays free: what comes next would
only make it longer again.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import NamedTuple

import apsw

from relay.store import OPEN_STATES, PurgeCutoffs, Purged, State
from relay.store.sqlite import quarantine, rows
from relay.store.sqlite.database import Database
from relay.store.sqlite.state import WriterState

STEP = 200
"""The most events that go in one transaction: callbacks wait for it."""
SCAN = 1_000
PAGES = 64
"""The most pages that are given back in one transaction: each may have to move."""
SHARE = 4
"""One page in so many may stay free."""
LEFT_FREE = 16_384
"""So many pages may stay free in any case: 64 MiB."""
DAY = 86_400_000_000

DEAD = 1 << State.DEAD
ENDED_WELL = 1 << State.DELIVERED | 1 << State.DISCARDED
OPEN = sum(1 << state for state in OPEN_STATES)

# states: one bit for each that any of its deliveries is in; a delivery without a row is pending.
STATES = (
    "(SELECT ifnull(sum(DISTINCT 1 << d.state), 0) FROM sinks CROSS JOIN deliveries d"
    " ON d.sink = sinks.id AND d.seq = events.seq)"
    " | EXISTS (SELECT 1 FROM routes CROSS JOIN sinks ON sinks.id = routes.sink"
    " WHERE routes.route = events.route AND sinks.cursor < events.seq AND NOT EXISTS"
    " (SELECT 1 FROM deliveries d WHERE d.sink = sinks.id AND d.seq = events.seq))"
)


class EventStates(NamedTuple):
    """An event, as far as the purge looks at it."""

    seq: int
    contact: int
    received: int
    states: int

    def may_go(self, before: PurgeCutoffs) -> bool:
        """Whether all its deliveries have ended, and the longest term that applies is over."""
        if self.states & OPEN:
            return False
        if self.states & DEAD and self.received >= before.dead:
            return False
        # What has neither landed anywhere nor been given up is like what has landed everywhere.
        return not (
            (self.states & ENDED_WELL or not self.states) and self.received >= before.delivered
        )


class PurgeStep(NamedTuple):
    """The events that go; and those of them that have older ones of their contact left."""

    going: list[int]
    behind: list[int]


class ContactFilter:
    """Contacts of whom something is left, or of whom it looks like it: few bits for each."""

    BITS = 26

    def __init__(self) -> None:
        self._bits = bytearray(1 << self.BITS - 3)

    def add(self, contact: int) -> None:
        place = contact & (1 << self.BITS) - 1
        self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, contact: int) -> bool:
        place = contact & (1 << self.BITS) - 1
        return bool(self._bits[place >> 3] >> (place & 7) & 1)


async def sweep(
    database: Database, before: PurgeCutoffs, *, dry_run: bool = False
) -> AsyncIterator[Purged]:
    """Remove what is old, in steps of one short transaction each."""
    remaining = ContactFilter()
    after, end = 0, False
    while not end:
        found = await database.read(scan, after, SCAN)
        end = is_end(found, SCAN, before)
        for step in steps(found, before):
            after = step[-1].seq
            gone = await _remove_step(database, step, before, remaining, dry_run=dry_run)
            yield Purged(after, events=gone)
    async for purged in _sweep_quarantine(database, before, dry_run=dry_run):
        yield purged
    while not dry_run and await database.write(drop_heard, STEP) == STEP:
        yield Purged(after)
    while not dry_run and await database.write(shrink_file):
        yield Purged(after)


async def _remove_step(
    database: Database,
    step: Sequence[EventStates],
    before: PurgeCutoffs,
    remaining: ContactFilter,
    *,
    dry_run: bool,
) -> int:
    if dry_run or not any(each.may_go(before) for each in step):
        return len((await database.read(select_step, step, before, remaining)).going)
    return await database.write(remove, step, before, remaining)


async def _sweep_quarantine(
    database: Database, before: PurgeCutoffs, *, dry_run: bool
) -> AsyncIterator[Purged]:
    after, found = 0, [(0, 0)]
    while found:
        found = await database.read(old_callbacks, after, STEP)
        old = [seq for seq, received in found if received < before.quarantine]
        gone = len(old)
        if old and not dry_run:
            gone = await database.write(quarantine.remove, old)
        if found:
            after = found[-1][0]
            yield Purged(0, callbacks=gone)


def scan(connection: apsw.Connection, after: int, limit: int) -> list[EventStates]:
    """The next events, the oldest first."""
    return _event_states(connection, "WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))


def is_end(found: Sequence[EventStates], limit: int, before: PurgeCutoffs) -> bool:
    """Whether what follows is too young. A date in the future says nothing of that."""
    if len(found) < limit:
        return True
    youngest = max(before.delivered, before.dead)
    return all(youngest <= each.received < before.now + DAY for each in found)


def steps(found: Sequence[EventStates], before: PurgeCutoffs) -> Iterator[Sequence[EventStates]]:
    """The events in their order, in pieces of which at most STEP may go."""
    start, going = 0, 0
    for number, each in enumerate(found):
        going += each.may_go(before)
        if going == STEP:
            yield found[start : number + 1]
            start, going = number + 1, 0
    if start < len(found):
        yield found[start:]


def select_step(
    connection: apsw.Connection,
    found: Sequence[EventStates],
    before: PurgeCutoffs,
    remaining: ContactFilter,
) -> PurgeStep:
    """The events to remove among these, in their present state.

    They are in order, and `remaining` has the contacts of all older ones that are left; it
    learns of those that are left of these.
    """
    seqs = rows.array([each.seq for each in found if each.may_go(before)])
    again = {
        each.seq: each
        for each in _event_states(
            connection, "WHERE seq IN (SELECT value FROM json_each(?))", (seqs,)
        )
    }
    needed = _needed(connection, again.values())
    choice = PurgeStep([], [])
    for each in found:
        behind = each.contact in remaining
        goes = each.seq in again and again[each.seq].may_go(before)
        if not goes or (each.seq in needed and (behind or needed[each.seq])):
            remaining.add(each.contact)
        else:
            choice.going.append(each.seq)
            choice.behind.extend([each.seq] * behind)
    return choice


def remove(
    connection: apsw.Connection,
    writer: WriterState,
    found: Sequence[EventStates],
    before: PurgeCutoffs,
    remaining: ContactFilter,
) -> int:
    """Remove those of the events that may go; return how many."""
    choice = select_step(connection, found, before, remaining)
    _keep_heard(connection, writer, choice.behind)
    return delete_events(connection, writer, choice.going) if choice.going else 0


def delete_events(connection: apsw.Connection, writer: WriterState, seqs: Sequence[int]) -> int:
    """Delete the events with all that hangs on them; return how many there were.

    None of their seqs is ever given again.
    """
    listed = rows.array(seqs)
    within = "seq IN (SELECT value FROM json_each(?))"
    for sink in writer.sink_names:
        connection.execute(f"DELETE FROM attempts WHERE sink = ? AND {within}", (sink, listed))
        gone = rows.fetch(
            connection,
            "state, number",
            f"FROM (SELECT state, count(*) AS number FROM deliveries WHERE sink = ? AND {within}"
            " GROUP BY state)",
            (sink, listed),
        )
        connection.execute(f"DELETE FROM deliveries WHERE sink = ? AND {within}", (sink, listed))
        for state, number in gone:
            if state != State.DELIVERED:  # what was delivered stays counted
                writer.forget(sink, State(state), number)
    connection.execute(f"DELETE FROM events WHERE {within}", (listed,))
    number = connection.changes()
    connection.execute(
        "INSERT INTO meta VALUES ('last_seq', ?1) ON CONFLICT DO UPDATE SET value = ?1",
        (writer.last_seq,),
    )
    return number


def drop_heard(connection: apsw.Connection, _: WriterState, limit: int) -> int:
    """Let go of what was heard where nothing older is left; return how many."""
    gone = rows.every(
        connection,
        "DELETE FROM heard WHERE (contact, sink) IN (SELECT contact, sink FROM heard"
        " WHERE seq < (SELECT ifnull(min(seq), 1 << 62) FROM events) LIMIT ?) RETURNING seq",
        (limit,),
    )
    return len(gone)


def shrink_file(connection: apsw.Connection, _: WriterState) -> bool:
    """Shorten the file a little where much of it is free; whether there was anything to do."""
    pages, free = (
        int(rows.value(connection, f"PRAGMA {name}")) for name in ("page_count", "freelist_count")
    )
    surplus = free - max(pages // SHARE, LEFT_FREE)
    if surplus <= 0:
        return False
    rows.every(connection, f"PRAGMA incremental_vacuum({min(surplus, PAGES)})")
    left: int = rows.value(connection, "PRAGMA freelist_count")
    return left < free  # a file of an earlier release stays as long as it is


def old_callbacks(connection: apsw.Connection, after: int, limit: int) -> list[tuple[int, int]]:
    """The seq and the time of receipt of the next quarantined callbacks, the oldest first."""
    return rows.every(
        connection,
        "SELECT seq, received FROM quarantine WHERE seq > ? ORDER BY seq LIMIT ?",
        (after, limit),
    )


def _event_states(
    connection: apsw.Connection, where: str, bindings: Sequence[object]
) -> list[EventStates]:
    found = rows.fetch(
        connection,
        "seq, contact, received, states",
        f"FROM (SELECT seq, contact, received, {STATES} AS states FROM events {where})",
        bindings,
    )
    return [EventStates(*row) for row in found]


def _needed(connection: apsw.Connection, found: Collection[EventStates]) -> dict[int, bool]:
    """Those that are a last word; True where a copy or a callback needs them."""
    words = rows.fetch(
        connection,
        "seq, needed",
        "FROM (SELECT seq, EXISTS (SELECT 1 FROM events e WHERE e.contact = c.contact"
        " AND e.rank < c.seq AND e.rank IS NOT NULL AND e.seq > c.seq)"
        " OR EXISTS (SELECT 1 FROM quarantine q WHERE q.source = c.source"
        " AND q.received < c.received) AS needed"
        " FROM consents c WHERE contact IN (SELECT value FROM json_each(?)))",
        (rows.array([each.contact for each in found]),),
    )
    return {seq: bool(needed) for seq, needed in words}


def _keep_heard(connection: apsw.Connection, writer: WriterState, seqs: Sequence[int]) -> None:
    """Keep what sinks have heard with these events, which older ones are not to overrule."""
    for sink in writer.sink_names if seqs else ():
        connection.execute(
            "INSERT INTO heard SELECT contact, sink, max(seq) FROM deliveries"
            " WHERE sink = ? AND landed AND seq IN (SELECT value FROM json_each(?))"
            " GROUP BY contact, sink"
            " ON CONFLICT DO UPDATE SET seq = max(heard.seq, excluded.seq)",
            (sink, rows.array(seqs)),
        )

"""Claiming deliveries: which are due, and which must wait for an older one of their contact.

Urgent deliveries are looked at first: these are opt-outs, and the older deliveries of their
contacts. Within them, and then within the others, retries that are due and new deliveries take
turns.

The first delivery of a contact is claimed. A later one, found while an older one is in flight or
waits for a retry, becomes BLOCKED. It is not looked at again before the older one has ended, so a
contact with many deliveries costs no more than others. An urgent one may overtake a retry.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, zip_longest
from typing import NamedTuple

import apsw

from relay.event import OPT_OUT, Event
from relay.store import Claim, ClaimResult, State
from relay.store.sqlite import rows
from relay.store.sqlite.ingest import events_of
from relay.store.sqlite.state import WriterState

MOST_BLOCKED = 1024
"""The most deliveries beyond its limit that one claim looks at."""
SCAN = 4096
"""The most seqs of events that one claim searches for those that go to the sink."""

LARGEST_CLAIM = 8 * 2**20
"""The most bytes of events in one claim: several copies are in memory while it is sent."""

COLUMNS = "seq, contact, state, urgent, attempts, late, replayed, strikes, failed_at"


class Candidate(NamedTuple):
    """A delivery that is due by its own row; it may have to wait for another one."""

    seq: int
    contact: int
    state: int
    urgent: int
    attempts: int
    late: int
    replayed: int
    crash_count: int
    """How many crashes in a row it was in flight at."""
    failed_at: float | None


class Ahead(NamedTuple):
    """A delivery that others of its contact may have to wait for."""

    seq: int
    contact: int
    state: int
    due: int
    urgent: int


class Selection(NamedTuple):
    """What becomes of the candidates."""

    chosen: list[Candidate]
    blocked: list[Candidate]


class Implicit(NamedTuple):
    """The deliveries of the sink that have no row yet, up to the seq `end`."""

    candidates: list[Candidate]
    end: int

    def passed(self, seen_to: Iterable[Candidate]) -> int:
        """The seq up to which every delivery has a row, once those in `seen_to` have theirs."""
        left = {row.seq for row in self.candidates} - {row.seq for row in seen_to}
        return min(left) - 1 if left else self.end


def claim(
    connection: apsw.Connection,
    writer: WriterState,
    sink: str,
    limit: int,
    *,
    ordered: bool = True,
    urgent: bool | None = None,
) -> ClaimResult:
    """Take up to `limit` due deliveries of the sink, and count their attempt.

    `urgent` is True for urgent ones only, False for the others only, None for both.
    """
    sink_id, now = writer.sink(connection, sink), writer.now()
    adjust_to_clock(connection, writer, now)
    # If the last claim blocked many, as for a contact with many deliveries, look at more.
    looked_at = limit + min(2 * writer.blocked[sink_id], MOST_BLOCKED)
    candidates: list[Candidate] = []
    implicit = Implicit([], writer.cursors[sink_id])
    swap = writer.swap(sink_id)
    for lane in (1, 0) if urgent is None else (int(urgent),):
        due = _due(connection, sink_id, now, lane, looked_at)
        pending = _pending(connection, sink_id, lane, looked_at)
        if lane == 0:
            implicit = _implicit(connection, writer, sink_id, looked_at)
            known = [row for row in pending if row.seq <= implicit.end]
            pending = sorted(known + implicit.candidates)[:looked_at]
        candidates += interleave(due, pending, swap=swap)
    ahead = _ahead(connection, writer, sink_id, candidates)
    passing = _passing(ahead, now)
    chosen, blocked = select(
        candidates,
        limit,
        heads={row.contact: row.seq for row in reversed(ahead)},
        passing=passing,
        busy=writer.busy[sink_id].keys() if ordered else writer.busy_urgent[sink_id].keys(),
        all_busy=writer.busy[sink_id].keys(),
        ordered=ordered,
    )
    events = _events(connection, chosen)
    cut = len(chosen) > len(events)
    chosen = chosen[: len(events)]
    _block(connection, writer, sink_id, blocked)
    _mark_overtaken(connection, sink_id, [row for row in chosen if row.seq in passing])
    _claim_rows(connection, writer, sink_id, chosen)
    writer.blocked[sink_id] = len(blocked)
    writer.cursors[sink_id] = implicit.passed(chosen + blocked)
    more = (
        cut
        or len(chosen) == limit
        or len(candidates) >= looked_at
        or (urgent is not True and writer.cursors[sink_id] < writer.last_seq)
    )
    soonest = None if more or urgent else _next_due(connection, sink_id)
    left_out = urgent is False and _any_urgent(connection, sink_id, now)
    return ClaimResult(
        _claims(connection, writer, sink_id, chosen, events), more, left_out, soonest, cut
    )


def adjust_to_clock(connection: apsw.Connection, writer: WriterState, now: int) -> None:
    """If the clock was set back, make each retry wait no longer than was planned for it."""
    if now < writer.last_time:
        connection.execute(
            "UPDATE deliveries INDEXED BY deliveries_waiting"
            " SET due = due - (settled - ?1), settled = ?1"
            " WHERE state = 2 AND due > ?1 AND settled > ?1",
            (now,),
        )
    writer.last_time = now


def claim_after_crash(
    connection: apsw.Connection,
    writer: WriterState,
    sink: str,
    limit: int = 1,
    *,
    only_repeated: bool = False,
) -> list[Claim]:
    """Take deliveries that were in flight when a process crashed.

    If any was in flight at two crashes or more, take one of these alone. Otherwise take up to
    `limit` of the others; none with `only_repeated`.
    """
    sink_id = writer.sink(connection, sink)
    crashed = _candidates(
        connection,
        "FROM deliveries INDEXED BY deliveries_suspect WHERE sink = ? AND state = 2"
        " AND strikes > 0 ORDER BY seq",
        (sink_id,),
    )
    free = [row for row in crashed if row.contact not in writer.busy[sink_id]]
    first_of_contact = {row.contact: row for row in reversed(free)}
    chosen = [row for row in free if row.crash_count > 1][:1]
    if not chosen and not only_repeated:
        chosen = [row for row in free if first_of_contact[row.contact] is row][:limit]
    events = _events(connection, chosen)
    chosen = chosen[: len(events)]
    _claim_rows(connection, writer, sink_id, chosen)
    return _claims(connection, writer, sink_id, chosen, events)


def claim_consent(
    connection: apsw.Connection, writer: WriterState, sink: str, limit: int
) -> list[Claim]:
    """Take open opt-outs that the sink has not accepted, before older ones of their contacts."""
    sink_id = writer.sink(connection, sink)
    found = _candidates(
        connection,
        "FROM (SELECT * FROM deliveries INDEXED BY deliveries_pending"
        " WHERE sink = ?1 AND urgent = 1 AND state = 0"
        " UNION ALL SELECT * FROM deliveries INDEXED BY deliveries_held"
        " WHERE sink = ?1 AND urgent = 1 AND state IN (2, 3))"
        " d WHERE EXISTS (SELECT 1 FROM words w WHERE w.seq = d.seq AND w.word = ?2)"
        " AND NOT EXISTS (SELECT 1 FROM words_accepted a WHERE a.seq = d.seq AND a.sink = ?1)"
        " ORDER BY seq LIMIT ?3",
        (sink_id, OPT_OUT, limit + len(writer.in_flight[sink_id])),
    )
    free = {row.contact: row for row in reversed(found) if row.contact not in writer.busy[sink_id]}
    chosen = sorted(free.values())[:limit]
    events = _events(connection, chosen)
    chosen = chosen[: len(events)]
    _claim_rows(connection, writer, sink_id, chosen)
    return _claims(connection, writer, sink_id, chosen, events)


def select(
    candidates: Iterable[Candidate],
    limit: int,
    *,
    heads: dict[int, int],
    passing: frozenset[int],
    busy: Iterable[int],
    all_busy: Iterable[int],
    ordered: bool,
) -> Selection:
    """Choose up to `limit` candidates, no contact twice.

    `heads` gives for each contact the seq of its oldest delivery that is held (waiting or blocked)
    or urgent. `passing` are the seqs of urgent deliveries that may overtake it. `busy` are the
    contacts with ordinary deliveries that must wait for one in flight. `all_busy` are those whose
    urgent deliveries must wait.
    """
    busy, all_busy = set(busy), set(all_busy)
    taken: set[int] = set()
    chosen: list[Candidate] = []
    blocked: list[Candidate] = []
    for row in candidates:
        if len(chosen) == limit:
            break
        in_flight = row.contact in (all_busy if row.urgent else busy)
        behind = (
            (ordered or row.urgent)
            and heads.get(row.contact, row.seq) < row.seq
            and row.seq not in passing
        )
        if row.contact in taken and not ordered and not row.urgent:
            continue  # it goes with the next batch
        if in_flight or behind or row.contact in taken:
            blocked.append(row)
        else:
            taken.add(row.contact)
            chosen.append(row)
    return Selection(chosen, blocked)


def interleave(
    due: Sequence[Candidate], pending: Sequence[Candidate], *, swap: bool
) -> list[Candidate]:
    """One of each in turn: neither retries nor new events must wait for all of the other kind."""
    first, second = (pending, due) if swap else (due, pending)
    both = zip_longest(first, second)
    return [row for pair in both for row in pair if row is not None]


def _due(
    connection: apsw.Connection, sink: int, now: int, urgent: int, limit: int
) -> list[Candidate]:
    return _candidates(
        connection,
        "FROM deliveries INDEXED BY deliveries_waiting WHERE sink = ? AND urgent = ?"
        " AND state = 2 AND due <= ? ORDER BY due LIMIT ?",
        (sink, urgent, now, limit),
    )


def _pending(connection: apsw.Connection, sink: int, urgent: int, limit: int) -> list[Candidate]:
    return _candidates(
        connection,
        "FROM deliveries INDEXED BY deliveries_pending WHERE sink = ? AND urgent = ?"
        " AND state = 0 ORDER BY seq LIMIT ?",
        (sink, urgent, limit),
    )


def _implicit(connection: apsw.Connection, writer: WriterState, sink: int, limit: int) -> Implicit:
    start = writer.cursors[sink]
    end = min(start + SCAN, writer.last_seq)
    found = rows.fetch(
        connection,
        "seq, contact",
        "FROM events WHERE seq > ?2 AND seq <= ?3"
        " AND route IN (SELECT route FROM routes WHERE sink = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.sink = ?1 AND d.seq = events.seq)"
        " ORDER BY seq LIMIT ?4",
        (sink, start, end, limit),
    )
    if len(found) == limit:
        end = found[-1][0]
    candidates = [
        Candidate(seq, contact, State.PENDING, 0, 0, 0, 0, 0, None) for seq, contact in found
    ]
    return Implicit(candidates, end)


def _any_urgent(connection: apsw.Connection, sink: int, now: int) -> bool:
    return bool(_due(connection, sink, now, 1, 1) or _pending(connection, sink, 1, 1))


def _candidates(
    connection: apsw.Connection, rest: str, bindings: Sequence[object]
) -> list[Candidate]:
    return [Candidate(*row) for row in rows.fetch(connection, COLUMNS, rest, bindings)]


def _ahead(
    connection: apsw.Connection, writer: WriterState, sink: int, candidates: Sequence[Candidate]
) -> list[Ahead]:
    """The deliveries that the candidates may have to wait for, the oldest first.

    They are those of the same contacts that are held, or urgent. A claim of the others alone does
    not have the urgent ones among its candidates.
    """
    contacts = rows.array(sorted({row.contact for row in candidates}))
    found: list[Sequence[int]] = []
    if writer.held[sink]:
        found += rows.fetch(
            connection,
            "seq, contact, state, due, urgent",
            "FROM deliveries INDEXED BY deliveries_held WHERE sink = ? AND state IN (2, 3)"
            " AND contact IN (SELECT value FROM json_each(?))",
            (sink, contacts),
        )
    found += rows.fetch(
        connection,
        "seq, contact, 0, 0, 1",
        "FROM deliveries INDEXED BY deliveries_pending"
        " WHERE sink = ? AND state = 0 AND urgent = 1"
        " AND contact IN (SELECT value FROM json_each(?))",
        (sink, contacts),
    )
    return sorted(Ahead(*row) for row in found)


def _passing(ahead: Iterable[Ahead], now: int) -> frozenset[int]:
    """The seqs of urgent deliveries that may overtake.

    For each contact whose oldest delivery waits for a retry, this is its oldest urgent one that is
    due.
    """
    put_off: dict[int, bool] = {}
    passing: dict[int, int] = {}
    for row in ahead:
        waits = row.state == State.WAITING and row.due > now
        may_go = row.urgent and not waits and row.state != State.BLOCKED
        if put_off.setdefault(row.contact, waits) and may_go:
            passing.setdefault(row.contact, row.seq)
    return frozenset(passing.values())


def _block(
    connection: apsw.Connection, writer: WriterState, sink: int, blocked: Sequence[Candidate]
) -> None:
    if not blocked:
        return
    connection.execute(
        "INSERT INTO deliveries (sink, seq, contact, state)"
        " SELECT ?, value ->> 0, value ->> 1, 3 FROM json_each(?) WHERE true"
        " ON CONFLICT DO UPDATE SET state = 3",
        (sink, rows.array([(row.seq, row.contact) for row in blocked])),
    )
    for row in blocked:
        writer.count(sink, State(row.state), State.BLOCKED)


def _mark_overtaken(connection: apsw.Connection, sink: int, urgent: Sequence[Candidate]) -> None:
    """Mark what is overtaken as late: a later event of its contact may be delivered first."""
    for row in urgent:
        connection.execute(
            "UPDATE deliveries INDEXED BY deliveries_held SET late = 1"
            " WHERE sink = ? AND contact = ? AND seq < ? AND state IN (2, 3)",
            (sink, row.contact, row.seq),
        )


def _claim_rows(
    connection: apsw.Connection, writer: WriterState, sink: int, chosen: Sequence[Candidate]
) -> None:
    if not chosen:
        return
    connection.execute(
        "INSERT INTO deliveries (sink, seq, contact, state, attempts)"
        " SELECT ?, value ->> 0, value ->> 1, 1, 1 FROM json_each(?) WHERE true"
        " ON CONFLICT DO UPDATE SET state = 1, attempts = attempts + 1",
        (sink, rows.array([(row.seq, row.contact) for row in chosen])),
    )
    for row in chosen:
        writer.count(sink, State(row.state), State.IN_FLIGHT)
        writer.claim(sink, row.seq, row.contact, bool(row.urgent))


def _events(connection: apsw.Connection, chosen: Sequence[Candidate]) -> dict[int, bytes]:
    """The events of the first of the chosen: as many as LARGEST_CLAIM allows, at least one."""
    found = rows.fetch(
        connection,
        "seq, octet_length(event)",
        "FROM events WHERE seq IN (SELECT value FROM json_each(?))",
        (rows.array([row.seq for row in chosen]),),
    )
    sizes = dict(found)
    totals = accumulate(sizes[row.seq] for row in chosen)
    number = max(1, sum(total <= LARGEST_CLAIM for total in totals))
    texts = rows.fetch(
        connection,
        "seq, CAST(event AS TEXT)",
        "FROM events WHERE seq IN (SELECT value FROM json_each(?))",
        (rows.array([row.seq for row in chosen[:number]]),),
    )
    return dict(texts)


def _claims(
    connection: apsw.Connection,
    writer: WriterState,
    sink: int,
    chosen: Sequence[Candidate],
    events: Mapping[int, bytes],
) -> list[Claim]:
    if not chosen:
        return []
    opted_out = _opted_out(connection, writer, chosen)
    return [
        Claim(
            sink=writer.sink_names[sink],
            seq=row.seq,
            event=Event.from_json(events[row.seq]),
            attempt=row.attempts + 1,
            urgent=bool(row.urgent),
            replayed=bool(row.replayed),
            stale=bool(row.late)
            and opted_out.get(row.contact) != row.seq  # the last word is never out of date
            and _is_stale(connection, writer, sink, row),
            opted_out=row.contact in opted_out,
            failed_at=row.failed_at,
            contact=row.contact,
        )
        for row in chosen
    ]


def _next_due(connection: apsw.Connection, sink: int) -> int | None:
    """When the next delivery is due: 0 if one is pending, None if there is none."""
    pending = "SELECT 1 FROM deliveries WHERE sink = ?1 AND state = 0 AND urgent IN (0, 1)"
    if rows.value(connection, f"SELECT EXISTS ({pending})", (sink,)):
        return 0
    soonest: int | None = rows.value(
        connection,
        "SELECT min(due) FROM (SELECT min(due) AS due FROM deliveries"
        " WHERE sink = ?1 AND state = 2 AND urgent = 0 UNION ALL SELECT min(due)"
        " FROM deliveries WHERE sink = ?1 AND state = 2 AND urgent = 1)",
        (sink,),
    )
    return soonest


def _opted_out(
    connection: apsw.Connection, writer: WriterState, chosen: Sequence[Candidate]
) -> dict[int, int]:
    """The contacts that are opted out, each with the seq of that event."""
    if not writer.any_consent:
        return {}
    found = rows.fetch(
        connection,
        "contact, seq",
        "FROM consents WHERE word = 'opt_out' AND contact IN (SELECT value FROM json_each(?))",
        (rows.array([row.contact for row in chosen]),),
    )
    return dict(found)


def _is_stale(connection: apsw.Connection, writer: WriterState, sink: int, row: Candidate) -> bool:
    """Whether a later event of the contact was delivered to the sink; called for late ones only."""
    later = events_of(connection, [row.contact], row.seq + 1, writer.last_seq)
    return bool(
        rows.value(
            connection,
            "SELECT EXISTS (SELECT 1 FROM deliveries WHERE sink = ?1 AND landed"
            " AND seq IN (SELECT value FROM json_each(?2)))"
            " OR EXISTS (SELECT 1 FROM heard WHERE contact = ?3 AND sink = ?1 AND seq > ?4)",
            (sink, rows.array(later), row.contact, row.seq),
        )
    )

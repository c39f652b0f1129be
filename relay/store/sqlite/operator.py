"""Changes that people ask for: revive, replay, discard, rename, release."""

from collections.abc import Sequence

import apsw

from relay.event import OPT_OUT
from relay.store import OPEN_STATES, State
from relay.store.sqlite import rows
from relay.store.sqlite.ingest import events_of, make_urgent, materialise
from relay.store.sqlite.state import WriterState

# Renewed deliveries wait, and are due at once: so they are held, and whatever is younger of their
# contact waits for them. As pending ones they could be passed by a younger retry.
RENEW = (
    "state = 2, late = 1, attempts = 0, deaths = 0, failed_at = NULL, error = NULL,"
    " due = 0, settled = 0"
)


def retry_dead(
    connection: apsw.Connection,
    writer: WriterState,
    sink: str,
    seqs: Sequence[int],
    *,
    replayed: bool = True,
) -> int:
    """Put dead deliveries back to pending."""
    return _renew(connection, writer, writer.sink(connection, sink), State.DEAD, seqs, replayed)


def materialise_all(connection: apsw.Connection, writer: WriterState, sink: int) -> None:
    """Give every delivery of the sink its row."""
    connection.execute(
        "INSERT INTO deliveries (sink, seq, contact) SELECT sink, seq, contact FROM fresh"
        " WHERE sink = ? AND seq > ?",  # the file's cursor may be behind
        (sink, writer.cursors[sink]),
    )
    writer.cursors[sink] = writer.last_seq


def replay(connection: apsw.Connection, writer: WriterState, sink: str, seqs: Sequence[int]) -> int:
    """Make or renew deliveries; those that are still open are left as they are."""
    sink_id = writer.sink(connection, sink)
    number = sum(
        _renew(connection, writer, sink_id, state, seqs, True)
        for state in (State.DELIVERED, State.DEAD, State.DISCARDED)
    )
    made = rows.every(
        connection,
        "INSERT INTO deliveries (sink, seq, contact, state, late, replayed)"
        " SELECT ?1, seq, contact, 2, 1, 1 FROM events"
        " WHERE seq IN (SELECT value FROM json_each(?2))"
        " AND NOT (seq > ?3 AND route IN (SELECT route FROM routes WHERE sink = ?1))"
        " ON CONFLICT DO NOTHING RETURNING seq, contact",
        (sink_id, rows.array(seqs), writer.cursors[sink_id]),
    )
    _note_renewed(connection, writer, sink_id, None, made)
    return number + len(made)


def _renew(
    connection: apsw.Connection,
    writer: WriterState,
    sink: int,
    old: State,
    seqs: Sequence[int],
    replayed: bool,
) -> int:
    """Restart the deliveries in the state `old`; return how many."""
    renewed = rows.every(
        connection,
        f"UPDATE deliveries SET {RENEW}, replayed = max(replayed, ?) WHERE sink = ?"
        " AND state = ? AND seq IN (SELECT value FROM json_each(?)) RETURNING seq, contact",
        (replayed, sink, old, rows.array(seqs)),
    )
    _note_renewed(connection, writer, sink, old, renewed)
    return len(renewed)


def discard(
    connection: apsw.Connection, writer: WriterState, sink: str, seqs: Sequence[int] | None
) -> int:
    """Give up dead deliveries; with `seqs` None also the open ones that are not in flight."""
    sink_id = writer.sink(connection, sink)
    states = [State.DEAD] if seqs is not None else [State.DEAD, *OPEN_STATES]
    if seqs is None:
        materialise_all(connection, writer, sink_id)
    number = 0
    for state in states:
        if state == State.IN_FLIGHT:
            continue
        sql = "UPDATE deliveries SET state = 6 WHERE sink = ? AND state = ?"
        bindings: tuple[object, ...] = (sink_id, state)
        if seqs is not None:
            sql += " AND seq IN (SELECT value FROM json_each(?))"
            bindings += (rows.array(seqs),)
        gone = rows.every(connection, f"{sql} RETURNING seq, contact", bindings)
        writer.count(sink_id, state, State.DISCARDED, len(gone))
        number += len(gone)
    return number


def rename(connection: apsw.Connection, writer: WriterState, old: str, new: str) -> int:
    """Give the open and dead deliveries of a sink that has gone to another; return how many.

    Where the other has one of the same event already, that one is enough.
    """
    gone, heir = writer.sink_ids[old], writer.sink(connection, new)
    moved = 0
    materialise_all(connection, writer, gone)
    materialise_all(connection, writer, heir)
    for state in (*OPEN_STATES, State.DEAD):
        after = State.DEAD if state == State.DEAD else State.WAITING
        given = rows.every(
            connection,
            "UPDATE OR IGNORE deliveries SET sink = ?, state = ?, due = 0, late = 1"
            " WHERE sink = ? AND state = ? RETURNING seq, contact",
            (heir, after, gone, state),
        )
        moved += len(given)
        writer.forget(gone, state, len(given))
        if state == State.DEAD:
            writer.count(heir, None, State.DEAD, len(given))
        else:
            _note_renewed(connection, writer, heir, None, given)
    discard(connection, writer, old, None)
    return moved


def _note_renewed(
    connection: apsw.Connection,
    writer: WriterState,
    sink: int,
    old: State | None,
    renewed: Sequence[tuple[int, int]],
) -> None:
    writer.count(sink, old, State.WAITING, len(renewed))
    if renewed:
        writer.notify(sink)
        _hold_pending(connection, writer, sink, renewed)
        _make_opt_outs_urgent(connection, writer, sink, renewed)


def _hold_pending(
    connection: apsw.Connection,
    writer: WriterState,
    sink: int,
    renewed: Sequence[tuple[int, int]],
) -> None:
    """What is pending of their contacts waits as well: as it is, what is renewed would pass it."""
    last = max(seq for seq, _ in renewed)
    contacts = [contact for _, contact in renewed]
    materialise(
        connection, writer, sink, events_of(connection, contacts, writer.cursors[sink] + 1, last)
    )
    held = rows.every(
        connection,
        "UPDATE deliveries INDEXED BY deliveries_pending SET state = 2, due = 0"
        " WHERE sink = ? AND state = 0 AND urgent IN (0, 1) AND seq <= ?"
        " AND contact IN (SELECT value FROM json_each(?)) RETURNING seq",
        (sink, last, rows.array(contacts)),
    )
    writer.count(sink, State.PENDING, State.WAITING, len(held))


def _make_opt_outs_urgent(
    connection: apsw.Connection,
    writer: WriterState,
    sink: int,
    renewed: Sequence[tuple[int, int]],
) -> None:
    """An opt-out takes what is open of its contact to the front with it.

    That is one that is renewed, so that no other of its contact is in flight with it, whatever
    the sink's order; and an open one that is its contact's last word.
    """
    seqs = rows.array([seq for seq, _ in renewed])
    contacts = rows.array([contact for _, contact in renewed])
    found = rows.fetch(
        connection,
        "contact, seq",
        f"FROM events WHERE seq IN (SELECT value FROM json_each(?)) AND {rows.CONSENT} = ?",
        (seqs, OPT_OUT),
    )
    found += rows.fetch(
        connection,
        "contact, seq",
        "FROM consents WHERE word = ?1 AND contact IN (SELECT value FROM json_each(?2))"
        " AND EXISTS (SELECT 1 FROM deliveries d WHERE d.sink = ?3 AND d.seq = consents.seq"
        " AND state IN (0, 1, 2, 3))",
        (OPT_OUT, contacts, sink),
    )
    for contact, seq in found:
        make_urgent(connection, writer, sink, contact, seq)

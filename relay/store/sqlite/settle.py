"""Settling claims: writes how they ended, and unblocks the next delivery of each contact.

It also sends a contact's last word again, and puts back what was in flight.
"""

from collections import defaultdict
from collections.abc import Sequence

import apsw

from relay.event import OPT_OUT
from relay.store import Settlement, State
from relay.store.sqlite import rows
from relay.store.sqlite.state import WriterState

ATTEMPTS_KEPT = 20
"""So many of the first failed attempts of a delivery are kept, and so many of the last. A receiver
may ask again and again to wait a second: all attempts would fill the disk."""
LONGEST_WAIT = 25 * 3600 * 1_000_000
"""Microseconds. A retry that is due later than this is due at once: the clock has just jumped."""
MOST_LONE_CRASHES = 3
"""A delivery is DEAD after so many crashes of the process while it was alone in flight."""


def settle(
    connection: apsw.Connection, writer: WriterState, settlements: Sequence[Settlement]
) -> None:
    """Write how claims ended. Ignore those that are not in flight."""
    now = writer.now()
    writer.last_time = max(writer.last_time, now)
    by_sink: dict[int, list[tuple[Settlement, int]]] = defaultdict(list)
    for settlement in settlements:
        sink = writer.sink(connection, settlement.sink)
        if flight := writer.release(sink, settlement.seq):
            by_sink[sink].append((settlement, flight.contact))
    for sink, landed in by_sink.items():
        delivered = [item for item in landed if item[0].state == State.DELIVERED]
        _settle_delivered(connection, writer, sink, delivered, now)
        for settlement, _ in landed:
            if settlement.state != State.DELIVERED:
                _settle_other(connection, writer, sink, settlement, now)
        unblock(connection, writer, sink, [contact for _, contact in landed])
        accepted = [item for item in landed if item[0].state == State.DELIVERED or item[0].consent]
        if writer.any_consent and accepted:
            _note_accepted(connection, sink, [each.seq for each, _ in accepted], now)
            _resend_last_words(connection, writer, sink, accepted)


def _settle_delivered(
    connection: apsw.Connection,
    writer: WriterState,
    sink: int,
    delivered: Sequence[tuple[Settlement, int]],
    now: int,
) -> None:
    if not delivered:
        return
    seqs = [settlement.seq for settlement, _ in delivered]
    connection.execute(
        "UPDATE deliveries SET state = 4, landed = 1, settled = ?, strikes = 0, error = NULL"
        " WHERE sink = ? AND seq IN (SELECT value FROM json_each(?))",
        (now, sink, rows.array(seqs)),
    )
    writer.count(sink, State.IN_FLIGHT, State.DELIVERED, len(seqs))
    for settlement, _ in delivered:
        if settlement.reference is not None or settlement.error is not None:
            connection.execute(
                "UPDATE deliveries SET reference = ifnull(?, reference), error = ?"
                " WHERE sink = ? AND seq = ?",
                (settlement.reference, settlement.error, sink, settlement.seq),
            )


def _settle_other(
    connection: apsw.Connection, writer: WriterState, sink: int, settlement: Settlement, now: int
) -> None:
    _record_attempt(connection, sink, settlement)
    connection.execute(
        "UPDATE deliveries SET state = ?, due = ?, failed_at = ifnull(?, failed_at), error = ?,"
        " settled = ?, attempts = attempts - ?, strikes = 0 WHERE sink = ? AND seq = ?",
        (
            settlement.state,
            0 if settlement.due > now + LONGEST_WAIT else settlement.due,
            settlement.failed_at,
            settlement.error,
            0 if settlement.is_put_back else now,
            not settlement.counted,
            sink,
            settlement.seq,
        ),
    )
    writer.count(sink, State.IN_FLIGHT, settlement.state)


def _record_attempt(connection: apsw.Connection, sink: int, settlement: Settlement) -> None:
    attempt = settlement.attempt
    if attempt is None:
        return
    connection.execute(
        "INSERT OR REPLACE INTO attempts SELECT sink, seq, attempts, ?, ?, ?, ?, ?"
        " FROM deliveries WHERE sink = ? AND seq = ?",
        (
            attempt.started,
            attempt.duration,
            attempt.status,
            attempt.error,
            attempt.answer,
            sink,
            settlement.seq,
        ),
    )
    connection.execute(
        "DELETE FROM attempts WHERE sink = ?1 AND seq = ?2 AND number > ?3 AND number <="
        " (SELECT attempts FROM deliveries WHERE sink = ?1 AND seq = ?2) - ?3",
        (sink, settlement.seq, ATTEMPTS_KEPT),
    )


def unblock(
    connection: apsw.Connection, writer: WriterState, sink: int, contacts: Sequence[int]
) -> None:
    """Make the oldest held delivery of each contact due, if it was blocked.

    If it is not blocked but waits for a retry, make the oldest blocked urgent one due: this may
    overtake the retry. A delivery made due becomes WAITING, and is still held. A younger retry
    could overtake a PENDING one.
    """
    if not writer.held[sink]:
        return
    oldest: dict[int, int] = {}
    going: dict[int, tuple[int, bool]] = {}
    for contact, seq, state, urgent in rows.fetch(
        connection,
        "contact, seq, state, urgent",
        "FROM deliveries INDEXED BY deliveries_held WHERE sink = ? AND state IN (2, 3)"
        " AND contact IN (SELECT value FROM json_each(?)) ORDER BY contact, seq",
        (sink, rows.array([c for c in contacts if c not in writer.busy[sink]])),
    ):
        first = oldest.setdefault(contact, seq)
        if state == State.BLOCKED and (seq == first or urgent):
            going.setdefault(contact, (seq, bool(urgent)))
    free = dict(going.values())
    if free:
        rows.every(
            connection,
            "UPDATE deliveries SET state = 2, due = 0 WHERE sink = ?"
            " AND seq IN (SELECT value FROM json_each(?))",
            (sink, rows.array(list(free))),
        )
        writer.count(sink, State.BLOCKED, State.WAITING, len(free))
        writer.notify(sink, urgent=any(free.values()))


def _note_accepted(connection: apsw.Connection, sink: int, seqs: Sequence[int], now: int) -> None:
    """Record when the sink first accepted those of these events that are words of consent."""
    connection.execute(
        "INSERT OR IGNORE INTO words_accepted SELECT seq, ?, ? FROM words"
        " WHERE seq IN (SELECT value FROM json_each(?))",
        (sink, now, rows.array(seqs)),
    )


def _resend_last_words(
    connection: apsw.Connection,
    writer: WriterState,
    sink: int,
    delivered: Sequence[tuple[Settlement, int]],
) -> None:
    """Send the contact's last word again if an older event was delivered after it.

    An opt-out is sent again after any older event, an opt-in only after an older opt-out.
    """
    words = {
        contact: (word, seq)
        for contact, word, seq in rows.fetch(
            connection,
            "contact, word, seq",
            "FROM consents WHERE contact IN (SELECT value FROM json_each(?))",
            (rows.array([contact for _, contact in delivered]),),
        )
    }
    for settlement, contact in delivered:
        word, seq = words.get(contact, (None, 0))
        if word is None or settlement.seq == seq:
            continue
        order, said = _place_and_word(connection, settlement.seq)
        if order < seq and OPT_OUT in (word, said):
            _resend(connection, writer, sink, seq, urgent=word == OPT_OUT)


def _place_and_word(connection: apsw.Connection, seq: int) -> tuple[int, str | None]:
    """The event's place in the order of its contact, and its word of consent."""
    found: list[tuple[int, str | None]] = rows.every(
        connection,
        f"SELECT ifnull(rank, seq), {rows.CONSENT} FROM events WHERE seq = ?",
        (seq,),
    )
    return found[0]


def _resend(
    connection: apsw.Connection, writer: WriterState, sink: int, seq: int, *, urgent: bool
) -> None:
    # It is due at once. It is not late: a sink must write it even if a later event was delivered.
    again = rows.every(
        connection,
        "UPDATE deliveries SET state = 2, urgent = ?, replayed = 1, late = 0, attempts = 0,"
        " failed_at = NULL, due = 0, settled = 0 WHERE sink = ? AND seq = ? AND state = 4"
        " RETURNING seq",
        (urgent, sink, seq),
    )
    if again:
        writer.count(sink, State.DELIVERED, State.WAITING)
        writer.notify(sink, urgent=urgent)


def put_back_all(connection: apsw.Connection, writer: WriterState) -> None:
    """Put back all that is in flight. It is called at a clean stop."""
    settle(
        connection,
        writer,
        [
            Settlement.put_back(writer.sink_names[sink], seq)
            for sink, flying in writer.in_flight.items()
            for seq in flying
        ],
    )


def put_back_after_crash(connection: apsw.Connection, writer: WriterState) -> int:
    """Put back what was in flight when the last process crashed; return how many there were.

    It is called at each start, before anything is claimed. Any of these deliveries may have caused
    the crash, so each counts it in `strikes`; a settlement resets that. `deaths` counts the crashes
    at which a delivery was alone in flight, over all sinks. After MOST_LONE_CRASHES it is DEAD.
    """
    in_flight_at_crash = [
        (sink, seq, flight.contact)
        for sink, flying in writer.in_flight.items()
        for seq, flight in flying.items()
    ]
    alone = len(in_flight_at_crash) == 1
    for sink, seq, _ in in_flight_at_crash:
        writer.release(sink, seq)
        lone_crashes = rows.value(
            connection,
            "UPDATE deliveries SET state = 2, due = 0, attempts = attempts - 1,"
            " strikes = strikes + 1, deaths = deaths + ?"
            " WHERE sink = ? AND seq = ? RETURNING deaths",
            (alone, sink, seq),
        )
        state = State.WAITING
        if lone_crashes >= MOST_LONE_CRASHES:
            state = State.DEAD
            connection.execute(
                "UPDATE deliveries SET state = 5, settled = ?, error = ?, strikes = 0"
                " WHERE sink = ? AND seq = ?",
                (
                    writer.now(),
                    f"the relay died {MOST_LONE_CRASHES} times while only this was in flight",
                    sink,
                    seq,
                ),
            )
        writer.count(sink, State.IN_FLIGHT, state)
    for sink, _, contact in in_flight_at_crash:
        unblock(connection, writer, sink, [contact])
    return len(in_flight_at_crash)

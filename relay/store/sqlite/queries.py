"""Short reads for the commands, on connections that cannot write."""

from collections.abc import Sequence
from typing import Any

import apsw

from relay.event import OPT_OUT, Event, RawCallback
from relay.store import (
    Attempt,
    DeliveryRow,
    EventFilter,
    EventRow,
    SinkCounts,
    State,
)
from relay.store.sqlite import rows
from relay.store.sqlite.ingest import id_bytes

EVENT = "seq, source, received, event, method, query, content_type, body, encoding"
DELIVERY = (
    "sinks.name, d.seq, json_extract(e.event, '$.id'), json_extract(e.event, '$.type'),"
    " e.received, d.state, d.attempts, d.due, d.error, d.reference, d.settled"
    " FROM {} d CROSS JOIN sinks ON sinks.id = d.sink CROSS JOIN events e USING (seq)"
)


def event_count(connection: apsw.Connection) -> int:
    return _number(connection, "SELECT count(*) FROM events")


def quarantine_count(connection: apsw.Connection) -> int:
    return _number(connection, "SELECT count(*) FROM quarantine")


def last_seq(connection: apsw.Connection) -> int:
    return _number(connection, "SELECT ifnull(max(seq), 0) FROM events")


def known(connection: apsw.Connection, ids: Sequence[str]) -> set[str]:
    """Which of these are the ids of events, or of callbacks in quarantine."""
    wanted = {id_bytes(each): each for each in ids}
    found = [
        row[0]
        for table in ("events", "quarantine")
        for row in rows.among(connection, f"SELECT id FROM {table} WHERE id IN", (), list(wanted))
    ]
    return {wanted[each] for each in found}


def spill_is_older(connection: apsw.Connection) -> bool:
    """Whether the spill may hold callbacks that came before some of the store's."""
    noted = "SELECT EXISTS (SELECT 1 FROM meta WHERE name = 'spill_is_older')"
    return bool(_number(connection, noted))


def reusable(connection: apsw.Connection) -> int:
    """Bytes of the pages that are free."""
    return _number(connection, "PRAGMA freelist_count") * _number(connection, "PRAGMA page_size")


def keywords(connection: apsw.Connection, after: int, limit: int) -> tuple[int, dict[str, int]]:
    """The seq up to which it looked, and when each keyword came last."""
    found = rows.every(
        connection,
        "SELECT keyword, max(received), max(seq) FROM (SELECT seq, keyword, received FROM events"
        " WHERE seq > ? ORDER BY seq LIMIT ?) GROUP BY keyword",
        (after, limit),
    )
    last = {keyword: received for keyword, received, _ in found if keyword is not None}
    return max((seq for *_, seq in found), default=after), last


def sink_counts(connection: apsw.Connection) -> dict[str, SinkCounts]:
    """What the counters say, for every sink that ever had a delivery."""
    found = rows.every(connection, "SELECT name, pending, delivered, dead FROM sinks")
    return {name: SinkCounts(*counts) for name, *counts in found}


def last_word(connection: apsw.Connection, contacts: Sequence[int]) -> str | None:
    """The latest word of these contacts, which have one number at several sources."""
    word: str | None = rows.value(
        connection,
        "SELECT word FROM consents WHERE contact IN (SELECT value FROM json_each(?))"
        " ORDER BY seq DESC LIMIT 1",
        (rows.array(contacts),),
    )
    return word


def opted_out(connection: apsw.Connection, contact: int) -> bool:
    return bool(
        _number(
            connection,
            "SELECT EXISTS (SELECT 1 FROM consents WHERE contact = ? AND word = 'opt_out')",
            (contact,),
        )
    )


def words_behind(connection: apsw.Connection, sink: str, seqs: Sequence[int]) -> list[EventRow]:
    """The last words of these events' contacts that come later, and never went to the sink.

    An opt-in matters only behind an older opt-out.
    """
    behind = (
        "seq IN (SELECT c.seq FROM events e CROSS JOIN consents c USING (contact)"
        " WHERE e.seq IN (SELECT value FROM json_each(?)) AND ifnull(e.rank, e.seq) < c.seq"
        " AND ? IN (c.word, json_extract(e.event, '$.data.consent')))"
    )
    never_went = (
        "NOT EXISTS (SELECT 1 FROM sinks CROSS JOIN all_deliveries d ON d.sink = sinks.id"
        " WHERE sinks.name = ? AND d.seq = events.seq)"
    )
    bindings = (rows.array(seqs), OPT_OUT, sink, len(seqs))
    return _events(connection, [behind, never_went], "seq", bindings)


def events(
    connection: apsw.Connection, where: EventFilter, *, before: int | None, limit: int
) -> list[EventRow]:
    """The newest first."""
    terms, bindings = _terms(where)
    if before is not None:
        terms.append("seq < ?")
        bindings.append(before)
    return _events(connection, terms, "seq DESC", [*bindings, limit])


def events_after(
    connection: apsw.Connection, where: EventFilter, *, after: int, limit: int
) -> list[EventRow]:
    """The oldest first."""
    terms, bindings = _terms(where)
    return _events(connection, [*terms, "seq > ?"], "seq", [*bindings, after, limit])


def event(connection: apsw.Connection, event_id: str) -> EventRow | None:
    """One event with its deliveries and their failed attempts."""
    row = connection.execute(
        f"SELECT {EVENT} FROM events WHERE id = ?", (id_bytes(event_id),)
    ).fetchone()
    if row is None:
        return None
    seq = row[0]
    deliveries = rows.every(
        connection,
        f"SELECT {DELIVERY.format('all_deliveries')}"
        " WHERE d.seq = ? AND d.sink IN (SELECT id FROM sinks) ORDER BY 1",
        (seq,),
    )
    attempts = rows.every(
        connection,
        "SELECT name, number, started, duration, error, status, answer FROM attempts"
        " JOIN sinks ON sinks.id = sink WHERE sink IN (SELECT id FROM sinks) AND seq = ?"
        " ORDER BY name, started",
        (seq,),
    )
    return _event_row(
        row,
        [_delivery(each) for each in deliveries],
        [(name, number, Attempt(*rest)) for name, number, *rest in attempts],
    )


def deliveries(
    connection: apsw.Connection,
    states: Sequence[State],
    *,
    sink: str | None,
    before: tuple[int, str] | None,
    limit: int,
) -> list[DeliveryRow]:
    """The newest first; of one event in the order of the sinks' ids."""
    table = "all_deliveries" if State.PENDING in states else "deliveries"
    # An index of one state is only used for a comparison with that state.
    terms = [f"({' OR '.join(f'd.state = {int(state)}' for state in states)})"]
    bindings: list[Any] = []
    if sink is not None:
        terms.append("d.sink = (SELECT id FROM sinks WHERE name = ?)")
        bindings.append(sink)
    if before is not None:
        terms.append("(d.seq, d.sink) < (?, (SELECT id FROM sinks WHERE name = ?))")
        bindings += before
    found = rows.every(
        connection,
        f"SELECT {DELIVERY.format(table)} WHERE {' AND '.join(terms)}"
        " ORDER BY d.seq DESC, d.sink DESC LIMIT ?",
        [*bindings, limit],
    )
    return [_delivery(row) for row in found]


NO_COPY = (
    "(rank IS NULL OR NOT EXISTS (SELECT 1 FROM events first"
    " WHERE first.seq = events.rank AND first.received = events.received))"
)


def _number(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> int:
    return rows.every(connection, sql, bindings)[0][0]  # type: ignore[no-any-return]


def _terms(where: EventFilter) -> tuple[list[str], list[Any]]:
    wanted = {
        "source = ?": where.source,
        "kind = ?": where.kind,
        "keyword = ? COLLATE NOCASE": where.keyword,
        "received >= ?": where.since,
        "received < ?": where.until,
    }
    terms = [term for term, value in wanted.items() if value is not None]
    if not where.copies:
        terms.append(NO_COPY)
    return terms, [value for value in wanted.values() if value is not None]


def _events(
    connection: apsw.Connection, terms: Sequence[str], order: str, bindings: Sequence[Any]
) -> list[EventRow]:
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    found = rows.every(
        connection, f"SELECT {EVENT} FROM events {where} ORDER BY {order} LIMIT ?", bindings
    )
    return [_event_row(row, [], []) for row in found]


def _event_row(
    row: Sequence[Any],
    deliveries: list[DeliveryRow],
    attempts: list[tuple[str, int, Attempt]],
) -> EventRow:
    seq, source, received, text, method, query, content_type, body, encoding = row
    event = Event.from_json(text)
    callback = RawCallback(
        source, method, query, content_type, body, received, event.test, encoding=encoding
    )
    return EventRow(seq, source, received, event, callback, deliveries, attempts)


def _delivery(row: Sequence[Any]) -> DeliveryRow:
    sink, seq, event_id, kind, received, state, *rest = row
    return DeliveryRow(sink, seq, event_id, kind, received, State(state), *rest)

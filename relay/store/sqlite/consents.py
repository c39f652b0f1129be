"""The words of consent: who opted out or in when, and when each sink accepted it.

They stand in tables of their own, which no retention touches; the contact is a keyed hash.
"""

from collections.abc import Sequence

import apsw

from relay.event import Event
from relay.store import Arrival, Word
from relay.store.sqlite import rows


def note_word(connection: apsw.Connection, seq: int, contact: int, arrival: Arrival) -> None:
    """Keep that the contact said a word with this event."""
    event = arrival.event
    connection.execute(
        "INSERT INTO words VALUES (?, ?, ?, ?, ?, ?)",
        (
            seq,
            contact,
            arrival.source,
            event.data["consent"],
            event.test,
            arrival.callback.received,
        ),
    )


def note_accepted(connection: apsw.Connection, sink: int, seqs: Sequence[int], now: int) -> None:
    """Keep that the sink accepted those of these events that are words; the first time counts."""
    connection.execute(
        "INSERT OR IGNORE INTO words_accepted SELECT seq, ?, ? FROM words"
        " WHERE seq IN (SELECT value FROM json_each(?))",
        (sink, now, rows.array(seqs)),
    )


def words(connection: apsw.Connection, after: int, limit: int) -> list[Word]:
    """The oldest first, newer than the seq `after`."""
    found = rows.every(
        connection,
        "SELECT words.seq, words.contact, words.source, word, test, words.received, event"
        " FROM words LEFT JOIN events USING (seq) WHERE words.seq > ? ORDER BY words.seq LIMIT ?",
        (after, limit),
    )
    accepted: dict[int, dict[str, int]] = {row[0]: {} for row in found}
    for seq, sink, at in rows.every(
        connection,
        "SELECT seq, name, accepted FROM words_accepted JOIN sinks ON sinks.id = sink"
        " WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY accepted",
        (rows.array(list(accepted)),),
    ):
        accepted[seq][sink] = at
    return [
        Word(seq, f"{contact:016x}", _mobile(event), source, word, bool(test), said, accepted[seq])
        for seq, contact, source, word, test, said, event in found
    ]


def _mobile(event: bytes | None) -> str | None:
    """The contact's number, where the event is still there."""
    return None if event is None else Event.from_json(event).data["mobile"]

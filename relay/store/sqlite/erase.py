"""Erasure: a contact's events go, whatever became of them; elsewhere the number is blacked out.

What stays is the contact's keyed hash, with the words of consent that it said.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apsw
import orjson

from relay.event import OPT_OUT
from relay.redact import NumberMatcher
from relay.sources import mentions
from relay.store import OPEN_STATES, ContactRows, State
from relay.store.sqlite import rows
from relay.store.sqlite.ingest import events_of, give_rows
from relay.store.sqlite.purge import forget_events
from relay.store.sqlite.settle import unblock
from relay.store.sqlite.state import Memory

PAGE = 64
"""Events or callbacks; each may have half a megabyte."""
INDEXED = ("keyword", "message_id")
RAW = ("query", "content_type", "body", "encoding")
BLACKED = -1
"""In place of a text's hash; no text has it."""
# Where others' words may quote a number: the table, its key, and the columns.
QUOTES = (
    ("attempts", ("sink", "seq", "number", "started"), ("error", "answer")),
    ("deliveries", ("sink", "seq"), ("error", "reference")),
    ("sinks", ("id",), ("state",)),
    ("meta", ("name",), ("value",)),
)


class Quote(NamedTuple):
    """A row in which the number is quoted, and what its columns are to be."""

    table: str
    key: Mapping[str, Any]
    values: Mapping[str, Any]


def find_contact(
    connection: apsw.Connection, memory: Memory, matcher: NumberMatcher
) -> ContactRows:
    """What there is of the contact, in every source that ever had an event."""
    sources = rows.every(
        connection, "SELECT DISTINCT source FROM events UNION SELECT source FROM words"
    )
    contacts = [memory.contact(source, matcher.mobile) for (source,) in sources]
    first = rows.value(connection, "SELECT ifnull(min(seq), 1) FROM events")
    seqs = events_of(connection, contacts, first, memory.last_seq)
    found = rows.every(
        connection,
        "SELECT seq, json_extract(event, '$.id') FROM events"
        " WHERE seq IN (SELECT value FROM json_each(?))",
        (rows.array(seqs),),
    )
    return ContactRows(contacts, dict(found), _waiting(connection, contacts))


def _waiting(connection: apsw.Connection, contacts: Sequence[int]) -> list[tuple[str, State, str]]:
    found = rows.every(
        connection,
        "SELECT sinks.name, d.state, json_extract(event, '$.id') FROM consents"
        " CROSS JOIN events USING (seq) CROSS JOIN sinks"
        " CROSS JOIN all_deliveries d ON d.sink = sinks.id AND d.seq = consents.seq"
        " WHERE word = ? AND consents.contact IN (SELECT value FROM json_each(?))"
        " AND d.state IN (0, 1, 2, 3, 5)",
        (OPT_OUT, rows.array(contacts)),
    )
    return [(name, State(state), event_id) for name, state, event_id in found]


def halt(connection: apsw.Connection, memory: Memory, found: ContactRows) -> int:
    """Give up what is open of the events; return how many deliveries are in flight."""
    seqs = rows.array(list(found.events))
    flying = 0
    for sink in memory.sink_names:
        give_rows(connection, memory, sink, list(found.events))
        for state in OPEN_STATES:
            if state == State.IN_FLIGHT:
                flying += len(memory.flying[sink].keys() & found.events.keys())
                continue
            gone = rows.every(
                connection,
                "UPDATE deliveries SET state = 6 WHERE sink = ? AND state = ?"
                " AND seq IN (SELECT value FROM json_each(?)) RETURNING seq",
                (sink, state, seqs),
            )
            memory.count(sink, state, State.DISCARDED, len(gone))
        unblock(connection, memory, sink, found.contacts)
    return flying


def forget(
    connection: apsw.Connection, memory: Memory, contacts: Sequence[int], seqs: Sequence[int]
) -> int:
    """Delete the events but for those that are in flight; return how many went."""
    flying = {seq for sink in memory.flying.values() for seq in sink}
    going = [seq for seq in seqs if seq not in flying]
    number = forget_events(connection, memory, going)
    connection.execute(
        "DELETE FROM heard WHERE contact IN (SELECT value FROM json_each(?))",
        (rows.array(contacts),),
    )
    return number


def page(
    connection: apsw.Connection, contacts: Sequence[int], matcher: NumberMatcher, after: int
) -> tuple[int | None, list[Quote]]:
    """Where the number stands in the next events of others, and the seq of the last of them."""
    found = rows.every(
        connection,
        f"SELECT seq, event, {', '.join(INDEXED + RAW)} FROM events WHERE seq > ?"
        " AND contact NOT IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?",
        (after, rows.array(contacts), PAGE),
    )
    quotes = [quote for row in found if (quote := _in_event(matcher, row))]
    return (found[-1][0] if found else None), quotes


def _in_event(matcher: NumberMatcher, row: Sequence[Any]) -> Quote | None:
    seq, event, keyword, message_id, *raw = row
    callback = mentions.callback_of(*raw)
    # What the relay has read of the callback is in the event.
    if not matcher.may_be_in(event) and not mentions.in_bytes(matcher, callback):
        return None
    event_was = orjson.loads(event)
    event_is = matcher.blacked_in(event_was)
    kept = mentions.blacked(matcher, callback)
    if event_is == event_was and kept == callback:
        return None
    blacked: dict[str, Any] = {name: getattr(kept, name) for name in RAW}
    blacked |= {"event": orjson.dumps(event_is), "keyword": matcher.blacked_in(keyword)}
    if matcher.blacked_in(message_id) != message_id:
        blacked["message_id"] = None  # two that were blacked out could be the same
    if event_is["data"].get("message") != event_was["data"].get("message"):
        blacked["text_hash"] = BLACKED  # the hash would tell the number to who tries them all
    return Quote("events", {"seq": seq}, blacked)


def callbacks(
    connection: apsw.Connection, matcher: NumberMatcher, after: int
) -> tuple[int | None, list[int]]:
    """The quarantined callbacks of the next page that hold the number."""
    found = rows.every(
        connection,
        f"SELECT seq, reason, {', '.join(RAW)} FROM quarantine WHERE seq > ? ORDER BY seq LIMIT ?",
        (after, PAGE),
    )
    held = [
        seq
        for seq, reason, *raw in found
        if _within(matcher, reason) or mentions.within(matcher, mentions.callback_of(*raw))
    ]
    return (found[-1][0] if found else None), held


def quotes(connection: apsw.Connection, matcher: NumberMatcher) -> list[Quote]:
    """Where the number stands beside events and callbacks: in what receivers answered, say."""

    def within(value: Any) -> bool:
        return _within(matcher, value)

    connection.create_scalar_function("holds_number", within, 1)  # type: ignore[arg-type]
    found = []
    for table, key, columns in QUOTES:
        terms = " OR ".join(f"holds_number({column})" for column in columns)
        for row in rows.every(
            connection, f"SELECT {', '.join((*key, *columns))} FROM {table} WHERE {terms}"
        ):
            values = zip(columns, row[len(key) :], strict=True)
            found.append(
                Quote(
                    table,
                    dict(zip(key, row, strict=False)),
                    {name: _blacked(matcher, value) for name, value in values},
                )
            )
    connection.create_scalar_function("holds_number", None, 1)
    return found


def black_out(connection: apsw.Connection, found: Iterable[Quote]) -> Counter[str]:
    """Write the rows as they are to be; return how many of each table there were."""
    done: Counter[str] = Counter()
    for quote in found:
        sets = ", ".join(f"{name} = ?" for name in quote.values)
        where = " AND ".join(f"{name} = ?" for name in quote.key)
        values = [*quote.values.values(), *quote.key.values()]
        connection.execute(f"UPDATE {quote.table} SET {sets} WHERE {where}", values)
        done[quote.table] += 1
    return done


def _within(matcher: NumberMatcher, value: Any) -> bool:
    return isinstance(value, str | bytes) and matcher.within(_bytes(value))


def _blacked(matcher: NumberMatcher, value: Any) -> Any:
    if not isinstance(value, str | bytes):
        return value
    blacked = matcher.blacked(_bytes(value))
    return blacked if isinstance(value, bytes) else blacked.decode("utf-8", "surrogatepass")


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")

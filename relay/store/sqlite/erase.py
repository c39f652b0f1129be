"""Erasing a contact: its events are deleted; elsewhere in the store its number is blacked out.

What stays is the contact's keyed hash, with its words of consent. Deleted rows are overwritten
(secure_delete). But where SQLite moves rows from page to page, an old copy may stay in the unused
middle of one; then the whole file is rewritten.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import orjson

from relay.callback import mentions
from relay.event import OPT_OUT, content_of
from relay.redact import LONGEST_NUMBER, NumberMatcher
from relay.store import OPEN_STATES, ContactRows, Scrubbed, State, StoreError
from relay.store.sqlite import purge, quarantine, rows
from relay.store.sqlite.database import Database
from relay.store.sqlite.ingest import events_of, materialise
from relay.store.sqlite.settle import unblock
from relay.store.sqlite.state import WriterState

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
    connection: apsw.Connection, writer: WriterState, matcher: NumberMatcher
) -> ContactRows:
    """What there is of the contact, in every source that ever had an event."""
    sources = rows.every(
        connection, "SELECT DISTINCT source FROM events UNION SELECT source FROM words"
    )
    contacts = [writer.contact(source, matcher.mobile) for (source,) in sources]
    first = rows.value(connection, "SELECT ifnull(min(seq), 1) FROM events")
    seqs = events_of(connection, contacts, first, writer.last_seq)
    found = rows.every(
        connection,
        "SELECT seq, json_extract(event, '$.id') FROM events"
        " WHERE seq IN (SELECT value FROM json_each(?))",
        (rows.array(seqs),),
    )
    return ContactRows(contacts, dict(found), _open_opt_outs(connection, contacts))


def _open_opt_outs(
    connection: apsw.Connection, contacts: Sequence[int]
) -> list[tuple[str, State, str]]:
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


def discard_open(connection: apsw.Connection, writer: WriterState, contact: ContactRows) -> int:
    """Give up what is open of the events; return how many deliveries are in flight."""
    seqs = rows.array(list(contact.events))
    flying = 0
    for sink in writer.sink_names:
        materialise(connection, writer, sink, list(contact.events))
        for state in OPEN_STATES:
            if state == State.IN_FLIGHT:
                flying += len(writer.in_flight[sink].keys() & contact.events.keys())
                continue
            gone = rows.every(
                connection,
                "UPDATE deliveries SET state = 6 WHERE sink = ? AND state = ?"
                " AND seq IN (SELECT value FROM json_each(?)) RETURNING seq",
                (sink, state, seqs),
            )
            writer.count(sink, state, State.DISCARDED, len(gone))
        unblock(connection, writer, sink, contact.contacts)
    return flying


def _delete_events(
    connection: apsw.Connection, writer: WriterState, contacts: Sequence[int], seqs: Sequence[int]
) -> int:
    """Delete the events but for those that are in flight; return how many went."""
    flying = {seq for sink in writer.in_flight.values() for seq in sink}
    going = [seq for seq in seqs if seq not in flying]
    number = purge.delete_events(connection, writer, going)
    connection.execute(
        "DELETE FROM heard WHERE contact IN (SELECT value FROM json_each(?))",
        (rows.array(contacts),),
    )
    return number


def note_erasure(
    connection: apsw.Connection, writer: WriterState, matcher: NumberMatcher, report: str
) -> None:
    """Keep that the number was erased: as a keyed hash."""
    number = writer.contact("", matcher.mobile)
    connection.execute(
        "INSERT OR REPLACE INTO erasures VALUES (?, ?, ?)", (writer.now(), number, report)
    )


async def delete_contact(
    database: Database, contact: ContactRows, matcher: NumberMatcher
) -> Counter[str]:
    """Delete these events, and the callbacks in quarantine that hold the number; else black it out.

    In many short transactions, as callbacks wait for each.
    """
    done: Counter[str] = Counter()
    seqs = list(contact.events)
    for start in range(0, len(seqs), purge.STEP) or (0,):
        done["events"] += await database.write(
            _delete_events, contact.contacts, seqs[start : start + purge.STEP]
        )
    after: int | None = 0
    while after is not None:
        after, held = await database.read(callbacks, matcher, after)
        if held:
            done["quarantine"] += await database.write(quarantine.remove, held)
    after = 0
    while after is not None:
        after, found = await database.read(page, contact.contacts, matcher, after)
        if found:
            done["mentions"] += (await database.write(black_out, found)).total()
    if found := await database.read(quotes, matcher):
        done += await database.write(black_out, found)
    return done


async def scrub(database: Database, matcher: NumberMatcher) -> Scrubbed:
    """Rid the files of what was deleted, and search them for the number."""
    await database.write_alone(empty_log)
    done = await database.read(search_file, database.path, matcher)
    if done.places:
        await database.write_alone(rewrite_file)
        done = await database.read(search_file, database.path, matcher)
    return done


def page(
    connection: apsw.Connection, contacts: Sequence[int], matcher: NumberMatcher, after: int
) -> tuple[int | None, list[Quote]]:
    """The places of the number in the next events of others, and the seq of the last of them."""
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
    if content_of(event_is["data"]) != content_of(event_was["data"]):
        blacked["text_hash"] = BLACKED  # the hash would reveal the number to a brute-force search
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
    """Places of the number outside of events and callbacks, such as the answers of receivers."""

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


def black_out(connection: apsw.Connection, _: WriterState, found: Iterable[Quote]) -> Counter[str]:
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


PIECE = 1 << 16


def empty_log(connection: apsw.Connection) -> None:
    """Take the log into the file, and leave it empty. Raises StoreError where others read it."""
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
    if busy:
        raise StoreError("another program reads the store, so its log cannot be emptied")


def rewrite_file(connection: apsw.Connection) -> None:
    """Rewrite the file with only the pages in use (VACUUM). Everything else waits for it."""
    connection.execute("PRAGMA temp_store = FILE").fetchall()
    try:
        connection.execute("VACUUM").fetchall()
    finally:
        connection.execute("PRAGMA temp_store = MEMORY").fetchall()
    empty_log(connection)


def search_file(connection: apsw.Connection, path: Path, matcher: NumberMatcher) -> Scrubbed:
    """How many pieces of the file hold the number."""
    fd = _descriptor(connection, path)
    found, offset = 0, 0
    while data := os.pread(fd, PIECE + LONGEST_NUMBER, offset):
        found += matcher.within(data)
        offset += PIECE
    return Scrubbed(found, searched=os.fstat(fd).st_size)


def _descriptor(connection: apsw.Connection, path: Path) -> int:
    """SQLite's own descriptor of the file: to close one of ours would drop SQLite's locks."""
    connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # so that it is open
    wanted = path.stat()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  numbers are all that is wanted
        try:
            status = os.fstat(int(name))
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
            return int(name)
    raise StoreError("the store's file cannot be searched")

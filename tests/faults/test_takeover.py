"""A store of the last schema is taken over while callbacks come in; none of them waits for it."""

import asyncio
import contextlib
import secrets
import time
from pathlib import Path

import apsw
import pytest
from oracle import Senders, integrity
from relays import PATIENCE, POLL, Relay, Sender

from relay.state_directory import StateDirectory
from relay.store.sqlite.migrate import migrations

SCHEMA = 2
"""Of the release before."""
EVERY = 0.01
EVENTS = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)
INSERT INTO events
SELECT n, randomblob(16), 'sumotext', 'message', 'JOIN', 1800000000000000 + n,
    abs(random()) >> 1, 1, CASE n % 2 WHEN 0 THEN hex(randomblob(7)) END, NULL,
    CAST(format('{"specversion":"1.0","id":"%s","source":"/callbacks/sumotext",'
    || '"type":"com.sumotext.message","subject":"84700/JOIN","time":"2027-01-15T08:00:00.000000Z",'
    || '"datacontenttype":"application/json","data":{"mobile":"+1212%07d","country":"US",'
    || '"short_code":"84700","keyword":"JOIN","carrier":"VERIZONUS","message":"have a nice day",'
    || '"message_id":null,"reply":null,"label":null,"consent":null,"fields":{"Name":"Bill"},'
    || '"parameters":[["mobile","212%07d"],["carrier","VERIZONUS"],["shortcode","84700"],'
    || '["key","JOIN"],["msg","have a nice day"],["Name","Bill"]]}}',
    hex(randomblob(16)), n, n) AS BLOB),
    'GET', CAST(format('mobile=212%07d&carrier=VERIZONUS&shortcode=84700&key=JOIN'
    || '&msg=have%%20a%%20nice%%20day&Name=Bill', n) AS BLOB), '', x''
FROM numbers
"""
DELIVERIES = """
INSERT INTO sinks (id, name, cursor, delivered)
SELECT 1, 'archive', max(seq), max(seq) FROM events;
INSERT INTO routes VALUES (1, 1);
INSERT INTO deliveries (sink, seq, contact, state, attempts, landed, settled)
SELECT 1, seq, contact, 4, 1, 1, received FROM events
"""


def make_store(path: Path, events: int) -> None:
    """A store of the last schema with so many events that have been delivered."""
    path.parent.mkdir(parents=True)
    with contextlib.closing(apsw.Connection(str(path))) as made:
        for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL", "synchronous = OFF"):
            made.execute(f"PRAGMA {pragma}").fetchall()
        for script in migrations()[:SCHEMA]:
            made.execute(script).fetchall()
        made.execute("INSERT INTO meta VALUES ('contact_key', ?)", (secrets.token_bytes(32),))
        with made:
            made.execute(EVENTS, (events,)).fetchall()
            made.execute(DELIVERIES).fetchall()
        made.execute(f"PRAGMA user_version = {SCHEMA}").fetchall()


def schema_of(path: Path) -> int:
    with contextlib.closing(apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)) as store:
        return store.execute("PRAGMA user_version").get


class Crowd:
    """One callback every so often, as soon as the port is open; how long each one took."""

    def __init__(self, relay: Relay) -> None:
        self.senders = Senders()
        self.waits: list[float] = []
        self.statuses: set[int] = set()
        self._relay = relay
        self._count = 0

    async def run(self) -> None:
        async with Sender(self._relay.port, self.senders) as sender:
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    await sender.connect()
                    break
                await asyncio.sleep(POLL)
            while True:
                self._count += 1
                begun = time.monotonic()
                self.statuses.add(await sender.send(f"new-{self._count}", self._count % 50))
                self.waits.append(time.monotonic() - begun)
                await asyncio.sleep(EVERY)


async def taken_over(folder: Path, events: int, patience: float) -> tuple[float, list[float]]:
    """Seconds from the start to the new schema, and how long callbacks took meanwhile."""
    relay = Relay(folder)
    await asyncio.to_thread(make_store, relay.store, events)
    crowd = Crowd(relay)
    begun = time.monotonic()
    relay.spawn()
    sending = asyncio.create_task(crowd.run())
    try:
        async with asyncio.timeout(patience):
            while await asyncio.to_thread(schema_of, relay.store) == SCHEMA:
                assert relay.process.poll() is None, relay.last_words()
                assert not sending.done(), sending.exception()
                await asyncio.sleep(POLL)
            took, waits = time.monotonic() - begun, list(crowd.waits)
            await relay.answers()
            while not crowd.waits[len(waits) :]:
                await asyncio.sleep(POLL)
        sending.cancel()
        await asyncio.wait({sending})
        await relay.delivered(PATIENCE)
        assert await relay.stop() == 0, relay.last_words()
    finally:
        sending.cancel()
        relay.close()
    assert crowd.statuses == {200}
    check_content(relay, crowd, events)
    return took, waits


def check_content(relay: Relay, crowd: Crowd, events: int) -> None:
    """All that was there, and all that was acknowledged; and the copy of before."""
    assert integrity(relay.store) == "ok"
    with contextlib.closing(apsw.Connection(str(relay.store))) as store:
        count = store.execute("SELECT count(*), max(seq) FROM events").fetchone()
        found = store.execute(
            "SELECT json_extract(event, '$.id') FROM events WHERE seq > ?", (events,)
        )
        new = {event_id for (event_id,) in found}
    assert count[0] in (events + len(crowd.senders.acked), events + len(crowd.senders.sent))
    assert set(crowd.senders.acked) <= new
    assert schema_of(StateDirectory.around(relay.store).before_schema(SCHEMA + 1)) == SCHEMA


def p99(waits: list[float]) -> float:
    return sorted(waits)[int(len(waits) * 0.99)]


async def test_a_store_of_the_last_schema_is_taken_over_under_load(tmp_path):
    took, _ = await taken_over(tmp_path, 20_000, 60)
    assert took < 60


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_a_million_events_are_taken_over_while_callbacks_are_answered(tmp_path):
    took, waits = await taken_over(tmp_path, 1_000_000, 300)
    size = (tmp_path / "data/relay.db").stat().st_size
    print(
        f"\n1,000,000 events in {size / 2**20:.0f} MiB taken over in {took:.1f} s; meanwhile"
        f" {len(waits)} callbacks answered, p99 {p99(waits) * 1e3:.1f} ms,"
        f" slowest {max(waits) * 1e3:.0f} ms"
    )
    assert took < 60
    assert len(waits) > 100
    assert p99(waits) < 0.1

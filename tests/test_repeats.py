"""Repeats: the same source, message id, number and text; all else is an event like any other."""

import asyncio
import logging
from contextlib import closing

import apsw
import pytest
from arrivals import arrival
from listening import config, listening
from olderstore import make_older
from spills import Trouble, callback, failover_parts

from relay.redact import NumberMatcher
from relay.sources.router import Router
from relay.store import EventFilter, StoreFull
from relay.store.sqlite import SqliteStore
from relay.store.sqlite.ingest import INTERVAL

HELLO = b"mobile=2125551212&smsid=42&key=JOIN&msg=hello"
STEPS = 50


@pytest.fixture
async def store(tmp_path, clock):
    opened = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
async def relay(store):
    async with listening(store, sinks=("crm",)) as running:
        yield running


def message(contact, text, message_id="42", **more):
    return arrival(contact, message_id=message_id, message=text, **more)


async def said(store):
    """The number's end and the text of each event."""
    rows = await store.events_after(EventFilter(), after=0)
    return [(row.event.data["mobile"][-4:], row.event.data["message"]) for row in rows]


async def test_a_stop_of_another_contact_under_the_same_id_is_stored(relay, store, caplog):
    stop = b"mobile=2125551999&smsid=42&key=JOIN&msg=STOP"
    target = b"/callbacks/sumotext?"
    with caplog.at_level(logging.WARNING):
        first, second = await relay.ask(target + HELLO), await relay.ask(target + stop)
    assert (first.status, second.status) == (200, 200)
    assert first.json()["id"] != second.json()["id"]
    assert await said(store) == [("1212", "hello"), ("1999", "STOP")]
    assert await store.opted_out("sumotext", "+12125551999")
    (warning,) = caplog.messages
    assert "source sumotext: a message id came again" in warning
    assert warning.endswith(second.json()["id"])
    assert "555" not in warning.removesuffix(second.json()["id"])
    assert store.statistics()["reused_ids"] == {"sumotext": 1}


async def test_the_number_in_another_spelling_is_the_same(relay, store):
    target = b"/callbacks/sumotext?"
    first = await relay.ask(target + HELLO)
    again = await relay.ask(target + HELLO.replace(b"2125551212", b"%2B1%20(212)%20555-1212"))
    assert again.json() == first.json()
    assert await said(store) == [("1212", "hello")]
    assert store.statistics()["reused_ids"] == {}


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one commit"])
async def test_what_makes_a_repeat(store, together):
    sent = [
        message(1, "hello"),
        message(1, "hello"),
        message(1, "STOP"),
        message(2, "hello"),
        message(1, None),
        message(1, None),
        message(1, "STOP"),
        message(1, "hello", source="second"),
        message(1, "hello", message_id="43"),
    ]
    if together:
        receipts = await asyncio.gather(*map(store.add, sent))
    else:
        receipts = [await store.add(each) for each in sent]
    firsts = [sent[number].event.id for number in (0, 0, 2, 3, 4, 4, 2, 7, 8)]
    assert [each.id for each in receipts] == firsts
    assert [number for number, each in enumerate(receipts) if each.repeated] == [1, 5, 6]
    assert [number for number, each in enumerate(receipts) if each.id_reused] == [2, 3, 4]
    assert await store.event_count() == 6


async def test_a_flood_of_them_makes_one_line_a_minute(store, clock, caplog):
    for text in range(5):
        await store.add(message(1, f"text {text}"))
    assert len(caplog.messages) == 1
    await clock.advance(INTERVAL)
    await store.add(message(1, "the last"))
    assert "4 since the last such line" in caplog.messages[1]
    assert store.statistics()["reused_ids"] == {"sumotext": 5}


async def test_what_an_earlier_release_stored_is_compared_by_its_text(tmp_path):
    path = make_older(tmp_path / "relay.db", schema=2)
    with closing(apsw.Connection(str(path))) as older:
        older.execute(
            "UPDATE events SET event = CAST(json_set(event, '$.data.message', 'hello') AS BLOB)"
            " WHERE seq = 4"
        )
    store = await SqliteStore.open(path)
    (first,) = await store.events(EventFilter(), before=5, limit=1)
    data = first.event.data
    number = int(data["mobile"].removeprefix("+1212"))
    again = await store.add(message(number, "hello", data["message_id"]))
    other = await store.add(message(number, "STOP", data["message_id"]))
    third = await store.add(message(number, "STOP", data["message_id"]))
    await store.close()
    assert (again.id, again.repeated) == (first.event.id, True)
    assert (other.repeated, other.id_reused) == (False, True)
    assert (third.id, third.repeated) == (other.id, True)


@pytest.mark.parametrize("text", ["hello", "STOP"], ids=["the same", "another text"])
async def test_out_of_the_spill_too(tmp_path, text):
    made = []

    def wrap(store):
        made.append(Trouble(store, StoreFull("the disk is full")))
        return made[0]

    async with failover_parts(tmp_path, wrap=wrap) as parts:
        await parts.send(1, "hello", smsid="42")
        await parts.send(1, text, smsid="42")
        await parts.send(2, "hello", smsid="42")
        made[0].error = None
        await parts.home()
        first = [("0001", "hello"), ("0001", text)][: 1 if text == "hello" else 2]
        assert await said(parts.store) == [*first, ("0002", "hello")]


async def test_out_of_quarantine_too(store, clock):
    router = Router(config(sinks=("crm",)), store, clock)
    kept = [
        await store.quarantine(callback(contact, text, smsid="42"), 422, "no kind")
        for contact, text in ((1, "hello"), (1, "STOP"), (2, "hello"), (1, "hello"))
    ]
    released = [(await router.release(await store.quarantined_one(each)))[0] for each in kept]
    assert await said(store) == [("0001", "hello"), ("0001", "STOP"), ("0002", "hello")]
    assert (released[3].id, released[3].repeated) == (released[0].id, True)
    assert store.statistics()["reused_ids"] == {"sumotext": 2}


async def test_an_id_that_all_messages_have_costs_no_search_through_them(store):
    """Some senders number no messages. Counted are steps of SQLite, which no clock can change."""
    await asyncio.gather(*(store.add(message(each % 500, f"{each}", "0")) for each in range(3_000)))
    steps = {}
    for message_id in ("new", "0"):
        counted = []

        def count(_=None, counted=counted):
            counted.append(1)
            return False

        await store.database.write(lambda db, _, count=count: db.set_progress_handler(count, STEPS))
        await store.add(message(7, "again", message_id))
        await store.database.write(lambda db, _: db.set_progress_handler(None))
        steps[message_id] = len(counted) * STEPS
    assert steps["new"] > 0
    assert steps["0"] < 2 * steps["new"] + 10 * STEPS


async def test_of_a_text_that_was_blacked_out_no_hash_is_left(store):
    await store.add(message(1, "call 2125550142"))
    await store.add(message(2, "call 2125550177"))
    matcher = NumberMatcher("+12125550142")
    await store.delete_contact(await store.find_contact(matcher), matcher)
    hashes = await store.database.write(
        lambda db, _: db.execute("SELECT text_hash FROM events ORDER BY seq").fetchall()
    )
    assert hashes[0] == (-1,)
    assert hashes[1][0] > 0
    again = await store.add(message(1, "call 2125550142"))
    assert (again.repeated, again.id_reused) == (False, True)


async def test_a_message_that_was_erased_is_new_when_it_comes_again(store):
    first = message(142, "hello")
    await store.add(first)
    matcher = NumberMatcher(first.event.data["mobile"])
    await store.delete_contact(await store.find_contact(matcher), matcher)
    again = await store.add(message(142, "hello"))
    assert (again.repeated, again.id_reused) == (False, False)
    assert await store.event_count() == 1

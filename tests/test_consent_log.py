"""The log of consent: every word, when it came, when each sink accepted it, for good."""

import asyncio
import csv
import io
import json

from arrivals import NOW, arrival, claim_one, delivered, mobile
from click.testing import CliRunner
from olderstore import make_older
from relaying import relaying

from relay.cli import main
from relay.store import EventFilter, PurgeCutoffs
from relay.store.sqlite import SqliteStore


async def said(store):
    return [(word.word, dict(word.accepted)) for word in await store.consent_log(after=0)]


async def test_every_word_is_kept_with_who_accepted_it(tmp_path, clock):
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    await store.add(arrival(1, consent="opt_out", sinks=["crm", "archive"]))
    await store.settle([delivered(await claim_one(store, "crm"))])
    first = int(clock.now() * 1e6)
    assert await said(store) == [("opt_out", {"crm": first})]
    await clock.advance(60)
    await store.settle([delivered(await claim_one(store, "archive"))])
    await store.add(arrival(1, consent="opt_in"))
    await store.add(arrival(1))
    second = {"crm": first, "archive": first + 60_000_000}
    assert await said(store) == [("opt_out", second), ("opt_in", {})]
    await clock.advance(60)
    await store.replay("crm", [1])
    await store.settle([delivered(await claim_one(store, "crm"))])
    assert (await said(store))[0] == ("opt_out", second), "the first time counts"
    await store.close()


async def test_a_copy_says_nothing_again_and_what_is_released_does(tmp_path, clock):
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    early = arrival(1, consent="opt_in", received=NOW - 5)
    kept = await store.quarantine(early.callback, 422, "no kind")
    stop = arrival(1, consent="opt_out")
    await store.add(stop)
    await store.add(arrival(1, consent="opt_out", copy_of=stop.event.id))
    await store.release(kept, [early])
    words = await store.consent_log(after=0)
    assert [(word.word, word.received) for word in words] == [("opt_out", NOW), ("opt_in", NOW - 5)]
    assert await store.opted_out("sumotext", mobile(1))
    await store.close()


async def test_it_outlives_the_events(tmp_path, clock):
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    await store.add(arrival(1, consent="opt_out"))
    await store.settle([delivered(await claim_one(store))])
    (before,) = await store.consent_log(after=0)
    assert before.mobile == mobile(1)
    assert [step.events async for step in store.purge(PurgeCutoffs(NOW + 1, 0, 0, NOW))] == [1]
    (after,) = await store.consent_log(after=0)
    assert after.mobile is None
    assert (after.contact, after.accepted) == (before.contact, before.accepted)
    await store.close()


async def test_an_older_store_brings_its_words_along(tmp_path, clock):
    path = make_older(tmp_path / "relay.db")
    store = await SqliteStore.open(path, clock=clock)
    words = {word.seq: word for word in await store.consent_log(after=0)}
    events = await store.events_after(EventFilter(), after=0, limit=1000)
    assert words.keys() == {row.seq for row in events if row.event.data["consent"]}
    at = 1_800_000_000_000_000
    assert sorted(words[12].accepted.values()) == [at, at]
    assert words[12].received == 1_800_000_012_000_000
    await store.close()


async def test_the_export_is_csv_or_json(tmp_path):
    sink = {"plugin": "csv", "options": {"path": "events.csv"}}
    async with relaying(tmp_path, sink) as relay:
        await relay.send(1, "STOP")
        await relay.send(1, "START")
        await relay.send(2, "hello")
        await relay.reached(delivered=3)
        rows = list(csv.DictReader(io.StringIO(await relay.command("consent", "export"))))
        found = await relay.asked("consent", "export")
    assert [(row["word"], row["mobile"], row["sink"]) for row in rows] == [
        ("opt_out", "+12125550001", "crm"),
        ("opt_in", "+12125550001", "crm"),
    ]
    assert all(row["received"] < row["accepted"] for row in rows)
    assert [each["accepted"].keys() for each in found] == [{"crm"}, {"crm"}]
    words = ["consent", "export", "--json", "--config", str(tmp_path / "relay.yaml")]
    again = await asyncio.to_thread(CliRunner().invoke, main, words)
    assert json.loads(again.stdout) == found

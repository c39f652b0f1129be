"""Events of any source in the store: by their contact, which may be no number, or none at all."""

import csv
import itertools
from contextlib import closing
from shutil import copyfile

import apsw
import httpx
import pytest
from arrivals import NOW, claim_one, delivered, ids, waiting
from olderstore import OLDER, make_filled
from relaying import relaying
from spills import failover_parts
from uuid_utils import uuid7

from relay.counters import IngressCounters
from relay.event import OPT_IN, OPT_OUT, Event, RawCallback, timestamp
from relay.redact import NumberMatcher, mask_contact, mask_in
from relay.store import EventFilter, NewEvent, PurgeCutoffs, Receipt, Settlement, State
from relay.store.sqlite import SqliteStore

ANN, BEN = "ann@example.com", "ben@example.com"
NUMBER = "+12125550142"
ALL = PurgeCutoffs(NOW + 1, NOW + 1, NOW + 1, NOW + 1)
OTHER_MEANINGS = {"mobile": {"model": "X"}, "consent": "opt_out", "message_id": 7, "keyword": []}
"""Data of a vendor who means something else by Sumotext's names."""

numbers = itertools.count(1)


@pytest.fixture
async def store(tmp_path, clock):
    opened = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    yield opened
    await opened.close()


def arrival(contact=None, *, data=None, copy_of=None, sinks=("crm",), **attributes) -> NewEvent:
    event = Event(
        id=str(uuid7()),
        source="/callbacks/forms",
        type="com.vendor.form.submitted",
        subject=None,
        time=timestamp(NOW),
        data=data or {"number": next(numbers), **OTHER_MEANINGS},
        contact=contact,
        **attributes,
    )
    callback = RawCallback("forms", "POST", b"", "application/json", b"{}", NOW)
    return NewEvent(event, callback, "forms", event.kind, dict.fromkeys(sinks), copy_of)


async def add(store, *arguments, **attributes) -> str:
    return (await store.add(arrival(*arguments, **attributes))).id


async def test_an_event_is_read_as_it_was_stored(store):
    new = arrival(ANN, consent=OPT_OUT, dedup_key="7", topic="news")
    await store.add(new)
    row = await store.event(new.event.id)
    assert row.event == new.event
    assert (await claim_one(store)).event == new.event


async def test_events_of_one_contact_go_one_after_the_other(store, clock):
    first, second, other = await add(store, ANN), await add(store, ANN), await add(store, BEN)
    claims = (await store.claim("crm", 10)).claims
    assert [claim.event.id for claim in claims] == [first, other]
    await store.settle([waiting(claims[0], int(clock.now() * 1e6) + 3_600_000_000)])
    assert await ids(store) == []
    await clock.advance(3601)
    claim = await claim_one(store)
    assert claim.event.id == first
    await store.settle([delivered(claim)])
    assert await ids(store) == [second]


async def test_events_without_a_contact_wait_for_no_other(store):
    sent = [await add(store) for _ in range(3)]
    assert await ids(store) == sent


async def test_a_copy_of_an_event_without_a_contact_is_delivered(store):
    sent = await add(store)
    await store.settle([delivered(await claim_one(store))])
    copy = await add(store, copy_of=sent)
    assert await ids(store) == [copy]


@pytest.mark.parametrize("contact", [ANN, None])
async def test_an_event_that_is_sent_again_is_stored_once(store, contact):
    first = await add(store, contact, dedup_key="7")
    for _ in range(2):
        again = await store.add(arrival(contact, dedup_key="7"))
        assert (again.id, again.repeated, again.type) == (first, True, "com.vendor.form.submitted")
    assert await store.event_count() == 1


@pytest.mark.parametrize("contact", [ANN, None])
async def test_the_same_key_with_another_content_is_another_event(store, contact):
    for text in ("one", "two"):
        receipt = await store.add(arrival(contact, dedup_key="7", data={"message": text}))
        assert not receipt.repeated
    assert receipt.id_reused
    assert (await store.add(arrival(BEN, dedup_key="7"))).id_reused
    assert await store.event_count() == 3


async def test_data_with_the_names_of_sumotext_says_nothing(store):
    for _ in range(2):
        await add(store, ANN)
    assert await store.event_count() == 2  # no repeat
    assert not await store.opted_out("forms", ANN)
    assert await store.consent_log(after=0) == []
    assert (await store.keywords(after=0, limit=10))[1] == {}


async def test_an_opt_out_passes_everybody_else(store):
    others = [await add(store, f"{number}@example.com") for number in range(20)]
    older, stop = await add(store, ANN), await add(store, ANN, consent=OPT_OUT)
    first = await claim_one(store, urgent=True)
    assert (first.event.id, first.urgent) == (older, True)
    await store.settle([delivered(first)])
    assert await ids(store, limit=1) == [stop]
    assert await ids(store, limit=20) == others
    assert await store.opted_out("forms", ANN)
    assert await store.last_word(ANN) == OPT_OUT
    assert not await store.opted_out("forms", None)


async def test_an_opt_out_overtakes_a_retry_and_follows_it_once_more(store, clock):
    join, stop = arrival(ANN, consent=OPT_IN), arrival(ANN, consent=OPT_OUT)
    await store.add(join)
    await store.settle([waiting(await claim_one(store), int(clock.now() * 1e6) + 3_600_000_000)])
    await store.add(stop)
    await store.settle([delivered(await claim_one(store))])
    await clock.advance(3601)
    landed = []
    while claims := (await store.claim("crm", 10)).claims:
        landed += [(each.event.id, each.stale) for each in claims]
        await store.settle([delivered(each) for each in claims])
    assert landed == [(join.event.id, True), (stop.event.id, False)]


async def test_a_replayed_opt_in_is_followed_by_the_opt_out(store):
    join, stop = await add(store, ANN, consent=OPT_IN), await add(store, ANN, consent=OPT_OUT)
    for _ in range(2):
        await store.settle([delivered(await claim_one(store))])
    seq = (await store.event(join)).seq
    await store.replay("crm", [seq])
    await store.settle([delivered(await claim_one(store))])
    assert await ids(store) == [stop]


async def test_the_last_word_goes_to_a_sink_that_never_had_it(store):
    """An opt-out that is behind an opt-in; what Sumotext's name holds in the data is no word."""
    await add(store, ANN, consent=OPT_OUT)
    back = arrival(ANN, consent=OPT_IN)
    await store.add(back)
    seqs = [row.seq for row in await store.events_after(EventFilter(), after=0)]
    (word,) = await store.later_consent("new", seqs[:1])
    assert word.event == back.event
    await add(store, BEN)
    await add(store, BEN, consent=OPT_IN)
    seqs = [row.seq for row in await store.events_after(EventFilter(), after=seqs[-1])]
    assert await store.later_consent("new", seqs[:1]) == []


async def test_the_consent_log_names_the_contact(store):
    await add(store, ANN, consent=OPT_OUT)
    await add(store, consent=OPT_OUT)  # of nobody
    (word,) = await store.consent_log(after=0)
    assert (word.mobile, word.word, word.source) == (ANN, OPT_OUT, "forms")


async def test_the_age_of_an_opt_out_is_known(store):
    await add(store, ANN)
    assert (await store.backlog_age())["crm"].opt_out_since is None
    await add(store, BEN, consent=OPT_OUT)
    assert (await store.backlog_age())["crm"].opt_out_since == NOW
    await add(store, ANN, consent=OPT_IN)
    claim = await claim_one(store, urgent=True)
    await store.settle([Settlement("crm", claim.seq, State.DEAD, error="400")])
    assert (await store.backlog_age())["crm"].opt_out_since == NOW
    await store.retry_dead("crm", [claim.seq])
    assert (await claim_one(store, urgent=True)).event.contact == BEN


async def test_events_are_listed_by_topic_and_kind(store):
    news, _ = await add(store, ANN, topic="News"), await add(store, topic="Ads")
    rows = await store.events(EventFilter(keyword="NEWS", kind="submitted"))
    assert [row.event.id for row in rows] == [news]
    assert (await store.keywords(after=0, limit=10))[1] == {"News": NOW, "Ads": NOW}


@pytest.mark.parametrize("contact", [ANN, None])
async def test_what_was_delivered_is_purged(store, contact):
    await add(store, contact)
    await add(store, contact, consent=OPT_OUT)
    while claims := (await store.claim("crm", 10)).claims:
        await store.settle([delivered(each) for each in claims])
    steps = [step async for step in store.purge(ALL)]
    assert sum(step.events for step in steps) == 2
    assert await store.opted_out("forms", contact) is (contact is not None)


async def test_a_number_is_erased_and_what_others_say_of_it(store):
    """The events of the number go; in those of others it is blacked out, in every attribute."""
    await add(store, NUMBER, data={"phone": NUMBER}, consent=OPT_OUT)
    asked = {"text": "call 212-555-0142", "from": ANN}
    kept = await add(store, ANN, data=asked, topic="2125550142", dedup_key="212-555-0142")
    nobody = await add(store, data={"message": NUMBER}, dedup_key="9")
    matcher = NumberMatcher(NUMBER)
    contact = await store.find_contact(matcher)
    assert len(contact.events) == 1
    await store.discard_open(contact)
    done = await store.delete_contact(contact, matcher)
    assert (done["events"], done["mentions"]) == (1, 2)
    left = [row.event for row in await store.events_after(EventFilter(), after=0)]
    assert [each.id for each in left] == [kept, nobody]
    assert (left[0].contact, left[0].data["from"]) == (ANN, ANN)
    assert not any(matcher.may_be_in(each.to_stored_json()) for each in left)
    assert (await store.scrub(matcher)).places == 0
    assert await store.opted_out("forms", NUMBER)


# what earlier releases left


async def test_a_store_of_before_is_read_as_it_is(tmp_path, clock):
    path = make_filled(tmp_path / "relay.db")
    before = _events(path)
    store = await SqliteStore.open(path, clock=clock)
    rows = await store.events_after(EventFilter(), after=0)
    assert [row.event.to_stored_json() for row in rows] == before
    assert rows[0].event.contact == NUMBER
    assert [row.event.consent for row in rows] == [None, None, None, OPT_OUT, None, None, OPT_IN]
    assert [row.event.dedup_key for row in rows] == ["42", "43", None, "44", "45", None, "46"]
    assert [row.event.topic for row in rows] == [
        *("JOIN", "JOIN", "HELP", "JOIN", "JOIN", "VOTE", "JOIN")
    ]
    assert [row.event.kind for row in rows][2:6] == ["web_form", "message", "message", "poll"]
    again = await store.add(_sumotext("42", "hello", received=NOW + 90))
    assert (again.id, again.repeated) == (rows[0].event.id, True)
    assert (await store.add(_sumotext("42", "other", received=NOW + 90))).id_reused
    stops = (await store.claim("crm", 10, urgent=True)).claims
    assert [claim.event.id for claim in stops] == [rows[0].event.id]
    assert (await store.backlog_age())["crm"].opt_out_since == rows[3].received
    await store.close()
    assert _events(path)[:7] == before


async def test_a_number_of_before_is_erased(tmp_path, clock):
    path = make_filled(tmp_path / "relay.db")
    store = await SqliteStore.open(path, clock=clock)
    matcher = NumberMatcher(NUMBER)
    contact = await store.find_contact(matcher)
    assert list(contact.events) == [1, 2, 4]
    await store.discard_open(contact)
    done = await store.delete_contact(contact, matcher)
    assert (done["events"], done["mentions"]) == (3, 1)
    assert (await store.scrub(matcher)).places == 0
    assert await store.opted_out("sumotext", NUMBER)
    await store.close()


async def test_a_spill_of_before_comes_home(tmp_path):
    """One is a repeat of what the store has; the other an opt-out of a contact it knows."""
    make_filled(tmp_path / "relay.db")
    copyfile(OLDER / "spill", tmp_path / "relay.db.spill")
    async with failover_parts(tmp_path) as parts:
        await parts.home()
        rows = await parts.store.events_after(EventFilter(), after=7)
        assert [row.event.id for row in rows] == ["01900000-0000-7000-8000-000000000102"]
        assert await parts.store.opted_out("sumotext", "+12125550177")


def _sumotext(message_id: str, text: str, received: int) -> NewEvent:
    data = {"mobile": NUMBER, "keyword": "JOIN", "message": text, "message_id": message_id}
    event = Event(
        str(uuid7()), "/callbacks/sumotext", "com.sumotext.message", None, timestamp(received), data
    )
    callback = RawCallback("sumotext", "GET", b"", "", b"", received)
    return NewEvent(event, callback, "sumotext", "message", {"crm": None})


def _events(path) -> list[bytes]:
    with closing(apsw.Connection(str(path))) as connection:
        return [row[0] for row in connection.execute("SELECT event FROM events ORDER BY seq")]


# what people see of them


@pytest.fixture
async def filled(tmp_path):
    """The folder of a relay whose store has events of other vendors, for its sink `crm`."""
    (tmp_path / "data").mkdir()
    store = await SqliteStore.open(tmp_path / "data/relay.db")
    data = {"message": "hello", "email": ANN}
    await add(store, ANN, data=data, topic="news", consent=OPT_OUT)
    claim = await claim_one(store)
    await store.settle([Settlement("crm", claim.seq, State.DEAD, error=f"no {ANN}")])
    await add(store, data={"message": {"text": "hello"}, "phone": "212-555-0142"})
    await add(store, NUMBER, data={"label": 7})
    await store.close()
    return tmp_path


async def test_the_commands_show_events_of_any_source(filled):
    sink = {"plugin": "csv", "options": {"path": "out/events.csv"}}
    async with relaying(filled, sink) as relay:
        await relay.reached(delivered=2, dead=1)
        await _look_at(relay)
        made = await relay.command("dead", "replay", "--all")
        assert "1 delivery on the way again" in made
        await relay.reached(delivered=3, dead=0)
        admin = relay._running.inner[0].address
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            metrics = await http.get(f"http://127.0.0.1:{admin[1]}/metrics")
        assert 'relay_deliveries_total{outcome="delivered",sink="crm"} 3.0' in metrics.text
        await relay.send(1)
    assert len((filled / "out/events.csv").read_text().splitlines()) == 5
    await _look_at(relay)
    lines = (await relay.command("events", "tail")).splitlines()
    assert [line.split("  ")[1:5] for line in lines[:3]] == [
        ["submitted", "a…@example.com", "-", "hello"],
        ["submitted", "-", "-", "-"],
        ["submitted", "…0142", "-", "-"],
    ]


async def _look_at(relay):
    """With the relay and without it."""
    found = [
        each
        for each in await relay.asked("events", "list")
        if each["type"] == "com.vendor.form.submitted"
    ]
    nobody = dict.fromkeys(("contact", "consent", "dedup_key", "topic"))
    assert [each["attributes"] for each in found] == [
        nobody | {"contact": NUMBER},
        nobody,
        nobody | {"contact": ANN, "consent": OPT_OUT, "topic": "news"},
    ]
    texts = [await relay.command("events", "list"), await relay.command("dead", "list")]
    texts += [await relay.command("events", "show", each["id"]) for each in found]
    texts += [await relay.command("preview", "--event", each["id"]) for each in found]
    texts.append(
        await relay.command("replay", "--sink", "crm", "--since", "2020-01-01", "--dry-run")
    )
    assert "a…@example.com" in texts[0]
    assert texts[-2].startswith("com.vendor.form.submitted, keyword news\n")
    assert all(ANN not in text for text in (texts[0], *texts[2:]))
    assert all("212-555-0142" not in text for text in texts)
    assert [each["opted_out"] for each in [await _shown(relay, each) for each in found]] == [
        *(False, False, True)
    ]
    (word, *_) = csv.DictReader((await relay.command("consent", "export")).splitlines())
    assert (word["mobile"], word["word"]) == (ANN, OPT_OUT)


async def _shown(relay, event):
    return await relay.asked("events", "show", event["id"])


def test_a_contact_is_masked_however_it_is_written():
    record = {"a": f"<{ANN.upper()}>", "b": [f"{ANN}.uk", 2125551212], "c": "212-555-1212"}
    assert mask_in(record, ANN) == {
        "a": "<a…@example.com>",
        "b": ["a…@example.com.uk", "…1212"],
        "c": "…1212",
    }
    assert mask_in({"phone": NUMBER, "id": "user-77"}, "user-77") == {
        "phone": "…0142",
        "id": "…r-77",
    }
    assert mask_in(record, None) == record | {"b": [f"{ANN}.uk", "…1212"], "c": "…1212"}
    assert [mask_contact(each) for each in (ANN, NUMBER, None)] == ["a…@example.com", "…0142", None]


async def test_a_counter_has_the_kinds_that_the_source_names_and_no_others():
    counters = IngressCounters({"forms": ("submitted",)})
    for kind in ("submitted", *(f"made-up-{number}" for number in range(9))):
        counters.acknowledged("forms", Receipt("1", f"com.vendor.form.{kind}"), 0.1)
    (found,) = counters.callbacks.collect()
    kinds = {sample.labels["kind"] for sample in found.samples}
    assert kinds == {"submitted", "other", ""}

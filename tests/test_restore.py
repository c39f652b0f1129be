"""The restore: the way back, to a copy or to an older release, loses nothing that came since."""

import asyncio
import json
import os
import shutil
from contextlib import closing
from urllib.parse import urlencode

import apsw
import httpx
import pytest
import yaml
from arrivals import claim_one, delivered
from click.testing import CliRunner
from olderstore import EVENTS, content, make_older
from spills import Trouble, failover_parts
from stubs.receiver import Receiver

from relay import restore, service
from relay.cli import main
from relay.clock import SystemClock
from relay.config import loader
from relay.event import RawCallback
from relay.sources.router import Router
from relay.state_directory import StateDirectory
from relay.store import EventFilter, PurgeCutoffs, StoreError, StoreFull, StoreLocked
from relay.store.sqlite import SqliteStore, backup, migrate
from relay.store.sqlite.connection import connect_reader, lock, look_into

NOW = 1_800_000_100.0
STORED = 1_800_000_000_000_000
ASIDE = "relay.db.replaced-20270115T080140Z"
LATER = "CREATE TABLE of_a_later_release (one INTEGER)"
SOON = {"retry": {"initial": "10ms", "max": "50ms"}}


@pytest.fixture
def releases(monkeypatch):
    """Be the newer release, with one migration more, or the older one."""
    scripts = migrate.migrations()

    def be(*, newer):
        known = [*scripts, LATER] if newer else scripts
        monkeypatch.setattr(migrate, "migrations", lambda: known)

    return be


def settings(folder, url):
    folder.mkdir(exist_ok=True)
    path = folder / "relay.yaml"
    loopback = "127.0.0.1:0"
    sinks = {
        "archive": {"plugin": "csv", "options": {"path": "out/events.csv"}},
        "hook": {
            "plugin": "webhook",
            "options": {"url": url},
            "allow_private": ["127.0.0.0/8"],
            **SOON,
        },
    }
    path.write_text(
        yaml.safe_dump(
            {
                "server": {"listen": loopback},
                "admin": {"listen": loopback},
                "store": "relay.db",
                "sources": {"sumotext": {}},
                "sinks": sinks,
            }
        )
    )
    return loader.load(path, {})


async def life(loaded, callbacks, *, events):
    """A relay from its start to its end: it takes the callbacks, and delivers all there is."""
    async with (
        service.started(loaded) as running,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        url = f"http://127.0.0.1:{running.address[1]}/callbacks/sumotext"
        answers = [(await http.get(url, params=each)).json() for each in callbacks]
        async with asyncio.timeout(30):
            while True:
                found = await asked(loaded)
                waiting = sum(sink["pending"] for sink in found["sinks"].values())
                if found["events"] == events and not waiting and not found["spill"]:
                    return answers, found
                await asyncio.sleep(0.05)


async def asked(loaded):
    words = ["status", "--json", "--config", str(loaded.path)]
    result = await asyncio.to_thread(CliRunner().invoke, main, words, catch_exceptions=False)
    return json.loads(result.stdout)


def form(contact, message="hello", **more):
    return {
        "mobile": f"212555{contact:04}",
        "carrierId": "V",
        "key": "JOIN",
        "msg": message,
        **more,
    }


def stored(loaded):
    """The ids of all events, in the order of the store."""
    with closing(connect_reader(loaded.store)) as reader:
        events = reader.execute("SELECT event FROM events ORDER BY seq").fetchall()
    return [json.loads(event)["id"] for (event,) in events]


def rows_of(path):
    return path.read_text().splitlines()[1:]


@pytest.mark.parametrize("restored_by", ["newer", "older"])
async def test_the_way_back_to_an_older_release_loses_nothing(tmp_path, releases, restored_by):
    """Upgrade, take callbacks, go back: restored, and started by the release of before."""
    async with Receiver() as receiver:
        loaded = settings(tmp_path, receiver.url)
        await life(loaded, [form(1), form(2)], events=2)
        releases(newer=True)
        since = [form(1, "STOP"), form(3), {"key": "no number"}]
        answers, _ = await life(loaded, since, events=4)
        releases(newer=False)
        with pytest.raises(StoreError, match="this release knows"):
            await SqliteStore.open(loaded.store)

        releases(newer=restored_by == "newer")
        (copy,) = loaded.state.store_copies()
        found = restored(copy, loaded.store, loaded.state.spill, NOW)
        assert (found.since, found.aside, found.trouble) == (3, tmp_path / ASIDE, None)
        releases(newer=False)
        assert len(content(loaded.store)["events"]) == 2
        _, status = await life(loaded, [form(4)], events=5)
    assert status["quarantine"] == 1
    assert {answer["id"] for answer in answers if "type" in answer} <= set(stored(loaded))
    assert not loaded.state.spill.exists()
    rows = rows_of(tmp_path / "out/events.csv")
    assert len(rows) == len({row.split(",")[0] for row in rows}) == 5  # each once, as ids stay
    last_words = [
        body["data"]["message"]
        for body in (json.loads(each.body) for each in receiver.requests)
        if body["data"]["mobile"] == "+12125550001"
    ]
    assert last_words[-1] == "STOP"


@pytest.mark.parametrize("elsewhere", [True, False], ids=["elsewhere", "here"])
async def test_what_waited_when_the_backup_was_made_is_taken_in_once(tmp_path, elsewhere):
    """On another machine; or here, where it has come home to the store since."""
    async with Receiver() as receiver:
        loaded = settings(tmp_path / "one", receiver.url)
        (first,), _ = await life(loaded, [form(1)], events=1)
        waited = await spilled(loaded)
        with closing(look_into(loaded.store)) as source:
            backup.back_up(source, tmp_path / "copy.db", loaded.state.spill)
        since = []
        if elsewhere:
            loaded = settings(tmp_path / "two", receiver.url)
        else:
            since, _ = await life(loaded, [form(1)], events=5)
        found = restored(tmp_path / "copy.db", loaded.store, loaded.state.spill, NOW)
        assert found.since == 3 + len(since)
        assert "spilled" not in content(loaded.store)
        await life(loaded, [], events=4 + len(since))
    assert stored(loaded) == [first["id"], *waited, *(each["id"] for each in since)]
    rows = [row.split(",")[0].strip('"') for row in rows_of(loaded.folder / "out/events.csv")]
    assert sorted(rows) == stored(loaded)[elsewhere:]  # the first was delivered from here


async def spilled(loaded):
    """Callbacks that were acknowledged while the store could not be written; their ids."""
    full = StoreFull("the disk is full")
    async with failover_parts(loaded.folder, wrap=lambda store: Trouble(store, full)) as failover:
        return [await failover.send(contact) for contact in (1, 2, 1)]


def said(word, received):
    """A callback with a word of consent."""
    query = urlencode(form(1, word)).encode()
    return RawCallback("sumotext", "GET", query, "", b"", received)


def back_up(loaded):
    with closing(look_into(loaded.store)) as source:
        backup.back_up(source, loaded.folder / "copy.db", loaded.state.spill)


async def opted_out(loaded):
    store = await SqliteStore.open(loaded.store)
    found = await store.opted_out("sumotext", "+12125550001")
    words = await store.consent_log(after=0)
    await store.close()
    return found, [(each.word, set(each.accepted)) for each in words]


@pytest.mark.parametrize("copied", ["before the opt-out", "after the opt-out"])
async def test_an_opt_in_released_since_does_not_undo_the_opt_out_that_came_after_it(
    tmp_path, copied
):
    async with Receiver() as receiver:
        loaded = settings(tmp_path, receiver.url)
        store = await SqliteStore.open(loaded.store)
        router = Router(loaded, store, SystemClock())
        start, stop = said("START", STORED), said("STOP", STORED + 1)
        quarantined = await store.quarantine(start, 422, "no kind")
        if copied == "before the opt-out":
            back_up(loaded)
        await store.add(await router.new_event(stop))
        if copied == "after the opt-out":
            back_up(loaded)
        await store.release(quarantined, [await router.new_event(start)])
        assert await store.opted_out("sumotext", "+12125550001")
        await store.close()
        restored(tmp_path / "copy.db", loaded.store, loaded.state.spill, NOW)
        await life(loaded, [], events=2)
        assert (await opted_out(loaded))[0]


@pytest.mark.parametrize("again", [False, True], ids=["once", "restored again"])
async def test_what_was_said_since_outlives_its_event_here_too(tmp_path, again):
    async with Receiver() as receiver:
        loaded = settings(tmp_path, receiver.url)
        await life(loaded, [form(1, "START")], events=1)
        back_up(loaded)
        store = await SqliteStore.open(loaded.store)
        router = Router(loaded, store, SystemClock())
        await store.add(await router.new_event(said("STOP", STORED + 1)))
        for sink in ("archive", "hook"):
            await store.settle([delivered(await claim_one(store, sink))])
        later = 2 * STORED
        assert [each.events async for each in store.purge(PurgeCutoffs(later, later, later, later))]
        assert await store.event_count() == 0
        await store.close()
        for now in (NOW, NOW + 1) if again else (NOW,):
            restored(tmp_path / "copy.db", loaded.store, loaded.state.spill, now)
        found, words = await opted_out(loaded)
        both = {"archive", "hook"}
        assert (found, words) == (True, [("opt_in", both), ("opt_out", both)])
        await life(loaded, [], events=1)
        found, words = await opted_out(loaded)
        assert (found, [word for word, _ in words]) == (True, ["opt_in", "opt_out"])
        await life(loaded, [form(1, "START")], events=2)
        assert not (await opted_out(loaded))[0]


async def test_what_came_with_a_callback_comes_back_with_it(tmp_path):
    """Its Content-Encoding, and of what is in quarantine the sender and the digest of its token."""
    loaded = settings(tmp_path, "http://127.0.0.1:9")
    store = await SqliteStore.open(loaded.store)
    back_up(loaded)
    more = {"encoding": "gzip", "sender": "192.0.2.7", "token_digest": b"\xff\x00"}
    event = said("START", STORED)._replace(encoding="identity")
    await store.add(await Router(loaded, store, SystemClock()).new_event(event))
    await store.quarantine(said("STOP", STORED + 1)._replace(**more), 401, "the token is wrong")
    await store.close()
    assert kept(loaded.store).since == 2
    async with failover_parts(tmp_path) as failover:
        await failover.home()
        (row,) = await failover.store.events_after(EventFilter(), after=0)
        (held,) = await failover.store.quarantined()
    assert row.callback == event
    assert held.callback == said("STOP", STORED + 1)._replace(**more)


async def test_the_copy_of_another_store_gets_no_words_of_this_one(tmp_path):
    async with Receiver() as receiver:
        loaded = settings(tmp_path, receiver.url)
        await life(loaded, [form(1, "STOP")], events=1)
        make_older(tmp_path / "copy.db")
        store = await SqliteStore.open(loaded.store)
        later = 2 * STORED
        assert [each.events async for each in store.purge(PurgeCutoffs(later, later, later, later))]
        await store.close()
    before = content(tmp_path / "copy.db")
    kept(loaded.store)
    assert content(loaded.store) == before


def restored(copy, store, spill, now):
    with closing(look_into(copy)) as source:
        return restore.restore(source, store, spill, now)


def kept(store, spill=None):
    return restored(
        store.with_name("copy.db"), store, spill or store.with_name("relay.db.spill"), NOW
    )


@pytest.fixture
def store(tmp_path):
    """A store, and beside it a copy that lacks its last event and all of its quarantine."""
    store = make_older(tmp_path / "relay.db")
    make_older(tmp_path / "copy.db")
    with closing(apsw.Connection(str(tmp_path / "copy.db"))) as copy:
        copy.execute("DELETE FROM events WHERE seq = 41; DELETE FROM quarantine").fetchall()
    return store


def lines(spill):
    return [json.loads(line.partition(b" ")[2]) for line in spill.read_bytes().splitlines()]


def test_what_came_since_waits_in_its_order_before_what_waits_already(store, tmp_path):
    spill = tmp_path / "relay.db.spill"
    shutil.copy(store, tmp_path / "other.db")
    assert kept(store).since == 3
    first = spill.read_bytes()
    (tmp_path / ASIDE).unlink()
    shutil.copy(tmp_path / "other.db", store)
    assert kept(store).since == 3  # as after a kill of the first
    assert spill.read_bytes() == first
    assert [line.get("status") for line in lines(spill)] == [None, 422, 401]
    assert lines(spill)[2]["callback"]["body"] == "mobile=\xff12"


def test_who_was_erased_since_is_counted(store, tmp_path):
    assert kept(store).erased == 0
    with closing(apsw.Connection(str(store))) as writer:
        writer.execute(
            "CREATE TABLE erasures (at INTEGER PRIMARY KEY, number INTEGER, report TEXT)"
        )
        writer.execute("INSERT INTO erasures VALUES (1, 1, ''), (2, 1, '')")
    (tmp_path / ASIDE).unlink()
    assert kept(store).erased == 2


async def test_a_spill_that_is_older_than_the_store_stays_so(store, tmp_path):
    opened = await SqliteStore.open(store)
    copy = tmp_path / "another.db"
    with closing(look_into(store)) as source:
        backup.back_up(source, copy, tmp_path / "relay.db.spill")
    await opened.note_spill_is_older(True)
    await opened.close()
    restored(copy, store, tmp_path / "relay.db.spill", NOW)
    opened = await SqliteStore.open(store)
    assert await opened.spill_is_older()
    await opened.close()


def test_the_store_as_it_was_is_kept_whole(store, tmp_path):
    before = content(store)
    kept(store)
    assert content(tmp_path / ASIDE) == before
    assert StateDirectory.around(store).store_copies() == [tmp_path / ASIDE]
    assert len(content(store)["events"]) == EVENTS - 1
    assert not (tmp_path / ".relay.db.partial").exists()


def test_what_stands_in_the_log_alone_is_no_part_of_the_restored_store(store, tmp_path):
    """A copy with another store's log beside it would be taken for changed by that."""
    (tmp_path / "crashed").mkdir()
    with closing(apsw.Connection(str(store))) as last:
        last.execute("DELETE FROM quarantine WHERE status = 401").fetchall()
        for name in ("relay.db", "relay.db-wal", "copy.db"):
            shutil.copy(tmp_path / name, tmp_path / "crashed" / name)
    crashed = tmp_path / "crashed/relay.db"
    assert kept(crashed).since == 2
    assert content(crashed)["quarantine"] == []
    assert len(content(tmp_path / "crashed" / ASIDE)["quarantine"]) == 1


def test_a_damaged_store_is_read_as_far_as_that_goes(store, tmp_path):
    data = bytearray(store.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    store.write_bytes(data)
    found = kept(store)
    assert (found.since, bool(found.trouble)) == (0, True)
    assert len(content(store)["events"]) == EVENTS - 1
    assert (tmp_path / ASIDE).read_bytes()[4096:] == data[4096:]


def test_where_there_is_no_store_it_is_made(store, tmp_path):
    for each in tmp_path.glob("relay.db*"):
        each.unlink()
    found = kept(store)
    assert (found.since, found.aside) == (0, None)
    assert len(content(store)["events"]) == EVENTS - 1


async def test_a_running_relay_is_not_disturbed(store, tmp_path):
    running = await SqliteStore.open(store)
    with pytest.raises(StoreLocked):
        kept(store)
    await running.close()
    assert not (tmp_path / ASIDE).exists()


@pytest.mark.parametrize("what", ["nothing", "no database", "an empty database"])
def test_what_is_no_copy_leaves_all_as_it_is(store, tmp_path, what):
    copy = tmp_path / "copy.db"
    copy.unlink()
    if what == "no database":
        copy.write_text("mine" * 1000)
    if what == "an empty database":
        apsw.Connection(str(copy)).close()
    before = store.read_bytes()
    with pytest.raises((OSError, StoreError), match=r"copy\.db"):
        kept(store)
    assert store.read_bytes() == before
    assert not (tmp_path / ASIDE).exists()


def test_copies_that_were_replayed_as_new_are_left_out(store):
    with closing(apsw.Connection(str(store))) as writer:
        writer.execute(
            "INSERT INTO events SELECT 42, randomblob(16), source, kind, keyword, received,"
            " contact, route, NULL, 3, event, method, query, content_type, body"
            " FROM events WHERE seq = 3"
        ).fetchall()
    assert kept(store).since == 3


def test_a_disk_without_links_takes_it_too(store, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    before = content(store)
    kept(store)
    assert content(tmp_path / ASIDE) == before
    assert len(content(store)["events"]) == EVENTS - 1


def test_the_command_asks_and_says_what_came_of_it(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text("store: relay.db\nsources: {sumotext: {}}\n")
    refused = CliRunner().invoke(main, ["restore", "copy.db"], input="n\n")
    assert refused.exit_code == 1
    assert not list(tmp_path.glob("*.replaced-*"))
    with closing(lock(store)):
        busy = CliRunner().invoke(main, ["restore", "copy.db", "--yes"])
    assert busy.exit_code == 1
    assert "in use by another relay process: stop that first, or name another" in busy.stderr
    result = CliRunner().invoke(main, ["restore", "copy.db", "--yes"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'relay.db'} is now a copy of copy.db." in result.stdout
    assert "takes in the 3 callbacks that came since" in result.stdout
    assert "relay.db.replaced-" in result.stdout


def test_a_callback_comes_back_byte_for_byte(store, tmp_path):
    kept(store)
    found = lines(tmp_path / "relay.db.spill")[0]
    original = content(tmp_path / ASIDE)["events"]
    row = next(row for row in original if row[0] == EVENTS)
    assert found["id"].replace("-", "") == row[1].hex()
    assert found["callback"] | {"traceparent": None} == {
        "source": row[2],
        "method": row[11],
        "query": row[12].decode("latin-1"),
        "content_type": row[13],
        "body": row[14].decode("latin-1"),
        "received": row[5],
        "test": False,
        "traceparent": None,
    }

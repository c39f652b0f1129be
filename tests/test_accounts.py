"""What sinks with one account share, and what the store keeps of it."""

import asyncio
import contextlib
from collections import defaultdict
from contextlib import closing

import apsw
import pytest
from arrivals import arrival
from clock import settle
from olderstore import content, make_older
from workers import ScriptedSink, sink_config

from relay import restore
from relay.account import LARGEST, Accounts
from relay.delivery.manager import make_sink
from relay.quota import DAY, LOOK_AGAIN
from relay.sink import Sink
from relay.store import StoreFull
from relay.store.sqlite import SqliteStore, backup, notes
from relay.store.sqlite.connection import connect_reader, look_into
from relay.store.sqlite.migrate import connect_writer

TOKEN = "pat-na1-0123456789"
NOW = 1_800_000_100.0


class Full:
    """A store on a full disk, until there is room."""

    def __init__(self):
        self.kept = {}
        self.full = True

    async def recall(self, account, name):
        return self.kept.get((account, name))

    async def keep(self, account, name, value):
        if self.full:
            raise StoreFull("the disk is full")
        self.kept[account, name] = value


@pytest.fixture
async def store(tmp_path, clock):
    opened = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    yield opened
    await opened.close()


def test_the_same_credentials_are_the_same_account():
    all_of_them = Accounts()
    assert all_of_them.of("crm", TOKEN) is all_of_them.of("crm", TOKEN)
    others = [("crm", "another"), ("crm" + TOKEN,), ("c", "rm" + TOKEN), ("crm",), (TOKEN, "crm")]
    assert all_of_them.of("crm", TOKEN) not in [all_of_them.of(*each) for each in others]


def test_what_is_shared_is_made_once():
    account = Accounts().of("crm", TOKEN)
    assert account.shared("list", list) is account.shared("list", list)
    assert account.shared("other", list) is not account.shared("list", list)


class OwnInit(ScriptedSink):
    """As plugins of before have it: its parameters are its own."""

    def __init__(self, *given):
        Sink.__init__(self, *given)
        self.quota = self.account("crm", TOKEN).quota()


def test_sinks_have_accounts_in_their_init_and_share_those_they_were_made_with(clock):
    config, ours = sink_config(sink_class=OwnInit), Accounts(clock=clock)
    one, two = make_sink(config, clock, ours), make_sink(config, clock, ours)
    alone = make_sink(config, clock)
    one.quota.daily(5, 100)
    assert (two.quota.status()["used"], alone.quota.status()) == (5, {})


async def test_no_credential_is_in_the_store_or_shown(store, tmp_path):
    account = Accounts(store).of("crm", TOKEN)
    await account.keep("name", "value")
    assert TOKEN not in repr(account)
    assert TOKEN not in str(content(tmp_path / "relay.db")["accounts"])


async def test_what_is_kept_is_on_disk_when_that_returns(store, tmp_path):
    await Accounts(store).of("crm", TOKEN).keep("name", "one")
    await Accounts(store).of("crm", TOKEN).keep("name", "two")
    with closing(connect_reader(tmp_path / "relay.db")) as reader:
        assert reader.execute("SELECT name, value FROM accounts").fetchall() == [("name", "two")]
    assert await Accounts(store).of("crm", TOKEN).recall("name") == "two"
    assert await Accounts(store).of("crm", "another").recall("name") is None


async def test_on_a_full_disk_it_is_kept_as_soon_as_there_is_room(caplog):
    full = Full()
    all_of_them = Accounts(full)
    account = all_of_them.of("crm", TOKEN)
    await account.keep("name", "secret-value")
    assert await account.recall("name") == "secret-value"
    assert "the disk is full" in caplog.text
    assert "secret-value" not in caplog.text
    await all_of_them.save()
    assert not full.kept
    full.full = False
    await all_of_them.save()
    assert await Accounts(full).of("crm", TOKEN).recall("name") == "secret-value"


class Gated(Full):
    """A store in which each value is written when somebody opens its gate."""

    def __init__(self):
        super().__init__()
        self.gates = defaultdict(asyncio.Event)

    async def keep(self, account, name, value):
        await self.gates[name].wait()
        await super().keep(account, name, value)


async def test_what_is_written_while_others_are_saved_is_left_to_that():
    gated = Gated()
    account = Accounts(gated).of("crm", TOKEN)
    for gate in ("one", "two"):
        gated.gates[gate].set()
        await account.keep(gate, "value")
    gated.full = False
    gated.gates["one"].clear()
    saving = asyncio.create_task(account.save())
    await settle()
    await account.keep("two", "value")
    gated.gates["one"].set()
    await saving
    assert sorted(name for _, name in gated.kept) == ["one", "two"]


async def test_what_is_too_large_is_refused():
    account = Accounts().of("crm", TOKEN)
    with pytest.raises(ValueError, match="8192 bytes"):
        await account.keep("name", "x" * (LARGEST + 1))


async def test_of_too_many_the_oldest_go(store, clock, monkeypatch):
    monkeypatch.setattr(notes, "MOST", 3)
    for number in range(5):
        await clock.advance(1)
        await store.keep(f"account {number}", "name", "value")
    kept = [await store.recall(f"account {number}", "name") for number in range(5)]
    assert kept == [None, None, "value", "value", "value"]


# the quota


async def test_sinks_of_an_account_hear_what_each_of_them_is_told(clock):
    account = Accounts(clock=clock).of("crm", TOKEN)
    careful, bold = account.quota(share=0.5), account.quota(share=0.9)
    careful.daily(60, 100)
    assert bold.status()["used"] == 60
    assert (careful.tight, bold.tight) == (True, False)
    assert (careful.bulk_wait(), bold.bulk_wait()) == (LOOK_AGAIN, 0.0)
    bold.exhausted(7.0)
    assert (careful.bulk_wait(), bold.bulk_wait()) == (LOOK_AGAIN, 7.0)


async def test_the_burst_holds_those_whose_share_is_used(clock):
    account = Accounts(clock=clock).of("crm", TOKEN)
    careful, bold = account.quota(share=0.5), account.quota(share=0.9)
    bold.burst(40, 100, 10.0)
    await asyncio.wait_for(bold.acquire(), 5)
    waiting = asyncio.ensure_future(careful.acquire())
    await settle()
    assert not waiting.done()
    await clock.advance(10)
    await asyncio.wait_for(waiting, 5)


async def test_those_under_way_count_for_the_burst(clock):
    """None of them has been told yet how many the others have left."""
    quota = Accounts(clock=clock).of("crm", TOKEN).quota(share=0.9)
    quota.burst(12, 40, 10.0)  # 28 are used, and 36 are for ordinary deliveries
    going, end = [], asyncio.Event()

    async def call(number):
        async with quota.call():
            going.append(number)
            await end.wait()

    calls = [asyncio.create_task(call(number)) for number in range(10)]
    await settle()
    assert going == list(range(8))
    end.set()
    await asyncio.wait_for(asyncio.gather(*calls), 5)
    assert going == list(range(10))


@pytest.mark.parametrize(
    ("away", "used", "wait"),
    [(0, 95, LOOK_AGAIN), (300, 95, LOOK_AGAIN - 300), (1000, 95, 0), (DAY, None, 0)],
)
async def test_a_restart_goes_on_with_what_was_used(store, clock, away, used, wait):
    before = Accounts(store, clock)
    before.of("crm", TOKEN).quota().daily(95, 100)
    await before.save()
    clock.jump(away)  # the monotonic clock stands still meanwhile, or begins anew
    after = Accounts(store, clock)
    quota = after.of("crm", TOKEN).quota()
    await after.restore()
    assert quota.status().get("used") == used
    assert quota.bulk_wait() == pytest.approx(wait, abs=1)


async def test_calls_that_are_counted_here_are_counted_on(store, clock):
    before = Accounts(store, clock)
    quota = before.of("crm", TOKEN).quota(daily=10)
    for _ in range(9):
        await quota.acquire()
    await before.save()
    clock.jump(DAY - 60)
    after = Accounts(store, clock)
    quota = after.of("crm", TOKEN).quota(daily=10)
    await after.restore()
    assert quota.status()["used"] == 9
    assert quota.bulk_wait() == pytest.approx(60, abs=1)
    await clock.advance(61)
    await quota.acquire()
    assert quota.status()["used"] == 1


@pytest.mark.parametrize(
    ("daily", "status"), [(100, {"used": 9, "most": 100, "share": 0.9, "until": None}), (None, {})]
)
async def test_a_changed_number_of_calls_a_day_counts_from_the_next_start(
    store, clock, daily, status
):
    before = Accounts(store, clock)
    quota = before.of("crm", TOKEN).quota(daily=10)
    for _ in range(9):
        await quota.acquire()
    await before.save()
    after = Accounts(store, clock)
    quota = after.of("crm", TOKEN).quota(daily=daily)
    await after.restore()
    assert quota.status() == status
    assert quota.bulk_wait() == 0


@pytest.mark.parametrize("kept", ["", "{}", "[]", "7", '{"heard_at": "x"}', '{"heard_at": null}'])
async def test_what_another_release_kept_is_no_trouble(store, clock, kept):
    accounts_of_now = Accounts(store, clock)
    account = accounts_of_now.of("crm", TOKEN)
    await account.keep("quota", kept)
    await accounts_of_now.restore()
    assert account.quota().status() == {}


async def test_it_is_written_only_where_it_has_changed(clock):
    class Counting(Full):
        written = 0

        async def keep(self, *_):
            self.written += 1

    counting = Counting()
    all_of_them = Accounts(counting, clock)
    quota = all_of_them.of("crm", TOKEN).quota()
    await all_of_them.save()
    assert counting.written == 0
    for used in (1, 1, 2):
        quota.daily(used, 100)
        await all_of_them.save()
        await all_of_them.save()
    assert counting.written == 2


# the store's file


async def test_only_its_owner_reads_a_new_store(store, tmp_path):
    await store.keep("account", "name", "value")
    modes = {each.stat().st_mode & 0o777 for each in tmp_path.glob("relay.db*")}
    assert tmp_path.joinpath("relay.db-wal").exists()
    assert modes - {0o640} == {0o600}
    assert tmp_path.joinpath("relay.db.lock").stat().st_mode & 0o777 == 0o640


def test_a_store_of_before_keeps_all_it_has_and_is_closed_to_others_once(tmp_path):
    path = make_older(tmp_path / "relay.db", schema=3)
    path.chmod(0o644)
    before = content(path)
    connect_writer(path).close()
    after = content(path)
    assert after["user_version"] != before["user_version"]
    assert after == before | {"user_version": after["user_version"], "accounts": []}
    assert path.stat().st_mode & 0o777 == 0o600
    assert content(tmp_path / "relay.db.before-schema-4") == before
    path.chmod(0o640)  # somebody's wish
    connect_writer(path).close()
    assert path.stat().st_mode & 0o777 == 0o640


async def test_a_backup_has_it(store, tmp_path):
    await store.keep("account", "name", "value")
    copy = tmp_path / "copy.db"
    with closing(connect_reader(tmp_path / "relay.db")) as source:
        backup.back_up(source, copy, tmp_path / "relay.db.spill")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [row[:3] for row in content(copy)["accounts"]] == [("account", "name", "value")]


@pytest.mark.parametrize("schema", [1, 3, 4])
async def test_a_restore_keeps_what_the_present_store_has_as_newer(tmp_path, clock, schema):
    """A refresh token that was replaced since the backup is worth nothing any more."""
    copy = make_older(tmp_path / "copy.db", schema)
    if schema == 4:
        with contextlib.closing(apsw.Connection(str(copy))) as old:
            old.execute("INSERT INTO accounts VALUES ('a', 'token', 'old', 1), ('b', 'x', 'y', 1)")
    path = tmp_path / "relay.db"
    store = await SqliteStore.open(path, clock=clock)
    await store.keep("a", "token", "new")
    await store.add(arrival())
    await store.close()
    with closing(look_into(copy)) as source:
        restore.restore(source, path, tmp_path / "relay.db.spill", NOW)
    store = await SqliteStore.open(path, clock=clock)
    try:
        assert await store.recall("a", "token") == "new"
        assert await store.recall("b", "x") == ("y" if schema == 4 else None)
    finally:
        await store.close()

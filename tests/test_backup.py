"""The backup: a whole copy while the relay writes on, and one before each migration."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import stat
from typing import NamedTuple

import apsw
import pytest
from arrivals import arrival
from click.testing import CliRunner
from faults.oracle import integrity
from olderstore import EVENTS, content, make_older

from relay.cli import main
from relay.spill.file import SpillFile
from relay.spill.records import Spilled, encode
from relay.state_directory import StateDirectory
from relay.store import StoreError, StoreNewer
from relay.store.sqlite import SqliteStore, backup, migrate
from relay.store.sqlite.connection import connect_reader

LATER = "CREATE TABLE of_a_later_release (one INTEGER)"
YAML = "store: relay.db\nsources: {sumotext: {}}\n"


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def newer(monkeypatch):
    """This release, with one migration more than it has."""
    scripts = [*migrate.migrations(), LATER]
    monkeypatch.setattr(migrate, "migrations", lambda: scripts)
    return len(scripts)


@pytest.fixture
def older(monkeypatch):
    """A release that knew the first schema only; its migrations."""
    scripts = migrate.migrations()

    def be(schema=1):
        monkeypatch.setattr(migrate, "migrations", lambda: scripts[:schema])

    return be


async def seqs_of(path):
    """The seqs in a store, read without changing it."""
    with contextlib.closing(connect_reader(path)) as reader:
        return [seq for (seq,) in reader.execute("SELECT seq FROM events ORDER BY seq")]


async def filled(path, events=300):
    store = await SqliteStore.open(path)
    await asyncio.gather(*(store.add(arrival()) for _ in range(events)))
    return store


def copied(store, target, progress=lambda *_: None):
    with contextlib.closing(connect_reader(store)) as source:
        backup.back_up(source, target, spill_of(store), progress)


def spill_of(store):
    return store.with_name(f"{store.name}.spill")


def spill(store, *ids):
    """Have callbacks of these ids wait beside the store; their lines."""
    file = SpillFile(spill_of(store))
    lines = [encode(Spilled(each, arrival().callback)) for each in ids]
    file.append(lines)
    file.close()
    return lines


def waiting_in(copy):
    with contextlib.closing(connect_reader(copy)) as reader:
        return list(backup.spilled(reader))


async def test_a_copy_made_under_load_has_what_there_was_at_its_start_and_is_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(backup, "PAGES", 4)
    path, copy = tmp_path / "relay.db", tmp_path / "copy.db"
    store = await filled(path)
    loop = asyncio.get_running_loop()
    steps = []

    def write_on(done, total):
        """Between two steps of the copy, somebody sends."""
        asyncio.run_coroutine_threadsafe(store.add(arrival()), loop).result(10)
        steps.append((done, total))

    await asyncio.to_thread(copied, path, copy, write_on)
    assert len(steps) > 10
    assert steps[-1][0] == steps[-1][1]
    assert len(await seqs_of(path)) == 300 + len(steps)
    assert await seqs_of(copy) == list(range(1, 301))
    await store.close()
    assert integrity(copy) == "ok"
    store = await SqliteStore.open(copy)  # it is a store like any other
    await store.add(arrival())
    assert await store.event_count() == 301
    await store.close()


async def test_the_file_alone_copied_by_hand_lacks_what_stands_in_its_log(tmp_path):
    """The control: what the copy is for."""
    store = await filled(tmp_path / "relay.db")
    shutil.copy(tmp_path / "relay.db", tmp_path / "copy.db")
    with contextlib.suppress(apsw.SQLError):
        assert len(await seqs_of(tmp_path / "copy.db")) < 300
    await store.close()


async def test_a_copy_is_one_file_that_only_its_owner_reads(tmp_path):
    store = await filled(tmp_path / "relay.db", 3)
    (tmp_path / "kept").mkdir()
    await asyncio.to_thread(copied, tmp_path / "relay.db", tmp_path / "kept/copy.db")
    await store.close()
    assert [each.name for each in (tmp_path / "kept").iterdir()] == ["copy.db"]
    assert stat.S_IMODE((tmp_path / "kept/copy.db").stat().st_mode) == 0o600
    assert (tmp_path / "kept/copy.db").read_bytes()[18:20] == b"\1\1"  # no log belongs to it


# what waits in the spill


def test_what_waits_in_the_spill_is_in_the_copy_line_by_line(tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "LINES", 2)
    make_older(tmp_path / "relay.db")
    lines = spill(tmp_path / "relay.db", "1", "2", "3", "4", "5")
    with spill_of(tmp_path / "relay.db").open("ab") as file:
        file.write(b"a line that is being wri")
    copied(tmp_path / "relay.db", tmp_path / "copy.db")
    assert waiting_in(tmp_path / "copy.db") == lines
    assert content(tmp_path / "copy.db").keys() - content(tmp_path / "relay.db").keys() == {
        "spilled"
    }
    assert not (tmp_path / "copy.db-journal").exists()


def homecoming(path):
    """What waits comes home to the store, as if it were in the very middle of a copy."""
    with contextlib.closing(apsw.Connection(str(path))) as writer:
        writer.execute("DELETE FROM quarantine").fetchall()
    spill_of(path).unlink(missing_ok=True)


def test_what_comes_home_while_it_is_copied_is_not_missed(tmp_path):
    path = make_older(tmp_path / "relay.db")
    lines = spill(path, "1", "2")
    copied(path, tmp_path / "copy.db", lambda *_: homecoming(path))
    assert waiting_in(tmp_path / "copy.db") == lines
    assert not spill_of(path).exists()


def test_a_spill_that_is_looked_at_after_the_store_is_missed(tmp_path, monkeypatch):
    """The control."""
    path = make_older(tmp_path / "relay.db")
    spill(path, "1", "2")
    put = backup._put_spilled

    def late(_, copy, descriptor):
        with backup._opened(spill_of(path)) as lines:
            put(lines, copy, descriptor)

    monkeypatch.setattr(backup, "_put_spilled", late)
    copied(path, tmp_path / "copy.db", lambda *_: homecoming(path))
    assert waiting_in(tmp_path / "copy.db") == []


async def test_a_backup_does_not_change_the_store_that_a_crash_left(tmp_path):
    path = tmp_path / "relay.db"
    store = await filled(path, 5)
    (tmp_path / "crashed").mkdir()
    for name in ("relay.db", "relay.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "crashed" / name)
    await store.close()
    before = {each.name: each.read_bytes() for each in (tmp_path / "crashed").iterdir()}
    copied(tmp_path / "crashed/relay.db", tmp_path / "copy.db")
    after = {name: (tmp_path / "crashed" / name).read_bytes() for name in before}
    assert after == before
    assert await seqs_of(tmp_path / "copy.db") == [1, 2, 3, 4, 5]


def test_what_is_there_already_is_not_overwritten(tmp_path):
    make_older(tmp_path / "relay.db")
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(FileExistsError, match=r"copy\.db is there already"):
        copied(tmp_path / "relay.db", tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"


def test_what_comes_to_be_there_meanwhile_is_not_overwritten_either(tmp_path):
    make_older(tmp_path / "relay.db")
    with pytest.raises(FileExistsError, match=r"copy\.db is there already"):
        copied(
            tmp_path / "relay.db",
            tmp_path / "copy.db",
            lambda *_: (tmp_path / "copy.db").write_text("mine"),
        )
    assert (tmp_path / "copy.db").read_text() == "mine"


@pytest.mark.parametrize("taken", [False, True])
def test_a_disk_without_links_takes_copies_too(tmp_path, monkeypatch, taken):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    make_older(tmp_path / "relay.db")
    target = tmp_path / "copy.db"
    if taken:
        with pytest.raises(FileExistsError):
            copied(tmp_path / "relay.db", target, lambda *_: target.write_text("mine"))
        assert target.read_text() == "mine"
    else:
        copied(tmp_path / "relay.db", target)
        assert integrity(target) == "ok"


class Pulled(Exception):
    """What ends a copy in its middle."""


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    make_older(tmp_path / "relay.db")
    monkeypatch.setattr(backup, "PAGES", 2)

    def pull(done, _):
        if done > 20:
            assert (tmp_path / ".copy.db.partial").stat().st_size > 0
            raise Pulled

    with pytest.raises(Pulled):
        copied(tmp_path / "relay.db", tmp_path / "copy.db", pull)
    assert not [each for each in tmp_path.iterdir() if "copy" in each.name]


def test_two_do_not_write_one_copy(tmp_path):
    make_older(tmp_path / "relay.db")

    def second(*_):
        with pytest.raises(StoreError, match="being made by another process"):
            copied(tmp_path / "relay.db", tmp_path / "copy.db")

    copied(tmp_path / "relay.db", tmp_path / "copy.db", second)
    assert integrity(tmp_path / "copy.db") == "ok"


def test_a_copy_leaves_room_for_callbacks(tmp_path, monkeypatch):
    make_older(tmp_path / "relay.db")
    size = (tmp_path / "relay.db").stat().st_size
    free = size + backup.RESERVE - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
    with pytest.raises(StoreError, match=r"64\.1 MiB free, and a copy .* needs 64\.1 MiB: make"):
        copied(tmp_path / "relay.db", tmp_path / "copy.db")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free + 1))
    copied(tmp_path / "relay.db", tmp_path / "copy.db")


def test_a_damaged_store_makes_no_copy_that_looks_sound(tmp_path):
    path = make_older(tmp_path / "relay.db")
    data = bytearray(path.read_bytes())
    data[8 * 4096 : 9 * 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        copied(path, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


# before a migration


async def test_an_older_store_is_copied_before_it_is_changed(tmp_path, newer, caplog):
    path = make_older(tmp_path / "relay.db")
    before = content(path)
    with caplog.at_level(logging.WARNING):
        store = await SqliteStore.open(path)
    assert await store.event_count() == EVENTS
    await store.close()
    copy = tmp_path / "relay.db.before-schema-2"
    assert content(copy) == before
    assert integrity(copy) == "ok"
    assert StateDirectory.around(path).store_copies() == [copy]
    assert f"the store gets schema {newer}; as it was before, it is {copy}" in caplog.text
    after = content(path)
    assert after["user_version"] == [(newer,)]
    assert after["events"] == [(*row, "", 0) for row in before["events"]]
    assert after["quarantine"] == [(*row, "", "", None) for row in before["quarantine"]]
    assert after["attempts"] == before["attempts"]


def test_a_store_of_the_second_schema_keeps_all_it_has(tmp_path):
    path = make_older(tmp_path / "relay.db", schema=2)
    before = content(path)
    migrate.connect_writer(path).close()
    assert content(tmp_path / "relay.db.before-schema-3") == before
    after = content(path)
    assert after["events"] == [(*row, "", 0) for row in before["events"]]
    assert after["quarantine"] == [(*row, "", "", None) for row in before["quarantine"]]
    for table in before.keys() - {"events", "quarantine", "user_version"}:
        assert after[table] == before[table], table


async def test_the_copy_has_what_stands_in_the_log_alone(tmp_path, newer):
    """As after a crash of the older release."""
    (tmp_path / "old").mkdir()
    path = make_older(tmp_path / "old/relay.db")
    with contextlib.closing(apsw.Connection(str(path))) as last:
        last.execute("DELETE FROM quarantine").fetchall()
        for name in ("relay.db", "relay.db-wal"):
            shutil.copy(path.with_name(name), tmp_path / name)
    assert b"carrierId" in (tmp_path / "relay.db").read_bytes()
    store = await SqliteStore.open(tmp_path / "relay.db")
    await store.close()
    assert content(tmp_path / "relay.db.before-schema-2")["quarantine"] == []


async def test_a_new_store_and_one_that_is_up_to_date_are_not_copied(tmp_path):
    for _ in range(2):
        store = await SqliteStore.open(tmp_path / "relay.db")
        await store.close()
    assert StateDirectory.around(tmp_path / "relay.db").store_copies() == []


async def test_without_room_for_a_copy_nothing_is_changed(tmp_path, newer, monkeypatch):
    path = make_older(tmp_path / "relay.db")
    before = content(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1024))
    with pytest.raises(StoreError, match=r"not changed without a copy: .* has 1\.0 KiB free"):
        await SqliteStore.open(path)
    assert content(path) == before


async def test_a_migration_that_fails_again_and_again_is_copied_once(tmp_path, newer, monkeypatch):
    path = make_older(tmp_path / "relay.db")
    before = content(path)
    monkeypatch.setattr(migrate, "migrations", lambda: [LATER, "CREATE TABLE broken ("])
    for _ in range(3):
        with pytest.raises(StoreError, match="incomplete input"):
            await SqliteStore.open(path)
    assert StateDirectory.around(path).store_copies() == [tmp_path / "relay.db.before-schema-2"]
    assert content(path) == before


async def test_another_copy_of_that_name_is_left_as_it_is(tmp_path, newer):
    """The way back was taken, and after a while the newer release tried again."""
    path = make_older(tmp_path / "relay.db")
    first = tmp_path / "relay.db.before-schema-2"
    first.write_text("an earlier one")
    store = await SqliteStore.open(path)
    await store.close()
    assert first.read_text() == "an earlier one"
    assert content(tmp_path / "relay.db.before-schema-2.1")["events"]


@pytest.mark.parametrize("schema", [1, 2])
async def test_an_older_release_refuses_the_store_and_names_the_copy_to_restore(
    tmp_path, newer, older, schema
):
    path = make_older(tmp_path / "relay.db", schema)
    store = await SqliteStore.open(path)
    await store.close()
    older(schema)
    copy = StateDirectory.around(path).before_schema(schema + 1)
    assert content(copy)["user_version"] == [(schema,)]
    named = f"the store has schema {newer}, this release knows {schema}: .* restore {copy}$"
    with pytest.raises(StoreNewer, match=named):
        await SqliteStore.open(path)


# the command


def command(*words, status=0):
    result = CliRunner().invoke(main, [*words], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text(YAML)
    return tmp_path


def test_the_command_says_what_it_copied(here):
    make_older(here / "relay.db")
    assert f"copy.db has {EVENTS} events: " in command("backup", "copy.db").stdout
    found = json.loads(command("backup", "other.db", "--json").stdout)
    size = (here / "other.db").stat().st_size
    assert found == {"file": str(here / "other.db"), "events": EVENTS, "spilled": 0, "bytes": size}


def test_the_command_does_not_change_an_older_store(here):
    make_older(here / "relay.db")
    before = content(here / "relay.db")
    command("backup", "copy.db")
    assert content(here / "relay.db") == content(here / "copy.db") == before
    assert StateDirectory.around(here / "relay.db").store_copies() == []


def test_the_command_says_in_a_sentence_why_it_could_not(here):
    assert "there is no store" in command("backup", "copy.db", status=1).stderr
    make_older(here / "relay.db")
    command("backup", "copy.db")
    assert "is there already" in command("backup", "copy.db", status=1).stderr
    said = command("backup", "no/copy.db", status=1).stderr
    assert said == f"Error: {here}/no: No such file or directory\n"
    (here / "relay.db").write_text("mine" * 1000)
    assert "not a database" in command("backup", "other.db", status=1).stderr


def test_a_copy_that_is_not_there_is_said_before_the_question(here):
    make_older(here / "relay.db")
    said = command("restore", "copy.db", status=2)
    assert "'copy.db' does not exist" in said.stderr
    assert "Replace" not in said.output


def test_callbacks_that_wait_beside_the_store_are_told(here):
    make_older(here / "relay.db")
    spill(here / "relay.db", "1")
    told = command("backup", "copy.db").stdout
    assert f"copy.db has {EVENTS} events, and 1 callback of the spill: " in told
    assert json.loads(command("backup", "other.db", "--json").stdout)["spilled"] == 1

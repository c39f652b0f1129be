"""kill -9 at the Nth change of a file: in a backup, in the copy before a migration, in the
migration, in a restore. A copy that has its name is whole, no store is changed without one, and
what was acknowledged is always where the next start finds it.
"""

import contextlib
import shutil

import apsw
import ending
import pytest
from olderstore import EVENTS, content, make_older
from oracle import integrity
from spills import callback
from uuid_utils import uuid7

from relay.restore import restore
from relay.spill.file import SpillFile
from relay.spill.records import Spilled, decode, encode
from relay.state_directory import StateDirectory
from relay.store.sqlite import backup
from relay.store.sqlite.connection import connect_reader, look_into
from relay.store.sqlite.migrate import connect_writer, migrations

NOW = 1_800_000_000.0
LAST = len(migrations()) - 1
"""The schema of the release before."""
SHORT = 15
"""So many kills, spread over all the changes, in the short form."""


class Case:
    """A folder with the store of an older release and its spill, made anew before each kill."""

    def __init__(self, folder):
        self.folder = folder / "here"
        self.store = self.folder / "relay.db"
        self.copy = self.folder / "copy.db"
        self.spill = self.folder / "relay.db.spill"
        self.before = content(make_older(folder / "before.db", LAST))
        self.waiting = lines()

    def prepare(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.now = NOW
        make_older(self.store, LAST)
        write(self.spill, self.waiting)

    def each_kill(self, work, sample):
        """Yields after each."""
        self.prepare()
        total = ending.changes(work)
        assert total > 40
        numbers = range(0, total, max(1, total // sample) if sample else 1)
        for number in numbers:
            self.prepare()
            assert ending.killed_at(number, work), "the fault did not fire"
            yield
        print(f"\n{work.__name__}: killed at {len(numbers)} of {total} changes", end="")

    # what is done

    def migrate(self):
        connect_writer(self.store).close()

    def back_up(self):
        with contextlib.closing(connect_reader(self.store)) as source:
            backup.back_up(source, self.copy, self.spill)

    def restore(self):
        with contextlib.closing(look_into(self.copy)) as source:
            restore(source, self.store, self.spill, self.now)

    # what is there

    def copies(self):
        return StateDirectory.around(self.store).store_copies()

    def partials(self):
        return list(self.folder.glob(".*.partial"))

    def found_by_the_next_start(self) -> set[str]:
        return ids_of(self.spill.read_bytes().splitlines()) | ids_in(self.store)


class WithCopy(Case):
    """There is a backup that lacks half of the store's events, and has a spill of its own."""

    def __init__(self, folder):
        super().__init__(folder)
        half, spill = make_older(folder / "half.db", LAST), folder / "half.spill"
        self.backed_up = folder / "backup.db"
        self.waited = lines()
        write(spill, self.waited)
        with contextlib.closing(apsw.Connection(str(half))) as source:
            source.execute("DELETE FROM events WHERE seq > 21").fetchall()
            backup.back_up(source, self.backed_up, spill)

    def prepare(self):
        super().prepare()
        shutil.copy(self.backed_up, self.copy)


def lines() -> list[bytes]:
    return [encode(Spilled(str(uuid7()), callback(contact))) for contact in range(3)]


def write(path, lines) -> None:
    spill = SpillFile(path)
    spill.append(lines)
    spill.close()


def ids_of(lines) -> set[str]:
    return {decode(line).id.replace("-", "") for line in lines}


def parts_of(copy):
    """What it has of the store, and of the spill."""
    found = content(copy)
    return found, [line for (line,) in found.pop("spilled", [])]


def ids_in(path) -> set[str]:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        return {each.hex() for (each,) in connection.execute("SELECT id FROM events").fetchall()}


def schema_of(path) -> int:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        return connection.execute("PRAGMA user_version").get


def upgrades(folder, sample):
    case = Case(folder)
    changed = []
    for _ in case.each_kill(case.migrate, sample):
        assert all(content(copy) == case.before for copy in case.copies())
        changed.append(schema_of(case.store) > LAST)
        if changed[-1]:
            assert case.copies()
        else:
            assert content(case.store) == case.before
        case.migrate()
        assert schema_of(case.store) == len(migrations())
        assert content(case.store)["words"] == case.before["words"]
        rows = zip(content(case.store)["events"], case.before["events"], strict=True)
        assert all(row[: len(was)] == was for row, was in rows)  # columns are added at the end
        assert [content(copy) for copy in case.copies()] == [case.before]
        assert not case.partials()
    print(f"; the store was changed already in {sum(changed)} of them")
    assert not all(changed)


def backups(folder, sample):
    case = Case(folder)
    whole = case.before, sorted(case.waiting, key=repr)
    named = []
    for _ in case.each_kill(case.back_up, sample):
        assert content(case.store) == case.before
        named.append(case.copy.exists())
        if named[-1]:
            assert parts_of(case.copy) == whole
            assert integrity(case.copy) == "ok"
            case.copy.unlink()
        case.back_up()
        assert parts_of(case.copy) == whole
        assert not case.partials()
    print(f"; the copy had its name already in {sum(named)} of them")
    assert not all(named)


def restores(folder, sample):
    case = WithCopy(folder)
    in_store = ids_in(folder / "before.db")
    assert len(in_store) == EVENTS
    wanted, _ = parts_of(case.backed_up)
    everything = in_store | ids_of(case.waiting) | ids_of(case.waited)
    for _ in case.each_kill(case.restore, sample):
        found, done = case.found_by_the_next_start(), content(case.store) == wanted
        assert found >= (everything if done else everything - ids_of(case.waited))
        assert integrity(case.store) == "ok"
        case.now += 1
        case.restore()
        assert case.found_by_the_next_start() == everything
        assert content(case.store) == wanted
    print()


PROCEDURES = [upgrades, backups, restores]


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_kill_leaves_no_half_copy_and_loses_nothing(tmp_path, procedure):
    procedure(tmp_path, SHORT)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_kill_at_any_change_leaves_no_half_copy_and_loses_nothing(tmp_path, procedure):
    procedure(tmp_path, None)


def test_a_copy_that_has_its_name_from_the_start_is_left_half_made(tmp_path, monkeypatch):
    """The control."""
    monkeypatch.setattr(backup, "MAKING", "{}")
    monkeypatch.setattr(backup.Partial, "take_name", lambda *_: None)
    monkeypatch.setattr(backup.Partial, "close", lambda *_: None)
    with pytest.raises((AssertionError, apsw.Error)):
        backups(tmp_path, SHORT)


def test_a_store_changed_without_a_copy_is_found_out(tmp_path, monkeypatch):
    """The control."""
    monkeypatch.setattr(backup, "back_up_before", lambda *_: "nothing")
    with pytest.raises(AssertionError):
        upgrades(tmp_path, SHORT)

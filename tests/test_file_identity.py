"""Files that are deleted or replaced while they are open: nothing is acknowledged from them."""

import shutil

import pytest
from arrivals import arrival

from relay.store import StoreBroken
from relay.store.sqlite import SqliteStore
from relay.store.sqlite.writer import FileIdentity


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "relay.db"


def delete_folder(path):
    shutil.rmtree(path.parent)


def move(path):
    path.rename(path.with_name("elsewhere"))


def replace(path):
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def delete_log(path):
    path.with_name("relay.db-wal").unlink()


def delete_index(path):
    path.with_name("relay.db-shm").unlink()


HARMS = (delete_folder, move, replace, delete_log, delete_index)


async def added(path, harm) -> bool:
    """Whether a store is asked to keep something after the harm, and acknowledges it."""
    broken = []
    store = await SqliteStore.open(path, on_broken=lambda: broken.append(True))
    await store.add(arrival(1))
    harm(path)
    try:
        await store.add(arrival(2))
    except StoreBroken:
        return False
    else:
        return True
    finally:
        await store.close()
        assert bool(broken) == ("was deleted or replaced" in store.trouble)


async def count(path) -> int:
    store = await SqliteStore.open(path)
    try:
        return await store.event_count()
    finally:
        await store.close()


@pytest.mark.parametrize("harm", HARMS)
async def test_a_file_that_lost_its_name_is_noticed_before_the_answer(path, harm):
    assert not await added(path, harm)


async def test_without_that_it_is_acknowledged_and_lost(path, monkeypatch):
    """The control."""
    monkeypatch.setattr(FileIdentity, "displaced", lambda _: [])
    assert await added(path, delete_folder)
    assert await count(path) == 0


async def test_nobody_has_to_write_for_it_to_be_noticed(path):
    store = await SqliteStore.open(path)
    delete_folder(path)
    with pytest.raises(StoreBroken):
        await store.flush()
    assert not store.alive()
    await store.close()


async def test_a_store_that_lost_its_log_alone_keeps_what_was_in_it(path):
    await added(path, delete_log)
    assert await count(path) == 2  # the second, whose fate nobody knew, as after a failed sync


async def test_a_store_with_a_log_that_came_in_its_place_keeps_that(path, tmp_path):
    other = await SqliteStore.open(tmp_path / "other" / "relay.db")
    await other.add(arrival(7))

    def come(path):
        shutil.rmtree(path.parent)
        shutil.copytree(tmp_path / "other", path.parent)

    assert not await added(path, come)
    await other.close()
    assert await count(path) == 1


async def test_an_untouched_store_is_there(path):
    assert await added(path, lambda _: None)
    assert await count(path) == 2

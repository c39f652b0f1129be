"""A store whose path is longer than SQLite takes: the error says so."""

import pytest

from relay.clock import SystemClock
from relay.store import StoreError
from relay.store.sqlite import SqliteStore
from relay.store.sqlite.connection import LONGEST_PATH


async def test_a_path_that_is_too_long_for_sqlite_is_said_to_be_too_long(tmp_path):
    folder = tmp_path / "/".join(["d" * 100] * 6)
    folder.mkdir(parents=True)
    with pytest.raises(StoreError, match=f"paths of up to {LONGEST_PATH} bytes"):
        await SqliteStore.open(folder / "relay.db", clock=SystemClock())
    room = LONGEST_PATH - len(str(tmp_path)) - len("/") - len("/relay.db")
    folder = tmp_path / "/".join(["d"] * (room // 2 + room % 2))
    folder.mkdir(parents=True)
    longest = folder / ("relay.db" if room % 2 else "relay1.db")
    assert len(str(longest)) == LONGEST_PATH
    await (await SqliteStore.open(longest, clock=SystemClock())).close()

"""A store whose path is long: the commands reach the relay, or the store says what is too long."""

import httpx
import pytest

from relay.clock import SystemClock
from relay.server import unix_socket
from relay.server.http_server import make_server
from relay.server.problem import send_problem
from relay.store import StoreError
from relay.store.sqlite import SqliteStore
from relay.store.sqlite.descriptors import LONGEST_PATH


async def app(_, __, send):
    await send_problem(send, 418, "short")


@pytest.mark.parametrize(
    "name", ["relay.db", f"{'d' * 200}/{'d' * 100}/relay.db", f"{'n' * 240}.db", "ü" * 60]
)
async def test_the_control_socket_is_reached(tmp_path, name):
    store = tmp_path / name
    store.parent.mkdir(parents=True, exist_ok=True)
    assert not unix_socket.answers(store)
    server = make_server(app, unix_socket.listen(store))
    await server.start()
    with unix_socket.transport(store) as transport:
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://relay/")).status_code == 418
    await server.drain()


async def test_the_socket_of_a_usual_store_keeps_its_name(tmp_path):
    assert unix_socket.path_of(tmp_path / "relay.db") == tmp_path / "relay.db.sock"
    others = {unix_socket.path_of(tmp_path / (each + "n" * 200)) for each in "ab"}
    assert len(others) == 2


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

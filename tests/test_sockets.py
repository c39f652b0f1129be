"""Listening sockets: bound once, kept over a re-exec, passed by systemd, or beside the store."""

import contextlib
import os
import socket
from pathlib import Path

import httpx
import pytest

from relay.server.http_server import make_server
from relay.server.refusals import send_problem
from relay.server.sockets import Listeners, activated_sockets, listen_control
from relay.state_directory import StateDirectory
from relay.units import HostPort

ANY = HostPort("127.0.0.1", 0)


@pytest.fixture
def listeners():
    listeners = Listeners()
    yield listeners
    listeners.close()


@contextlib.contextmanager
def bound(listeners, public=ANY, admin=ANY):
    """The addresses bound to, while servers have their copies."""
    outside, inside = listeners.bind(public, admin)
    try:
        yield [each.getsockname() for each in outside], [each.getsockname() for each in inside]
    finally:
        for each in (*outside, *inside):
            each.close()


def anew(listeners):
    """Those of the next image; a copy of each descriptor stands for what exec leaves."""
    return Listeners.from_handles([(use, at, os.dup(fd)) for use, at, fd in listeners.handles()])


def test_each_listener_has_a_socket_of_its_own(listeners):
    with bound(listeners) as ((outside,), (inside,)):
        assert outside != inside


def test_what_is_bound_stays_bound_for_the_next_image(listeners):
    with bound(listeners) as before:
        pass
    after = anew(listeners)
    with bound(after) as found:
        assert found == before
    after.close()


def test_a_listener_that_moved_is_let_go_of_before_the_new_one_is_bound(listeners):
    with bound(listeners) as ((before,), _):
        pass
    listeners.bound["public", HostPort(*before)] = listeners.bound.pop(("public", ANY))
    everywhere = HostPort("0.0.0.0", before[1])
    with bound(listeners, public=everywhere) as ((after,), _):
        assert after == ("0.0.0.0", before[1])


def test_what_systemd_passed_replaces_what_relay_yaml_says(listeners):
    with socket.create_server(("127.0.0.1", 0)) as passed:
        listeners.activated["public"] = [passed.dup()]
        with bound(listeners) as ((outside,), _):
            assert outside == passed.getsockname()
        after = anew(listeners)
        with bound(after, public=HostPort("127.0.0.1", 1)) as ((outside,), _):
            assert outside == passed.getsockname()
        after.close()


def test_an_address_that_is_taken_leaves_nothing_open(listeners):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="cannot listen"):
            listeners.bind(ANY, HostPort(*taken.getsockname()))
        assert len(listeners.bound) == 1, "its own are closed with the others"


def test_no_program_that_is_started_inherits_those_of_the_last_image(listeners):
    with bound(listeners):
        pass
    for descriptor in listeners.descriptors():
        os.set_inheritable(descriptor, True)
    after = anew(listeners)
    assert not any(map(os.get_inheritable, after.descriptors()))
    after.close()


# socket activation: consecutive descriptors, named in the environment


FIRST = 300


@pytest.fixture
def passed():
    """Pass sockets, by their names; gives what is made of them, and the environment after it."""
    made, made_of = [], []

    def passing(*names, listener=None, **environ):
        sockets = [listener or socket.create_server(("127.0.0.1", 0)) for _ in names]
        made.extend(sockets)
        for number, each in enumerate(sockets, start=FIRST):
            os.dup2(each.fileno(), number)
        told = {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(names)),
            "LISTEN_FDNAMES": ":".join(names),
        } | environ
        public, admin = activated_sockets(told, FIRST)
        made_of.extend([*public, *admin])
        of = {each.getsockname(): index for index, each in enumerate(sockets)}
        return *([of[each.getsockname()] for each in some] for some in (public, admin)), told

    yield passing
    for each in [*made, *made_of]:
        each.close()
    os.closerange(FIRST, FIRST + 10)


@pytest.mark.parametrize("name", ["", "unknown", "public", "relay.socket", "other.socket"])
def test_what_has_no_name_of_its_own_is_the_public_listener(passed, name):
    assert passed(name)[:2] == ([0], [])


def test_admin_is_the_other_and_there_may_be_several(passed):
    assert passed("relay.socket", "admin", "relay.socket")[:2] == ([0, 2], [1])


def test_where_no_names_are_told_all_are_public(passed):
    assert passed("x", "y", LISTEN_FDNAMES="")[:2] == ([0, 1], [])


def test_the_variables_are_for_this_process_alone(passed):
    assert passed("", PATH="/bin")[2] == {"PATH": "/bin"}


def test_what_was_passed_to_another_process_is_not_touched(passed):
    assert passed("", LISTEN_PID="1") == ([], [], {})


@pytest.mark.parametrize("number", ["", "none", "-1"])
def test_a_number_that_is_none_passes_nothing(passed, number):
    assert passed("", LISTEN_FDS=number)[:2] == ([], [])


def test_a_name_that_is_not_known_is_told_of(passed, caplog):
    assert passed("relay.socket", "metrics")[:2] == ([0], [])
    assert "'metrics'" in caplog.text


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_what_does_not_listen_is_told_of(passed, caplog, kind):
    assert passed("", listener=socket.socket(socket.AF_INET, kind))[:2] == ([], [])
    assert "no listening TCP socket" in caplog.text


def test_what_is_no_socket_is_told_of(caplog):
    told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    with Path(os.devnull).open() as file:
        os.dup2(file.fileno(), FIRST)
        assert activated_sockets(told, FIRST) == ([], [])
    os.close(FIRST)
    assert "no socket" in caplog.text


def test_no_program_that_is_started_inherits_them(passed):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.dup2(listener.fileno(), FIRST, inheritable=True)
        told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        (public,), _ = activated_sockets(told, FIRST)
        assert not public.get_inheritable()
        public.close()


# the control socket


async def app(_, __, send):
    await send_problem(send, 418, "short")


@pytest.mark.parametrize(
    "name", ["relay.db", f"{'d' * 200}/{'d' * 100}/relay.db", f"{'n' * 240}.db", "ü" * 60]
)
async def test_the_control_socket_is_reached(tmp_path, name):
    store = tmp_path / name
    store.parent.mkdir(parents=True, exist_ok=True)
    assert not StateDirectory.around(store).is_served()
    server = make_server(app, listen_control(StateDirectory.around(store)))
    await server.start()
    with StateDirectory.around(store).control_address() as address:
        transport = httpx.AsyncHTTPTransport(uds=address)
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://relay/")).status_code == 418
    await server.drain()


async def test_the_socket_of_a_usual_store_keeps_its_name(tmp_path):
    assert StateDirectory.around(tmp_path / "relay.db").control_socket == tmp_path / "relay.db.sock"
    others = {StateDirectory.around(tmp_path / (each + "n" * 200)).control_socket for each in "ab"}
    assert len(others) == 2

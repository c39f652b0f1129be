"""Sockets as systemd passes them: consecutive descriptors, told of in the environment."""

import os
import socket
from pathlib import Path

import pytest

from relay.server.activation import activated

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
        public, admin = activated(told, FIRST)
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
        assert activated(told, FIRST) == ([], [])
    os.close(FIRST)
    assert "no socket" in caplog.text


def test_no_program_that_is_started_inherits_them(passed):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.dup2(listener.fileno(), FIRST, inheritable=True)
        told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        (public,), _ = activated(told, FIRST)
        assert not public.get_inheritable()
        public.close()

"""The listeners' sockets: bound once, kept over a start anew, let go of when they have moved."""

import contextlib
import os
import socket

import pytest

from relay.address import Address
from relay.server.sockets import Listeners

ANY = Address("127.0.0.1", 0)


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
    return Listeners.of_handles([(use, at, os.dup(fd)) for use, at, fd in listeners.handles()])


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
    listeners.own["public", Address(*before)] = listeners.own.pop(("public", ANY))
    everywhere = Address("0.0.0.0", before[1])
    with bound(listeners, public=everywhere) as ((after,), _):
        assert after == ("0.0.0.0", before[1])


def test_what_systemd_passed_replaces_what_relay_yaml_says(listeners):
    with socket.create_server(("127.0.0.1", 0)) as passed:
        listeners.given["public"] = [passed.dup()]
        with bound(listeners) as ((outside,), _):
            assert outside == passed.getsockname()
        after = anew(listeners)
        with bound(after, public=Address("127.0.0.1", 1)) as ((outside,), _):
            assert outside == passed.getsockname()
        after.close()


def test_an_address_that_is_taken_leaves_nothing_open(listeners):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="cannot listen"):
            listeners.bind(ANY, Address(*taken.getsockname()))
        assert len(listeners.own) == 1, "its own are closed with the others"


def test_no_program_that_is_started_inherits_those_of_the_last_image(listeners):
    with bound(listeners):
        pass
    for descriptor in listeners.descriptors():
        os.set_inheritable(descriptor, True)
    after = anew(listeners)
    assert not any(map(os.get_inheritable, after.descriptors()))
    after.close()

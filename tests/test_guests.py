"""Who has to leave where there are too many."""

import math

import pytest

from relay.config.model import Server
from relay.senders import household
from relay.server import descriptors
from relay.server.connections import SHARE, Guests, expected
from relay.server.proxies import Proxies


class Guest:
    def __init__(self, guests: Guests, host: str, waited: float = 0.0) -> None:
        self.guests = guests
        self.host = host
        self.share = waited
        self.left = False

    def waited(self):
        return self.share

    def send_away(self):
        self.left = True
        self.guests.leave(self, self.host)


def seated(guests, *waited, host="203.0.113.1"):
    """Guests who have kept the relay waiting for so long, all from one address."""
    found = [Guest(guests, host, each) for each in waited]
    for guest in found:
        guests.join(guest, host)
    return found


def who_left(found):
    return [guest.share for guest in found if guest.left]


def test_nobody_has_to_leave_while_there_is_room():
    guests = Guests(total=3, each=3)
    assert who_left(seated(guests, 0.1, 0.9, math.inf)) == []
    assert (len(guests), guests.sent_away) == (3, 0)


def test_the_one_that_has_kept_the_relay_waiting_the_longest_leaves():
    guests = Guests(total=4)
    found = seated(guests, 0.1, 0.9, 0.5, -1.0)
    seated(guests, 0.0, host="203.0.113.2")
    assert who_left(found) == [0.9]
    assert guests.sent_away == 1


def test_those_that_were_refused_and_linger_leave_first():
    guests = Guests(total=2)
    found = seated(guests, 0.9, math.inf)
    seated(guests, 0.0)
    assert who_left(found) == [math.inf]


def test_too_many_from_one_address_take_it_from_themselves():
    guests = Guests(total=100, each=3)
    (other,) = seated(guests, 0.99, host="203.0.113.2")
    found = seated(guests, 0.1, 0.3, 0.2, 0.0)
    assert who_left(found) == [0.3]
    assert not other.left


def test_where_all_are_served_the_newcomer_leaves():
    guests = Guests(total=2)
    found = seated(guests, -1.0, -1.0, 0.0)
    assert who_left(found) == [0.0]


def test_a_trusted_proxy_may_bring_more_but_not_more_than_all():
    guests = Guests(total=5, each=2, proxies=Proxies(Server(proxies=["10.0.0.0/8"]).proxies))
    found = seated(guests, 0.1, 0.2, 0.3, 0.4, 0.5, host="10.0.0.1")
    assert who_left(found) == []
    seated(guests, 0.0, host="10.0.0.1")
    assert who_left(found) == [0.5]


def test_in_a_large_crowd_several_leave_at_once():
    """The slowest of them, so that not each newcomer costs a look at all."""
    guests = Guests(total=10 * SHARE)
    found = seated(guests, *(number / 1000 for number in range(10 * SHARE)))
    seated(guests, 0.0)
    assert who_left(found) == [number / 1000 for number in range(10 * SHARE - 10, 10 * SHARE)]


def test_who_leaves_makes_room():
    guests = Guests(total=2, each=2)
    found = seated(guests, 0.1, 0.2)
    guests.leave(found[0], "203.0.113.1")
    guests.leave(found[0], "203.0.113.1")
    guests.leave(Guest(guests, "198.51.100.1"), "198.51.100.1")
    seated(guests, 0.0)
    assert (len(guests), who_left(found)) == (2, [])


# memory


def laden(guests, *loads):
    """Guests with so many bytes each, who have kept the relay waiting for so long."""
    found = seated(guests, *(waited for waited, _ in loads))
    for guest, (_, size) in zip(found, loads, strict=True):
        guests.hold(guest, size)
    return found


def test_nobody_has_to_leave_while_there_is_memory():
    guests = Guests(memory=1000)
    assert who_left(laden(guests, (0.9, 500), (0.1, 500))) == []
    assert (guests.held, guests.sent_away) == (1000, 0)


def test_who_has_kept_the_most_for_the_longest_leaves():
    guests = Guests(memory=1000)
    found = laden(guests, (0.9, 10), (0.4, 400), (0.8, 400), (0.1, 500))
    assert who_left(found) == [0.8]
    assert (guests.held, guests.sent_away) == (910, 1)


def test_the_one_that_asks_for_more_may_be_the_one_that_leaves():
    guests = Guests(memory=1000)
    found = laden(guests, (0.2, 100), (0.5, 100))
    guests.hold(found[1], 950)
    assert who_left(found) == [0.5]
    assert guests.held == 100


def test_some_more_is_freed_than_is_needed():
    """So that the next byte does not cost a look at all."""
    guests = Guests(memory=100 * SHARE)
    found = laden(guests, *((0.5, 10) for _ in range(10 * SHARE + 1)))
    assert guests.held == 100 * SHARE - 100
    assert len(who_left(found)) == 11


def test_who_sends_more_than_is_answered_counts_as_who_is_slow():
    guests = Guests(memory=1000)
    found = laden(guests, (-1.0, 300), (0.9, 300), (0.1, 600))
    assert who_left(found) == [-1.0]
    assert guests.held == 900


def test_what_is_whole_or_gone_is_held_no_longer():
    guests = Guests(memory=1000)
    found = laden(guests, (0.5, 400), (0.6, 400))
    guests.hold(found[0], 0)
    assert guests.held == 400
    guests.leave(found[1], "203.0.113.1")
    assert guests.held == 0
    assert who_left(laden(guests, (0.1, 1000))) == []


# addresses


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.1", "203.0.113.2", False),
        ("203.0.113.1", "::ffff:203.0.113.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "203.0.113.1", False),
        ("", "", True),
    ],
)
def test_with_ipv6_a_network_counts_as_one_address(one, other, same):
    assert (household(one) == household(other)) is same


def test_there_are_no_more_than_the_system_has_descriptors_for(monkeypatch, caplog):
    server = Server(connections={"total": 5000, "each": 10})
    monkeypatch.setattr(descriptors, "limit", lambda: 20_000)
    assert expected(server).total == 5000
    assert not caplog.messages
    monkeypatch.setattr(descriptors, "limit", lambda: 1024)
    assert expected(server).total == 768
    assert "768 connections" in caplog.text

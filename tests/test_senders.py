"""Whose callbacks with a wrong token give way where too many are kept."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.senders import client_key, surplus

VENDOR = "198.51.100.7"


def kept(*senders, most=10):
    """The senders of those that stay, of callbacks that come one after the other."""
    ring = []
    for number, sender in enumerate(senders):
        ring.append((sender, number))
        gone = surplus(ring, most)
        ring = [each for each in ring if each[1] not in gone]
    return [sender for sender, _ in ring]


def flood(addresses, number):
    return [f"203.0.113.{each % addresses}" for each in range(number)]


def test_nothing_goes_while_there_is_room():
    assert surplus([("a", 1), ("b", 2)], 2) == []


def test_the_oldest_goes_where_all_are_of_one_sender():
    assert surplus([("a", 3), ("a", 1), ("a", 2)], 1) == [1, 2]


def test_the_sender_with_the_most_loses_its_oldest():
    assert surplus([("a", 1), ("b", 2), ("b", 3), ("b", 4)], 3) == [2]


def test_of_equals_the_oldest_goes():
    assert surplus([("a", 2), ("b", 1), ("c", 3)], 2) == [1]


@pytest.mark.parametrize("addresses", [1, 2, 3, 4])
def test_the_callbacks_of_a_small_sender_outlive_a_flood(addresses):
    senders = [VENDOR, *flood(addresses, 100), VENDOR, *flood(addresses, 100)]
    assert kept(*senders).count(VENDOR) == 2


def test_the_addresses_of_a_network_of_ipv6_are_one_sender():
    senders = [VENDOR, VENDOR, *(f"2001:db8::{each:x}" for each in range(100))]
    assert kept(*senders).count(VENDOR) == 2


def test_a_flood_from_an_unknown_sender_gives_way_too():
    assert kept(VENDOR, *[""] * 100).count(VENDOR) == 1


@given(
    st.lists(st.sampled_from(["a", "b", "c", "2001:db8::1", "2001:db8::2", ""]), max_size=60),
    st.integers(1, 20),
)
def test_as_many_stay_as_may_and_none_of_a_sender_that_has_fewer_goes(senders, most):
    ring = list(enumerate(senders))
    gone = surplus([(sender, number) for number, sender in ring], most)
    assert len(gone) == max(0, len(senders) - most)
    before = Counter(client_key(sender) for sender in senders)
    after = Counter(client_key(sender) for number, sender in ring if number not in gone)
    for sender, number in before.items():
        if after[sender] < number:
            assert number >= max(after.values(), default=0)
            assert after[sender] >= max(after.values(), default=0) - 1

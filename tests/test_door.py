"""The door of a source: networks, tokens and limits, with a clock that is moved by hand."""

import pytest

from relay.config.loader import SourceConfig
from relay.server.access import STRANGERS, Door


@pytest.fixture
def door(clock):
    """Makes a door of these settings."""

    def door(**settings):
        return Door(SourceConfig(**settings), clock.monotonic)

    return door


def passed(door, times, size=100):
    return sum(door.wait(size) == 0 for _ in range(times))


async def test_requests_are_limited(door, clock):
    opened = door(limit={"rate": "5/1s"})
    assert passed(opened, 10) == 5
    await clock.advance(0.41)
    assert passed(opened, 10) == 2


async def test_bytes_are_limited(door, clock):
    opened = door(limit={"bytes": "1KiB/1s"})
    assert passed(opened, 10, size=256) == 4
    await clock.advance(0.26)
    assert passed(opened, 10, size=256) == 1


async def test_by_default_the_vendor_does_not_reach_its_limit(door, clock):
    """A thousand a second for a minute, and ten thousand at once before that."""
    opened = door()
    assert passed(opened, 10_000, size=500) == 10_000
    for _ in range(60):
        await clock.advance(1.0)
        assert passed(opened, 1_000, size=500) == 1_000


def test_a_body_as_large_as_any_may_be_passes(door):
    opened = door(limit={"bytes": "1B/1h"})
    assert passed(opened, 2, size=256 * 1024) == 1


def refused(door, sender, times):
    """How many of so many callbacks with a wrong token are answered as such, not with 429."""
    return sum(door.wait_of_stranger((sender, 1)) == 0 for _ in range(times))


def test_strangers_take_nothing_from_the_vendor(door):
    opened = door(tokens=["t"], limit={"rate": "5/1s"})
    assert sum(refused(opened, f"203.0.113.{each}", 10) for each in range(256)) <= STRANGERS.count
    assert passed(opened, 10) == 5


def test_a_flood_from_one_address_leaves_half_to_the_others(door):
    opened = door(tokens=["t"])
    assert refused(opened, "203.0.113.1", 10_000) == STRANGERS.count / 2
    assert refused(opened, "198.51.100.1", 5) == 5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2001:db8::1", "2001:db8::2"),
        ("203.0.113.1", "::ffff:203.0.113.1"),
    ],
)
def test_addresses_of_one_household_share(door, first, second):
    opened = door(tokens=["t"])
    assert refused(opened, first, 10_000) == STRANGERS.count / 2
    assert refused(opened, second, 1) == 0


def test_senders_who_cannot_be_told_share(door):
    opened = door(tokens=["t"])
    for _ in range(10_000):
        opened.wait_of_stranger(None)
    assert opened.wait_of_stranger(None) > 0
    assert refused(opened, "198.51.100.1", 5) == 5


@pytest.mark.parametrize(
    ("network", "peer", "known"),
    [
        ("203.0.113.0/24", "203.0.113.9", True),
        ("203.0.113.0/24", "::ffff:203.0.113.9", True),
        ("203.0.113.0/24", "203.0.114.9", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "203.0.113.9", False),
        ("0.0.0.0/0", "::1", False),
        ("0.0.0.0/0", "", False),
        ("::/0", "no address", False),
    ],
)
def test_only_its_networks_are_known(door, network, peer, known):
    assert door(allow_from=[network]).knows((peer, 1)) is known


def test_who_cannot_be_told_is_known_only_to_a_door_without_networks(door):
    assert door().knows(None)
    assert not door(allow_from=["0.0.0.0/0", "::/0"]).knows(None)

"""The door of a source: networks, tokens and limits, with a clock that is moved by hand."""

import pytest

from relay.configuration.config import SourceConfig
from relay.web.door import REMINDER, STRANGERS, Door


@pytest.fixture
def door(clock):
    """Makes a door of these settings."""

    def door(**settings):
        return Door("sumotext", SourceConfig(**settings), clock.monotonic)

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


def test_strangers_take_nothing_from_the_vendor(door):
    opened = door(tokens=["t"], limit={"rate": "5/1s"})
    refused = [opened.wait_of_stranger() for _ in range(STRANGERS.count + 10)]
    assert sum(wait > 0 for wait in refused) == 10
    assert passed(opened, 10) == 5


async def test_the_log_tells_of_a_limit_once_a_minute(door, clock, caplog):
    opened = door(limit={"rate": "1/1h"})
    passed(opened, 101)
    assert caplog.messages == ["source sumotext: above its limit, refused with 429: 1"]
    await clock.advance(REMINDER)
    passed(opened, 2)
    assert caplog.messages[1:] == ["source sumotext: above its limit, refused with 429: 100"]


async def test_the_log_tells_once_a_minute_of_what_cannot_be_stored(door, clock, caplog):
    """A line for each would go to the disk that is full."""
    opened = door()
    for _ in range(101):
        opened.not_stored("the disk is full")
    assert caplog.messages == ["source sumotext: refused with 503, the disk is full: 1"]
    await clock.advance(REMINDER)
    opened.not_stored("the disk is full")
    assert caplog.messages[1:] == ["source sumotext: refused with 503, the disk is full: 101"]


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

"""Access to a source: networks, limits, tokens and the client behind a trusted proxy."""

from ipaddress import ip_network

import pytest

from relay.config.loader import SourceConfig
from relay.server.access import (
    DIGEST_SIZE,
    KEY_SIZE,
    UNAUTHENTICATED_RATE,
    SourceGuard,
    TokenSet,
    TrustedProxies,
    digest_tokens,
    has_tokens,
)


@pytest.fixture
def guard(clock):
    """Makes a guard of these settings."""

    def guard(**settings):
        return SourceGuard(SourceConfig(**settings), clock.monotonic)

    return guard


def passed(guard, times, size=100):
    return sum(guard.delay(size) == 0 for _ in range(times))


async def test_requests_are_limited(guard, clock):
    made = guard(limit={"rate": "5/1s"})
    assert passed(made, 10) == 5
    await clock.advance(0.41)
    assert passed(made, 10) == 2


async def test_bytes_are_limited(guard, clock):
    made = guard(limit={"bytes": "1KiB/1s"})
    assert passed(made, 10, size=256) == 4
    await clock.advance(0.26)
    assert passed(made, 10, size=256) == 1


async def test_by_default_the_vendor_does_not_reach_its_limit(guard, clock):
    """A thousand a second for a minute, and ten thousand at once before that."""
    made = guard()
    assert passed(made, 10_000, size=500) == 10_000
    for _ in range(60):
        await clock.advance(1.0)
        assert passed(made, 1_000, size=500) == 1_000


def test_a_body_as_large_as_any_may_be_passes(guard):
    made = guard(limit={"bytes": "1B/1h"})
    assert passed(made, 2, size=256 * 1024) == 1


def refused(guard, sender, times):
    """How many of so many callbacks with a wrong token are answered as such, not with 429."""
    return sum(guard.unauthenticated_delay((sender, 1)) == 0 for _ in range(times))


def test_senders_without_a_valid_token_take_nothing_from_the_vendor(guard):
    made = guard(tokens=["t"], limit={"rate": "5/1s"})
    assert (
        sum(refused(made, f"203.0.113.{each}", 10) for each in range(256))
        <= UNAUTHENTICATED_RATE.count
    )
    assert passed(made, 10) == 5


def test_a_flood_from_one_address_leaves_half_to_the_others(guard):
    made = guard(tokens=["t"])
    assert refused(made, "203.0.113.1", 10_000) == UNAUTHENTICATED_RATE.count / 2
    assert refused(made, "198.51.100.1", 5) == 5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2001:db8::1", "2001:db8::2"),
        ("203.0.113.1", "::ffff:203.0.113.1"),
    ],
)
def test_addresses_of_one_client_share(guard, first, second):
    made = guard(tokens=["t"])
    assert refused(made, first, 10_000) == UNAUTHENTICATED_RATE.count / 2
    assert refused(made, second, 1) == 0


def test_senders_without_an_address_share(guard):
    made = guard(tokens=["t"])
    for _ in range(10_000):
        made.unauthenticated_delay(None)
    assert made.unauthenticated_delay(None) > 0
    assert refused(made, "198.51.100.1", 5) == 5


@pytest.mark.parametrize(
    ("network", "peer", "allowed"),
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
def test_only_its_networks_are_allowed(guard, network, peer, allowed):
    assert guard(allow_from=[network]).allows((peer, 1)) is allowed


def test_no_address_is_allowed_only_where_there_are_no_networks(guard):
    assert guard().allows(None)
    assert not guard(allow_from=["0.0.0.0/0", "::/0"]).allows(None)


# tokens


RIGHT = TokenSet(["right", "other-ä"])


@pytest.mark.parametrize(
    ("offered", "valid"),
    [
        ([b"right"], True),
        (["other-ä".encode()], True),
        ([b"wrong", b"right"], True),
        ([b"first", b"second", b"third", b"right"], True),
        ([b"wrong"], False),
        ([b"righ"], False),
        ([b""], False),
        ([b"\xff" * 16_000], False),
        ([], False),
    ],
)
def test_a_stored_token_is_recognised(offered, valid):
    kept = digest_tokens(offered)
    assert RIGHT.accepts_digest(kept) is valid
    assert has_tokens(kept) is bool(offered)
    assert len(kept) == KEY_SIZE + DIGEST_SIZE * len(offered)
    assert not any(len(token) > 3 and token in kept for token in offered)


def test_no_tokens_accept_nothing():
    assert not TokenSet([]).accepts_digest(digest_tokens([b"right"]))


def test_equal_tokens_have_different_digests():
    assert digest_tokens([b"right"])[KEY_SIZE:] != digest_tokens([b"right"])[KEY_SIZE:]


@pytest.mark.parametrize(
    "kept", [b"", b"\xff", bytes(KEY_SIZE), bytes(KEY_SIZE + 1), bytes(KEY_SIZE + DIGEST_SIZE)]
)
def test_what_is_no_digest_is_no_valid_token(kept):
    assert not RIGHT.accepts_digest(kept)


def test_a_part_of_a_digest_is_no_digest():
    kept = digest_tokens([b"right"])
    for end in range(len(kept)):
        assert not RIGHT.accepts_digest(kept[:end])


# trusted proxies


PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])


def client(*forwarded: bytes) -> str | None:
    headers = [(b"host", b"relay"), *((b"x-forwarded-for", each) for each in forwarded)]
    return PROXIES.client("10.0.0.1", headers)


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.0.0.1", True),
        ("10.255.255.255", True),
        ("::ffff:10.0.0.1", True),
        ("2001:db8::1", True),
        ("11.0.0.1", False),
        ("2001:db9::1", False),
        ("127.0.0.1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_only_those_networks_are_trusted(host, trusted):
    assert PROXIES.trusts(host) is trusted
    assert not TrustedProxies().trusts(host)


@pytest.mark.parametrize(
    ("forwarded", "found"),
    [
        ([b"203.0.113.9"], "203.0.113.9"),
        ([b" 203.0.113.9 "], "203.0.113.9"),
        # The client may say what it likes: what the proxy saw stands on the right.
        ([b"198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ([b"10.0.0.7, 203.0.113.9"], "203.0.113.9"),
        ([b"rubbish, , 203.0.113.9"], "203.0.113.9"),
        ([b"198.51.100.1", b"203.0.113.9"], "203.0.113.9"),
        # Through several proxies of ours.
        ([b"203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ([b"198.51.100.1, 203.0.113.9, 10.0.0.2, 10.0.0.3"], "203.0.113.9"),
        ([b"203.0.113.9", b"10.0.0.2"], "203.0.113.9"),
        ([b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # With a port, as some write it.
        ([b"203.0.113.9:4711"], "203.0.113.9"),
        ([b"[2001:4860::8888]:4711"], "2001:4860::8888"),
        ([b"[2001:4860::8888]"], "2001:4860::8888"),
        ([b"2001:4860::8888"], "2001:4860::8888"),
        ([b"2001:4860::8888, 2001:db8::5"], "2001:4860::8888"),
        ([b"::ffff:203.0.113.9"], "203.0.113.9"),
        # None at all: it is the proxy that asks.
        ([], "10.0.0.1"),
        ([b""], "10.0.0.1"),
        # What no proxy that works would say: nobody can tell who it is.
        ([b"unknown"], None),
        ([b"203.0.113.9, unknown"], None),
        ([b"203.0.113.9, rubbish, 10.0.0.2"], None),
        ([b"203.0.113.9,"], None),
        ([b"203.0.113.9, \xff\xfe"], None),
        ([b"203.0.113"], None),
        ([b"localhost"], None),
        ([b"1:2"], None),
        ([b"["], None),
        ([b"fe80::1%" + b"z" * 1000], None),
    ],
)
def test_the_first_from_the_right_that_is_no_proxy_is_the_client(forwarded, found):
    assert client(*forwarded) == found

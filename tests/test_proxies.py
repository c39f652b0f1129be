"""Whose word is taken for where a request comes from."""

from ipaddress import ip_network

import pytest

from relay.server.proxies import Proxies

PROXIES = Proxies([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])


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
    assert not Proxies().trusts(host)


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

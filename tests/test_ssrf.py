"""Which addresses may be dialled: a table, judged and then tried. None of them is dialled."""

import asyncio
from ipaddress import ip_address, ip_network

import httpx
import pytest
from names import Names

import relay.delivery.http
from relay.outcome import Pause
from relay.ssrf import refusal

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0
192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255
198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 185.199.108.153
2001:200:: 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001:80b::200e
2001:db7:ffff:: 2001:db9:: 2003:: 2400:cb00:: 2c0f:fb50:: 3ffe:ffff:: 3fff:1000::
::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::101:101
"""

CLOSED = {
    "an unspecified": ":: 0.0.0.0 0.0.0.1 0.255.255.255 ::ffff:0.0.0.0 64:ff9b::",
    "a private": """10.0.0.0 10.0.0.1 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0
        192.168.1.1 192.168.255.255 fc00:: fd00::1 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
        ::ffff:10.0.0.1 ::ffff:a00:1 ::ffff:192.168.1.1 ::ffff:172.16.0.1
        64:ff9b::a00:1 64:ff9b::10.0.0.1 64:ff9b::192.168.0.1 64:ff9b::172.31.255.255
        fd00:ec2::254""",
    "a carrier-shared": "100.64.0.0 100.100.100.200 100.127.255.255 ::ffff:100.64.0.1",
    "a loopback": """127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255 ::1 0:0:0:0:0:0:0:1
        ::ffff:127.0.0.1 ::ffff:7f00:1 64:ff9b::127.0.0.1 64:ff9b::7f00:1""",
    "a cloud's metadata": "168.63.129.16 ::ffff:168.63.129.16 64:ff9b::a83f:8110",
    "a link-local": """169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 fe80::
        fe80::1 fe80::1%1 fe80::1%eth0 febf:ffff::1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe""",
    "a protocol-assigned": """192.0.0.0 192.0.0.8 192.0.0.170 192.0.0.192 192.0.0.255 2001:1::1
        2001:2::1 2001:3::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff::1""",
    "a documentation": """192.0.2.0 192.0.2.255 198.51.100.1 203.0.113.7 2001:db8::
        2001:db8:ffff::1 3fff:: 3fff::1 3fff:fff:ffff::1 ::ffff:192.0.2.1""",
    "a 6to4 relay": "192.88.99.0 192.88.99.1 192.88.99.255",
    "a benchmark": "198.18.0.0 198.18.0.1 198.19.255.255 64:ff9b::c612:1",
    "a multicast": "224.0.0.0 224.0.0.1 239.255.255.255 ff00:: ff02::1 ff0e::1 ff02::1%1",
    "a reserved": """240.0.0.0 254.1.1.1 255.255.255.255 ::ffff:255.255.255.255 64:ff9b::f000:1
        4000::1 1000::1 64:ff9c::1 64:ff9a:ffff::1 200::1 fe00::1 e000::1 64:ff9b:0:1::1 ::1:0:0:1
        8000::""",
    "an IPv4-compatible": "::2 ::7f00:1 ::127.0.0.1 ::10.0.0.1 ::8.8.8.8",
    "an IPv4-translated": "::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8",
    "a local NAT64": """64:ff9b:1:: 64:ff9b:1::a00:1 64:ff9b:1::808:808
        64:ff9b:1:a00:0:100:808:808 64:ff9b:1:ffff::1""",
    "a discard-only": "100:: 100::1 100::ffff:ffff:ffff:ffff",
    "a dummy": "100:0:0:1::1",
    "a Teredo": "2001:: 2001::1 2001:0:7f00:1:: 2001:0:ffff::1",
    "a 6to4": "2002:: 2002:7f00:1:: 2002:a00:1::1 2002:808:808::1",
    "a segment-routing": "5f00:: 5f00::1",
    "a site-local": "fec0:: fec0::1 feff::1 fec0::1%2",
}
TABLE = [(address, kind) for kind, addresses in CLOSED.items() for address in addresses.split()]


def test_the_table_is_long_enough():
    assert len({ip_address(address) for address, _ in TABLE}) + len(PUBLIC.split()) >= 160


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_are_dialled(address):
    assert refusal(address) is None


@pytest.mark.parametrize(("address", "kind"), TABLE)
def test_closed_addresses_are_refused_by_their_kind(address, kind):
    assert refusal(address) == (
        f"refused: {address} is {kind} address; its network is not in allow_private"
    )


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "127.1", "0x7f.0.0.1", "2130706433", "10.0.0.1/8", "[::1]", "0177.0.0.1"],
)
def test_what_is_no_address_is_refused(text):
    assert refusal(text) is not None
    assert refusal(text, [ip_network("0.0.0.0/0"), ip_network("::/0")])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("169.254.169.254", "169.254.0.0/16"),
        ("::1", "::1/128"),
        ("fd00::1", "fc00::/7"),
        ("fe80::1%eth0", "fe80::/10"),
        # A mapped or translated address is the one that it embeds.
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("64:ff9b::10.1.2.3", "10.0.0.0/8"),
        # One named as it stands is let through as well.
        ("::ffff:10.1.2.3", "::ffff:0:0/96"),
        ("64:ff9b::10.1.2.3", "64:ff9b::/96"),
        ("64:ff9b:1::a00:1", "64:ff9b:1::/48"),
        ("2002:a00:1::1", "2002::/16"),
    ],
)
def test_allow_private_opens_the_network_that_it_names(address, network):
    assert refusal(address)
    assert not refusal(address, [ip_network(network)])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "192.168.0.0/16"),
        ("127.0.0.1", "::/0"),
        ("::1", "0.0.0.0/0"),
        ("::ffff:127.0.0.1", "10.0.0.0/8"),
        ("64:ff9b::127.0.0.1", "10.0.0.0/8"),
        ("::127.0.0.1", "127.0.0.0/8"),
        ("2002:7f00:1::", "127.0.0.0/8"),
        ("64:ff9b:1::7f00:1", "127.0.0.0/8"),
        ("2001:0:7f00:1::", "127.0.0.0/8"),
    ],
)
def test_allow_private_opens_nothing_else(address, network):
    assert refusal(address, [ip_network(network)])


# The same table through the client that sinks have


@pytest.fixture
async def listener():
    """Connections that loopback got, and the port: what is tried below would lead there."""
    accepted = []

    async def accept(_, writer):
        accepted.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield accepted, server.sockets[0].getsockname()[1]


@pytest.fixture
def sockets(monkeypatch):
    """What the client makes sockets for; each is dialled at once."""
    made = []
    make = relay.delivery.http.Transport._guarded_socket

    def counted(self, info):
        found = make(self, info)
        made.append(info[4][0])
        return found

    monkeypatch.setattr(relay.delivery.http.Transport, "_guarded_socket", counted)
    return made


SPELLINGS = """
127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 127.0.0.1. 0 0x0 00.0.0.0
localhost LOCALHOST localhost. ip6-localhost a.localhost 127.0.0.1.nip.io localtest.me
①②⑦.⓪.⓪.① 127。0。0。1 127｡0｡0｡1 public.test@127.0.0.1 public.test:x@127.0.0.1
metadata metadata.google.internal instance-data 169.254.169.254.nip.io kubernetes.default.svc
0xa9fea9fe 2852039166 0251.0376.0251.0376 10.1 0xa.0.0.1 012.0.0.1 192.168.257 3232235777
"""


def literal(address: str) -> str:
    return f"[{address.replace('%', '%25')}]" if ":" in address else address


async def tried(host: str, port: int, *addresses: str) -> str:
    """Why a request to that host did not go out; every name has these addresses."""
    resolver = Names(list(addresses))
    async with relay.delivery.http.client(timeout=5, resolver=resolver) as client:
        with pytest.raises((Pause, httpx.InvalidURL, httpx.UnsupportedProtocol)) as caught:
            await client.get(f"http://{host}:{port}/")
    return str(caught.value)


@pytest.mark.parametrize("kind", CLOSED)
async def test_no_closed_address_is_dialled(listener, sockets, kind):
    """As it stands in the URL, and as what a name resolves to, alone and behind a public one."""
    accepted, port = listener
    for address in CLOSED[kind].split():
        await tried(literal(address), port)
        for addresses in ([address], ["1.1.1.1", address], [address, "2606:4700::1"]):
            assert "allow_private" in await tried("receiver.test", port, *addresses)
    assert (sockets, accepted) == ([], [])


@pytest.mark.parametrize("host", SPELLINGS.split())
async def test_no_spelling_of_one_is_dialled(listener, sockets, host):
    """Those that are names to us are answered as a resolver would that takes them for numbers."""
    accepted, port = listener
    await tried(host, port, "127.0.0.1")
    assert (sockets, accepted) == ([], [])


def test_the_tries_are_many():
    assert len(TABLE) + len(SPELLINGS.split()) >= 160


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "0x7f.1"])
async def test_control_without_the_guard_they_are_dialled(listener, sockets, monkeypatch, host):
    monkeypatch.setattr(relay.delivery.http, "refusal", lambda *_: None)
    accepted, port = listener
    async with relay.delivery.http.client(timeout=5, resolver=Names(["127.0.0.1"])) as client:
        if host == "127.1.2.3":  # somebody else's loopback: the listener is at another address
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://{host}:{port}/")
        else:
            assert (await client.get(f"http://{host}:{port}/")).status_code == 200
            assert len(accepted) == 1
    assert len(sockets) == 1

"""The SSRF filter: which addresses a sink may dial. It judges addresses, never names or URLs.

The list is the relay's own: `ipaddress.is_global` calls several ways back into one's own
network public (6to4, NAT64, SRv6), and what it says changes with Python's version.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from relay.units import IPAddress, IPNetwork

CLOSED_V4 = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "an unspecified"),
        ("10.0.0.0/8", "a private"),
        ("100.64.0.0/10", "a carrier-shared"),
        ("127.0.0.0/8", "a loopback"),
        ("168.63.129.16/32", "a cloud's metadata"),  # Azure's; the others' are in closed networks
        ("169.254.0.0/16", "a link-local"),
        ("172.16.0.0/12", "a private"),
        ("192.0.0.0/24", "a protocol-assigned"),
        ("192.0.2.0/24", "a documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "a private"),
        ("198.18.0.0/15", "a benchmark"),
        ("198.51.100.0/24", "a documentation"),
        ("203.0.113.0/24", "a documentation"),
        ("224.0.0.0/4", "a multicast"),
        ("240.0.0.0/4", "a reserved"),
    )
)

# The first that fits names it. What is outside 2000::/3 is closed even without a name here.
CLOSED_V6 = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "an unspecified"),
        ("::1/128", "a loopback"),
        ("::/96", "an IPv4-compatible"),
        ("::ffff:0:0:0/96", "an IPv4-translated"),
        # Its prefix may hold the IPv4 address in one of several places: not to be judged by it.
        ("64:ff9b:1::/48", "a local NAT64"),
        ("100::/64", "a discard-only"),
        ("100:0:0:1::/64", "a dummy"),
        ("2001::/32", "a Teredo"),
        ("2001:db8::/32", "a documentation"),
        ("2001::/23", "a protocol-assigned"),
        ("2002::/16", "a 6to4"),
        ("3fff::/20", "a documentation"),
        ("5f00::/16", "a segment-routing"),
        ("fc00::/7", "a private"),
        ("fe80::/10", "a link-local"),
        ("fec0::/10", "a site-local"),
        ("ff00::/8", "a multicast"),
    )
)
GLOBAL_V6 = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")


def refusal(address: str, private: Sequence[IPNetwork] = ()) -> str | None:
    """Why it may not be dialled, in words for the operator; None where it may."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return f"refused: {address!r} is no address"
    # Only an address without its zone ("%eth0") can be looked up in a network.
    outer = IPv6Address(int(parsed)) if isinstance(parsed, IPv6Address) else parsed
    dialled = embedded(outer) or outer
    kind = closed(dialled)
    if kind is None or any(each in network for each in (outer, dialled) for network in private):
        return None
    return f"refused: {address} is {kind} address; its network is not in allow_private"


def embedded(address: IPAddress) -> IPv4Address | None:
    """The IPv4 address that is dialled in truth, where this one is mapped or translated."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def closed(address: IPAddress) -> str | None:
    """The kind of the closed network that holds it ("a private"); None for a public address."""
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in CLOSED_V4 if address in network), None)
    unnamed = None if address in GLOBAL_V6 else "a reserved"
    return next((kind for network, kind in CLOSED_V6 if address in network), unnamed)

"""Senders: addresses that count as one, and the sender that gives way when too much is kept."""

from collections import deque
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address

from relay.caching import short_keys
from relay.units import IPAddress, IPNetwork


def parsed(host: str) -> IPAddress | None:
    """The address; the IPv4 one where that is written as an IPv6 one."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def within(networks: Iterable[IPNetwork], host: str) -> bool:
    """Whether the address is in one of the networks."""
    address = parsed(host)
    return address is not None and any(address in network for network in networks)


@short_keys(maxsize=4096)
def client_key(host: str) -> str:
    """What counts as one address: with IPv6 everybody has a network of them."""
    address = parsed(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return host if address is None else str(address)


def surplus(kept: Iterable[tuple[str, int]], most: int) -> list[int]:
    """Which of the numbered callbacks go, so that `most` stay; `kept` has the sender of each.

    The sender that has the most loses its oldest. Of those that have equally many, it is the one
    with the oldest callback.
    """
    groups: dict[str, deque[int]] = {}
    total = 0
    for sender, number in sorted(kept, key=lambda each: each[1]):
        groups.setdefault(client_key(sender), deque()).append(number)
        total += 1
    gone: list[int] = []
    while len(gone) < total - most:
        largest = max(groups.values(), key=lambda group: (len(group), -group[0] if group else 0))
        gone.append(largest.popleft())
    return gone

"""Proxies: whose word is taken for where a request comes from."""

from collections.abc import Iterable, Sequence

from relay.caching import short_keys
from relay.senders import Network, parsed, within

Headers = Iterable[tuple[bytes, bytes]]

FORWARDED = b"x-forwarded-for"
LONGEST = 64
"""Bytes of an entry that may be an address: a scope of any length may follow an IPv6 one."""


class Proxies:
    """The networks of `server.proxies`. Without any, no header is asked."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = networks
        self.trusts = short_keys(maxsize=1024)(self._trusts)

    def _trusts(self, host: str) -> bool:
        """Whether this address is a proxy's."""
        return within(self._networks, host)

    def client(self, proxy: str, headers: Headers) -> str | None:
        """Who sent the request that came from a trusted proxy; None where that cannot be told.

        Each proxy adds the address that it sees on the right, behind what the client made up.
        So the first from the right that is no proxy of ours is as far as one can know.
        """
        forwarded = b",".join(value for name, value in headers if name == FORWARDED)
        if not forwarded:
            return proxy
        host = None
        for entry in reversed(forwarded.split(b",")):
            host = _host(entry)
            if host is None or not self.trusts(host):
                break
        return host


NOBODY = Proxies()


def _host(entry: bytes) -> str | None:
    """The address of an entry; some proxies add the port, and brackets for its sake."""
    text = entry.decode("latin-1").strip()
    if len(text) > LONGEST:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = parsed(text)
    return None if address is None else str(address)

"""Access to a source: networks, tokens and rate limits, and the client behind a trusted proxy.

Of the tokens that came with a refused callback a digest is stored, which shows later whether one
of them has become valid. Each callback has its own key, which is stored with the digest: the
spill can hold it while there is no store, and equal tokens have different digests.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence

from relay.caching import short_keys
from relay.config.model import SourceConfig
from relay.rate_limit import SharedTokenBucket, TokenBucket
from relay.senders import client_key, parsed, within
from relay.units import IPNetwork, Rate

UNAUTHENTICATED_RATE = Rate(1000, 60.0)
"""The limit of senders with a wrong token or address. It is apart from the source's limit, so that
they take nothing from the vendor; as many callbacks are kept in quarantine. It is shared fairly, so
that a flood from one address does not keep out a callback with a mistyped token."""

KEY_SIZE = 16
DIGEST_SIZE = 16
"""Bytes of each digest; they follow the key."""

FORWARDED = b"x-forwarded-for"
FORWARDED_SCHEME = b"x-forwarded-proto"
LONGEST_ENTRY = 64
"""Bytes of an entry that may be an address: a scope of any length may follow an IPv6 one."""

Headers = Iterable[tuple[bytes, bytes]]

ClientAddress = tuple[str, int] | None
"""The sender's address: of the socket, or of the client behind a trusted proxy."""


class SourceGuard:
    """Networks, tokens and rate limits of one source. `now` is a monotonic clock in seconds."""

    def __init__(
        self, source: SourceConfig, now: Callable[[], float], *, authenticates: bool = False
    ) -> None:
        self.tokens = TokenSet(token.get_secret_value() for token in source.tokens)
        self._networks = source.allow_from
        self.open = not self.tokens and not self._networks and not authenticates
        """Anybody may send."""
        self._requests = TokenBucket(source.limit.rate, now)
        self._bytes = TokenBucket(source.limit.bytes, now)
        self._unauthenticated = SharedTokenBucket(UNAUTHENTICATED_RATE, now)

    def allows(self, peer: ClientAddress) -> bool:
        """Whether the sender is in one of the networks."""
        return not self._networks or (peer is not None and within(self._networks, peer[0]))

    def delay(self, size: int) -> float:
        """Seconds until a callback of that size is within the limits; 0.0 takes it."""
        return self._requests.take() or self._bytes.take(size)

    def parts_delay(self, number: int) -> float:
        """The same for the events of a request, which was taken as one so far."""
        self._requests.take(-1.0)
        return self._requests.take(number)

    def unauthenticated_delay(self, peer: ClientAddress) -> float:
        """The same for a sender with a wrong token or address."""
        return self._unauthenticated.take(client_key(peer[0]) if peer else "")


class TokenSet:
    """The valid tokens of a source; several, so that one can replace another without a gap."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._hashes = [_hash(token.encode()) for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def accepts(self, offered: Iterable[bytes]) -> bool:
        """Whether one of the offered tokens is valid. The time taken does not show which."""
        accepted = False
        for candidate in offered:
            found = _hash(candidate)
            for valid in self._hashes:
                accepted |= hmac.compare_digest(found, valid)
        return accepted

    def accepts_digest(self, digest: bytes) -> bool:
        """Whether one of the tokens of which `digest_tokens` made the digest is valid."""
        key, rest = digest[:KEY_SIZE], digest[KEY_SIZE:]
        parts = [rest[start : start + DIGEST_SIZE] for start in range(0, len(rest), DIGEST_SIZE)]
        valid = [_keyed(key, each) for each in self._hashes]
        return any(hmac.compare_digest(part, each) for part in parts for each in valid)


def digest_tokens(
    offered: Iterable[bytes], new_key: Callable[[int], bytes] = secrets.token_bytes
) -> bytes:
    """What is stored of the offered tokens: a key, and a digest of each under that key."""
    key = new_key(KEY_SIZE)
    return key + b"".join(_keyed(key, _hash(token)) for token in offered)


def has_tokens(digest: bytes) -> bool:
    """Whether the digest is of any token at all."""
    return len(digest) > KEY_SIZE


def basic_password(authorization: bytes) -> bytes | None:
    """The password of an `Authorization: Basic` header."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True)
    except binascii.Error:
        return None
    return decoded.partition(b":")[2]


def _keyed(key: bytes, digest: bytes) -> bytes:
    return hmac.digest(key, digest, "sha256")[:DIGEST_SIZE]


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class TrustedProxies:
    """The networks of `server.proxies`. Without any, no header is read."""

    def __init__(self, networks: Sequence[IPNetwork] = ()) -> None:
        self._networks = networks
        self.trusts = short_keys(maxsize=1024)(self._trusts)

    def _trusts(self, host: str) -> bool:
        """Whether this address is a proxy's."""
        return within(self._networks, host)

    def scheme(self, headers: Headers) -> str | None:
        """The scheme that a trusted proxy was called by; None where it does not say."""
        found = [value.strip().lower() for name, value in headers if name == FORWARDED_SCHEME]
        return found[0].decode() if found in ([b"http"], [b"https"]) else None

    def client(self, proxy: str, headers: Headers) -> str | None:
        """The client of a request that came from a trusted proxy; None where it is unknown.

        Each proxy adds the address of its peer on the right, after what the client made up. So
        the first address from the right that is no trusted proxy's is the last reliable one.
        """
        forwarded = b",".join(value for name, value in headers if name == FORWARDED)
        if not forwarded:
            return proxy
        host = None
        for entry in reversed(forwarded.split(b",")):
            host = _forwarded_host(entry)
            if host is None or not self.trusts(host):
                break
        return host


NO_PROXIES = TrustedProxies()


def _forwarded_host(entry: bytes) -> str | None:
    """The address of an entry, without the port and the brackets that some proxies add."""
    text = entry.decode("latin-1").strip()
    if len(text) > LONGEST_ENTRY:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = parsed(text)
    return None if address is None else str(address)

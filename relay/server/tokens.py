"""Tokens: the secret by which a source knows its sender, and what is kept of a wrong one.

Of the tokens that came with a callback a digest is kept, to tell later whether one of them has
become valid. Its key is new for each callback and stands beside it: the spill has it, too, while
there is no store, and equal tokens have different digests.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable

KEY = 16
DIGEST = 16
"""Bytes of a key, and of each digest behind it."""


class Tokens:
    """The tokens that a source takes; several, so that one can replace another in peace."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [_digest(token.encode()) for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, offered: Iterable[bytes]) -> bool:
        """Whether one of the offered is one of ours; the time taken tells nothing of which."""
        admitted = False
        for candidate in offered:
            digest = _digest(candidate)
            for ours in self._digests:
                admitted |= hmac.compare_digest(digest, ours)
        return admitted

    def admitted(self, kept: bytes) -> bool:
        """Whether one of the tokens is ours of which `kept_of` kept the digests."""
        key, digests = kept[:KEY], kept[KEY:]
        parts = [digests[start : start + DIGEST] for start in range(0, len(digests), DIGEST)]
        ours = [_keyed(key, each) for each in self._digests]
        return any(hmac.compare_digest(part, each) for part in parts for each in ours)


def kept_of(
    offered: Iterable[bytes], new_key: Callable[[int], bytes] = secrets.token_bytes
) -> bytes:
    """What is kept of the offered tokens: a key, and a digest of each with that key."""
    key = new_key(KEY)
    return key + b"".join(_keyed(key, _digest(token)) for token in offered)


def any_offered(kept: bytes) -> bool:
    """Whether there was a token at all."""
    return len(kept) > KEY


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
    return hmac.digest(key, digest, "sha256")[:DIGEST]


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()

"""Tokens: the secret by which a source knows its sender."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable


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


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()

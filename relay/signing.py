"""Signing: who a request comes from, as Standard Webhooks has it.

The signature covers the id, the time and the body; several secrets make several signatures,
while one takes the place of another.
"""

import base64
import hmac
from collections.abc import Sequence
from typing import Annotated

import pydantic


def key_of(secret: pydantic.SecretStr) -> bytes:
    """The bytes of a secret. Raises ValueError for what is none."""
    prefix, _, encoded = secret.get_secret_value().partition("_")
    if prefix != "whsec":
        raise ValueError("should begin with whsec_")
    padded = encoded + "=" * (-len(encoded) % 4)
    try:
        return base64.b64decode(padded, validate=True)
    except ValueError:
        raise ValueError("should be base64 after whsec_") from None


def _signing_secret(secret: pydantic.SecretStr) -> pydantic.SecretStr:
    if not 24 <= len(key_of(secret)) <= 64:
        raise ValueError("should hold 24 to 64 bytes")
    return secret


SigningSecret = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_signing_secret)]
"""An option that is a secret of Standard Webhooks, `whsec_…`."""


def signature(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature: one `v1,…` for each key."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}" for key in keys
    )


def signed_headers(
    keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes
) -> list[tuple[str, str]]:
    """The headers of one request; without keys they are unsigned, but still identify repeats."""
    headers = [("webhook-id", message_id), ("webhook-timestamp", str(timestamp))]
    if keys:
        headers.append(("webhook-signature", signature(keys, message_id, timestamp, body)))
    return headers

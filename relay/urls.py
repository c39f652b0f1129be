"""URLs as pydantic types: of any receiver, and of a vendor to which secrets go.

A secret goes in clear to no other machine: its URL begins with https://, or names this machine.
"""

from typing import Annotated

import httpx
import pydantic

from relay.units import HostPort
from relay.validation import PLACEHOLDER, new_rule

SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token"}
)
"""Headers, in lower case, that are there to hold a secret."""


def _http_url(text: str, info: pydantic.ValidationInfo) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError("should be a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("should begin with https:// or http:// and a host")
    if url.userinfo:
        raise ValueError("should hold no user name or password")
    if (" " in text or not text.isprintable()) and not PLACEHOLDER.search(text):
        new_rule(info, "should hold no space and no character that cannot be seen")
    return text


HttpUrl = Annotated[str, pydantic.AfterValidator(_http_url)]
"""An option that is the address of a receiver, http or https."""


def is_confidential(url: httpx.URL) -> bool:
    """Whether what is sent there cannot be read on the way: TLS, or this machine."""
    return url.scheme == "https" or (url.scheme == "http" and HostPort(url.host, 0).loopback)


def check_confidential(name: str, url: str, info: pydantic.ValidationInfo) -> None:
    """Refuse, by a new rule, a URL to which a secret would go in clear to another machine."""
    if not is_confidential(httpx.URL(url)):
        new_rule(info, f"{name} should begin with https://: a secret goes with every request")


def _vendor_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError("should be a URL") from None
    if not is_confidential(url) or not url.host:
        raise ValueError("should begin with https:// and a host: secrets go with every request")
    if url.userinfo or url.query or url.fragment or url.path not in {"", "/"}:
        raise ValueError("should hold no more than https:// and a host")
    return text.rstrip("/")


VendorUrl = Annotated[str, pydantic.AfterValidator(_vendor_url)]
"""An option that is the address of a vendor's API. It is https, or on this machine."""

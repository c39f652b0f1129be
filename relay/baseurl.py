"""Where a vendor's API is: https:// and a host, as secrets go there with every request."""

from typing import Annotated

import httpx
import pydantic

from relay.address import Address


def is_confidential(url: httpx.URL) -> bool:
    """Whether nobody on the way can read what is sent there: TLS, or this very machine."""
    return url.scheme == "https" or (url.scheme == "http" and Address(url.host, 0).loopback)


def _base_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError("should be a URL") from None
    if not is_confidential(url) or not url.host:
        raise ValueError("should begin with https:// and a host: secrets go with every request")
    if url.userinfo or url.query or url.fragment or url.path not in {"", "/"}:
        raise ValueError("should hold no more than https:// and a host")
    return text.rstrip("/")


BaseUrl = Annotated[str, pydantic.AfterValidator(_base_url)]

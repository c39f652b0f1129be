"""The URL of a receiver, as relay.yaml may name it."""

from typing import Annotated

import httpx
import pydantic


def _web_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError("should be a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("should begin with https:// or http:// and a host")
    if url.userinfo:
        raise ValueError("should hold no user name or password")
    return text


WebUrl = Annotated[str, pydantic.AfterValidator(_web_url)]

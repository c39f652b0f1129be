"""The URL of a receiver, as relay.yaml may name it."""

from typing import Annotated

import httpx
import pydantic

from relay.config.errors import new_rule
from relay.config.interpolate import PLACEHOLDER


def _web_url(text: str, info: pydantic.ValidationInfo) -> str:
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


WebUrl = Annotated[str, pydantic.AfterValidator(_web_url)]

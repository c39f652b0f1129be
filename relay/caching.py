"""Caches with keys that senders choose: bounded in number, and without long keys.

A key lives as long as its entry. `lru_cache` alone bounds how many there are, and a thousand keys
of 256 KiB each are a quarter of a gigabyte.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

LONGEST_KEY = 64
"""Characters. Country names, phone numbers and parameter names are shorter."""

T = TypeVar("T")


def short_keys(maxsize: int) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
    """An `lru_cache` for a function of one text, which is called afresh for each long text.

    What the function gives for a short text must be short, too.
    """

    def decorate(function: Callable[[str], T]) -> Callable[[str], T]:
        cached = lru_cache(maxsize=maxsize)(function)

        @wraps(function)
        def look_up(text: str) -> T:
            return cached(text) if len(text) <= LONGEST_KEY else function(text)

        return look_up

    return decorate


def short_key(text: str) -> str:
    """The text if it is short, else its digest: the key for a map that must have long texts too."""
    if len(text) <= LONGEST_KEY:
        return text
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

"""The JSON of an answer, read within bounds: what a server sends is not worth any time and memory.

Eight MiB of `[],` would take half a second of the event loop, and 200 MiB.
"""

from typing import Any

import orjson

MOST_VALUES = 250_000
"""Separators in one answer. The description of a large CRM object has a fifth of that."""
SEPARATORS = (b",", b"[", b"{")


def read_json(content: bytes) -> Any:
    """What it says. Raises ValueError where it is no JSON, or has too many values."""
    if len(content) > MOST_VALUES and sum(map(content.count, SEPARATORS)) > MOST_VALUES:
        raise ValueError("it has too many values")
    return orjson.loads(content)

"""Paging: a page of a list, and the opaque cursor with which the next page begins."""

import base64
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from relay.api.responses import Refused

R = TypeVar("R")
Position = tuple[int, str]
"""Where a page ends: the seq of its last row, and the sink where a seq has rows of several."""


def page(
    rows: Sequence[R],
    limit: int,
    view: Callable[[R], dict[str, Any]],
    position: Callable[[R], Position],
) -> dict[str, Any]:
    """`{"items": [...], "next": cursor or None}`; `limit` is the number of rows asked for."""
    last = rows[-1] if rows and len(rows) == limit else None
    return {
        "items": [view(row) for row in rows],
        "next": None if last is None else encode(position(last)),
    }


def encode(position: Position) -> str:
    """The cursor of a position."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode().rstrip("=")


def decode(cursor: str | None) -> Position | None:
    """The position of a cursor, None for the first page. Raises Refused for any other text."""
    if cursor is None:
        return None
    try:
        found = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", True))
    except ValueError:
        found = None
    match found:
        case [int(seq), str(sink)]:
            return seq, sink
    raise Refused(400, "cursor: it is none that this relay has given out")

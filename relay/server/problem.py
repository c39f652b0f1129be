"""Problem details (RFC 9457): how every refusal is written."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.types import Send

CONTENT_TYPE = b"application/problem+json"

Headers = Iterable[tuple[bytes, bytes]]


def problem(status: int, detail: str, members: Mapping[str, Any] | None = None) -> bytes:
    """The body of a refusal. `detail` is for the person who reads the sender's log."""
    return orjson.dumps(
        {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **(members or {})}
    )


async def send_problem(
    send: Send,
    status: int,
    detail: str,
    *,
    headers: Headers = (),
    members: Mapping[str, Any] | None = None,
) -> None:
    """Answer an ASGI request with a problem."""
    body = problem(status, detail, members)
    lines = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})

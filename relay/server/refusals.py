"""Refusals: problem details (RFC 9457) for the sender, and a rate-limited line for the log."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.types import Send

PROBLEM_TYPE = b"application/problem+json"

PERIOD = 60.0
"""Seconds between two lines about the same. Anybody can cause refusals; they must fill no disk."""

Headers = Iterable[tuple[bytes, bytes]]
Later = Callable[[float, Callable[[], None]], object]


def problem_body(status: int, detail: str, members: Mapping[str, Any] | None = None) -> bytes:
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
    """Answer an ASGI request with problem details."""
    body = problem_body(status, detail, members)
    lines = [
        (b"content-type", PROBLEM_TYPE),
        (b"content-length", b"%d" % len(body)),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def _call_later(seconds: float, callback: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, callback)


class RefusalLog:
    """Log of one listener's refusals: the first of a kind at once, then one line a minute.

    `later` calls a function after so many seconds. Callers keep the number of kinds small, and put
    what varies into `last`.
    """

    def __init__(self, log: logging.Logger, later: Later = _call_later) -> None:
        self._log = log
        self._later = later
        self._kinds: dict[tuple[str, int, str], _RefusalKind] = {}

    def record(
        self,
        status: int,
        kind: str,
        *,
        source: str = "",
        last: object = "",
        level: int = logging.WARNING,
        error: Exception | None = None,
    ) -> None:
        """Count a refusal. `kind` is the reason; `last` describes the latest one.

        The frames of an `error` are logged with the first of a kind.
        """
        found = self._kinds.get((source, status, kind))
        if found is None:
            found = self._kinds[source, status, kind] = _RefusalKind(source, status, kind, level)
        found.number += 1
        found.last = last
        if not found.timer_set:
            self._write(found, error)

    def flush(self) -> None:
        """Log at once what has been counted since the last line."""
        for each in self._kinds.values():
            if each.number:
                self._write_line(each)

    def _write(self, kind: "_RefusalKind", error: Exception | None = None) -> None:
        """Log the count, and again after a period. After a period without any, stop."""
        kind.timer_set = kind.number > 0
        if kind.timer_set:
            self._write_line(kind, error)
            self._later(PERIOD, lambda: self._write(kind))

    def _write_line(self, kind: "_RefusalKind", error: Exception | None = None) -> None:
        self._log.log(kind.level, "%s", str(kind), exc_info=error)
        kind.number = 0


class _RefusalKind:
    """Refusals of one source with the same status and reason."""

    __slots__ = ("kind", "last", "level", "number", "source", "status", "timer_set")

    def __init__(self, source: str, status: int, kind: str, level: int) -> None:
        self.source = source
        self.status = status
        self.kind = kind
        self.level = level
        self.number = 0
        """How many there were since the last line."""
        self.last: object = ""
        self.timer_set = False

    def __str__(self) -> str:
        source = f"source {self.source}: " if self.source else ""
        last = f" ({self.last})" if self.last else ""
        return f"{source}refused with {self.status}, {self.kind}{last}: {self.number}"

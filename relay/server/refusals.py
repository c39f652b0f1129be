"""Refusals in the log: a line for the first of a kind, then one a minute with their number."""

import asyncio
import logging
from collections.abc import Callable

PERIOD = 60.0
"""Seconds between two lines about the same. Anyone can cause refusals; their lines fill no disk."""

Later = Callable[[float, Callable[[], None]], object]


def _later(seconds: float, run: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, run)


class RefusalLog:
    """The refusals of one listener. `later` calls a function after so many seconds.

    Callers keep the number of kinds small, and put what varies into `last`.
    """

    def __init__(self, log: logging.Logger, later: Later = _later) -> None:
        self._log = log
        self._later = later
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def note(
        self,
        status: int,
        kind: str,
        *,
        source: str = "",
        last: object = "",
        level: int = logging.WARNING,
        error: Exception | None = None,
    ) -> None:
        """Count a refusal. `kind` says why; `last` is what is known of the last one.

        The frames of an `error` are logged with the first of a kind.
        """
        found = self._kinds.get((source, status, kind))
        if found is None:
            found = self._kinds[source, status, kind] = _Kind(source, status, kind, level)
        found.number += 1
        found.last = last
        if not found.waiting:
            self._write(found, error)

    def flush(self) -> None:
        """Log at once what has been counted, and not logged yet."""
        for each in self._kinds.values():
            if each.number:
                self._line(each)

    def _write(self, kind: "_Kind", error: Exception | None = None) -> None:
        """Log what was counted; nothing was, and the next one is logged at once."""
        kind.waiting = kind.number > 0
        if kind.waiting:
            self._line(kind, error)
            self._later(PERIOD, lambda: self._write(kind))

    def _line(self, kind: "_Kind", error: Exception | None = None) -> None:
        self._log.log(kind.level, "%s", str(kind), exc_info=error)
        kind.number = 0


class _Kind:
    """Refusals of the same status, for the same reason, by the same source."""

    __slots__ = ("kind", "last", "level", "number", "source", "status", "waiting")

    def __init__(self, source: str, status: int, kind: str, level: int) -> None:
        self.source = source
        self.status = status
        self.kind = kind
        self.level = level
        self.number = 0
        self.last: object = ""
        self.waiting = False

    def __str__(self) -> str:
        source = f"source {self.source}: " if self.source else ""
        last = f" ({self.last})" if self.last else ""
        return f"{source}refused with {self.status}, {self.kind}{last}: {self.number}"

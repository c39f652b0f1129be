"""Logging: lines for a person at a terminal, JSON lines for a journal. No contact's data."""

import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

import orjson

from relay.event import timestamp
from relay.redact import mask_all, mask_e164

# They log URLs, which may hold a contact's number or a token; uvicorn repeats what the relay says.
TALKATIVE = ("aiohttp", "httpcore", "httpx", "urllib3", "uvicorn")
OWN = re.compile(r"relay(\.(?!sinks\.|sources\.).*)?")
"""The loggers of the relay itself. Their lines hold sizes and counts, but no text of others."""
PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
"""As syslog has them."""

LONGEST = 16 * 1024
"""Characters of a line. A plugin may log a whole callback, and it takes a while to mask that."""

log = logging.getLogger("relay")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def set_up(
    level: int = logging.INFO,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Log to `stream`, by default to the standard error."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(stream, environ))
    handler.addFilter(_without_numbers)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def catch_the_rest() -> None:
    """Log what Python would print by itself, with the words of exceptions and on many lines."""
    warnings.showwarning = _warn
    sys.excepthook = lambda _, error, __: _uncaught(error)
    threading.excepthook = lambda failed: _uncaught(failed.exc_value)
    sys.unraisablehook = lambda failed: _uncaught(failed.exc_value)


def _uncaught(error: BaseException | None) -> None:
    log.error("Traceback of an error that nobody caught", exc_info=error)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001  it goes where the others go
    line: str | None = None,  # noqa: ARG001  one line will do
) -> None:
    log = logging.getLogger("warnings")
    log.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)


def _formatter(stream: TextIO, environ: Mapping[str, str]) -> logging.Formatter:
    if stream.isatty():
        return Lines()
    return JournalLines() if _is_journal(stream, environ) else JsonLines()


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether systemd's journal reads the stream, by the variable that systemd sets."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _without_numbers(record: logging.LogRecord) -> bool:
    """A plugin may log what it likes; no contact's number gets through."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  words that do not fit their values must not fail a delivery
        message = str(record.msg)
    masked = mask_e164 if OWN.fullmatch(record.name) else mask_all
    record.msg, record.args = _sayable(masked(message[:LONGEST])), ()
    return True


def _sayable(text: str) -> str:
    """The text as UTF-8 can say it: a file's name need not be any."""
    return text.encode(errors="replace").decode()


def _printable(text: str) -> str:
    """The text without what would move a terminal's cursor, or begin a forged line."""
    return "".join(char if char.isprintable() else "�" for char in text)


class Lines(logging.Formatter):
    """`12:00:01 WARNING relay.sinks.crm: parked for 60 s`. What others say stays on its line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        return _printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  the same
        lines = frames(ei)  # type: ignore[arg-type]  # typeshed allows a tuple of None
        return "\n".join(map(_printable, lines))


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": timestamp(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "logger": _sayable(record.name),
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = _sayable("; ".join(frames(record.exc_info)))
        return orjson.dumps(line).decode()


class JournalLines(JsonLines):
    """The same with the priority before it, which the journal takes off: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{PRIORITIES.get(record.levelname, PRIORITIES['INFO'])}>{super().format(record)}"


def frames(exc_info: ExcInfo) -> list[str]:
    """The way to an exception and its type, without its text, which may quote a contact's data."""
    kind, _, trace = exc_info
    lines = [
        f"  {frame.filename}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(trace)
    ]
    return [kind.__qualname__, *lines]

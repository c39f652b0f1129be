"""Logging: lines for a person at a terminal, JSON lines for a journal. No contact's data."""

import logging
import sys
import traceback
from types import TracebackType
from typing import TextIO

import orjson

from relay.event import timestamp
from relay.mask import mask_e164

# They log URLs, which may hold a contact's number or a token; uvicorn repeats what the relay says.
TALKATIVE = ("aiohttp", "httpcore", "httpx", "uvicorn")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def set_up(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send what is logged to `stream`, standard error unless told."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines() if stream.isatty() else JsonLines())
    handler.addFilter(_without_numbers)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_numbers(record: logging.LogRecord) -> bool:
    """A plugin may log what it likes; no contact's number gets through."""
    record.msg, record.args = mask_e164(record.getMessage()), ()
    return True


class Lines(logging.Formatter):
    """`12:00:01 WARNING relay.courier: sink crm is parked`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatException(self, ei: object) -> str:  # noqa: N802  logging's name
        return "\n".join(frames(ei))  # type: ignore[arg-type]  # typeshed allows a tuple of None


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": timestamp(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = "; ".join(frames(record.exc_info))
        return orjson.dumps(line).decode()


def frames(exc_info: ExcInfo) -> list[str]:
    """The way to an exception and its type, without its text, which may quote a contact's data."""
    kind, _, trace = exc_info
    lines = [
        f"  {frame.filename}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(trace)
    ]
    return [kind.__qualname__, *lines]

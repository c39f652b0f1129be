"""Paths as text, where the locale is not UTF-8.

Python turns a path's bytes into text by the locale and back, so what the system gets from it is
right. What comes from a file, and what goes into one or to SQLite, is UTF-8 whatever the locale.
"""

import json
import os
from typing import Any

import orjson


def named(text: str) -> str:
    """The path that UTF-8 text of a file names."""
    return os.fsdecode(text.encode(errors="surrogateescape"))


def as_utf8(path: str | os.PathLike[str]) -> str:
    """The text of a path, for a file or for SQLite. Bytes that are no UTF-8 become surrogates."""
    return os.fsencode(path).decode(errors="surrogateescape")


def as_json(value: Any) -> bytes:
    """JSON of a value whose texts may hold paths. What is no UTF-8 in them is replaced."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="surrogateescape").decode(errors="replace").encode()


def argument(text: str) -> str:
    """What somebody typed where the locale knows ASCII alone: a terminal's bytes are UTF-8 then."""
    return text.encode(errors="surrogateescape").decode(errors="surrogateescape")

"""The notebook: what the alerts remember over restarts, in a small file beside the store."""

import logging
from pathlib import Path
from typing import Any

import orjson

from relay import fsutil

log = logging.getLogger("relay.alerts")


class Notebook:
    """One JSON object. It may be lost: then a channel is told once more of what goes on."""

    def __init__(self, store: Path) -> None:
        self._path = store.with_name(store.name + ".alerts")
        self._written = b""
        self._trouble: str | None = None

    def read(self) -> dict[str, Any]:
        """What was written last; nothing where that is not there or makes no sense."""
        try:
            self._written = fsutil.content(self._path)
            kept = orjson.loads(self._written)
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def write(self, kept: dict[str, Any]) -> None:
        """Put it in place of what is there. A full disk must not silence the alerts."""
        text = orjson.dumps(kept)
        if text == self._written:
            return
        try:
            with fsutil.replaced(self._path) as file:
                file.write(text)
        except OSError as error:
            if error.strerror != self._trouble:
                log.warning("what was told cannot be written down: %s", error.strerror)
            self._trouble = error.strerror
        else:
            self._written, self._trouble = text, None

"""The place: which file an event's row goes to, and never outside the template's own folder."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import relay
from relay.path_text import named
from relay.templating.expressions import EvaluationError, Template

EXPRESSION = re.compile(r"\{[{%#]")
EXPRESSION_END = re.compile(r"[}%#]\}")
UNSAFE = re.compile("[/\\\\\x00-\x1f\x7f\ud800-\udfff]")
# A file system takes 255 bytes; a rotated file's name is some twenty longer.
LONGEST_NAME = 200


class Place:
    """Where rows go. `folder` is what stands before the template's first expression.

    `ledger` is the hidden file in it that belongs to this template's files.
    """

    def __init__(self, template: Template, root: Path) -> None:
        static = EXPRESSION.split(template.text)[0]
        self._head = static[: static.rfind("/") + 1]
        self._template = template
        self.text = template.text
        self.folder = root / named(self._head)
        rest = template.text.removeprefix(self._head)
        self.ledger = self.folder / ledger_name(rest)
        self.fixed = self.folder / named(rest) if static == template.text and rest else None

    def path(self, event: relay.Event) -> Path:
        """The file for this event. Raises Reject where the template gives none."""
        if self.fixed:
            return self.fixed
        try:
            rendered = self._template.render(harmless(event))
        except EvaluationError as error:
            raise relay.Reject(f"options.path: {error}") from None
        names = [name(part) for part in rendered.removeprefix(self._head).split("/") if part]
        if not names:
            raise relay.Reject("options.path gives an empty file name for this event")
        return self.folder.joinpath(*map(named, names))


def fixed_end(template: str) -> str:
    """What stands behind the last expression: no file that ends otherwise can be named."""
    return EXPRESSION_END.split(template)[-1]


def ledger_name(template: str) -> str:
    """A name that says whose it is, and is the same for the same template only."""
    digest = hashlib.sha256(template.encode()).hexdigest()[:8]
    return f".{re.sub('[^A-Za-z0-9.]+', '_', template)[:40]}-{digest}.ledger"


def harmless(event: relay.Event) -> relay.Event:
    """The event with no text from outside that could name another folder."""
    return replace(event, data=clean(dict(event.data)), subject=clean(event.subject))


def clean(value: Any) -> Any:
    if isinstance(value, str):
        return UNSAFE.sub("_", value)
    if isinstance(value, dict):
        return {key: clean(each) for key, each in value.items()}
    if isinstance(value, list):
        return [clean(each) for each in value]
    return value


def name(part: str) -> str:
    """A part of a path as a name that any file system takes, and that hides no file."""
    safe = UNSAFE.sub("_", part)
    if safe.startswith("."):
        safe = "_" + safe[1:]
    encoded = safe.encode()
    if len(encoded) > LONGEST_NAME:
        return encoded[: LONGEST_NAME // 2].decode(errors="ignore") + safe[-20:]
    return safe

"""The files of a csv sink: which file an event goes to, and when a file is rotated.

No path leaves the folder that the template's fixed part names.
"""

import hashlib
import os
import re
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal

import relay

EXPRESSION = re.compile(r"\{[{%#]")
EXPRESSION_END = re.compile(r"[}%#]\}")
UNSAFE = re.compile("[/\\\\\x00-\x1f\x7f\ud800-\udfff]")
# A file system takes 255 bytes; a rotated file's name is some twenty longer.
LONGEST_NAME = 200


class FilePaths:
    """Where rows go. `folder` is the part before the template's first expression.

    `journal` is the hidden file in it that belongs to this template's files.
    """

    def __init__(self, template: relay.Template, root: Path) -> None:
        static = EXPRESSION.split(template.text)[0]
        self._head = static[: static.rfind("/") + 1]
        self._template = template
        self.text = template.text
        self.folder = root / relay.path_from_utf8(self._head)
        rest = template.text.removeprefix(self._head)
        self.journal = self.folder / journal_name(rest)
        self.fixed = (
            self.folder / relay.path_from_utf8(rest) if static == template.text and rest else None
        )

    def path(self, event: relay.Event) -> Path:
        """The file for this event. Raises Reject where the template gives none."""
        if self.fixed:
            return self.fixed
        try:
            rendered = self._template.render(harmless(event))
        except relay.EvaluationError as error:
            raise relay.Reject(f"options.path: {error}") from None
        names = [name(part) for part in rendered.removeprefix(self._head).split("/") if part]
        if not names:
            raise relay.Reject("options.path gives an empty file name for this event")
        return self.folder.joinpath(*map(relay.path_from_utf8, names))


def fixed_end(template: str) -> str:
    """The text after the last expression: every file name ends with it."""
    return EXPRESSION_END.split(template)[-1]


def journal_name(template: str) -> str:
    """A readable file name, unique for the template."""
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


LABELS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}


class Rotation(relay.Options):
    """When to start a new file: before it grows beyond `size`, and with each new `every`."""

    size: Annotated[relay.Size, relay.sized("1B", "1TiB")] | None = None
    """A new file begins before the present one is larger than this."""
    every: Literal["hour", "day", "month"] | None = None
    """A new file begins with each hour, day or month."""

    def is_due(self, size: int, added: int, last: float, now: float, zone: tzinfo) -> bool:
        """Whether a file with rows in it, last written to at `last`, should take no more."""
        if self.size is not None and size + added > self.size:
            return True
        if self.every is None or now < last:  # the clock was set back
            return False
        return self.label(last, zone) != self.label(now, zone)

    def label(self, when: float, zone: tzinfo) -> str:
        """The hour, day or month that goes into the name of a file last written to `when`.

        An hour that comes twice, as when summer time ends, has its offset: `2026-11-01T01-0400`.
        """
        moment = datetime.fromtimestamp(when, zone)
        label = f"{moment:{LABELS[self.every or 'day']}}"
        comes_twice = moment.utcoffset() != moment.replace(fold=1 - moment.fold).utcoffset()
        return f"{label}{moment:%z}" if self.every == "hour" and comes_twice else label


def put_away(path: Path, label: str) -> Path:
    """Rename `events.csv` to `events.LABEL.0001.csv`, or to the next number that is free."""
    head, tail = f"{path.stem}.{label}.", path.suffix
    numbers = [
        int(middle)
        for name in os.listdir(path.parent)  # noqa: PTH208  names are all that is wanted
        if name.startswith(head)
        and name.endswith(tail)
        and (middle := name[len(head) : len(name) - len(tail)]).isdecimal()
    ]
    target = path.with_name(f"{head}{max(numbers, default=0) + 1:04}{tail}")
    path.rename(target)
    return target

"""Rotation: when a file is full, and what it is called from then on."""

import os
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Annotated, Literal

import relay
from relay.config.bounds import sized
from relay.units import Size

LABELS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}


class Rotation(relay.Options):
    """When to start a new file: before it grows beyond `size`, and with each new `every`."""

    size: Annotated[Size, sized("1B", "1TiB")] | None = None
    every: Literal["hour", "day", "month"] | None = None

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

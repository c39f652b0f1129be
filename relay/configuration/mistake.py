"""The mistake: one thing wrong in the configuration, shown at the line where it is mended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Location = tuple[str | int, ...]
"""The way from the top of relay.yaml to a value: ("sinks", "crm", "batch", "size")."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with the value at `location`. The message never holds a secret's value."""

    location: Location
    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake as it is shown: `relay.yaml:12: sinks.crm.when: message`."""

    file: Path
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return ": ".join(part for part in (where, self.path, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used. All the problems are known at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


def dotted(location: Location) -> str:
    """`sources.sumotext.tokens[0]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")

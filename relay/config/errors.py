"""The mistake: one thing wrong in the configuration, shown at the line where it is mended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.validation import Location


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with the value at `location`. The message never holds a secret's value."""

    location: Location
    message: str
    line: int | None = None
    refused_from: str | None = None
    """The release that refuses the mistake in every file. Until then it is a warning in a file
    that the relay has run with before. None: every release refuses it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake as it is shown: `relay.yaml:12: sinks.crm.when: message`."""

    file: Path
    line: int | None
    path: str
    message: str
    refused_from: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return ": ".join(part for part in (where, self.path, self.message) if part)

    def as_warning(self) -> str:
        """The sentence for a file that still works."""
        return f"{self} (an error from release {self.refused_from} on)"


class ConfigError(Exception):
    """The configuration cannot be used. All the problems are known at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)

    def is_of_new_rules(self) -> bool:
        """Whether an earlier release would have found nothing wrong."""
        return all(problem.refused_from for problem in self.problems)

"""The checks of `relay doctor`. A finding is what one of them found, and what to do about it."""

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do; it is empty where all is well."""

    subject: str
    level: Level
    text: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(subject: str, text: str) -> Finding:
    return Finding(subject, "ok", text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """It works, and will not for ever."""
    return Finding(subject, "warning", text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    """Callbacks or deliveries are lost, late or open to others."""
    return Finding(subject, "problem", text, advice)

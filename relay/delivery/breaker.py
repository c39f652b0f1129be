"""What many failures in a row say about the sink rather than about one delivery."""

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Breaker:
    """Opens after failures of `failures` different contacts without a success between them."""

    failures: int
    _failed: set[int] = field(default_factory=set)

    def failure(self, contact: int) -> bool:
        """Count a failure; True if the sink is to be left alone now."""
        self._failed.add(contact)
        return len(self._failed) >= self.failures

    def success(self) -> None:
        """Start counting anew."""
        self._failed.clear()


@dataclass(slots=True)
class Streak:
    """Notices when the same refusal hits different contacts in a row: a mistake of ours, then."""

    length: int
    _cause: Hashable = None
    _refused: dict[int, int] = field(default_factory=dict)

    def refusal(self, cause: Hashable, contact: int, seq: int) -> list[int]:
        """Count a refusal; return the seqs to put back, none before the streak is long enough."""
        if cause != self._cause:
            self.end()
            self._cause = cause
        self._refused[contact] = seq
        if len(self._refused) < self.length:
            return []
        return list(self._refused.values()) if len(self._refused) == self.length else [seq]

    def end(self) -> None:
        """Start counting anew."""
        self._cause = None
        self._refused.clear()

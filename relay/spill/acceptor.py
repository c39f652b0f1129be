"""The keeper: what the ingress wants of whoever takes its callbacks."""

from typing import Protocol

from relay.raw_callback import Callback
from relay.store import Receipt


class Keeper(Protocol):
    """Returns when what it was given is on disk. Raises StoreError where it cannot be kept."""

    def now(self) -> int:
        """The time of receipt, in microseconds since the epoch."""

    async def receive(self, callback: Callback) -> Receipt:
        """Keep what a callback makes. Raises NotUnderstood where it makes no event."""

    async def quarantine(self, callback: Callback, status: int, reason: str) -> str:
        """Keep a callback that became no event; return its id."""

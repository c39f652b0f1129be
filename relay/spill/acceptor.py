"""The keeper: what the ingress wants of whoever takes its callbacks."""

from typing import Protocol

from relay.event import RawCallback
from relay.store import Receipt


class Keeper(Protocol):
    """Returns when what it was given is on disk. Raises StoreError where it cannot be kept."""

    def now(self) -> int:
        """The time of receipt, in microseconds since the epoch."""

    async def receive(self, callback: RawCallback) -> Receipt:
        """Keep what a callback makes. Raises InvalidCallback where it makes no event."""

    async def quarantine(self, callback: RawCallback, status: int, reason: str) -> str:
        """Keep a callback that became no event; return its id."""

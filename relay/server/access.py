"""The door of a source: who may send to it, and how much."""

from collections.abc import Callable

from relay.config.model import SourceConfig
from relay.senders import household, within
from relay.server.token_bucket import Bucket, SharedBucket
from relay.server.tokens import Tokens
from relay.units import Rate

STRANGERS = Rate(1000, 60.0)
"""Senders whose token or address is wrong have a limit of their own, so that they take nothing from
the vendor's; as many are kept in quarantine. They share it, so that a flood from one address does
not keep out a callback with a mistyped token."""

Peer = tuple[str, int] | None
"""The sender's address: of the socket, or of the client behind a proxy that we trust."""


class Door:
    """The door of one source. `now` gives seconds that only go forward."""

    def __init__(self, source: SourceConfig, now: Callable[[], float]) -> None:
        self.tokens = Tokens(token.get_secret_value() for token in source.tokens)
        self._networks = source.allow_from
        self.open = not self.tokens and not self._networks
        self._requests = Bucket(source.limit.rate, now)
        self._bytes = Bucket(source.limit.bytes, now)
        self._strangers = SharedBucket(STRANGERS, now)

    def knows(self, peer: Peer) -> bool:
        """Whether the sender is in one of the networks."""
        return not self._networks or (peer is not None and within(self._networks, peer[0]))

    def wait(self, size: int) -> float:
        """The seconds after which a callback of that size may come; mostly none at all."""
        return self._requests.take() or self._bytes.take(size)

    def wait_of_stranger(self, peer: Peer) -> float:
        """The same for a sender whose token or address is wrong."""
        return self._strangers.take(household(peer[0]) if peer else "")

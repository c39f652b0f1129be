"""A relay in which senders of wrong tokens have no shares, as a control."""

import sys

from relay.cli import main
from relay.rate_limit import TokenBucket
from relay.server import access
from relay.store.sqlite import quarantine


class Unshared(TokenBucket):
    """The first to come takes all."""

    def take(self, sender):  # noqa: ARG002
        return super().take()


def oldest(kept, most):
    """The oldest go, whoever sent them."""
    numbers = sorted(number for _, number in kept)
    return numbers[: max(0, len(numbers) - most)]


if __name__ == "__main__":
    access.SharedTokenBucket = Unshared
    quarantine.surplus = oldest
    main(sys.argv[1:])

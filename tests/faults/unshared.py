"""A relay in which senders of wrong tokens have no shares, as a control."""

import sys

from relay.cli import main
from relay.sqlite import quarantine
from relay.web import door
from relay.web.bucket import Bucket


class Unshared(Bucket):
    """The first to come takes all."""

    def take(self, sender):  # noqa: ARG002
        return super().take()


def oldest(kept, most):
    """The oldest go, whoever sent them."""
    numbers = sorted(number for _, number in kept)
    return numbers[: max(0, len(numbers) - most)]


if __name__ == "__main__":
    door.SharedBucket = Unshared
    quarantine.surplus = oldest
    main(sys.argv[1:])

"""What a sink says of one delivery: delivered, retry, reject or pause.

`Delivered` is returned; the other three are exceptions, so that `send` can raise them from
any depth, and values, so that `send_batch` can return one for each delivery.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivered:
    """The sink has the record.

    `reference`: what the sink calls it, if it says (a record's id, say). `note`: what was left
    out of it, and why.
    """

    reference: str | None = None
    note: str | None = None


class NotDelivered(Exception):
    """The base of the three outcomes that are not a success.

    `reason` is for the operator; `after` seconds to wait; `status` and `answer` what the other
    side said, where it said something. `consent` says that the other side accepted the word of
    consent, whatever became of the rest.
    """

    def __init__(
        self,
        reason: str,
        after: float | None = None,
        *,
        status: int | None = None,
        answer: str | None = None,
        consent: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after
        self.status = status
        self.answer = answer
        self.consent = consent


class Retry(NotDelivered):
    """It failed, and may work later. `after` (a `Retry-After`) holds the whole sink."""


class Reject(NotDelivered):
    """This record will never be taken: the delivery is dead."""


class Pause(NotDelivered):
    """Nothing will be accepted until an operator acts: the sink pauses, and no attempt is counted.

    `after`: seconds until the first probe; five minutes where it is None.
    """


Outcome = Delivered | Retry | Reject | Pause
"""What became of one delivery."""


def word_of(outcome: Outcome) -> str:
    """What it is called in metrics and traces."""
    match outcome:
        case Delivered():
            return "delivered"
        case Reject():
            return "rejected"
        case Pause():
            return "paused"
        case _:
            return "retry"

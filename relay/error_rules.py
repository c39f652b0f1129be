"""A vendor's errors as data: one rule a row, read from the top, so that the table can be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What is done about an error.

    `RETRY`: try it later. `REFRESH`: sign in anew and replay it once. `SPLIT`: send the batch's
    records singly. `OK`: the other side has it already. `DEAD`: this record will never be taken.
    `PAUSE`: nothing will be taken until somebody acts. `FIX`: the sink may mend the record by its
    options, and send it once more; else it is dead.
    """

    RETRY = "retry"
    REFRESH = "refresh"
    SPLIT = "split"
    OK = "ok"
    DEAD = "dead"
    PAUSE = "pause"
    FIX = "fix"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: what is done about the errors that it fits.

    `status` are HTTP statuses and `code` the vendor's own codes, any where None; `text` stands
    somewhere in the message, in whatever case. `after` is in seconds: for RETRY it holds the
    whole sink, for PAUSE the first probe comes then. `advice` is what the operator is to do.
    """

    action: Action
    status: frozenset[int] | None = None
    code: frozenset[str] | None = None
    text: str = ""
    after: float | None = None
    advice: str = ""

    def fits(self, status: int | None, code: str, folded: str) -> bool:
        """Whether all that the rule asks for is so; no `status`: there was no answer.

        `folded` is the message without regard to case.
        """
        return (
            (self.status is None or status in self.status)
            and (self.code is None or code in self.code)
            and (not self.text or self.text.casefold() in folded)
        )


def find(rules: Sequence[Rule], status: int | None, code: str, message: str) -> Rule:
    """The first rule that fits; the last one of a table fits anything."""
    folded = message.casefold()
    return next((rule for rule in rules if rule.fits(status, code, folded)), rules[-1])

"""Occurrences of a custom event, one for each event.

The uuid is the event's id, and HubSpot takes none twice within a year. It answers 204 for all of
a request, or refuses it as a whole.
"""

from collections.abc import Sequence
from typing import Any

import relay
from relay import Delivered, EvaluationError, Log, Outcome, RecordMap, Slices
from relay.crm import Bisection, halves

from . import problem as problems
from .entry import Entry, end, moment
from .errors import OF_VALUES
from .options import CustomEvent, OnInvalid
from .problem import Problem, every_one
from .record import properties
from .session import Answer, Session

MOST = 500
"""Inputs in a request (HubSpot's guide to custom events)."""
LONGEST_VALUE = 256
"""Characters of a property (the same guide)."""
Input = dict[str, Any]


class Occurrences:
    """Sends them."""

    def __init__(
        self, session: Session, options: CustomEvent, on_invalid: OnInvalid, log: Log
    ) -> None:
        self._session = session
        self._options = options
        self._on_invalid = on_invalid
        self._log = log

    async def write(self, entries: Sequence[Entry]) -> None:
        inputs: dict[Entry, Input] = {}
        slices = Slices()
        for entry in entries:
            await slices.rest()
            made = self._input(entry)
            if isinstance(made, dict):
                inputs[entry] = made
            else:
                entry.outcome = made
        await self._send(inputs)

    async def _send(self, inputs: dict[Entry, Input]) -> None:
        parts = Bisection(list(inputs), MOST)
        while parts:
            part = parts.next()
            content = {"inputs": [inputs[entry] for entry in part]}
            answer = await self._session.post(self._session.paths.events(), content)
            problem = _problem(answer)
            refused = problem is not None and problem.rule not in OF_VALUES
            parts.note(accepted=problem is None, refused=refused and len(part) == 1)
            if problem is None:
                end(part, Delivered())
            elif problem.holds_all():
                end(inputs, problem.outcome())
                return
            elif len(part) > 1:
                parts.put(halves(part))
            else:
                end(part, problem.outcome(inputs[part[0]]["properties"].values()))
                if parts.hopeless:
                    end(parts.rest(), every_one(problem))
                    return

    def _input(self, entry: Entry) -> Input | Outcome:
        event = entry.delivery.event
        try:
            values = properties(mapped(self._options.map, self._on_invalid, event, entry.notes))
        except EvaluationError as error:
            return relay.Reject(f"activity.event.map: {error}")
        too_long = [name for name, value in values.items() if len(value) > LONGEST_VALUE]
        if too_long and self._on_invalid == "dead":
            return relay.Reject(
                f"activity.event.map: {', '.join(too_long)} has more than the {LONGEST_VALUE} "
                "characters that a custom event takes: activity.on_invalid: truncate cuts it"
            )
        cuts = self._on_invalid == "truncate"
        kept = values if cuts else values.keys() - too_long
        if too_long:
            names = ", ".join(too_long)
            what = f"{names} cut to" if cuts else f"without {names}: more than"
            entry.notes.append(f"{what} {LONGEST_VALUE} characters")
        for note in entry.notes:
            self._log.warning("%s: activity %s", entry.delivery.id, note)
        return {
            "eventName": self._options.name,
            "objectId": entry.contact,
            "occurredAt": moment(event.time),
            "uuid": entry.delivery.id,
            "properties": {
                name: value[:LONGEST_VALUE]
                for name, value in values.items()
                if value and name in kept
            },
        }


def mapped(
    made: RecordMap, on_invalid: OnInvalid, event: relay.Event, notes: list[str]
) -> dict[str, Any]:
    """What `map` makes of the event; the list gets what a filter refused, where that is left out.

    Raises EvaluationError.
    """
    dropped: list[str] | None = None if on_invalid == "dead" else []
    values = made.record(event, dropped=dropped)
    notes += [f"without {each}" for each in dropped or ()]
    return values


def _problem(answer: Answer) -> Problem | None:
    """Whatever says more than nothing was not HubSpot's answer to events."""
    if answer.problem is None and not answer.is_bare:
        return problems.no_word()
    return answer.problem

"""The preparation: makes in HubSpot the properties that the options ask for."""

from collections.abc import Collection
from typing import Any

import relay

from .constants import Properties
from .inspection import AT_LEAST_ONCE, Inspection, Wanted, not_unique, undefined, wanted
from .options import Options
from .problem import Problem
from .session import Session

TEXT = {"type": "string", "fieldType": "text"}
CHECKBOX = {
    "type": "bool",
    "fieldType": "booleancheckbox",
    "options": [{"label": "Yes", "value": "true"}, {"label": "No", "value": "false"}],
}
GROUP = {"name": "sumotext_relay", "label": "Sumotext Relay"}


class Preparation:
    """Makes what is missing; what is there is left as it is.

    What looks like a slip is made only where `create` names it.
    """

    def __init__(
        self,
        session: Session,
        inspection: Inspection,
        options: Options,
        columns: tuple[str, ...] | None,
        create: Collection[str] = (),
    ) -> None:
        self._session = session
        self._inspection = inspection
        self._options = options
        self._columns = columns
        self._create = frozenset(create)

    async def run(self) -> list[str]:
        """What was made, and what is left to do. Raises Retry, Reject or Pause."""
        lines: list[str] = []
        kinds = wanted(self._options, self._columns)
        for asked in kinds:
            try:
                lines += await self._prepare(asked, await self._inspection.properties(asked.kind))
            except (relay.Reject, relay.Pause) as error:
                if not asked.id_optional:
                    raise
                lines.append(f"left to do: {asked.id_place}: {error.reason}; {AT_LEAST_ONCE}")
        event = self._options.activity and self._options.activity.event
        if event and await self._inspection.is_undefined(event):
            lines.append(f"left to do: {undefined(event)}")
        known = {name for asked in kinds for name in (*asked.where, asked.id_property)}
        unknown = sorted(self._create - known)
        return lines + [f"left to do: relay.yaml names no property {name}" for name in unknown]

    async def _prepare(self, asked: Wanted, there: Properties) -> list[str]:
        unique = asked.id_property
        lines = []
        if unique in there and not there[unique].get("hasUniqueValue"):
            lines.append(f"left to do: {not_unique(asked.kind, unique)}")
        missing = [name for name in dict.fromkeys((unique, *asked.where)) if name]
        missing = [name for name in missing if name not in there]
        slips = {name: self._inspection.misspelt(name, there) for name in missing}
        made = [name for name in missing if name in self._create or not slips[name]]
        if made:
            await self._group(asked.kind)
        lines += [await self._make(asked, name) for name in made]
        lines += [
            f"left to do: {asked.kind} have no property {slips[name]}"
            for name in missing
            if name not in made
        ]
        return lines or [f"{asked.kind}: every property is there"]

    async def _group(self, kind: str) -> None:
        """That it is there already is as good."""
        answer = await self._session.post(self._session.paths.properties(kind, "/groups"), GROUP)
        _insist(answer.problem)

    async def _make(self, asked: Wanted, name: str) -> str:
        unique, checkbox = name == asked.id_property, name in asked.checkboxes
        content: dict[str, Any] = {
            "groupName": GROUP["name"],
            "name": name,
            "label": name.replace("_", " ").capitalize(),
            "hasUniqueValue": unique,
            **(CHECKBOX if checkbox else TEXT),
        }
        path = self._session.paths.properties(asked.kind)
        _insist((await self._session.post(path, content)).problem)
        what = "unique text" if unique else "checkbox" if checkbox else "text"
        return f"{asked.kind}: made the property {name} ({what})"


def _insist(problem: Problem | None) -> None:
    """Raises what it means, unless that is that it is there already."""
    if problem is None:
        return
    outcome = problem.outcome()
    if isinstance(outcome, Exception):
        raise outcome

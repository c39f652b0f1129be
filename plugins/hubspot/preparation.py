"""The preparation: makes in HubSpot the properties that the options ask for."""

from .inspection import Inspection, Properties, Wanted, not_unique, undefined, wanted
from .options import Options
from .problem import Problem
from .session import Session

GROUP = {"name": "sumotext_relay", "label": "Sumotext Relay"}


class Preparation:
    """Makes what is missing; what is there is left as it is."""

    def __init__(
        self,
        session: Session,
        inspection: Inspection,
        options: Options,
        columns: tuple[str, ...] | None,
    ) -> None:
        self._session = session
        self._inspection = inspection
        self._options = options
        self._columns = columns

    async def run(self) -> list[str]:
        """What was made, and what is left to do. Raises Retry, Reject or Pause."""
        lines: list[str] = []
        for asked in wanted(self._options, self._columns):
            lines += await self._prepare(asked, await self._inspection.properties(asked.kind))
        event = self._options.activity and self._options.activity.event
        if event and await self._is_undefined(event.name):
            lines.append(f"left to do: {undefined(event)}")
        return lines

    async def _prepare(self, asked: Wanted, there: Properties) -> list[str]:
        missing = [name for name in asked.where if name not in there and name != asked.id_property]
        lines = []
        if asked.id_property and asked.id_property not in there:
            await self._group(asked.kind)
            lines.append(await self._make(asked.kind, asked.id_property, unique=True))
        elif asked.id_property and not there[asked.id_property].get("hasUniqueValue"):
            lines.append(f"left to do: {not_unique(asked.kind, asked.id_property)}")
        if missing:
            await self._group(asked.kind)
        lines += [await self._make(asked.kind, name) for name in missing]
        return lines or [f"{asked.kind}: every property is there"]

    async def _group(self, kind: str) -> None:
        """That it is there already is as good."""
        answer = await self._session.post(self._session.paths.properties(kind, "/groups"), GROUP)
        _insist(answer.problem)

    async def _make(self, kind: str, name: str, *, unique: bool = False) -> str:
        content = {
            "groupName": GROUP["name"],
            "name": name,
            "label": name.replace("_", " ").capitalize(),
            "type": "string",
            "fieldType": "text",
            "hasUniqueValue": unique,
        }
        _insist((await self._session.post(self._session.paths.properties(kind), content)).problem)
        return f"{kind}: made the property {name} ({'unique text' if unique else 'text'})"

    async def _is_undefined(self, name: str) -> bool:
        answer = await self._session.get(self._session.paths.definition(name))
        return answer.problem is not None and answer.problem.status == 404


def _insist(problem: Problem | None) -> None:
    """Raises what it means, unless that is that it is there already."""
    if problem is None:
        return
    outcome = problem.outcome()
    if isinstance(outcome, Exception):
        raise outcome

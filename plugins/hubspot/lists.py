"""Static lists: each contact is added to those that the options choose for its event.

Who is in a list already stays there once (HubSpot's guide to lists). Where a list takes nobody,
only the membership is left out: the contact is written by then, and the delivery says so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import relay
from relay import EvaluationError, Log, NotDelivered, mask_all

from . import problem as problems
from .options import CONTACTS, LIST_ID, Options
from .problem import Problem
from .sent import Sent
from .session import Session

ADDED, MISSING = "recordsIdsAdded", "recordIdsMissing"
NO_LIST = 404
NOWHERE = "0"
MOST_READ = 100
"""Lists in a question."""
STATIC = ("MANUAL", "SNAPSHOT")
CONTACT = "0-1"
TYPE_ID = re.compile(r"\d-\d+")
NOT_FOUND = "HubSpot did not find the contact for it"
NO_ID = "its value is not the id of a list"
ADVICE = "the list has to be there and static (relay check --online)"


class Lists:
    """Adds contacts to lists, a request for each list."""

    def __init__(self, session: Session, options: Options, log: Log) -> None:
        self._session = session
        self._templates = options.lists
        self._object = options.object
        self._log = log

    async def add(self, sent: Sequence[Sent]) -> None:
        """Add the contacts of these; ends those that have to be tried again."""
        members: dict[str, list[Sent]] = {}
        for each in sent:
            for list_id in self._chosen(each):
                members.setdefault(list_id, []).append(each)
        stop: NotDelivered | None = None
        for list_id, those in members.items():
            waiting = [each for each in those if each.outcome is None]
            if waiting and stop is None:
                stop = await self._add(list_id, waiting)
            for each in waiting:
                each.outcome = each.outcome or stop

    async def problems(self) -> list[str]:
        """What keeps contacts out of the lists that the options name, a line each.

        Only what pauses the sink is a problem. To add nobody asks for the scopes alone.
        """
        if not self._templates:
            return []
        answer = await self._session.put(self._session.paths.members(NOWHERE), [])
        if answer.problem and _is_of_all(answer.problem):
            return [f"options.lists: {answer.problem.reason()}"]
        named = {each for template in self._templates for each in template.choices}
        ids = sorted(each for each in named if re.fullmatch(LIST_ID, each))[:MOST_READ]
        if not ids:
            return []
        answer = await self._session.get(self._session.paths.lists(), listIds=ids)
        if answer.problem:
            told = f"options.lists: {answer.problem.reason()}"
            return [told if _is_of_all(answer.problem) else relay.Notice(told)]
        there = {str(each.get("listId")): each for each in answer.list("lists")}
        unfit = (_unfit(each, there.get(each), self._object) for each in ids)
        return [relay.Notice(f"options.lists: {each}") for each in unfit if each]

    def _chosen(self, sent: Sent) -> dict[str, None]:
        """The ids of the lists for its event; what is none is left out, and noted."""
        chosen: dict[str, None] = {}
        for template in self._templates:
            try:
                list_id = template.render(sent.delivery.event).strip()
            except EvaluationError as error:
                sent.notes.append(f"lists: {error}")
                continue
            if re.fullmatch(LIST_ID, list_id):
                chosen[list_id] = None
            elif list_id:
                sent.notes.append(f"lists: {NO_ID}")
        return chosen

    async def _add(self, list_id: str, sent: Sequence[Sent]) -> NotDelivered | None:
        """Add them to one list; gives what keeps them, and others, from being added."""
        ids = list(dict.fromkeys(each.contact for each in sent))
        answer = await self._session.put(self._session.paths.members(list_id), ids)
        problem = answer.problem or (None if ADDED in answer.body else problems.no_word())
        if problem is None:
            found = answer.body.get(MISSING)
            absent = set(map(str, found)) if isinstance(found, list) else set()
            self._absent(list_id, [each for each in sent if each.contact in absent])
        elif _is_of_all(problem):
            outcome = problem.outcome()
            assert isinstance(outcome, NotDelivered)
            outcome.reason = f"lists: {outcome.reason}"
            return outcome
        else:
            told = replace(problem, rule=replace(problem.rule, advice=ADVICE))
            self._note(list_id, sent, told.reason())
        return None

    def _absent(self, list_id: str, sent: Sequence[Sent]) -> None:
        """HubSpot did not find these contacts: they may be too new, or the list of others."""
        for each in sent:
            if each.delivery.attempt == 1:
                each.outcome = relay.Retry(f"lists: {NOT_FOUND}")
        self._note(list_id, [each for each in sent if each.outcome is None], NOT_FOUND)

    def _note(self, list_id: str, sent: Sequence[Sent], why: str) -> None:
        text = mask_all(f"not in list {list_id}: {why}")
        for each in sent:
            each.notes.append(text)
        if sent:
            self._log.warning("%s contacts %s", f"{len(sent):,}", text)


def _is_of_all(problem: Problem) -> bool:
    """Whether it says nothing about the list: another would meet the same."""
    return problem.holds_all() and problem.status != NO_LIST


def _unfit(list_id: str, known: Mapping[str, Any] | None, kind: str) -> str | None:
    """Why this list takes no records of this kind."""
    if known is None:
        return f"HubSpot has no list {list_id}"
    which = f"the list {list_id} ({known.get('name')})"
    if known.get("processingType") not in STATIC:
        return f"{which} is not static: HubSpot fills it by itself"
    of = CONTACT if kind in CONTACTS else kind
    if TYPE_ID.fullmatch(of) and known.get("objectTypeId") != of:
        return f"{which} is not one of {kind}"
    return None

"""The inspection: what stands between the options and what HubSpot has, all of it at once.

It takes a call or two, so that a paused sink can ask every few minutes whether it may go on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from relay import Mistake, NotDelivered, Notice, nearest
from relay.crm import ConsentValues

from . import scopes
from .constants import Placed, Properties, mistakes, of_activities, of_records, placed
from .errors import GONE
from .lists import Lists
from .options import COMMUNICATIONS, CustomEvent, CustomObject, Options
from .problem import Problem
from .search import PHONES
from .session import Answer, Session

FORBIDDEN = 403
FORMATTED = "phonenumber"
WRITTEN = ("map.", "options.consent:")
AT_LEAST_ONCE = "without it one may be there twice, where the connection broke"
MISSPELT = 0.85
"""How near a missing property has to be to another to be taken for a slip."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the properties of one kind of record.

    `id_property` and those under `where` have to be there; `where` says for each the place in
    relay.yaml that names it. An id property that is `id_optional` may be missing. `values` are what
    relay.yaml has written into some. `optional`: those under `where` are left out if they are not
    there, but for those of `consent`. `checkboxes` hold true or false.
    """

    kind: str
    id_property: str | None
    where: Mapping[str, str]
    id_place: str
    values: Sequence[Placed] = ()
    id_optional: bool = False
    optional: bool = False
    consent: frozenset[str] = frozenset()
    checkboxes: frozenset[str] = frozenset()


def wanted(
    options: Options, columns: Sequence[str] | None, constants: Mapping[str, Any] = NOTHING
) -> list[Wanted]:
    """What the options ask of each kind of record."""
    where = {name: f"map.{name}" for name in columns or ()}
    where |= {name: f"options.only_if_empty: {name}" for name in options.only_if_empty}
    where |= {name: f"options.defaults.{name}" for name in options.defaults}
    words = options.consent.words() if options.consent else {}
    where |= {name: f"options.consent: {name}" for name in words}
    found = [
        Wanted(
            options.object,
            options.id_property,
            where,
            "options.id_property",
            of_records(options, constants),
            optional=options.unknown_property == "drop",
            consent=frozenset(words),
            checkboxes=frozenset(name for name, word in words.items() if _is_boolean(word)),
        )
    ]
    activity = options.activity
    if activity and activity.object:
        place = "options.activity.object"
        where = {name: f"{place}.map.{name}" for name in activity.object.map.columns}
        kind, id_property = activity.object.type, activity.object.id_property
        values = of_activities(activity)
        found.append(Wanted(kind, id_property, where, f"{place}.id_property", values))
    if activity and activity.communication and activity.communication.id_property:
        place = "options.activity.communication.id_property"
        id_property = activity.communication.id_property
        id_optional = not activity.communication.requires_property
        values = of_activities(activity)
        found.append(
            Wanted(COMMUNICATIONS, id_property, {}, place, values, id_optional=id_optional)
        )
    return found


def _is_boolean(word: ConsentValues) -> bool:
    return all(
        value is None or isinstance(value, bool) for value in (word.opted_out, word.opted_in)
    )


class Inspection:
    """Asks HubSpot; finds problems, a line each."""

    def __init__(
        self,
        session: Session,
        name: str,
        options: Options,
        columns: Sequence[str] | None,
        lists: Lists,
    ) -> None:
        self._session = session
        self._name = name
        self._options = options
        self._columns = columns
        self._lists = lists

    async def problems(self, constants: Mapping[str, Any] = NOTHING) -> list[str]:
        """Empty when all is well. A refused key is one problem, and the only one told."""
        found: list[str] = list(_mapped_consent(self._options, self._columns))
        found += await scopes.missing(self._session, self._options)
        for each in wanted(self._options, self._columns, constants):
            try:
                there = await self.properties(each.kind)
            except NotDelivered as error:
                if each.id_optional:
                    found.append(Notice(f"{each.id_place}: {error.reason}"))
                    continue
                if error.status == FORBIDDEN:
                    found.append(error.reason)
                    continue  # other kinds have other scopes
                return [*found, error.reason]
            missing = self._missing(each, there)
            found += map(Notice, missing) if each.id_optional else missing
            found += mistakes(there, each.values)
        activity = self._options.activity
        if activity and activity.object:
            found += await self._association(activity.object)
        if activity and activity.event:
            found += await self._event(activity.event)
        return found + await self._lists.problems()

    async def properties(self, kind: str) -> Properties:
        """A kind's properties by name. Raises Retry, Reject or Pause."""
        answer = await self._session.get(self._session.paths.properties(kind))
        if answer.problem:
            raise _raised(answer.problem)
        return {str(each.get("name")): each for each in answer.list("results")}

    def _missing(self, asked: Wanted, there: Properties) -> Iterator[str]:
        if asked.id_property:
            for line in self._key_problem(asked, asked.id_property, there):
                yield f"{line}; {AT_LEAST_ONCE}" if asked.id_optional else line
        for name, place in asked.where.items():
            optional = asked.optional and name not in asked.consent
            if name not in there and not optional and name != asked.id_property:
                yield f"{place}: {asked.kind} have no such property{self._advice(name, there)}"
            elif place.startswith(WRITTEN) and is_read_only(there.get(name, {})):
                yield f"{place}: HubSpot fills it by itself, it cannot be written; take it out"
        if asked.kind == self._options.object and self._options.finds_numbers:
            place = "match" if "phone" in self._options.match else "consent"
            for name in sorted(set(PHONES.values()) - there.keys()):
                yield f"options.{place}: {asked.kind} have no {name}, by which phones are found"

    def _key_problem(self, asked: Wanted, name: str, there: Properties) -> Iterator[str]:
        if name not in there:
            yield (
                f"{asked.id_place}: {asked.kind} have no property {name}{self._advice(name, there)}"
            )
        elif not there[name].get("hasUniqueValue"):
            yield f"{asked.id_place}: {not_unique(asked.kind, name)}"
        elif there[name].get("fieldType") == FORMATTED:
            yield (
                f"{asked.id_place}: HubSpot writes {name} in a form of its own, so it cannot be "
                "told whose record is whose; take a property that is plain text"
            )

    def misspelt(self, name: str, there: Properties) -> str | None:
        """Why a property that is missing is not made, where its name looks like a slip."""
        if not nearest(name, there, MISSPELT):
            return None
        return f"{name}{self._advice(name, there)}"

    def _advice(self, name: str, there: Properties) -> str:
        slip = f" --create {name}" if nearest(name, there, MISSPELT) else ""
        return f"{_meant(name, there)}; relay setup {self._name}{slip} makes it"

    async def is_undefined(self, event: CustomEvent) -> bool:
        return _is_undefined(await self._definition(event))

    async def _definition(self, event: CustomEvent) -> Answer:
        return await self._session.get(self._session.paths.definition(event.name))

    async def _association(self, wanted_object: CustomObject) -> list[str]:
        path = self._session.paths.labels(wanted_object.type, self._options.object)
        answer = await self._session.get(path)
        if answer.problem:
            return [_raised(answer.problem).reason]
        types = {each.get("typeId"): each.get("category") for each in answer.list("results")}
        if types.get(wanted_object.association) == wanted_object.category:
            return []
        known = ", ".join(f"{number} ({category})" for number, category in types.items())
        wrong = (
            f"options.activity.object.association: {wanted_object.category} "
            f"{wanted_object.association} does not tie {wanted_object.type} to "
            f"{self._options.object}; those that do: {known or 'none'}"
        )
        return [wrong]

    async def _event(self, event: CustomEvent) -> list[str]:
        """Not every key may read definitions: then nothing is known."""
        answer = await self._definition(event)
        place = "options.activity.event"
        if _is_undefined(answer):
            return [f"{place}.name: {undefined(event)}"]
        if answer.problem:
            told = f"{place}.name: it is not known whether it is defined: {answer.problem.reason()}"
            return [Notice(told)] if answer.problem.scopes else []
        there = {str(each.get("name")): each for each in answer.list("properties")}
        unknown = [
            f"{place}.map.{name}: the event {event.name} has no such "
            f"property{_meant(name, there)}; HubSpot would leave it out"
            for name in event.map.columns
            if name not in there
        ]
        values = placed(f"{place}.map", event.map.constants)
        return [*map(Mistake, unknown), *mistakes(there, values)]


def _mapped_consent(options: Options, columns: Sequence[str] | None) -> Iterator[str]:
    words = options.consent.words() if options.consent else ()
    for name in columns or ():
        if name in words:
            told = f"map.{name}: options.consent writes it; the map's value is left out: remove it"
            yield Mistake(told)


def not_unique(kind: str, name: str) -> str:
    return (
        f"the property {name} of {kind} is not unique, and HubSpot makes one unique only when "
        "it is made; name another that relay setup can make, or delete this one first"
    )


def undefined(event: CustomEvent) -> str:
    return (
        f"there is no custom event {event.name}; define it in HubSpot (Data Management > Event "
        f"Management) with the properties {', '.join(event.map.columns)}"
    )


def _is_undefined(answer: Answer) -> bool:
    return answer.problem is not None and answer.problem.code in GONE


def is_read_only(known: Mapping[str, Any]) -> bool:
    metadata = known.get("modificationMetadata")
    return isinstance(metadata, Mapping) and metadata.get("readOnlyValue") is True


def _meant(name: str, there: Iterable[str]) -> str:
    """Only where one is near: an account has hundreds."""
    match = nearest(name, there)
    return f'; did you mean "{match}"?' if match else ""


def _raised(problem: Problem) -> NotDelivered:
    outcome = problem.outcome()
    assert isinstance(outcome, NotDelivered)
    return outcome

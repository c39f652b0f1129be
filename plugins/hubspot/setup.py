"""Checks what the options need in HubSpot, and makes the properties that are missing.

A check takes a call or two, so that a paused sink can ask every few minutes whether it may go on.
The constants of relay.yaml are checked against the types of their properties (HubSpot's
properties guide). Only what can never be written is reported: a template may make anything.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import relay
from relay import Mistake, NotDelivered, Notice, nearest
from relay.crm import ConsentValues, listed

from .client import ApiResponse, Client, missing_scopes
from .contacts import ADDRESS, PHONES, Lists
from .errors import GONE, ApiError
from .options import COMMUNICATIONS, ActivityOptions, CustomEvent, CustomObject, Options
from .records import text
from .upsert import EMAIL

BOOLEANS = ["true", "false"]
NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?")
MILLISECONDS = re.compile(r"-?\d{1,18}")
DAY = 86_400_000
"""Milliseconds: those of a date are a midnight in UTC."""
LONGEST_TEXT = 65_536
"""Characters of a text (the properties guide)."""
Properties = Mapping[str, Mapping[str, Any]]


class ConfiguredValue(NamedTuple):
    """A constant value for a property, and its place in relay.yaml."""

    place: str
    name: str
    value: Any


def placed(where: str, values: Mapping[str, Any]) -> list[ConfiguredValue]:
    return [ConfiguredValue(f"{where}.{name}", name, value) for name, value in values.items()]


def of_records(options: Options, constants: Mapping[str, Any]) -> list[ConfiguredValue]:
    """What may be written into each record of the sink's object."""
    words = options.consent.words().items() if options.consent else ()
    return [
        *placed("map", constants),
        *placed("options.defaults", options.defaults),
        *(
            ConfiguredValue(f"options.consent.opted_out: {name}", name, word.opted_out)
            for name, word in words
        ),
        *(
            ConfiguredValue(f"options.consent.opted_in: {name}", name, word.opted_in)
            for name, word in words
        ),
    ]


def of_activities(activity: ActivityOptions) -> list[ConfiguredValue]:
    """What may be written into each record of an activity, a custom object or a communication."""
    constants = activity.object.map.constants if activity.object else {}
    defaults = placed("options.activity.defaults", activity.defaults)
    return [*placed("options.activity.object.map", constants), *defaults]


def mistakes(there: Properties, values: Iterable[ConfiguredValue]) -> Iterator[relay.Mistake]:
    """The values that their properties never take. Missing properties are reported elsewhere."""
    for place, name, value in values:
        if name in there and (why := unfit(there[name], text(value))):
            yield relay.Mistake(f"{place}: {why}")


def unfit(known: Mapping[str, Any], value: str) -> str | None:
    """Why the property does not take the value, as HubSpot describes it; None where it does.

    An empty value clears.
    """
    if not value:
        return None
    match known.get("type"):
        case "enumeration":
            return _no_option(known, value)
        case "bool":
            return _none_of([value], BOOLEANS)
        case "number":
            return None if NUMBER.fullmatch(value) else f"{value!r} is no number"
        case "date":
            return None if _is_date(value) else f"{value!r} is no date, as 2026-12-31 is one"
        case "datetime":
            good = MILLISECONDS.fullmatch(value) or _is_moment(value)
            return None if good else f"{value!r} is no date and time in ISO 8601"
        case "string" if len(value) > LONGEST_TEXT:
            return f"it is longer than {LONGEST_TEXT} characters"
        case "string" if known.get("name") == EMAIL and not ADDRESS.fullmatch(value):
            return "it is no e-mail address"
    return None


def _no_option(known: Mapping[str, Any], value: str) -> str | None:
    """A checkbox takes several, joined by `;`. Some properties have their options elsewhere."""
    described = known.get("options")
    choices = described if isinstance(described, list) else []
    options = [str(each.get("value")) for each in choices if isinstance(each, Mapping)]
    if not options or known.get("externalOptions"):
        return None
    many = known.get("fieldType") == "checkbox"
    return _none_of(value.removeprefix(";").split(";") if many else [value], options)


def _none_of(values: Iterable[str], options: list[str]) -> str | None:
    strange = next((each for each in values if each not in options), None)
    if strange is None:
        return None
    match = nearest(strange, options)
    meant = f'; did you mean "{match}"?' if match else ""
    return f"{strange!r} is none of {listed(options)}{meant}"


def _is_date(value: str) -> bool:
    if MILLISECONDS.fullmatch(value):
        return int(value) % DAY == 0
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _is_moment(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


FORBIDDEN = 403
FORMATTED = "phonenumber"
WRITTEN = ("map.", "options.consent:")
AT_LEAST_ONCE = "without it one may be there twice, where the connection broke"
MISSPELT = 0.85
"""How near a missing property has to be to another to be taken for a slip."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the options require of the properties of one kind of record.

    `id_property` and those under `where` have to be there; `where` says for each the place in
    relay.yaml that names it. An id property that is `id_optional` may be missing. `values` are what
    relay.yaml has written into some. `optional`: those under `where` are left out if they are not
    there, but for those of `consent`. `checkboxes` hold true or false.
    """

    kind: str
    id_property: str | None
    where: Mapping[str, str]
    id_place: str
    values: Sequence[ConfiguredValue] = ()
    id_optional: bool = False
    optional: bool = False
    consent: frozenset[str] = frozenset()
    checkboxes: frozenset[str] = frozenset()


def requirements(
    options: Options, columns: Sequence[str] | None, constants: Mapping[str, Any] = NOTHING
) -> list[Requirements]:
    """What the options ask of each kind of record."""
    where = {name: f"map.{name}" for name in columns or ()}
    where |= {name: f"options.only_if_empty: {name}" for name in options.only_if_empty}
    where |= {name: f"options.defaults.{name}" for name in options.defaults}
    words = options.consent.words() if options.consent else {}
    where |= {name: f"options.consent: {name}" for name in words}
    found = [
        Requirements(
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
        found.append(Requirements(kind, id_property, where, f"{place}.id_property", values))
    if activity and activity.communication and activity.communication.id_property:
        place = "options.activity.communication.id_property"
        id_property = activity.communication.id_property
        id_optional = not activity.communication.requires_property
        values = of_activities(activity)
        found.append(
            Requirements(COMMUNICATIONS, id_property, {}, place, values, id_optional=id_optional)
        )
    return found


def _is_boolean(word: ConsentValues) -> bool:
    return all(
        value is None or isinstance(value, bool) for value in (word.opted_out, word.opted_in)
    )


class AccountCheck:
    """Compares the options with the account; returns problems, a line each."""

    def __init__(
        self,
        client: Client,
        name: str,
        options: Options,
        columns: Sequence[str] | None,
        lists: Lists,
    ) -> None:
        self._client = client
        self._name = name
        self._options = options
        self._columns = columns
        self._lists = lists

    async def problems(self, constants: Mapping[str, Any] = NOTHING) -> list[str]:
        """Empty when all is well. A refused key is the only problem reported."""
        found: list[str] = list(_mapped_consent(self._options, self._columns))
        found += await missing_scopes(self._client, self._options)
        for each in requirements(self._options, self._columns, constants):
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
        path = self._client.paths.properties(kind)
        answer = await self._client.get(path)
        if answer.error:
            raise _raised(answer.error)
        if not (found := answer.list("results")):  # each kind has some
            raise relay.Retry(f"{path}: answered without properties")
        return {str(each.get("name")): each for each in found}

    def _missing(self, asked: Requirements, there: Properties) -> Iterator[str]:
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

    def _key_problem(self, asked: Requirements, name: str, there: Properties) -> Iterator[str]:
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

    async def _definition(self, event: CustomEvent) -> ApiResponse:
        return await self._client.get(self._client.paths.definition(event.name))

    async def _association(self, wanted_object: CustomObject) -> list[str]:
        path = self._client.paths.labels(wanted_object.type, self._options.object)
        answer = await self._client.get(path)
        if answer.error:
            return [_raised(answer.error).reason]
        types = {
            number: each.get("category")
            for each in answer.list("results")
            if isinstance(number := each.get("typeId"), int)
        }
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
        if answer.error:
            told = f"{place}.name: it is not known whether it is defined: {answer.error.reason()}"
            return [Notice(told)] if answer.error.scopes else []
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


def _is_undefined(answer: ApiResponse) -> bool:
    return answer.error is not None and answer.error.code in GONE


def is_read_only(known: Mapping[str, Any]) -> bool:
    metadata = known.get("modificationMetadata")
    return isinstance(metadata, Mapping) and metadata.get("readOnlyValue") is True


def _meant(name: str, there: Iterable[str]) -> str:
    """Only where one is near: an account has hundreds."""
    match = nearest(name, there)
    return f'; did you mean "{match}"?' if match else ""


def _raised(error: ApiError) -> NotDelivered:
    outcome = error.outcome()
    assert isinstance(outcome, NotDelivered)
    return outcome


TEXT = {"type": "string", "fieldType": "text"}
CHECKBOX = {
    "type": "bool",
    "fieldType": "booleancheckbox",
    "options": [{"label": "Yes", "value": "true"}, {"label": "No", "value": "false"}],
}
GROUP = {"name": "sumotext_relay", "label": "Sumotext Relay"}


class PropertySetup:
    """Makes the properties that are missing.

    What looks like a slip is made only where `create` names it.
    """

    def __init__(
        self,
        client: Client,
        check: AccountCheck,
        options: Options,
        columns: tuple[str, ...] | None,
        create: Collection[str] = (),
    ) -> None:
        self._client = client
        self._check = check
        self._options = options
        self._columns = columns
        self._create = frozenset(create)

    async def run(self) -> list[str]:
        """What was made, and what is left to do. Raises Retry, Reject or Pause."""
        lines: list[str] = []
        kinds = requirements(self._options, self._columns)
        for asked in kinds:
            try:
                lines += await self._prepare(asked, await self._check.properties(asked.kind))
            except (relay.Reject, relay.Pause) as error:
                if not asked.id_optional:
                    raise
                lines.append(f"left to do: {asked.id_place}: {error.reason}; {AT_LEAST_ONCE}")
        event = self._options.activity and self._options.activity.event
        if event and await self._check.is_undefined(event):
            lines.append(f"left to do: {undefined(event)}")
        known = {name for asked in kinds for name in (*asked.where, asked.id_property)}
        unknown = sorted(self._create - known)
        return lines + [f"left to do: relay.yaml names no property {name}" for name in unknown]

    async def _prepare(self, asked: Requirements, there: Properties) -> list[str]:
        unique = asked.id_property
        lines = []
        if unique and unique in there and not there[unique].get("hasUniqueValue"):
            lines.append(f"left to do: {not_unique(asked.kind, unique)}")
        missing = [name for name in dict.fromkeys((unique, *asked.where)) if name]
        missing = [name for name in missing if name not in there]
        slips = {name: self._check.misspelt(name, there) for name in missing}
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
        answer = await self._client.post(self._client.paths.properties(kind, "/groups"), GROUP)
        _insist(answer.error)

    async def _make(self, asked: Requirements, name: str) -> str:
        unique, checkbox = name == asked.id_property, name in asked.checkboxes
        content: dict[str, Any] = {
            "groupName": GROUP["name"],
            "name": name,
            "label": name.replace("_", " ").capitalize(),
            "hasUniqueValue": unique,
            **(CHECKBOX if checkbox else TEXT),
        }
        path = self._client.paths.properties(asked.kind)
        _insist((await self._client.post(path, content)).error)
        what = "unique text" if unique else "checkbox" if checkbox else "text"
        return f"{asked.kind}: made the property {name} ({what})"


def _insist(error: ApiError | None) -> None:
    """Raises what it means, unless that is that it is there already."""
    if error is None:
        return
    outcome = error.outcome()
    if isinstance(outcome, Exception):
        raise outcome

"""What the options need in the org and it lacks ("sObject Describe", REST guide).

The constants of relay.yaml are checked against the types of their fields ("Field Types", object
reference). Only what can never be written is reported: a template may make anything.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import relay
from relay import Template, nearest
from relay.crm import Consent, listed

from .activities import MEMBER, statuses
from .client import Client
from .contacts import CONTACT, EVENT_ID, LEAD, example, literal
from .options import (
    PERSONS,
    RECORD_ID,
    TASK,
    WHO,
    ActivityOptions,
    Campaign,
    Options,
    RepairOptions,
)
from .records import plain
from .upsert import CREATE_ONLY, spelt

NUMBERS = frozenset({"int", "double", "currency", "percent"})
PICKLISTS = frozenset({"picklist", "multipicklist"})
TEXTS = frozenset({"string", "textarea", "phone", "email", "url", "encryptedstring", "combobox"})
NO_BOOLEAN = "is neither true nor false"
SPELT_AS_BOOLEANS = frozenset({"true", "false", "1", "0"})
"""Texts that some versions may take for a boolean; relay.yaml can say what is meant."""
NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,2})?")
MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class Unfit(NamedTuple):
    """Why a field does not take a value, what to do about it, and whether it may be meant."""

    why: str
    remedy: str
    is_notice: bool = False


def unfit(field: Mapping[str, Any], constant: Any) -> Unfit | None:
    """What is wrong with the constant for a field by `describe`; None where nothing is."""
    value, kind = plain(constant), field["type"]
    if value is None:
        filled = not field["nillable"]
        return (
            Unfit("is null, and the field can never be empty", "give a value") if filled else None
        )
    if kind == "boolean":
        return _no_boolean(value)
    if kind in NUMBERS:
        why = None if _is_number(value, whole=kind == "int") else "is no number"
        return Unfit(why, "write a number") if why else None
    if kind in {"date", "datetime"}:
        why = None if _is_date(value, with_time=kind == "datetime") else f"is no {kind}"
        return Unfit(why, "write it as in 2026-12-31") if why else None
    if kind in PICKLISTS:
        return _no_choice(field, value)
    if kind in {"reference", "id"}:
        why = None if re.fullmatch(RECORD_ID, str(value)) else "is no id of a record"
        return Unfit(why, "write the id, of 15 or 18 letters and digits") if why else None
    return _no_text(field, value) if kind in TEXTS else None


def choices(field: Mapping[str, Any]) -> list[str]:
    """The values of a picklist that are active."""
    return [each["value"] for each in field["picklistValues"] if each["active"]]


def _no_boolean(value: Any) -> Unfit | None:
    if isinstance(value, bool):
        return None
    may_work = str(value).casefold() in SPELT_AS_BOOLEANS
    return Unfit(NO_BOOLEAN, "write true or false, without quotes", may_work)


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool) or not NUMBER.fullmatch(str(value)):
        return False
    return not whole or float(value).is_integer()


def _is_date(value: Any, *, with_time: bool) -> bool:
    day, _, time = str(value).partition("T")
    try:
        date.fromisoformat(day)
    except ValueError:
        return False
    return isinstance(value, str) and (with_time or not time)


def _no_choice(field: Mapping[str, Any], value: Any) -> Unfit | None:
    """A picklist that is not restricted takes any text, and shows it."""
    known = choices(field)
    said = [str(value)] if field["type"] == "picklist" else str(value).split(";")
    strange = [each for each in said if each not in known]
    if not strange or not (known or field["restrictedPicklist"]):
        return None
    near = nearest(strange[0], known)
    hint = f" (is it {near}?)" if near else ""
    why = f'"{strange[0]}" is no value of the picklist{hint}'
    return Unfit(why, f"take one of {listed(known) or 'none'}", not field["restrictedPicklist"])


def _no_text(field: Mapping[str, Any], value: Any) -> Unfit | None:
    if not isinstance(value, str):
        return Unfit("is no text", "write it in quotes")
    longest = field["length"]
    if 0 < longest < len(value.encode("utf-16-le")) // 2:
        return Unfit(f"is longer than the {longest} characters of the field", "shorten it")
    if field["type"] == "email" and not MAIL.fullmatch(value):
        return Unfit("is no e-mail address", "correct it")
    return None


NOTHING: Mapping[str, Any] = MappingProxyType({})
CLICK = "Setup > Object Manager"
ACTIVITY = "Activity"
"""Where the fields of Task are made, for Event as well."""
CLOSING = frozenset({(TASK, "Status")})
"""Picklists that take any text, and leave the record open by one that they do not have."""
GRANT = (
    "Setup > Permission Sets > that of the integration user > Object Settings > {object} > Edit:"
    " {what}"
)
EDIT_TASKS = (
    "Setup > Permission Sets > that of the integration user > System Permissions > Edit: tick"
    ' "Edit Tasks"'
)
RIGHTS = {"queryable": "Read", "createable": "Create", "updateable": "Edit"}
"""What `describe` says of the user's rights to an object, and what Salesforce calls them."""


OBJECT = {"name": str, "fields": list}
FIELD = {
    **dict.fromkeys(("name", "type"), str),
    "length": int,
    **dict.fromkeys(("nillable", "defaultedOnCreate", "createable", "updateable"), bool),
    **dict.fromkeys(("externalId", "unique", "restrictedPicklist"), bool),
    **dict.fromkeys(("picklistValues", "referenceTo"), list),
}
CHOICE = {"value": str, "active": bool}
"""What `describe` says of each object, of each of its fields, and of each value of a picklist."""


@dataclass(frozen=True, slots=True)
class SetupIssue:
    """Something that the org lacks or has otherwise, and how a person corrects it.

    One that `blocks` keeps records from being written.
    """

    what: str
    remedy: str
    blocks: bool = True
    is_notice: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"

    def line(self) -> str:
        """The issue as `check` returns it."""
        if self.blocks:
            return str(self)
        return relay.Notice(str(self)) if self.is_notice else relay.Mistake(str(self))


class ObjectDescription:
    """An object as the org describes it. Names do not differ by case."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.name: str = description["name"]
        fields = description["fields"]
        self._rights = [name for name in RIGHTS if description.get(name) is False]
        self._fields = {field["name"].casefold(): field for field in fields}
        self._relations = {
            field["relationshipName"].casefold(): field
            for field in fields
            if isinstance(field.get("relationshipName"), str)
        }

    def denied(self) -> list[str]:
        """What the integration user may not do with the object."""
        return [RIGHTS[name] for name in self._rights]

    def field(self, name: str) -> Mapping[str, Any] | None:
        return self._fields.get(name.casefold())

    def relation(self, name: str) -> Mapping[str, Any] | None:
        return self._relations.get(name.casefold())

    def has(self, name: str) -> bool:
        """Whether a record can have this name, that of a field or of a relationship."""
        return name.casefold() in self._fields or name.casefold() in self._relations

    def required(self) -> Iterator[str]:
        """What a new record must say."""
        for field in self._fields.values():
            left_out = field["nillable"] or field["defaultedOnCreate"]
            if not left_out and field["createable"]:
                yield field["name"]

    def unknown(self, where: str, name: str) -> SetupIssue:
        """There is no such field, or none that may be seen."""
        near = nearest(name, [field["name"] for field in self._fields.values()])
        hint = f" (is it {near}?)" if near else ""
        what = f"{where}: {self.name} has no field {name}{hint}"
        if name.casefold().endswith("__c"):
            return SetupIssue(what, f"make it: {made_at(self.name, name)}")
        return SetupIssue(what, "correct its name, or let the integration user see it")


async def setup_issues(
    client: Client,
    options: Options,
    columns: Iterable[str] | None,
    constants: Mapping[str, Any] = NOTHING,
) -> list[SetupIssue]:
    """All that keeps deliveries, or values of `map`, from being written. Raises Retry or Pause."""
    found: list[SetupIssue] = []
    where = "objects" if options.objects else "object"
    described = [await _described(client, where, kind, found) for kind in options.kinds]
    tables = [table for table in described if table]
    for table in tables:
        others = [other for other in tables if other is not table]
        found += _of_contacts(table, others, options, columns or ())
        found += _of_constants(table, "map", constants)
    if options.consent and LEAD in options.kinds and CONTACT not in options.kinds:
        contacts = await _described(client, "consent", CONTACT, found)
        if contacts:  # which converted leads have become
            of_contacts = _of_consent(contacts, options.consent, ())
            found += (replace(issue, blocks=False) for issue in of_contacts)
    if options.activity:
        events = await _described(client, "activity.object", options.activity.object, found)
        if events:
            found += _of_activities(events, options)
    if options.campaign:
        members = await _described(client, "campaign", MEMBER, found)
        if members:
            found += _of_members(members, [PERSONS[kind] for kind in options.kinds])
            found += await _of_status(client, options.campaign)
    return found


async def _described(
    client: Client, where: str, name: str, found: list[SetupIssue]
) -> ObjectDescription | None:
    path = f"sobjects/{name}/describe"
    try:
        description = await client.get(path)
    except relay.Pause as refused:
        if refused.status != 404:
            raise
    else:
        if missing := _lacks(description):
            raise relay.Retry(f"{path}: answered without {missing}")
        table = ObjectDescription(description)
        if denied := table.denied():
            granted = GRANT.format(object=name, what=", ".join(denied))
            grant = EDIT_TASKS if name == TASK else granted
            what = f"{where}: the integration user may not {' and '.join(denied).lower()} {name}"
            found.append(SetupIssue(what, grant, blocks=False))
        return table
    what = f"{where}: there is no object {name} for the integration user in this api_version"
    grant = GRANT.format(object=name, what="Read, Create, Edit, and Read on what it points to")
    made = f"{CLICK} > Create > Custom Object, if it is not there, and " if "__" in name else ""
    found.append(SetupIssue(what, made + grant))
    return None


def _lacks(description: Any) -> str | None:
    """What is missing in the answer to a describe, or has another type; None where all is there."""
    if missing := _first_missing([description], OBJECT):
        return missing
    fields = description["fields"]
    if missing := _first_missing(fields, FIELD):
        return f"{missing} of a field"
    values = chain.from_iterable(field["picklistValues"] for field in fields)
    if missing := _first_missing(values, CHOICE):
        return f"{missing} of a value of a picklist"
    return None


def _first_missing(objects: Iterable[Any], types: Mapping[str, type]) -> str | None:
    for each in objects:
        for name, kind in types.items():
            if not isinstance(each, dict) or not isinstance(each.get(name), kind):
                return name
    return None


def _of_contacts(
    table: ObjectDescription,
    others: Sequence[ObjectDescription],
    options: Options,
    columns: Iterable[str],
) -> Iterator[SetupIssue]:
    """What is wrong with one object. What only another object of the sink has is meant for that."""
    columns = _meant(table, others, columns)
    names = [name for name in columns if name.casefold() != options.external_id.casefold()]
    yield from _of_key(table, "external_id", options.external_id, longest_key(options.key))
    yield from _of_fields(table, "map", names)
    if options.consent:
        yield from _of_consent(table, options.consent, names)
    yield from _of_defaults(table, "", options, _meant(table, others, options.defaults))
    if table.name.casefold() == options.kinds[-1].casefold():
        yield from _of_required(table, "", options, [*names, options.external_id])
    phones = options.phone_fields if "phone" in options.match else []
    if options.consent:
        phones = phones or options.consent_phones()
    for where, given in (("only_if_empty", options.only_if_empty), ("phone_fields", phones)):
        for name in _meant(table, others, given):
            if not table.field(name):
                yield table.unknown(where, name)
    if phones and not _meant(table, others, phones):
        what = f"phone_fields: {table.name} has none of them"
        yield SetupIssue(what, "name one that it has")


def _meant(
    table: ObjectDescription, others: Sequence[ObjectDescription], names: Iterable[str]
) -> list[str]:
    """The names without those that only another object has, as `Fields.of` gives them."""
    return [name for name in names if table.has(name) or not any(o.has(name) for o in others)]


def _of_activities(table: ObjectDescription, options: Options) -> Iterator[SetupIssue]:
    activity = options.activity
    assert activity is not None
    names = activity.map.columns
    yield from _of_constants(table, "activity.map", activity.map.constants)
    yield from _of_key(table, "activity.external_id", activity.external_id, len(EVENT_ID))
    yield from _of_fields(table, "activity.map", names)
    yield from _of_defaults(table, "activity.", activity, [*activity.defaults])
    if activity.contact is None:
        yield from _of_task(table, activity, options.kinds)
        return
    known = [*names, activity.external_id]
    contact = activity.contact
    pairs = {options.kinds[0]: contact} if isinstance(contact, str) else contact
    for kind, relation in pairs.items():
        lookup = table.relation(relation)
        if lookup is None:
            what = f"activity.contact: {table.name} has no relationship {relation}"
            yield SetupIssue(what, f"make it: {looked_up_at(table.name, relation, kind)}")
            return
        yield from _of_lookup(table, lookup, kind)
        known.append(lookup["name"])
    yield from _of_required(table, "activity.", activity, known)


def _of_task(
    table: ObjectDescription, activity: ActivityOptions, persons: Sequence[str]
) -> Iterator[SetupIssue]:
    who = table.field(WHO)
    if who is None or not _is_writable(who):
        yield SetupIssue(f"activity: {table.name}.{WHO} cannot be written", EDIT_TASKS)
    elif strange := [kind for kind in persons if kind not in who["referenceTo"]]:
        what = f"activity: {table.name}.{WHO} does not point to {', '.join(strange)}"
        yield SetupIssue(what, "correct object")
    known = [*activity.map.columns, activity.external_id, WHO]
    yield from _of_required(table, "activity.", activity, known)


def _of_members(table: ObjectDescription, persons: Sequence[str]) -> Iterator[SetupIssue]:
    for name in ("CampaignId", *persons):
        field = table.field(name)
        if not field or not field["createable"]:
            grant = GRANT.format(object="Campaigns", what="Read, Create and Edit")
            yield SetupIssue(f"campaign: {MEMBER}.{name} cannot be written", grant)


async def _of_status(client: Client, campaign: Campaign) -> list[SetupIssue]:
    """A status that the campaign does not have: Salesforce writes another one in its place."""
    if campaign.status is None or "{" in campaign.id.text + campaign.status.text:
        return []  # it depends on the event
    asked = (
        "SELECT Label FROM CampaignMemberStatus WHERE CampaignId = "  # noqa: S608  quoted
        f"{literal(campaign.id.text)}"
    )
    known = statuses(await client.records("query", "records", q=asked))
    if not known or campaign.status.text in known:
        return []
    what = f'campaign.status: the campaign has no status "{campaign.status.text}"'
    remedy = f"take one of {', '.join(known)}, or add it to the campaign"
    return [SetupIssue(what, remedy, blocks=False)]


def _of_key(table: ObjectDescription, where: str, name: str, longest: int) -> Iterator[SetupIssue]:
    field = table.field(name)
    if field is None:
        yield SetupIssue(
            f"{where}: {table.name} has no field {name}",
            f"make it: {made_at(table.name, name, longest=longest, unique=True)}",
        )
        return
    if name.casefold().endswith("__pc"):
        what = f"{where}: {name} is a field of the person's contact, which no upsert goes by"
        own = name[: -len("__pc")] + "__c"
        yield SetupIssue(
            what, f"make one: {made_at(table.name, own, longest=longest, unique=True)}"
        )
        return
    place = ACTIVITY if table.name == TASK else table.name
    edit = f"{CLICK} > {place} > Fields & Relationships > {name} > Edit"
    if not field["externalId"]:
        yield SetupIssue(
            f"{where}: {table.name}.{name} is no external id", f'{edit}: "External ID"'
        )
    if not field["unique"]:
        yield SetupIssue(f"{where}: {table.name}.{name} is not unique", f'{edit}: "Unique"')
    if not (field["createable"] and field["updateable"]):
        yield _not_writable(table, where, name)
    if 0 < field["length"] < longest:
        what = f"{where}: {table.name}.{name} takes {field['length']} characters, keys have up to"
        yield SetupIssue(f"{what} {longest}", f"{edit}: Length")


def _of_fields(table: ObjectDescription, where: str, names: Iterable[str]) -> Iterator[SetupIssue]:
    for name in names:
        field = table.field(name) or table.relation(name)
        if field is None:
            yield table.unknown(f"{where}.{name}", name)
        elif not _is_writable(field):
            yield _not_writable(table, f"{where}.{name}", name)


def _is_writable(field: Mapping[str, Any]) -> bool:
    """Whether each record may say it, or at least each new one, where no other can."""
    return field["createable"] and (
        field["updateable"] or bool(spelt(CREATE_ONLY, [field["name"]]))
    )


def _of_consent(
    table: ObjectDescription, consent: Consent, mapped: Iterable[str]
) -> Iterator[SetupIssue]:
    words = consent.words()
    yield from _of_fields(table, "consent", words)
    for which in ("opted_out", "opted_in"):
        values = {name: getattr(word, which) for name, word in words.items()}
        yield from _of_constants(table, f"consent.{which}", values)
    written = {name.casefold() for name in words}
    for name in mapped:
        if name.casefold() in written:
            what = f"map.{name}: consent writes it, and the map's value is left out"
            yield SetupIssue(what, "remove it", blocks=False)


def _of_defaults(
    table: ObjectDescription, prefix: str, options: RepairOptions, names: Sequence[str]
) -> Iterator[SetupIssue]:
    for name in names:
        where = f"{prefix}defaults.{name}"
        field = table.field(name)
        if field is None:
            yield table.unknown(where, name)
            continue
        if not field["createable"]:
            yield _not_writable(table, where, name)
    values = {name: options.defaults[name] for name in names}
    yield from _of_constants(table, f"{prefix}defaults", values)


def _of_constants(
    table: ObjectDescription, where: str, values: Mapping[str, Any]
) -> Iterator[SetupIssue]:
    """The values that their fields do not take. Missing fields are reported elsewhere."""
    for name, value in values.items():
        field = table.field(name)
        if field and (found := unfit(field, value)):
            what = f"{where}.{name}: {found.why} ({table.name}.{name}, {field['type']})"
            is_notice = found.is_notice and (table.name, field["name"]) not in CLOSING
            yield SetupIssue(what, found.remedy, blocks=False, is_notice=is_notice)


def _of_required(
    table: ObjectDescription, prefix: str, options: RepairOptions, names: Iterable[str]
) -> Iterator[SetupIssue]:
    given = {name.casefold() for name in (*names, *options.defaults)}
    if table.has("IsPersonAccount") and "lastname" in given:
        given.add("name")  # a person's is made of the others, and cannot be written
    for name in table.required():
        if name.casefold() not in given:
            what = f"{prefix}map: a new {table.name} must have {name}"
            yield SetupIssue(what, f"map it, or give it a value in {prefix}defaults")


def _of_lookup(
    table: ObjectDescription, lookup: Mapping[str, Any], to: str
) -> Iterator[SetupIssue]:
    name = lookup["name"]
    if to.casefold() not in (str(each).casefold() for each in lookup["referenceTo"]):
        what = f"activity.contact: {table.name}.{name} does not point to {to}"
        yield SetupIssue(what, "name the relationship of a lookup that does")
    elif not (lookup["createable"] and lookup["updateable"]):
        yield _not_writable(table, "activity.contact", name)


def _not_writable(table: ObjectDescription, where: str, name: str) -> SetupIssue:
    what = f"{where}: {table.name}.{name} cannot be written"
    grant = GRANT.format(object=table.name, what=f"Edit Access of {name}")
    return SetupIssue(what, f"{grant}; formulas and the like are never writable")


def longest_key(key: Template) -> int:
    """The greatest length of the keys; 0 if only a real event can give one."""
    return len(example(key))


def made_at(table: str, name: str, *, longest: int = 255, unique: bool = False) -> str:
    """Where to click for a new custom field."""
    table = ACTIVITY if table == TASK else table
    plain = name.removesuffix("__c")
    kind = f"Text, Length {max(longest, 40)}" if unique else "its type"
    ticks = ', tick "Unique" and "External ID"' if unique else ""
    label = plain.replace("_", " ")
    return (
        f"{CLICK} > {table} > Fields & Relationships > New > {kind}, Field Label {label},"
        f" Field Name {plain}{ticks}, and Edit Access for the integration user's permission set"
    )


def looked_up_at(table: str, relation: str, to: str) -> str:
    """Where to click for a lookup."""
    plain = relation.removesuffix("__r")
    return (
        f"{CLICK} > {table} > Fields & Relationships > New > Lookup Relationship to {to},"
        f" Field Name {plain}"
    )

"""Properties, their groups, and the schemas of custom objects.

After HubSpot's guides "Properties" and "Custom objects".
"""

from typing import Any

from stubs.hubspot_account import Account, kind_of, refuse
from stubs.hubspot_ask import ANY, Ask, fits, inputs, typed
from stubs.hubspot_errors import Refusal, exists, not_found
from stubs.hubspot_schema import FIELD_TYPES, KINDS, NAME, Field, Kind

NEEDED = frozenset({"name", "label", "type", "fieldType", "groupName"})
MAY = frozenset({"description", "displayOrder", "options", "hasUniqueValue", "hidden", "formField"})
UNIQUE_MOST = 10
Answer = tuple[int, Any]


class Properties:
    """Every method that takes an Ask is an endpoint, and raises Refusal."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def all(self, ask: Ask) -> Answer:
        known = self._account.fields[_readable(ask).name]
        return 200, {"results": [each.told(name) for name, each in known.items()]}

    def one(self, ask: Ask) -> Answer:
        known = self._account.fields[_readable(ask).name]
        if ask.path["name"] not in known:
            raise not_found()
        return 200, known[ask.path["name"]].told(ask.path["name"])

    def create(self, ask: Ask) -> Answer:
        kind = _writable(ask)
        self._check(kind, fits(ask.body, NEEDED, MAY))
        return 201, self._define(kind, ask.body)

    def create_many(self, ask: Ask) -> Answer:
        """All or none."""
        kind = _writable(ask)
        found = inputs(ask.body, NEEDED, MAY)
        for each in found:
            self._check(kind, each)
        told = self._account.batch([self._define(kind, each) for each in found])
        return (200 if ask.dated else 201), told

    def change(self, ask: Ask) -> Answer:
        """`hasUniqueValue` is no part of an update, and without effect in one."""
        known = self._account.fields[_writable(ask).name]
        name = ask.path["name"]
        if name not in known:
            raise not_found()
        fits(ask.body, frozenset(), ANY)
        known[name].label = ask.body.get("label", known[name].label)
        if "options" in ask.body:
            known[name].options = _options(ask.body)
        return 200, known[name].told(name)

    def groups(self, ask: Ask) -> Answer:
        groups = self._account.groups[_readable(ask).name]
        return 200, {
            "results": [
                {"name": name, "label": label, "displayOrder": -1, "archived": False}
                for name, label in groups.items()
            ]
        }

    def create_group(self, ask: Ask) -> Answer:
        groups = self._account.groups[_writable(ask).name]
        body = fits(ask.body, {"name", "label"}, {"displayOrder"})
        typed(body["name"], str, "name")
        if body["name"] in groups:
            text = f"Property group {body['name']} already exists"
            raise Refusal(409, "OBJECT_ALREADY_EXISTS", text)
        groups[body["name"]] = body["label"]
        return 201, {"displayOrder": -1, "archived": False} | body

    def schemas(self, ask: Ask) -> Answer:
        _may_see(ask)
        custom = [kind for kind in KINDS if kind.scope == "custom"]
        return 200, {"results": [self._described(kind) for kind in custom]}

    def schema(self, ask: Ask) -> Answer:
        _may_see(ask)
        return 200, self._described(kind_of(ask.path["kind"]))

    def _check(self, kind: Kind, body: dict[str, Any]) -> None:
        known = self._account.fields[kind.name]
        for name in NEEDED:
            typed(body[name], str, name)
        if body["name"] in known:
            raise exists(body["name"])
        if not NAME.fullmatch(body["name"]):
            raise refuse(f"{body['name']} is not a valid property name")
        if body["fieldType"] not in FIELD_TYPES.get(body["type"], ()):
            raise refuse(f"fieldType {body['fieldType']} does not go with type {body['type']}")
        if body["groupName"] not in self._account.groups[kind.name]:
            raise refuse(f"Property group {body['groupName']} does not exist")
        if body["type"] == "enumeration" and not body.get("options"):
            raise refuse("options must be given")
        if body["type"] == "bool" and {"true", "false"} != set(_options(body)):
            raise refuse("a property of type bool has the options true and false")
        if typed(body.get("hasUniqueValue", False), bool, "hasUniqueValue"):
            _room(known, body["type"])

    def _define(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        field = Field(
            body["type"],
            body["fieldType"],
            unique=body.get("hasUniqueValue", False),
            options=_options(body),
            label=body["label"],
            group=body["groupName"],
        )
        self._account.fields[kind.name][body["name"]] = field
        return field.told(body["name"])

    def _described(self, kind: Kind) -> dict[str, Any]:
        known = self._account.fields[kind.name]
        return {
            "id": kind.type_id.partition("-")[2],
            "objectTypeId": kind.type_id,
            "fullyQualifiedName": kind.names[1],
            "name": kind.noun.lower(),
            "labels": {"singular": kind.noun, "plural": kind.noun},
            "requiredProperties": [name for name, each in known.items() if each.required],
            "properties": [each.told(name) for name, each in known.items()],
            "associations": [
                {
                    "id": str(type_id),
                    "fromObjectTypeId": kind_of(one).type_id,
                    "toObjectTypeId": kind_of(other).type_id,
                }
                for (one, other), types in self._account.associations_known.items()
                for type_id in types
                if kind.name in {one, other}
            ],
        }


def _options(body: dict[str, Any]) -> list[str]:
    found = typed(body.get("options") or [], list, "options")
    return [fits(option, {"label", "value"}, ANY)["value"] for option in found]


def _room(known: dict[str, Field], kind: str) -> None:
    """HubSpot's own id and address do not count."""
    own = [name for name, each in known.items() if each.unique and each.writable]
    if len(own) - ("email" in own) >= UNIQUE_MOST:
        raise refuse(f"no more than {UNIQUE_MOST} unique properties")
    if kind not in {"string", "number"}:
        raise refuse(f"a property of type {kind} cannot be unique")


def _readable(ask: Ask) -> Kind:
    kind = kind_of(ask.path["kind"])
    ask.may(f"crm.schemas.{kind.scope}.read", f"crm.objects.{kind.scope}.read")
    return kind


def _writable(ask: Ask) -> Kind:
    kind = kind_of(ask.path["kind"])
    ask.may(f"crm.schemas.{kind.scope}.write")
    return kind


def _may_see(ask: Ask) -> None:
    ask.may("crm.schemas.custom.read", "crm.objects.custom.read")

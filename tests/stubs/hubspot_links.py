"""Associations between records. After HubSpot's guide "Associations v4"."""

from typing import Any

from stubs.hubspot_account import Account, kind_of, refuse
from stubs.hubspot_ask import Ask, fits, inputs, typed
from stubs.hubspot_errors import Refusal, not_found
from stubs.hubspot_schema import Kind

SPEC = {"associationCategory", "associationTypeId"}
Link = dict[str, str]


class Links:
    """Kept once, however often they are asked for; `account.associations` is where."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._seen: set[tuple[str, ...]] = set()
        self._plan: list[Link] = []

    def associate(self, ask: Ask) -> tuple[int, Any]:
        """An endpoint: at most 2,000 pairs. Raises Refusal."""
        ends = (kind_of(ask.path["from"]), kind_of(ask.path["to"]))
        for end in ends:
            ask.may(f"crm.objects.{end.scope}.write")
        results, errors = [], []
        for each in inputs(ask.body, {"from", "to", "types"}, most=2000):
            specs = _specs(each["types"])
            links = [self._typed(*ends, spec) for spec in specs]
            try:
                ids = [self._there(ends[0], each["from"], "from"), self._there(ends[1], each["to"])]
            except Refusal as refusal:
                errors.append(refusal.row([]))
                continue
            for link in links:
                self._keep(link | {"from": ids[0], "to": ids[1]})
            results.append(_told(ends, ids))
        told = self._account.batch(results, errors)
        return 207 if errors else 200 if ask.dated else 201, told

    def labels(self, ask: Ask) -> tuple[int, Any]:
        """An endpoint: the types between two objects. Raises Refusal."""
        ends = (kind_of(ask.path["from"]), kind_of(ask.path["to"]))
        ask.may(*(f"crm.{what}.{ends[0].scope}.read" for what in ("objects", "schemas")))
        known = self._account.associations_known.get((ends[0].name, ends[1].name), {})
        return 200, {
            "results": [
                {"category": category, "typeId": type_id, "label": None}
                for type_id, category in known.items()
            ]
        }

    def given(self, kind: Kind, links: Any) -> list[Link]:
        """Those that come with a new record; the other end must be there. Raises Refusal."""
        return [
            link for each in typed(links, list, "associations") for link in self._given(kind, each)
        ]

    def plan(self, id_: str, links: list[Link]) -> None:
        """To be kept if the record is."""
        self._plan += [link | {"from": id_} for link in links]

    def keep(self) -> None:
        for link in self._plan:
            self._keep(link)
        self._plan.clear()

    def forget(self) -> None:
        self._plan.clear()

    def _given(self, kind: Kind, each: Any) -> list[Link]:
        fits(each, {"to", "types"})
        return [self._to(kind, each["to"], spec) for spec in _specs(each["types"])]

    def _to(self, kind: Kind, end: Any, spec: dict[str, Any]) -> Link:
        """The type says what is at the other end."""
        for (one, other), types in self._account.associations_known.items():
            if one == kind.name and spec["associationTypeId"] in types:
                id_ = self._there(kind_of(other), end)
                return self._typed(kind, kind_of(other), spec) | {"to": id_}
        raise refuse(f"{spec['associationTypeId']} is not a valid association type")

    def _there(self, kind: Kind, end: Any, side: str = "to") -> str:
        id_ = typed(fits(end, {"id"})["id"], str, "id")
        if id_ not in self._account.shelves[kind.name].records:
            raise Refusal(404, "OBJECT_NOT_FOUND", not_found().message, {f"{side}ObjectId": [id_]})
        return id_

    def _typed(self, one: Kind, other: Kind, spec: dict[str, Any]) -> Link:
        known = self._account.associations_known.get((one.name, other.name), {})
        type_id, category = spec["associationTypeId"], spec["associationCategory"]
        if known.get(type_id) != category:
            pair = f"{one.type_id} and {other.type_id}"
            raise refuse(f"{category} {type_id} is not valid between {pair}")
        return {"fromType": one.name, "toType": other.name, "type": str(type_id)}

    def _keep(self, link: Link) -> None:
        mark = tuple(link[key] for key in sorted(link))
        if mark not in self._seen:
            self._seen.add(mark)
            self._account.associations.append(link)


def _specs(types: Any) -> list[dict[str, Any]]:
    """At least one type, each with a category."""
    for spec in typed(types, list, "types"):
        fits(spec, SPEC)
        typed(spec["associationTypeId"], int, "associationTypeId")
        typed(spec["associationCategory"], str, "associationCategory")
    if not types:
        raise refuse("types may not be empty")
    return types


def _told(ends: tuple[Kind, Kind], ids: list[str]) -> dict[str, Any]:
    return {
        "fromObjectTypeId": ends[0].type_id,
        "fromObjectId": ids[0],
        "toObjectTypeId": ends[1].type_id,
        "toObjectId": ids[1],
        "labels": [],
    }

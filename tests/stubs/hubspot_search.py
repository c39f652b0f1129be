"""HubSpot's CRM search: groups of filters, any of which may fit, all of whose filters must.

Limits are those of its search guide: 5 groups, 6 filters in each, 18 in all, pages of 200, 10,000
results, a request of 3,000 characters.
"""

import math
from typing import Any

import orjson
from stubs.hubspot_account import refuse
from stubs.hubspot_ask import fits, typed
from stubs.hubspot_errors import malformed
from stubs.hubspot_schema import Field
from stubs.hubspot_shelf import Record, Shelf, folded

KEYS = {"filterGroups", "filters", "sorts", "query", "properties", "limit", "after"}
SORT = {"direction"}
FILTER = {"propertyName", "operator", "value", "values", "highValue"}
COMPARES = {
    "EQ": lambda have, want: have == want,
    "LT": lambda have, want: have < want,
    "LTE": lambda have, want: have <= want,
    "GT": lambda have, want: have > want,
    "GTE": lambda have, want: have >= want,
}
NEEDS = {"value": {*COMPARES, "NEQ", "CONTAINS_TOKEN", "NOT_CONTAINS_TOKEN", "BETWEEN"}}
NEEDS["values"] = {"IN", "NOT_IN"}
NEEDS["highValue"] = {"BETWEEN"}
OPERATORS = {*NEEDS["value"], *NEEDS["values"], "HAS_PROPERTY", "NOT_HAS_PROPERTY"}


def found(
    shelf: Shelf, body: dict[str, Any], fields: dict[str, Field], until: float = math.inf
) -> tuple[list[Record], int, str | None]:
    """A page of what fits, how many there are in all, and where the next page starts.

    What was written after `until` is not found.
    """
    _check(body, fields)
    seen = (record for record in _candidates(shelf, body) if record.updated <= until)
    fitting = [record for record in seen if _fits(record, body, fields)]
    for sort in reversed(body.get("sorts") or []):
        fitting = _sorted(fitting, sort, fields)
    start, size = int(body.get("after") or 0), body.get("limit", 10)
    if start + size > 10_000:
        raise refuse("paging through more than 10000 results")
    end = start + size
    return fitting[start:end], len(fitting), str(end) if end < len(fitting) else None


def _check(body: dict[str, Any], fields: dict[str, Field]) -> None:
    fits(body, set(), KEYS)
    if not 0 <= typed(body.get("limit", 10), int, "limit") <= 200:
        raise refuse("limit must not be more than 200")
    if not str(body.get("after") or 0).isdecimal():
        raise refuse("after must be a number")
    typed(body.get("query") or "", str, "query")
    if len(orjson.dumps(body).decode()) > 3000:
        raise refuse("The request body must not exceed 3000 characters")
    for name in typed(body.get("properties") or [], list, "properties"):
        typed(name, str, "properties")
    typed(body.get("sorts") or [], list, "sorts")
    groups = _groups(body)
    if len(groups) > 5 or any(len(group) > 6 for group in groups) or sum(map(len, groups)) > 18:
        raise refuse("too many filters")
    for group in groups:
        for one in group:
            _check_filter(one, fields)


def _check_filter(one: Any, fields: dict[str, Field]) -> None:
    fits(one, {"propertyName", "operator"}, FILTER)
    operator, name = (typed(one[key], str, key) for key in ("operator", "propertyName"))
    if operator not in OPERATORS:
        raise malformed(f"operator {operator} is none")
    if name not in fields:
        raise refuse(f"There was a problem with the request: no property {name}")
    for key, operators in NEEDS.items():
        if (operator in operators) != (one.get(key) is not None):
            raise refuse(f"{key} and operator {operator} do not fit")
    values = typed(one.get("values") or [], list, "values")
    for value in [one.get("value", ""), one.get("highValue", ""), *values]:
        typed(value, str, "value")


def _groups(body: dict[str, Any]) -> list[list[Any]]:
    """Filters may stand by themselves, too."""
    given = typed(body.get("filterGroups") or [], list, "filterGroups")
    alone = [{"filters": body["filters"]}] if body.get("filters") and not given else []
    return [typed(fits(group, {"filters"})["filters"], list, "filters") for group in given or alone]


def _candidates(shelf: Shelf, body: dict[str, Any]) -> list[Record]:
    """All records; where every filter is a list of values, those that have one of them."""
    groups = _groups(body)
    filters = [one for group in groups for one in group]
    if not groups or not all(groups) or any(one["operator"] != "IN" for one in filters):
        return shelf.ordered()
    return shelf.having((one["propertyName"], one["values"]) for one in filters)


def _fits(record: Record, body: dict[str, Any], fields: dict[str, Field]) -> bool:
    have = record.all()
    groups = _groups(body)
    query = (body.get("query") or "").lower()
    if query and not any(query in value.lower() for value in have.values()):
        return False
    return not groups or any(all(_holds(have, one, fields) for one in group) for group in groups)


def _holds(have: dict[str, str], one: dict[str, Any], fields: dict[str, Field]) -> bool:
    operator, name = one["operator"], one["propertyName"]
    value = have.get(name)
    if operator in {"HAS_PROPERTY", "NOT_HAS_PROPERTY"}:
        return (value is not None) == (operator == "HAS_PROPERTY")
    if operator in {"NEQ", "NOT_IN", "NOT_CONTAINS_TOKEN"}:
        return not _positive(operator.replace("NEQ", "EQ").removeprefix("NOT_"), value, one, fields)
    return _positive(operator, value, one, fields)


def _positive(
    operator: str, value: str | None, one: dict[str, Any], fields: dict[str, Field]
) -> bool:
    if value is None:
        return False
    field = fields[one["propertyName"]]
    if operator == "IN":
        return folded(value) in map(folded, one["values"])
    if operator == "CONTAINS_TOKEN":
        return one["value"].strip("*").lower() in value.lower()
    if operator == "BETWEEN":
        low, high = _rank(one["value"], field), _rank(one["highValue"], field)
        return low <= _rank(value, field) <= high
    return COMPARES[operator](_rank(value, field), _rank(one["value"], field))


def _rank(value: str, field: Field) -> Any:
    if field.type == "number":
        try:
            return float(value)
        except ValueError as error:
            raise refuse(f"{value} is no number") from error
    return value.lower()


def _sorted(records: list[Record], sort: Any, fields: dict[str, Field]) -> list[Record]:
    """By one property; those without it come last."""
    name = sort if isinstance(sort, str) else fits(sort, {"propertyName"}, SORT)["propertyName"]
    if typed(name, str, "sorts") not in fields:
        raise refuse(f"cannot sort by {name}")
    down = isinstance(sort, dict) and sort.get("direction") == "DESCENDING"
    having = [record for record in records if name in record.all()]
    without = [record for record in records if name not in record.all()]
    having.sort(key=lambda record: _rank(record.all()[name], fields[name]), reverse=down)
    return having + without

"""A request to the HubSpot stub, read strictly: what the vendor's JSON mapper would not take is
refused, and so is what it would drop in silence."""

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from stubs.hubspot_account import allow, refuse
from stubs.hubspot_errors import Refusal, doubled, malformed, too_many, unset

DATED = "2026-09"
ANY = frozenset({"*"})  # every key may come
_TYPES = {str: "String", dict: "Object", list: "ArrayList", int: "Integer", bool: "Boolean"}


@dataclass(frozen=True)
class Ask:
    """A request, understood."""

    version: str
    path: dict[str, str]
    query: dict[str, str]
    body: Any
    scopes: frozenset[str]

    @property
    def dated(self) -> bool:
        return self.version == DATED

    @property
    def names(self) -> list[str]:
        """The properties that a GET wants."""
        return [name for name in self.query.get("properties", "").split(",") if name]

    def may(self, *scopes: str) -> None:
        allow(self.scopes, *scopes)

    def number(self, name: str, otherwise: int, most: int | None = None) -> int:
        text = self.query.get(name, str(otherwise))
        if not text.isdecimal() or (most and int(text) > most):
            raise refuse(f"{name} must be a number, and not more than {most}")
        return int(text)


def read(request: Request, raw: bytes, version: str, scopes: frozenset[str]) -> Ask:
    """Raises Refusal."""
    path = {name: unquote(value) for name, value in request.path_params.items()}
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        query[name] = f"{query[name]},{value}" if name in query else value
    return Ask(version, path, query, _body(request, raw), scopes)


def written(request: Request, raw: bytes) -> frozenset[str]:
    """The records that a request is going to change, as far as it says so."""
    path = request.url.path
    if request.method == "PATCH" and "/objects/" in path:
        return frozenset({path})
    if "/objects/" not in path or not path.endswith(("/batch/upsert", "/batch/update")):
        return frozenset()
    try:
        return frozenset(f"{path} {each['id']}" for each in orjson.loads(raw)["inputs"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return frozenset()


def _body(request: Request, raw: bytes) -> Any:
    if request.method == "GET":
        return None
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refusal(415, "VALIDATION_ERROR", "HTTP 415 Unsupported Media Type")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise malformed("Unexpected character") from error
    return typed(body, list if request.method == "PUT" else dict, "body")


def typed(value: Any, kind: type, name: str) -> Any:
    """The value, if it is of this type. Raises Refusal."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise malformed(f"Cannot deserialize value of type {_TYPES[kind]}: {name}")
    return value


def fits(
    body: Any, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """An object with these keys and no others. Raises Refusal."""
    typed(body, dict, "object")
    absent = sorted(needed - body.keys())
    if absent:
        raise unset(absent)
    strange = sorted(body.keys() - needed - allowed) if allowed is not ANY else []
    if strange:
        raise malformed(f'Unrecognized field "{strange[0]}"')
    return body


def inputs(
    body: Any, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset(), *, most: int = 100
) -> list[dict[str, Any]]:
    """Those of a batch. Raises Refusal."""
    found = typed(fits(body, {"inputs"}, ANY)["inputs"], list, "inputs")
    if not found:
        raise refuse("inputs may not be empty")
    if len(found) > most:
        raise too_many(most)
    return [fits(each, needed, allowed) for each in found]


def writes(
    body: Any, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset()
) -> list[dict[str, Any]]:
    """Inputs that carry records, their ids and names being text. Raises Refusal."""
    found = inputs(body, needed, allowed | {"objectWriteTraceId"})
    for each in found:
        identified(each)
        strings(each["properties"])
    return found


def identified(each: dict[str, Any]) -> None:
    for key in ("id", "idProperty", "objectWriteTraceId"):
        if not typed(each.get(key, "-"), str, key):
            raise refuse(f"{key} may not be empty")


def strings(properties: Any) -> dict[str, str]:
    """Nothing but text. Raises Refusal."""
    for name, value in typed(properties, dict, "properties").items():
        typed(value, str, name)
    return properties


def undoubled(found: list[dict[str, Any]]) -> None:
    """Raises Refusal where an id comes twice."""
    counts = Counter((each.get("idProperty"), _same(each)) for each in found)
    twice = [id_ for (_, id_), times in counts.items() if times > 1]
    if twice:
        raise doubled(twice)


def _same(each: dict[str, Any]) -> str:
    return each["id"].lower() if each.get("idProperty") == "email" else each["id"]

"""What can be read in the Salesforce stub: versions, describe, queries, searches, records."""

import re
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request
from starlette.responses import Response
from stubs import salesforce_soql as soql
from stubs.salesforce_errors import Fault, nothing_here
from stubs.salesforce_mistakes import Refused
from stubs.salesforce_org import Org
from stubs.salesforce_schema import SYSTEM, Field
from stubs.vendor import answer

DATA = "/services/data/v"
VERSIONS = [f"{number}.0" for number in range(40, 69)]
RIGHTS = ("createable", "updateable", "queryable")
NAMES = {66: "Spring '26", 67: "Summer '26", 68: "Winter '27"}


class Reading:
    """The part of the org that answers questions.

    `page_size`: of a query's answer. `search_lags`: what is written is found by `search` only
    after `index()`. `denied`: by object, those of RIGHTS that `describe` says the user lacks.
    """

    def __init__(self, org: Org) -> None:
        self.org = org
        self.page_size = 2000
        self.search_lags = False
        self.denied: dict[str, set[str]] = {}
        self._unindexed: set[str] = set()
        self._pages: dict[str, tuple[soql.Query, list[dict[str, Any]]]] = {}

    def index(self) -> None:
        """What has been written can be found by `search`."""
        self._unindexed.clear()

    async def versions(self, _request: Request) -> Response:
        told = [
            {
                "label": NAMES.get(int(version[:2]), version),
                "url": f"{DATA}{version}",
                "version": version,
            }
            for version in VERSIONS
        ]
        return answer(200, told)

    async def resources(self, request: Request) -> Response:
        base = f"{DATA}{request.path_params['version']}"
        names = ("limits", "query", "search", "sobjects", "composite", "parameterizedSearch")
        return answer(200, {name: f"{base}/{name}" for name in names})

    async def describe(self, request: Request) -> Response:
        kind = self.kind(request)
        names = [*SYSTEM, *self.org.fields[kind]]
        content = {
            "name": kind,
            "label": kind,
            "keyPrefix": self.org.prefix(kind),
            "custom": kind.endswith("__c"),
            **{right: right not in self.denied.get(kind, ()) for right in RIGHTS},
            "searchable": True,
            "fields": [_described(name, self.org.field(kind, name)) for name in names],
        }
        for field in content["fields"]:  # who may not touch the object, may touch no field
            for right in ("createable", "updateable"):
                field[right] = field[right] and content[right]
        return answer(200, content)

    async def query(self, request: Request) -> Response:
        asked = soql.query(_asked(request, "q"))
        kind = self._queried(asked)
        rows = self._selected(asked, kind)
        if asked.counts:
            return answer(200, {"totalSize": len(rows), "done": True, "records": []})
        locator = f"01gHs{secrets.token_hex(6)}"
        self._pages[locator] = asked, rows
        return self._page(request, locator, 0)

    async def query_more(self, request: Request) -> Response:
        locator, _, start = request.path_params["locator"].rpartition("-")
        if locator not in self._pages or not start.isdigit():
            raise Fault(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        return self._page(request, locator, int(start))

    def _page(self, request: Request, locator: str, start: int) -> Response:
        asked, rows = self._pages[locator]
        kind = self._queried(asked)
        end = start + self.page_size
        content: dict[str, Any] = {"totalSize": len(rows), "done": end >= len(rows)}
        if not content["done"]:
            version = request.path_params["version"]
            content["nextRecordsUrl"] = f"{DATA}{version}/query/{locator}-{end}"
        content["records"] = [_shown(request, kind, asked, row) for row in rows[start:end]]
        return answer(200, content)

    def _queried(self, asked: soql.Query) -> str:
        """The object that a query is about. Raises Fault for a name that it lacks."""
        kind = self.org.name_of(asked.kind)
        if kind is None:
            text = f"sObject type '{asked.kind}' is not supported. If you are attempting to use a"
            raise Fault(400, "INVALID_TYPE", f"{text} custom object, be sure to append the '__c'")
        for name in asked.names:
            self._path(kind, name)
        asked.fields = [self._path(kind, name) for name in asked.fields]
        for name in asked.fields:
            if asked.fields.count(name) > 1:
                raise Fault(400, "INVALID_FIELD", f"duplicate field selected: {name}")
        return kind

    def _path(self, kind: str, path: str) -> str:
        """As the org writes it, whatever the capitals. Raises Fault."""
        first, _, rest = path.partition(".")
        if rest:
            found = [
                column
                for column in self.org.fields[kind].values()
                if column.relationship and column.relationship.lower() == first.lower()
            ]
            if not found:
                text = f"Didn't understand relationship '{first}' in field path."
                raise Fault(400, "INVALID_FIELD", text)
            return f"{found[0].relationship}.{self._path(found[0].refers, rest)}"
        name = self.org.column(kind, first)
        if name is None:
            text = f"No such column '{path}' on entity '{kind}'. If you are attempting to use a"
            raise Fault(400, "INVALID_FIELD", f"{text} custom field, be sure to append the '__c'")
        return name

    def _selected(self, asked: soql.Query, kind: str) -> list[dict[str, Any]]:
        rows = [row for row in self._rows(asked, kind) if asked.test(row)]
        for name, down in reversed(asked.order):
            seen = soql.comparer(name)
            rows.sort(key=lambda row: _sortable(seen(soql.at(row, name))), reverse=down)
        return rows[asked.offset :][: asked.limit]

    def _rows(self, asked: soql.Query, kind: str) -> list[dict[str, Any]]:
        rows = list(self.org.table(kind).values())
        if any("." in name for name in asked.names):
            return [row | self._parents(kind, row) for row in rows]
        return rows

    def _parents(self, kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            column.relationship: self.org.table(parent)[row[name]]
            for name, column in self.org.fields[kind].items()
            if name in row and (parent := self.org.parent_of(column, row[name]))
        }

    async def search(self, request: Request) -> Response:
        return self._search(request, _asked(request, "q"))

    async def parameterized_search(self, request: Request) -> Response:
        """The same with the parts of the statement as parameters, and the term as it is."""
        asked = dict(parse_qsl(request.url.query))
        term = re.sub(r"([^\w\s])", r"\\\1", asked.get("q", ""))
        fields = asked.get("fields", "Id")
        kinds = asked.get("sobject", "Contact,Lead").split(",")
        returning = ",".join(f"{kind}({asked.get(f'{kind}.fields', fields)})" for kind in kinds)
        group = asked.get("in", "ALL")
        return self._search(request, f"FIND {{{term}}} IN {group} FIELDS RETURNING {returning}")

    def _search(self, request: Request, text: str) -> Response:
        asked = soql.search(text)
        found: list[Any] = []
        for part in asked.returning or [soql.Query(["Id"], kind) for kind in ("Contact", "Lead")]:
            kind = self._queried(part)
            limit, part.limit = part.limit, None
            rows = [row for row in self._selected(part, kind) if self._found(asked, kind, row)]
            found += [_shown(request, kind, part, row) for row in rows[:limit]]
        return answer(200, {"searchRecords": found[: asked.limit]})

    def _found(self, asked: Any, kind: str, row: Mapping[str, Any]) -> bool:
        if row["Id"] in self._unindexed:
            return False
        types = {"PHONE": {"phone"}, "EMAIL": {"email"}, "NAME": {"name"}}.get(asked.group)
        values = [
            str(row[name])
            for name, column in self.org.fields[kind].items()
            if row.get(name) and (types is None or column.type in types)
        ]
        return any(_alike(term, value) for term in asked.terms for value in values)

    async def read(self, request: Request) -> Response:
        kind = self.kind(request)
        return self._whole(request, kind, self.row(request, kind))

    async def read_by_key(self, request: Request) -> Response:
        kind, name = self.kind(request), self.key_field(request)
        rows = self.org.matches(kind, name, unquote_plus(request.path_params["value"]))
        if len(rows) > 1:
            return several(request, kind, rows)
        if not rows:
            raise nothing_here()
        return self._whole(request, kind, rows[0])

    def _whole(self, request: Request, kind: str, row: Mapping[str, Any]) -> Response:
        asked = request.query_params.get("fields")
        names = asked.split(",") if asked else (*SYSTEM, *self.org.fields[kind])
        shown = {name: row.get(name) for name in (self._path(kind, each) for each in names)}
        return answer(200, {"attributes": attributes(request, kind, row["Id"]), **shown})

    def kind(self, request: Request) -> str:
        """The object in the path. Raises Fault."""
        kind = self.org.name_of(request.path_params["object"])
        if kind is None:
            raise nothing_here()
        return kind

    def key_field(self, request: Request) -> str:
        """The external id field in the path. Raises Fault."""
        kind, said = self.kind(request), request.path_params["field"]
        if said == "Id":
            return said
        name = self.org.column(kind, said)
        if name is None or not self.org.looked_up_by(kind, name):
            raise _inaccessible(said)
        return name

    def row(self, request: Request, kind: str) -> dict[str, Any]:
        """The record in the path. Raises Fault."""
        known = request.path_params["id"]
        try:
            return self.org.row(kind, known)
        except Refused as refused:
            code = refused.mistakes[0].code
            if code == "ENTITY_IS_DELETED":
                raise Fault(404, code) from None
            raise _inaccessible(known) from None

    def written(self, known: str) -> None:
        """What has just been written is not in the search index yet."""
        if self.search_lags:
            self._unindexed.add(known)


def attributes(request: Request, kind: str, known: str) -> dict[str, str]:
    """What stands at the head of every record that is shown."""
    url = f"{DATA}{request.path_params['version']}/sobjects/{kind}/{known}"
    return {"type": kind, "url": url}


def several(request: Request, kind: str, rows: Sequence[Mapping[str, Any]]) -> Response:
    """300: an external id that is not unique."""
    return answer(300, [attributes(request, kind, row["Id"])["url"] for row in rows])


def _inaccessible(name: str) -> Fault:
    text = f"Provided external ID field does not exist or is not accessible: {name}"
    return Fault(404, "NOT_FOUND", text)


def _asked(request: Request, name: str) -> str:
    text = request.query_params.get(name)
    if not text:
        raise Fault(400, "MALFORMED_QUERY", f"the parameter {name} is missing")
    return text


def _shown(request: Request, kind: str, asked: soql.Query, row: Mapping[str, Any]) -> Any:
    shown: dict[str, Any] = {"attributes": attributes(request, kind, row["Id"])}
    for name in asked.fields:
        first, _, rest = name.partition(".")
        if not rest:
            shown[first] = row.get(first)
            continue
        parent = shown.setdefault(first, {} if row.get(first) else None)
        if parent is not None:
            parent[rest] = soql.at(row, name)
    return shown


def _described(name: str, column: Field) -> dict[str, Any]:
    boolean = column.type == "boolean"
    values = column.options or ()
    return {
        "name": name,
        "label": column.label or name.removesuffix("__c").replace("_", " "),
        "type": column.type,
        "length": column.length if column.type not in {"boolean", "double", "int", "date"} else 0,
        "nillable": not (column.required or boolean or name in SYSTEM),
        "defaultedOnCreate": boolean or name in SYSTEM or column.default is not None,
        "createable": column.writable,
        "updateable": column.writable and not column.fixed,
        "externalId": column.external_id,
        "idLookup": column.external_id or name == "Id",
        "unique": column.unique,
        "caseSensitive": column.case_sensitive,
        "custom": name.endswith("__c"),
        "restrictedPicklist": bool(values) and column.restricted,
        "picklistValues": [
            {"value": each, "label": each, "active": True, "defaultValue": False} for each in values
        ],
        "referenceTo": list(column.parents),
        "relationshipName": column.relationship or None,
    }


def _sortable(value: Any) -> Any:
    """What is empty comes first."""
    return value is not None, 0 if value is None else value


@lru_cache(maxsize=100_000)
def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


@lru_cache(maxsize=1000)
def _number(term: str) -> str:
    """Its digits where a term is a number."""
    digits = _digits(term)
    return digits if len(digits) >= 7 and not re.search(r"[A-Za-z]", term) else ""


def _alike(term: str, value: str) -> bool:
    """As the search index reads it: a number without its formatting, text word by word."""
    if number := _number(term):
        return _digits(value).endswith(number)
    words = re.findall(r"\w+", value.lower())
    wanted = re.findall(r"\w+", term.lower())
    if term.endswith("*"):
        return any(word.startswith(wanted[-1]) for word in words)
    return bool(wanted) and all(word in words for word in wanted)

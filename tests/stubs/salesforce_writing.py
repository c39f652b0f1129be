"""What can be written in the Salesforce stub: collections of records, and records one by one.

REST API Developer Guide, "sObject Collections" and "Upsert a Record Using an External ID".
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import orjson
from starlette.requests import Request
from starlette.responses import Response
from stubs import salesforce_errors as errors
from stubs.salesforce_errors import Fault, not_here, nothing_here
from stubs.salesforce_locks import Locks, Name, locked_by
from stubs.salesforce_mistakes import Mistake, Mistyped, Refused
from stubs.salesforce_org import Org
from stubs.salesforce_reading import Reading, several
from stubs.salesforce_values import comparable
from stubs.vendor import answer

LARGEST_COLLECTION = 200
ASSIGNED = frozenset({"Lead", "Case", "Account"})


@dataclass
class RowFault:
    """Rows that are refused though nothing is wrong with them."""

    mistake: Mistake
    left: int
    key: str | None
    kind: str | None
    name: str

    def hits(self, kind: str, values: Mapping[str, Any]) -> bool:
        if self.kind not in {None, kind}:
            return False
        return self.key is None or self.key in map(str, values.values())


class Writing(Reading):
    """The part of the org that changes.

    `assigned`: the records that assignment rules ran for. `duplicate_key`: how duplicateResult
    is spelt; orgs have been seen to leave out an l. `rows_name_duplicates`: whether a row has one.
    `mistyped_request`: a value of the wrong type fails a whole collection as no JSON (400), and
    not its row. `latency` in seconds, of each request; with one, requests at work together lock
    each other's records. `row_chance` is asked for the code of a row's failure, for storms.
    """

    fired: Counter[str]

    def __init__(self, org: Org) -> None:
        super().__init__(org)
        self.assigned: list[str] = []
        self.duplicate_key = "duplicateResult"
        self.rows_name_duplicates = True
        self.mistyped_request = False
        self.latency = 0.0
        self.row_chance: Callable[[str, Mapping[str, Any]], str | None] = lambda _kind, _row: None
        self._row_faults: list[RowFault] = []
        self._locks = Locks(org, self.fired)

    def fault_row(
        self,
        code: str,
        *,
        key: str | None = None,
        count: int = 1,
        message: str | None = None,
        fields: Sequence[str] = (),
        kind: str | None = None,
        name: str | None = None,
    ) -> None:
        """The next `count` rows (that hold the value `key`, of this object) are refused so.

        `fired` counts them under `name`, or the code.
        """
        text = errors.MESSAGES.get(code, code) if message is None else message
        mistake = Mistake(code, text, tuple(fields))
        self._row_faults.append(RowFault(mistake, count, key, kind, name or code))

    async def upsert_collection(self, request: Request) -> Response:
        kind, name = self.kind(request), self.key_field(request)
        if float(request.path_params["version"]) < 46:
            raise nothing_here()
        every, records = self._collection(await _json(request))
        for record in records:
            if record["attributes"]["type"].lower() != kind.lower():
                raise Fault(400, "INVALID_TYPE", f"every record should be of type {kind}")
            if name != "Id" and _held(record, "Id"):
                raise not_here("Id")
        keys = Counter(comparable(_value(record, name)) for record in records)

        def save(record: dict[str, Any]) -> dict[str, Any]:
            key = comparable(_value(record, name))
            if key is not None and keys[key] > 1:
                text = f"Duplicate external id specified: {_value(record, name)}"
                raise Refused(Mistake("DUPLICATE_VALUE", text, (name,)))
            return self._upserted(request, kind, name, record)

        def names(record: dict[str, Any]) -> frozenset[Name]:
            return locked_by(self.org, kind, record, name, _value(record, name))

        return await self._each(every, records, names, save)

    def _upserted(
        self, request: Request, kind: str, name: str, record: dict[str, Any]
    ) -> dict[str, Any]:
        values = {n: v for n, v in record.items() if n != "attributes"}
        key = _value(values, name)
        if key is None or key == "":
            raise Refused(Mistake("MISSING_ARGUMENT", f"{name} not specified", (name,)))
        self._trip(kind, values)
        if name == "Id":
            row: dict[str, Any] | None = self.org.row(kind, key)
            values = {n: v for n, v in values.items() if n.lower() != "id"}
        else:
            rows = self.org.matches(kind, name, key)
            if len(rows) > 1:
                raise Refused(self.org.ambiguous(kind, name, rows))
            row = rows[0] if rows else None
        known = self._written(request, kind, row, values)
        return {"id": known, "success": True, "errors": [], "created": row is None}

    async def insert_collection(self, request: Request) -> Response:
        every, records = self._collection(await _json(request))

        def save(record: dict[str, Any]) -> dict[str, Any]:
            kind = self._typed(record)
            values = {n: v for n, v in record.items() if n != "attributes"}
            if _held(values, "Id"):
                text = "cannot specify Id in an insert call"
                raise Refused(Mistake("INVALID_FIELD_FOR_INSERT_UPDATE", text, ("Id",)))
            self._trip(kind, values)
            known = self._written(request, kind, None, values)
            return {"id": known, "success": True, "errors": []}

        return await self._each(every, records, self._names_by_id, save)

    async def update_collection(self, request: Request) -> Response:
        every, records = self._collection(await _json(request))

        def save(record: dict[str, Any]) -> dict[str, Any]:
            kind = self._typed(record)
            values = {n: v for n, v in record.items() if n != "attributes"}
            given = [values.pop(name) for name in list(values) if name.lower() == "id"]
            if not given:
                raise Refused(Mistake("MISSING_ARGUMENT", "Id not specified in an update call"))
            self._trip(kind, {"Id": given[0]} | values)
            known = self._written(request, kind, self.org.row(kind, given[0]), values)
            return {"id": known, "success": True, "errors": []}

        return await self._each(every, records, self._names_by_id, save)

    def _names_by_id(self, record: Mapping[str, Any]) -> frozenset[Name]:
        kind = self.org.name_of(record["attributes"]["type"])
        known = record.get("Id", record.get("id"))
        return locked_by(self.org, kind, record, "Id", known) if kind else frozenset()

    def _collection(self, body: Any) -> tuple[bool, list[dict[str, Any]]]:
        """A collection's parts, of the right form. Raises Fault."""
        if not isinstance(body, dict) or not isinstance(body.get("records"), list):
            raise Fault(400, "JSON_PARSER_ERROR", "The request needs a list of records")
        if unknown := [name for name in body if name not in {"allOrNone", "records"}]:
            text = f'Unrecognized field "{unknown[0]}" at [line:1, column:2]'
            raise Fault(400, "JSON_PARSER_ERROR", text)
        every, records = body.get("allOrNone", False), body["records"]
        if type(every) is not bool:
            raise Fault(400, "JSON_PARSER_ERROR", "allOrNone should be true or false")
        if not records:
            raise Fault(400, "MISSING_ARGUMENT", "no records")
        if len(records) > LARGEST_COLLECTION:
            text = "record limit reached. cannot submit more than 200 records into this call"
            raise Fault(400, "EXCEEDED_ID_LIMIT", text)
        for record in records:
            kind = record.get("attributes") if isinstance(record, dict) else None
            if not isinstance(kind, dict) or not isinstance(kind.get("type"), str):
                raise Fault(400, "INVALID_TYPE", "every record should have attributes.type")
        return every, records

    async def _each(
        self,
        every: bool,
        records: Sequence[dict[str, Any]],
        names: Callable[[dict[str, Any]], frozenset[Name]],
        save: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Response:
        """One result for each record, in their order."""
        touched = [names(record) for record in records]
        async with self._locks.held(frozenset().union(*touched), self.latency) as hold:
            before = self.org.saved() if every or self.mistyped_request else None
            assigned = list(self.assigned)
            results = []
            for record, mine in zip(records, touched, strict=True):
                try:
                    hold.check(mine)
                    results.append(save(record))
                except Refused as refused:
                    if self.mistyped_request and isinstance(refused.mistakes[0], Mistyped):
                        self._take_back(before, assigned)
                        raise
                    results.append(self._row_refused(refused))
            if every and not all(result["success"] for result in results):
                self._take_back(before, assigned)
                results = [errors.rolled_back() if each["success"] else each for each in results]
        return answer(200, results)

    def _take_back(self, before: Any, assigned: list[str]) -> None:
        self.org.restore(before)
        self.assigned = assigned

    def _row_refused(self, refused: Refused) -> dict[str, Any]:
        return errors.row(refused, self.duplicate_key if self.rows_name_duplicates else None)

    async def upsert(self, request: Request) -> Response:
        """One record by external id: 201, 200 (204 before v46), or 300 where several fit."""
        kind, name = self.kind(request), self.key_field(request)
        values = _record(await _json(request))
        for forbidden in ("Id", name):
            if _held(values, forbidden):
                raise not_here(forbidden)
        # A plus sign that is not encoded is a space to the vendor.
        key = unquote_plus(request.path_params["value"])
        names = locked_by(self.org, kind, values, name, key)
        async with self._locks.held(names, self.latency) as hold:
            hold.check(names)
            return self._upsert(request, kind, name, key, values)

    def _upsert(
        self, request: Request, kind: str, name: str, key: str, values: dict[str, Any]
    ) -> Response:
        self._trip(kind, {name: key} | values)
        rows = self.org.matches(kind, name, key)
        if len(rows) > 1:
            return several(request, kind, rows)
        if not rows and request.query_params.get("updateOnly") == "true":
            raise nothing_here()
        row = rows[0] if rows else None
        known = self._written(request, kind, row, values if row else values | {name: key})
        created = row is None
        content = {"id": known, "success": True, "errors": [], "created": created}
        if not created and float(request.path_params["version"]) < 46:
            return Response(status_code=204)
        return answer(201 if created else 200, content)

    async def create(self, request: Request) -> Response:
        kind = self.kind(request)
        values = _record(await _json(request))
        if _held(values, "Id"):
            raise not_here("Id")
        names = locked_by(self.org, kind, values, "Id", None)
        async with self._locks.held(names, self.latency) as hold:
            hold.check(names)
            self._trip(kind, values)
            known = self._written(request, kind, None, values)
        return answer(201, {"id": known, "success": True, "errors": []})

    async def update(self, request: Request) -> Response:
        kind = self.kind(request)
        values = _record(await _json(request))
        if _held(values, "Id"):
            raise not_here("Id")
        known = self.row(request, kind)["Id"]
        names = locked_by(self.org, kind, values, "Id", known)
        async with self._locks.held(names, self.latency) as hold:
            hold.check(names)
            self._trip(kind, {"Id": known} | values)
            self._written(request, kind, self.row(request, kind), values)
        return Response(status_code=204)

    async def delete(self, request: Request) -> Response:
        kind = self.kind(request)
        self.org.delete(kind, self.row(request, kind)["Id"])
        return Response(status_code=204)

    def _written(
        self,
        request: Request,
        kind: str,
        row: dict[str, Any] | None,
        values: Mapping[str, Any],
    ) -> str:
        said = _header(request, "sforce-duplicate-rule-header", "allowsave") == "true"
        allow_save = said and float(request.path_params["version"]) >= 52
        if row is None:
            known = self.org.insert(kind, values, allow_save=allow_save)
            if (
                kind in ASSIGNED
                and request.headers.get("sforce-auto-assign", "").lower() != "false"
            ):
                self.assigned.append(known)
        else:
            known = row["Id"]
            self.org.update(kind, row, values, allow_save=allow_save)
        self.written(known)
        return known

    def _trip(self, kind: str, values: Mapping[str, Any]) -> None:
        """Fail a row that was asked to fail, or that chance picks."""
        for fault in self._row_faults:
            if fault.hits(kind, values):
                fault.left -= 1
                if not fault.left:
                    self._row_faults.remove(fault)
                self.fired[fault.name] += 1
                raise Refused(fault.mistake)
        if code := self.row_chance(kind, values):
            self.fired[code] += 1
            raise Refused(Mistake(code, errors.MESSAGES.get(code, code)))

    def _typed(self, record: Mapping[str, Any]) -> str:
        said = record["attributes"]["type"]
        kind = self.org.name_of(said)
        if kind is None:
            raise Refused(Mistake("INVALID_TYPE", f"sObject type '{said}' is not supported."))
        return kind


def _held(values: Mapping[str, Any], name: str) -> bool:
    return any(each.lower() == name.lower() for each in values)


def _value(record: Mapping[str, Any], name: str) -> Any:
    """A record's value, whatever the capitals of the field's name."""
    return next((value for each, value in record.items() if each.lower() == name.lower()), None)


async def _json(request: Request) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/json":
        raise Fault(415, "UNSUPPORTED_MEDIA_TYPE", f"Content-Type {kind} is not supported")
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise Fault(400, "JSON_PARSER_ERROR", f"Unexpected character: {error}") from None


def _record(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise Fault(400, "JSON_PARSER_ERROR", "Cannot deserialize instance of sobject")
    return {name: value for name, value in body.items() if name != "attributes"}


def _header(request: Request, name: str, part: str) -> str:
    """A part of `name: a=b; c=d`."""
    for each in request.headers.get(name, "").split(";"):
        key, _, value = each.strip().partition("=")
        if key.lower() == part:
            return value.lower()
    return ""

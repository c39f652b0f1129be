"""A Salesforce org on loopback, strict where the vendor is, with faults on demand.

    stub = SalesforceStub(client_id="id", client_secret="secret")
    async with serving(stub.app) as url:
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": "12125550123"})
        stub.fault("503", count=2)                             # the next two data requests
        stub.fault("drop_after_commit", on="/composite/")      # kept, but never answered
        stub.fault_row("UNABLE_TO_LOCK_ROW", key="12125550123")
        stub.fault_answer(403, "API_DISABLED_FOR_ORG")
        ...
        assert stub.records("Contact")[0]["LastName"] == "Doe"

After the REST API Developer Guide (Upsert a Record Using an External ID; Upsert Records Using
sObject Collections; API Request Limits and Allocations), and texts that users have recorded.
What a client must never do is refused, also where the vendor would let it pass: an empty
collection, credentials in a URL, text where a number belongs.
"""

import base64
import binascii
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus

import jwt
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stubs import soql
from stubs.sobjects import (
    SYSTEM,
    DuplicateRule,
    Field,
    Mistake,
    Mistyped,
    Org,
    Refused,
    comparable,
)
from stubs.vendor import Stub, answer

DATA = "/services/data/v"
VERSIONS = [f"{number}.0" for number in range(40, 69)]
NAMES = {66: "Spring '26", 67: "Summer '26", 68: "Winter '27"}
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIENCES = ("https://login.salesforce.com", "https://test.salesforce.com")
LARGEST_COLLECTION = 200
LONGEST_URI = 16384
LONGEST_ASSERTION = 180
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
ASSIGNED = frozenset({"Lead", "Case", "Account"})

# What the vendor says with a code; for the rest the code itself must do.
MESSAGES = {
    "ALL_OR_NONE_OPERATION_ROLLED_BACK": (
        "Record rolled back because not all records were valid and the request was using"
        " AllOrNone header"
    ),
    "API_CURRENTLY_DISABLED": "API is currently disabled",
    "API_DISABLED_FOR_ORG": "The REST API is not enabled for this Organization.",
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": (
        "SmsTrigger: execution of BeforeInsert caused by: System.NullPointerException"
    ),
    "DUPLICATE_EXTERNAL_ID": "more than one record found for external id field",
    "DUPLICATE_VALUE": "duplicate value found: SMS_Key__c duplicates value on record with id: 003",
    "ENTITY_IS_DELETED": "entity is deleted",
    "FIELD_CUSTOM_VALIDATION_EXCEPTION": "The number may not be used",
    "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY": (
        "insufficient access rights on cross-reference id"
    ),
    "INSUFFICIENT_ACCESS_OR_READONLY": "insufficient access rights on object id",
    "INVALID_CROSS_REFERENCE_KEY": "invalid cross reference id",
    "INVALID_SESSION_ID": "Session expired or invalid",
    "PROCESSING_HALTED": (
        "The transaction was rolled back since another operation in the same transaction failed."
    ),
    "REQUEST_LIMIT_EXCEEDED": "TotalRequests Limit exceeded.",
    "SERVER_UNAVAILABLE": "The server is temporarily unavailable. Please try again later.",
    "STORAGE_LIMIT_EXCEEDED": "storage limit exceeded",
    "UNABLE_TO_LOCK_ROW": (
        "unable to obtain exclusive access to this record or 1 records: 003Hs0000000001AAA"
    ),
    "UNKNOWN_EXCEPTION": (
        "An unexpected error occurred. Please include this ErrorId if you contact support:"
        " 1234567890-12345 (-1234567890)"
    ),
}
CONCURRENT = "ConcurrentRequests (Concurrent API Requests) Limit exceeded."

Handler = Callable[[Request], Awaitable[Response]]


class Fault(Exception):
    """An answer that is an error of the whole request."""

    def __init__(self, status: int, code: str, message: str | None = None, **more: Any) -> None:
        super().__init__(code)
        self.answer = errors(status, code, message, **more)


def errors(status: int, code: str, message: str | None = None, **more: Any) -> Response:
    """The body of every error but those of signing in: a list of one."""
    text = MESSAGES.get(code, code) if message is None else message
    return answer(status, [{"message": text, "errorCode": code, **more}])


@dataclass
class RowFault:
    """Rows that are refused though nothing is wrong with them."""

    mistake: Mistake
    left: int
    key: str | None
    kind: str | None
    name: str

    def hits(self, kind: str, values: Sequence[Any]) -> bool:
        if self.kind not in {None, kind}:
            return False
        return self.key is None or self.key in map(str, values)


class SalesforceStub(Stub):
    """An org with one user: the integration's.

    `fields`: what `describe` tells, to be changed at will. `api_used`, `api_most`: the calls of
    the day. `page_size`: of a query's answer. `instance_url`: where data is to be asked for, if
    not where the token was. `generic_hosts`: login hosts that know no client credentials.
    `jwt_key` is the certificate's public key as PEM, `username` whom it may sign in.
    `mistyped_request`: a value of the wrong type fails the whole collection as no JSON (400),
    and not its row. `rows_name_duplicates`: a row's DUPLICATES_DETECTED has a duplicateResult.
    `search_lags`: what is written is found by `search` only after `index()`.
    """

    def __init__(
        self,
        client_id: str = "id",
        client_secret: str = "secret",
        *,
        jwt_key: str | bytes | None = None,
        username: str = "relay@acme.example",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(_starlette(self))
        self.client_id = client_id
        self.client_secret = client_secret
        self.jwt_key = jwt_key
        self.username = username
        self.org = Org()
        self.fields = self.org.fields
        self.api_used = 0
        self.api_most = 100_000
        self.page_size = 2000
        self.instance_url: str | None = None
        self.generic_hosts = {"login.salesforce.com", "test.salesforce.com"}
        self.duplicate_key = "duplicateResult"
        self.mistyped_request = False
        self.rows_name_duplicates = True
        self.search_lags = False
        self.assigned: list[str] = []
        self.tokens: set[str] = set()
        self.sign_ins = 0
        self._clock = clock
        self._refusal: tuple[str, str | None] | None = None
        self._row_faults: list[RowFault] = []
        self._unindexed: set[str] = set()
        self._pages: dict[str, tuple[soql.Query, list[dict[str, Any]]]] = {}
        self.answers |= self._whole_faults()
        self.inside |= {"lock_row": self._lock_row}
        self.switches |= {
            "expire_tokens": self.expire_tokens,
            "revoke_all": self.revoke_all,
            "index": self.index,
        }

    def is_data(self, _method: str, path: str) -> bool:
        return path.startswith(DATA)

    def records(self, name: str) -> list[dict[str, Any]]:
        """An object's records, without the fields that are empty."""
        return [dict(row) for row in self.org.table(name).values()]

    def seed(self, name: str, values: Mapping[str, Any], *, unchecked: bool = False) -> str:
        """Put a record there, by the org's own rules; gives its id.

        `unchecked` lets a second record have a key that must be unique, as one made before the
        field was. Raises stubs.sobjects.Refused.
        """
        if not unchecked:
            return self.org.insert(name, values, allow_save=True)
        fields = self.fields[name]
        loose = {n: Field(f.type, f.length, label=f.label) for n, f in fields.items()}
        self.fields[name] = loose
        try:
            return self.org.insert(name, values, allow_save=True)
        finally:
            self.fields[name] = fields

    def duplicate_rule(self, name: str, *fields: str, **more: Any) -> None:
        """From now on records alike in one of the fields are duplicates: see DuplicateRule."""
        self.org.rules.append(DuplicateRule(name, fields, **more))

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
        """The next `count` rows (holding the value `key`, of this object) are refused so.

        `fired` counts them under `name`, or the code.
        """
        text = MESSAGES.get(code, code) if message is None else message
        mistake = Mistake(code, text, tuple(fields))
        self._row_faults.append(RowFault(mistake, count, key, kind, name or code))

    def fault_answer(
        self,
        status: int,
        code: str,
        message: str | None = None,
        *,
        count: int = 1,
        on: str | None = None,
    ) -> None:
        """The next `count` requests are answered with this error; `fired` has `STATUS CODE`."""
        name = f"{status} {code}"
        self.answers[name] = lambda: self._limited(errors(status, code, message))
        self.fault(name, count, on)

    def refuse_sign_in(self, error: str, description: str | None = None) -> None:
        """Whoever signs in hears this, until `allow_sign_in`."""
        self._refusal = error, description

    def allow_sign_in(self) -> None:
        self._refusal = None

    def expire_tokens(self) -> None:
        """Every session is over; signing in helps."""
        self.tokens.clear()

    revoke_all = expire_tokens

    def index(self) -> None:
        """What has been written can be found by `search`."""
        self._unindexed.clear()

    # Signing in

    async def token(self, request: Request) -> Response:
        form = _form(request, (await request.body()).decode("latin-1"))
        if self._refusal:
            return _no_token(*self._refusal)
        match form.get("grant_type"):
            case "client_credentials":
                refusal = self._by_secret(request, form)
            case grant if grant == JWT_GRANT:
                refusal = self._by_assertion(request, form)
            case _:
                refusal = _no_token("unsupported_grant_type", "grant type not supported")
        return refusal or self._signed_in(request)

    def _by_secret(self, request: Request, form: Mapping[str, str]) -> Response | None:
        if request.url.hostname in self.generic_hosts:
            return _no_token("invalid_grant", "request not supported on this domain")
        client, secret = _basic(request) or (form.get("client_id"), form.get("client_secret"))
        if client != self.client_id:
            return _no_token("invalid_client_id", "client identifier invalid")
        if secret != self.client_secret:
            return _no_token("invalid_client", "invalid client credentials")
        return None

    def _by_assertion(self, request: Request, form: Mapping[str, str]) -> Response | None:
        """The checks of the help page "OAuth 2.0 JWT Bearer Flow": RS256, iss, sub, aud, exp."""
        if "client_secret" in form:
            return _no_token("invalid_request", "an assertion comes without a client_secret")
        try:
            claims = jwt.decode(
                form.get("assertion", ""),
                self.jwt_key or "",
                algorithms=["RS256"],
                options={"verify_aud": False, "verify_exp": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError):
            return _no_token("invalid_grant", "invalid assertion")
        if claims.get("iss") != self.client_id:
            return _no_token("invalid_client_id", "client identifier invalid")
        if claims.get("aud") not in {*AUDIENCES, _base(request)}:
            return _no_token("invalid_grant", "audience is invalid")
        expires = claims.get("exp")
        if type(expires) is not int:
            return _no_token("invalid_grant", "exp should be a number of seconds")
        if not 0 < expires - self._clock() <= LONGEST_ASSERTION:
            return _no_token("invalid_grant", "expired authorization code")
        if claims.get("sub") != self.username:
            return _no_token("invalid_grant", "user hasn't approved this consumer")
        return None

    def _signed_in(self, request: Request) -> Response:
        """A grant repeated gives the same session while it lasts."""
        self.sign_ins += 1
        if not self.tokens:
            self.tokens.add(f"00DHs0000000001!{secrets.token_urlsafe(40)}")
        (token,) = self.tokens
        content = {
            "access_token": token,
            "signature": base64.b64encode(secrets.token_bytes(32)).decode(),
            "scope": "api",
            "instance_url": self.instance_url or _base(request),
            "id": "https://login.salesforce.com/id/00DHs0000000001MAA/005Hs0000000001IAA",
            "token_type": "Bearer",
            "issued_at": str(int(self._clock() * 1000)),
        }
        return answer(200, content, {"cache-control": "no-store"})

    # What every data request goes through

    def data(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            try:
                self._admit(request)
                response = await handler(request)
            except Fault as fault:
                response = fault.answer
            except Refused as refused:
                response = _refusal(refused, self.duplicate_key)
            except soql.Malformed as malformed:
                response = errors(400, malformed.code, str(malformed))
            return self._limited(response)

        return guarded

    def _admit(self, request: Request) -> None:
        if len(request.scope["raw_path"]) + len(request.scope["query_string"]) > LONGEST_URI:
            raise Fault(414, "URI_TOO_LONG", "URI Too Long")
        if request.path_params["version"] not in VERSIONS:
            raise _nothing_here()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme not in {"Bearer", "OAuth"}:
            raise Fault(401, "INVALID_AUTH_HEADER")
        if token not in self.tokens or not self._at_home(request):
            raise Fault(401, "INVALID_SESSION_ID")
        if self.api_used >= self.api_most:
            raise Fault(403, "REQUEST_LIMIT_EXCEEDED")
        self.api_used += 1

    def _at_home(self, request: Request) -> bool:
        return self.instance_url in {None, _base(request)}

    def _limited(self, response: Response) -> Response:
        response.headers["sforce-limit-info"] = f"api-usage={self.api_used}/{self.api_most}"
        return response

    def _whole_faults(self) -> dict[str, Callable[[], Response]]:
        def told(status: int, code: str, message: str | None = None) -> Callable[[], Response]:
            return lambda: self._limited(errors(status, code, message))

        def page(status: int) -> Callable[[], Response]:
            return lambda: Response(
                f"<html><h1>{status}</h1></html>", status, media_type="text/html"
            )

        return {
            "500": told(500, "UNKNOWN_EXCEPTION"),
            "502": page(502),
            "503": told(503, "SERVER_UNAVAILABLE"),
            "504": page(504),
            "maintenance": page(503),
            "query_timeout": told(500, "QUERY_TIMEOUT", "Your query request was running too long"),
            "concurrent": told(403, "REQUEST_LIMIT_EXCEEDED", CONCURRENT),
            "throttle": told(403, "REQUEST_LIMIT_EXCEEDED", CONCURRENT),
            "daily": told(403, "REQUEST_LIMIT_EXCEEDED"),
            "expired": told(401, "INVALID_SESSION_ID"),
            "disabled": told(403, "API_DISABLED_FOR_ORG"),
            "empty": lambda: self._limited(Response(b"", 200, media_type="application/json")),
            "not_json": lambda: self._limited(Response(b"<html>", 200, media_type="text/html")),
            "redirect": lambda: Response(status_code=302, headers={"location": "/secur/login"}),
        }

    # Reading

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

    async def limits(self, _request: Request) -> Response:
        left = self.api_most - self.api_used
        return answer(200, {"DailyApiRequests": {"Max": self.api_most, "Remaining": left}})

    async def describe(self, request: Request) -> Response:
        kind = self._kind(request)
        names = [*SYSTEM, *self.fields[kind]]
        content = {
            "name": kind,
            "label": kind,
            "keyPrefix": self.org.prefix(kind),
            "custom": kind.endswith("__c"),
            "createable": True,
            "updateable": True,
            "queryable": True,
            "searchable": True,
            "fields": [_described(name, self.org.field(kind, name)) for name in names],
        }
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
        content["records"] = [self._shown(request, kind, asked, row) for row in rows[start:end]]
        return answer(200, content)

    def _queried(self, asked: soql.Query) -> str:
        """The object that a query is about. Raises Fault for a name that it lacks."""
        kind = self.org.name_of(asked.kind)
        if kind is None:
            text = f"sObject type '{asked.kind}' is not supported. If you are attempting to use a"
            raise Fault(400, "INVALID_TYPE", f"{text} custom object, be sure to append the '__c'")
        for name in asked.names:
            self._known_path(kind, name)
        return kind

    def _known_path(self, kind: str, path: str) -> None:
        first, _, rest = path.partition(".")
        if rest:
            found = [f for f in self.fields[kind].values() if f.relationship == first]
            if not found:
                text = f"Didn't understand relationship '{first}' in field path."
                raise Fault(400, "INVALID_FIELD", text)
            self._known_path(found[0].refers, rest)
        elif first not in (*self.fields[kind], *SYSTEM):
            text = f"No such column '{path}' on entity '{kind}'. If you are attempting to use a"
            raise Fault(400, "INVALID_FIELD", f"{text} custom field, be sure to append the '__c'")

    def _selected(self, asked: soql.Query, kind: str) -> list[dict[str, Any]]:
        rows = [row for row in map(self._joined(kind), self.records(kind)) if asked.test(row)]
        for name, down in reversed(asked.order):
            told = soql.tells_capitals(name)
            rows.sort(key=lambda row: _sortable(soql.at(row, name), told), reverse=down)
        return rows[asked.offset :][: asked.limit]

    def _joined(self, kind: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Puts the parents into a row."""

        def joined(row: dict[str, Any]) -> dict[str, Any]:
            for name, column in self.fields[kind].items():
                parent = (
                    self.org.table(column.refers).get(row.get(name, "")) if column.refers else 0
                )
                if parent:
                    row[column.relationship] = dict(parent)
            return row

        return joined

    def _shown(self, request: Request, kind: str, asked: soql.Query, row: Mapping[str, Any]) -> Any:
        shown = {"attributes": _attributes(request, kind, row["Id"])}
        for name in asked.fields:
            first, _, rest = name.partition(".")
            if not rest:
                shown[first] = row.get(first)
                continue
            parent = shown.setdefault(first, {} if row.get(first) else None)
            if parent is not None:
                parent[rest] = soql.at(row, name)
        return shown

    async def search(self, request: Request) -> Response:
        asked = soql.search(_asked(request, "q"))
        if not asked.returning:
            asked.returning = [soql.Query(["Id"], kind) for kind in ("Contact", "Lead")]
        found: list[Any] = []
        for part in asked.returning:
            kind = self._queried(part)
            rows = [row for row in self._selected(part, kind) if self._found(asked, kind, row)]
            found += [self._shown(request, kind, part, row) for row in rows[: part.limit]]
        return answer(200, {"searchRecords": found[: asked.limit]})

    async def parameterized_search(self, request: Request) -> Response:
        asked = dict(parse_qsl(request.url.query))
        words = "".join(f"\\{c}" if c in "?&|!{}[]()^~*:\\\"'+-" else c for c in asked.get("q", ""))
        fields = asked.get("fields", "Id")
        kinds = (asked.get("sobject") or "Contact,Lead").split(",")
        returning = ",".join(f"{kind}({asked.get(f'{kind}.fields', fields)})" for kind in kinds)
        text = f"FIND {{{words}}} IN {asked.get('in', 'ALL')} FIELDS RETURNING {returning}"
        found = soql.search(text)
        content: list[Any] = []
        for part in found.returning:
            kind = self._queried(part)
            rows = [row for row in self._selected(part, kind) if self._found(found, kind, row)]
            content += [self._shown(request, kind, part, row) for row in rows]
        return answer(200, {"searchRecords": content})

    def _found(self, asked: Any, kind: str, row: Mapping[str, Any]) -> bool:
        if row["Id"] in self._unindexed:
            return False
        types = {"PHONE": {"phone"}, "EMAIL": {"email"}, "NAME": {"name"}}.get(asked.group)
        values = [
            str(row[name])
            for name, column in self.fields[kind].items()
            if row.get(name) and (types is None or column.type in types)
        ]
        return any(_alike(term, value) for term in asked.terms for value in values)

    # Writing

    async def upsert_collection(self, request: Request) -> Response:
        kind, name = self._kind(request), self._key_field(request)
        if float(request.path_params["version"]) < 46:
            raise _nothing_here()
        every, records = self._collection(await _json(request))
        for record in records:
            if record["attributes"]["type"].lower() != kind.lower():
                raise Fault(400, "INVALID_TYPE", f"every record should be of type {kind}")
            if name != "Id" and _held(record, "Id"):
                raise Fault(400, "INVALID_FIELD", _not_here("Id"))
        keys = Counter(_key(record, name) for record in records)

        def save(record: dict[str, Any]) -> dict[str, Any]:
            key = _key(record, name)
            if key is not None and keys[key] > 1:
                text = f"Duplicate external id specified: {record[name]}"
                raise Refused(Mistake("DUPLICATE_VALUE", text, (name,)))
            return self._upserted(request, kind, name, record)

        return self._each(every, records, save)

    def _upserted(
        self, request: Request, kind: str, name: str, record: dict[str, Any]
    ) -> dict[str, Any]:
        values = {n: v for n, v in record.items() if n != "attributes"}
        key = values.get(name)
        if key is None or key == "":
            raise Refused(Mistake("MISSING_ARGUMENT", f"{name} not specified", (name,)))
        self._trip(kind, values)
        if name == "Id":
            row = self.org.row(kind, values.pop("Id"))
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

        return self._each(every, records, save)

    async def update_collection(self, request: Request) -> Response:
        every, records = self._collection(await _json(request))

        def save(record: dict[str, Any]) -> dict[str, Any]:
            kind = self._typed(record)
            values = {n: v for n, v in record.items() if n != "attributes"}
            given = [values.pop(name) for name in list(values) if name.lower() == "id"]
            if not given:
                raise Refused(Mistake("MISSING_ARGUMENT", "Id not specified in an update call"))
            self._trip(kind, [*values.values(), *given])
            known = self._written(request, kind, self.org.row(kind, given[0]), values)
            return {"id": known, "success": True, "errors": []}

        return self._each(every, records, save)

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

    def _each(
        self,
        every: bool,
        records: Sequence[dict[str, Any]],
        save: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Response:
        """One result for each record, in their order."""
        before = self.org.saved() if every or self.mistyped_request else None
        assigned = list(self.assigned)
        results = []
        failed = False
        for record in records:
            try:
                results.append(save(record))
            except Refused as refused:
                if self.mistyped_request and isinstance(refused.mistakes[0], Mistyped):
                    self.org.restore(before)
                    raise
                failed = True
                results.append(self._row_refused(refused))
        if every and failed:
            self.org.restore(before)
            self.assigned = assigned
            results = [_rolled_back() if result["success"] else result for result in results]
        return answer(200, results)

    def _row_refused(self, refused: Refused) -> dict[str, Any]:
        told = [
            {
                "statusCode": mistake.code,
                "message": mistake.message,
                "fields": list(mistake.fields),
                **(_extra(mistake, self.duplicate_key) if self.rows_name_duplicates else {}),
            }
            for mistake in refused.mistakes
        ]
        return {"success": False, "errors": told}

    async def upsert(self, request: Request) -> Response:
        """One record by external id: 201, 200 (204 before v46), or 300 where several fit."""
        kind, name = self._kind(request), self._key_field(request)
        values = _record(await _json(request))
        for forbidden in ("Id", name):
            if _held(values, forbidden):
                raise Fault(400, "INVALID_FIELD", _not_here(forbidden))
        # A plus sign that is not encoded is a space to the vendor.
        key = unquote_plus(request.path_params["value"])
        self._trip(kind, [key, *values.values()])
        rows = self.org.matches(kind, name, key)
        if len(rows) > 1:
            return answer(300, [_attributes(request, kind, row["Id"])["url"] for row in rows])
        if not rows and request.query_params.get("updateOnly") == "true":
            raise _nothing_here()
        row = rows[0] if rows else None
        known = self._written(request, kind, row, values if row else values | {name: key})
        created = row is None
        content = {"id": known, "success": True, "errors": [], "created": created}
        if not created and float(request.path_params["version"]) < 46:
            return Response(status_code=204)
        return answer(201 if created else 200, content)

    async def read_by_key(self, request: Request) -> Response:
        kind, name = self._kind(request), self._key_field(request)
        rows = self.org.matches(kind, name, unquote_plus(request.path_params["value"]))
        if len(rows) > 1:
            return answer(300, [_attributes(request, kind, row["Id"])["url"] for row in rows])
        if not rows:
            raise _nothing_here()
        return self._whole(request, kind, rows[0])

    async def create(self, request: Request) -> Response:
        kind = self._kind(request)
        values = _record(await _json(request))
        if _held(values, "Id"):
            raise Fault(400, "INVALID_FIELD", _not_here("Id"))
        self._trip(kind, values)
        known = self._written(request, kind, None, values)
        return answer(201, {"id": known, "success": True, "errors": []})

    async def read(self, request: Request) -> Response:
        kind = self._kind(request)
        return self._whole(request, kind, self._row(request, kind))

    async def update(self, request: Request) -> Response:
        kind = self._kind(request)
        values = _record(await _json(request))
        if _held(values, "Id"):
            raise Fault(400, "INVALID_FIELD", _not_here("Id"))
        row = self._row(request, kind)
        self._trip(kind, [row["Id"], *values.values()])
        self._written(request, kind, row, values)
        return Response(status_code=204)

    async def delete(self, request: Request) -> Response:
        kind = self._kind(request)
        self.org.delete(kind, self._row(request, kind)["Id"])
        return Response(status_code=204)

    def _whole(self, request: Request, kind: str, row: Mapping[str, Any]) -> Response:
        names = (*SYSTEM, *self.fields[kind])
        shown = {name: row.get(name) for name in names}
        return answer(200, {"attributes": _attributes(request, kind, row["Id"]), **shown})

    def _row(self, request: Request, kind: str) -> dict[str, Any]:
        try:
            return self.org.row(kind, request.path_params["id"])
        except Refused as refused:
            code = refused.mistakes[0].code
            if code == "ENTITY_IS_DELETED":
                raise Fault(404, code) from None
            text = "Provided external ID field does not exist or is not accessible: "
            raise Fault(404, "NOT_FOUND", text + request.path_params["id"]) from None

    def _written(
        self,
        request: Request,
        kind: str,
        row: dict[str, Any] | None,
        values: Mapping[str, Any],
    ) -> str:
        allow_save = _header(request, "sforce-duplicate-rule-header", "allowsave") == "true"
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
        if self.search_lags:
            self._unindexed.add(known)
        return known

    def _trip(self, kind: str, values: Mapping[str, Any] | Sequence[Any]) -> None:
        """Fail a row that was asked to fail."""
        held = list(values.values()) if isinstance(values, Mapping) else list(values)
        for fault in self._row_faults:
            if fault.hits(kind, held):
                fault.left -= 1
                if not fault.left:
                    self._row_faults.remove(fault)
                self.fired[fault.name] += 1
                raise Refused(fault.mistake)

    def _lock_row(self) -> None:
        self.fault_row("UNABLE_TO_LOCK_ROW", name="lock_row")

    def _kind(self, request: Request) -> str:
        kind = self.org.name_of(request.path_params["object"])
        if kind is None:
            raise _nothing_here()
        return kind

    def _typed(self, record: Mapping[str, Any]) -> str:
        said = record["attributes"]["type"]
        kind = self.org.name_of(said)
        if kind is None:
            raise Refused(Mistake("INVALID_TYPE", f"sObject type '{said}' is not supported."))
        return kind

    def _key_field(self, request: Request) -> str:
        kind, said = self._kind(request), request.path_params["field"]
        if said == "Id":
            return said
        name = self.org.column(kind, said)
        if name is None or not self.org.looked_up_by(kind, name):
            text = f"Provided external ID field does not exist or is not accessible: {said}"
            raise Fault(404, "NOT_FOUND", text)
        return name


def _starlette(stub: SalesforceStub) -> Starlette:
    """The routes. The path is matched as it was sent, so that a key may hold any character."""
    base = DATA + "{version}"
    every = "/sobjects/{object}"

    def route(path: str, **handlers: Handler) -> Route:
        async def chosen(request: Request) -> Response:
            params = request.path_params
            request.scope["path_params"] = {
                n: v if n == "value" else unquote(v) for n, v in params.items()
            }
            if request.method not in handlers:
                allowed = ",".join(handlers)
                text = f"HTTP Method '{request.method}' not allowed. Allowed are {allowed}"
                return errors(405, "METHOD_NOT_ALLOWED", text)
            return await stub.data(handlers[request.method])(request)

        return Route(base + path, chosen, methods=METHODS)

    async def unknown(_request: Request, _error: Exception) -> Response:
        return _nothing_here().answer

    return Starlette(
        routes=[
            Route("/services/oauth2/token", stub.token, methods=["POST"]),
            Route("/services/data", stub.versions),
            Route("/services/data/", stub.versions),
            route("/", GET=stub.resources),
            route("", GET=stub.resources),
            route("/limits", GET=stub.limits),
            route("/limits/", GET=stub.limits),
            route("/query", GET=stub.query),
            route("/query/", GET=stub.query),
            route("/query/{locator}", GET=stub.query_more),
            route("/search", GET=stub.search),
            route("/search/", GET=stub.search),
            route("/parameterizedSearch", GET=stub.parameterized_search),
            route("/parameterizedSearch/", GET=stub.parameterized_search),
            route("/composite/sobjects", POST=stub.insert_collection, PATCH=stub.update_collection),
            route(
                "/composite/sobjects/", POST=stub.insert_collection, PATCH=stub.update_collection
            ),
            route("/composite/sobjects/{object}/{field}", PATCH=stub.upsert_collection),
            route(every, POST=stub.create),
            route(every + "/", POST=stub.create),
            route(every + "/describe", GET=stub.describe),
            route(every + "/describe/", GET=stub.describe),
            route(every + "/{id}", GET=stub.read, PATCH=stub.update, DELETE=stub.delete),
            route(every + "/{field}/{value}", GET=stub.read_by_key, PATCH=stub.upsert),
        ],
        exception_handlers={HTTPException: unknown},
    )


def _form(request: Request, body: str) -> dict[str, str]:
    """The form of a token request; what stands in the URL is no secret and does not count."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/x-www-form-urlencoded" or request.url.query:
        return {}
    return dict(parse_qsl(body, keep_blank_values=True))


def _basic(request: Request) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    try:
        client, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return client, secret


def _no_token(error: str, description: str | None = None) -> Response:
    content = {"error": error}
    if description is not None:
        content["error_description"] = description
    return answer(400, content)


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"


def _nothing_here() -> Fault:
    return Fault(404, "NOT_FOUND", "The requested resource does not exist")


def _refusal(refused: Refused, duplicate_key: str) -> Response:
    """A refused record that came alone."""
    told = []
    for mistake in refused.mistakes:
        if isinstance(mistake, Mistyped):
            told.append(_not_parsed(mistake))
            continue
        error = {"message": mistake.message, "errorCode": mistake.code}
        told.append(error | {"fields": list(mistake.fields)} | _extra(mistake, duplicate_key))
    return answer(400, told)


def _not_parsed(mistake: Mistake) -> dict[str, Any]:
    """The vendor reads values of the wrong type as JSON that it cannot parse."""
    value = mistake.message.partition("required type: ")[2]
    text = (
        f"Cannot deserialize instance of {mistake.fields[0]} from VALUE_STRING value {value}"
        " or request may be missing a required field at [line:1, column:2]"
    )
    return {"message": text, "errorCode": "JSON_PARSER_ERROR"}


def _extra(mistake: Mistake, duplicate_key: str) -> dict[str, Any]:
    return {duplicate_key: mistake.extra} if mistake.extra else {}


def _rolled_back() -> dict[str, Any]:
    code = "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    error = {"statusCode": code, "message": MESSAGES[code], "fields": []}
    return {"success": False, "errors": [error]}


def _not_here(name: str) -> str:
    return f"The {name} field should not be specified in the sobject data."


def _held(values: Mapping[str, Any], name: str) -> bool:
    return any(each.lower() == name.lower() for each in values)


def _key(record: Mapping[str, Any], name: str) -> Any:
    return comparable(record.get(name))


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


def _asked(request: Request, name: str) -> str:
    text = request.query_params.get(name)
    if not text:
        raise Fault(400, "MALFORMED_QUERY", f"the parameter {name} is missing")
    return text


def _header(request: Request, name: str, part: str) -> str:
    """A part of `name: a=b; c=d`."""
    for each in request.headers.get(name, "").split(";"):
        key, _, value = each.strip().partition("=")
        if key.lower() == part:
            return value.lower()
    return ""


def _attributes(request: Request, kind: str, known: str) -> dict[str, str]:
    url = f"{DATA}{request.path_params['version']}/sobjects/{kind}/{known}"
    return {"type": kind, "url": url}


def _described(name: str, column: Field) -> dict[str, Any]:
    boolean = column.type == "boolean"
    values = column.options or ()
    return {
        "name": name,
        "label": column.label or name.removesuffix("__c").replace("_", " "),
        "type": column.type,
        "length": column.length if column.type not in {"boolean", "double", "date"} else 0,
        "nillable": not (column.required or boolean or name in SYSTEM),
        "defaultedOnCreate": boolean or name in SYSTEM,
        "createable": column.writable,
        "updateable": column.writable,
        "externalId": column.external_id,
        "idLookup": column.external_id or name == "Id",
        "unique": column.unique,
        "caseSensitive": column.case_sensitive,
        "custom": name.endswith("__c"),
        "restrictedPicklist": bool(values) and column.restricted,
        "picklistValues": [
            {"value": each, "label": each, "active": True, "defaultValue": False} for each in values
        ],
        "referenceTo": [column.refers] if column.refers else [],
        "relationshipName": column.relationship or None,
    }


def _sortable(value: Any, case_sensitive: bool) -> Any:
    return value is not None, comparable(value, case_sensitive) if value is not None else 0


def _alike(term: str, value: str) -> bool:
    """As the search index reads it: a number without its formatting, text word by word."""
    digits, stored = re.sub(r"\D", "", term), re.sub(r"\D", "", value)
    if len(digits) >= 7 and not re.search(r"[A-Za-z]", term):
        return stored.endswith(digits)
    words = re.findall(r"\w+", value.lower())
    wanted = re.findall(r"\w+", term.lower())
    if term.endswith("*"):
        return any(word.startswith(wanted[-1]) for word in words)
    return bool(wanted) and all(word in words for word in wanted)

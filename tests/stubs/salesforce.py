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

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stubs.salesforce_errors import CONCURRENT, MESSAGES, Fault, alone, errors, nothing_here
from stubs.salesforce_login import Login
from stubs.salesforce_mistakes import DuplicateRule, Refused
from stubs.salesforce_org import Org
from stubs.salesforce_persons import Persons
from stubs.salesforce_reading import DATA, VERSIONS
from stubs.salesforce_schema import Field
from stubs.salesforce_soql import Malformed
from stubs.salesforce_writing import Writing
from stubs.vendor import Stub, answer

__all__ = ["DuplicateRule", "Field", "Refused", "SalesforceStub"]

LONGEST_URI = 16384
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

Handler = Callable[[Request], Awaitable[Response]]


class SalesforceStub(Stub, Login, Writing):
    """An org with one user: the integration's. See also what Login, Reading and Writing say.

    `fields`: what `describe` tells, to be changed at will. `api_used`, `api_most`: the calls of
    the day; `per_app` stands behind them in the header, as in
    `per-app-api-usage=17/250(appName=relay)`. Faults named `row_CODE`, in lower case, fail one row
    of a request.
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
        Stub.__init__(self, _starlette(self))
        Login.__init__(self, client_id, client_secret, jwt_key, username, clock)
        Writing.__init__(self, Org())
        self.fields = self.org.fields
        self.api_used = 0
        self.api_most = 100_000
        self.per_app = ""
        self.answers |= self._whole_faults()
        self.inside["lock_row"] = lambda: self.fault_row("UNABLE_TO_LOCK_ROW", name="lock_row")
        self.inside |= {f"row_{code.lower()}": self._row_fault(code) for code in MESSAGES}
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
        field was. Raises stubs.salesforce_org.Refused.
        """
        if not unchecked:
            return self.org.insert(name, values, allow_save=True)
        fields = self.fields[name]
        loose = {n: replace(f, required=False, unique=False) for n, f in fields.items()}
        self.fields[name] = loose
        try:
            return self.org.insert(name, values, allow_save=True)
        finally:
            self.fields[name] = fields

    def convert(self, lead: str, contact: str | None) -> None:
        """Make the lead a converted one, which has become this contact; None: the lead names none.

        A member of a campaign stays one, and is the contact's then.
        """
        row = self.org.row("Lead", lead)
        row |= {"IsConverted": True, "ConvertedContactId": contact}
        for member in self.org.table("CampaignMember").values():
            if member.get("LeadId") == lead:
                member["ContactId"] = contact

    def enable_person_accounts(self) -> Persons:
        """Accounts may be persons from now on; gives the record types."""
        self.org.persons = Persons(self.org)
        return self.org.persons

    def duplicate_rule(self, name: str, *fields: str, **more: Any) -> None:
        """From now on records alike in one of the fields are duplicates: see DuplicateRule."""
        self.org.rules.append(DuplicateRule(name, fields, **more))

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
        self.answers[name] = lambda: self.limited(errors(status, code, message))
        self.fault(name, count, on)

    async def limits(self, _request: Request) -> Response:
        left = self.api_most - self.api_used
        return answer(200, {"DailyApiRequests": {"Max": self.api_most, "Remaining": left}})

    def data(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            try:
                self._admit(request)
                if request.method == "GET":
                    await asyncio.sleep(self.latency)
                response = await handler(request)
            except Fault as fault:
                response = fault.answer
            except Refused as refused:
                response = alone(refused, self.duplicate_key)
            except Malformed as malformed:
                response = errors(400, malformed.code, str(malformed))
            return self.limited(response)

        return guarded

    def _admit(self, request: Request) -> None:
        if len(request.scope["raw_path"]) + len(request.scope["query_string"]) > LONGEST_URI:
            raise Fault(414, "URI_TOO_LONG", "URI Too Long")
        if request.path_params["version"] not in VERSIONS:
            raise nothing_here()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme not in {"Bearer", "OAuth"}:
            raise Fault(401, "INVALID_AUTH_HEADER")
        if token not in self.tokens or not self.at_home(request):
            raise Fault(401, "INVALID_SESSION_ID")
        if self.api_used >= self.api_most:
            raise Fault(403, "REQUEST_LIMIT_EXCEEDED")
        self.api_used += 1

    def limited(self, response: Response) -> Response:
        usage = f"api-usage={self.api_used}/{self.api_most}"
        response.headers["sforce-limit-info"] = "; ".join(filter(None, (usage, self.per_app)))
        return response

    def _row_fault(self, code: str) -> Callable[[], None]:
        return lambda: self.fault_row(code, name=f"row_{code.lower()}")

    def _whole_faults(self) -> dict[str, Callable[[], Response]]:
        def told(status: int, code: str, message: str | None = None) -> Callable[[], Response]:
            return lambda: self.limited(errors(status, code, message))

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
            "empty": lambda: self.limited(Response(b"", 200, media_type="application/json")),
            "not_json": lambda: self.limited(Response(b"<html>", 200, media_type="text/html")),
            "redirect": lambda: Response(status_code=302, headers={"location": "/secur/login"}),
        }


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
                return stub.limited(errors(405, "METHOD_NOT_ALLOWED", text))
            return await stub.data(handlers[request.method])(request)

        return Route(base + path, chosen, methods=METHODS)

    async def unknown(_request: Request, _error: Exception) -> Response:
        return nothing_here().answer

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

"""A HubSpot account on loopback, as strict as the real one: it keeps state and believes nothing.

    stub = HubSpotStub(token="pat-na1-stub")
    async with serving(stub.app) as url:
        ...
        stub.fault("503", count=2)                    # the next two requests for records
        stub.fault("throttle", on="batch/upsert")     # 429 TEN_SECONDLY_ROLLING
        stub.fault("drop_after_commit")               # written, and the connection cut
        stub.fault("bad_refresh_token")               # the next at the token endpoint
        stub.fault_row("INVALID_EMAIL", id="14155550123")
        stub.fault_answer(400, "VALIDATION_ERROR", "something new")
        stub.fields["contacts"]["firstname"].required = True
        assert stub.records("contacts") == [{"id": "501", "sms_key": "14155550123", ...}]

What else can be turned is told by hubspot_account.Account. Paths are those of version 2026-09 and
of v3 (v4 for associations), and no others. Sources are the guides on developers.hubspot.com named
in each part, and HubSpot's public API specifications; what they leave open is decided for the
harder case, and refused where a client should never do it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stubs.hubspot_access import Access
from stubs.hubspot_account import Account
from stubs.hubspot_ask import DATED, Ask, read, written
from stubs.hubspot_errors import GRANTS, REFUSALS, ROWS, Refusal, no_such_path
from stubs.hubspot_events import Events
from stubs.hubspot_links import Links
from stubs.hubspot_lists import Lists
from stubs.hubspot_locks import Locks
from stubs.hubspot_objects import Objects
from stubs.hubspot_properties import Properties
from stubs.hubspot_rows import SILENT, Planned, RowFault
from stubs.vendor import Stub, answer

OBJECTS = {"/crm/objects/2026-09/{kind}": DATED, "/crm/v3/objects/{kind}": "v3"}
PROPERTIES = {"/crm/properties/2026-09/{kind}": DATED, "/crm/v3/properties/{kind}": "v3"}
ASSOCIATIONS = {
    "/crm/associations/2026-09/{from}/{to}": DATED,
    "/crm/v4/associations/{from}/{to}": "v4",
}
LISTS = {"/crm/lists/2026-09": DATED, "/crm/v3/lists": "v3"}
SCHEMAS = {
    "/crm-object-schemas/2026-03/schemas": "2026-03",
    "/crm-object-schemas/2026-09/schemas": DATED,
    "/crm/v3/schemas": "v3",
}
# As the specifications have them; a guide says /events/custom/…, which none of them does.
EVENTS = {"/events/2026-09": DATED, "/events/v3": "v3"}
DEFINITIONS = {**EVENTS, "/events/v3/2026-09": DATED}

Handler = Callable[[Ask], tuple[int, Any]]


class HubSpotStub(Account, Stub):
    """`clock` needs `now()` and `monotonic()`; with the same `seed` results come shuffled alike.

    OAuth's refresh wants `client_id`, `client_secret` and `refresh_token`.
    """

    def __init__(
        self,
        token: str = "pat-na1-stub",
        *,
        client_id: str = "client",
        client_secret: str = "secret",
        refresh_token: str = "refresh-1",
        clock: Any = None,
        seed: int = 1,
    ) -> None:
        Account.__init__(self, clock, seed)
        self.access = Access(self, token, (client_id, client_secret), refresh_token)
        strange = {404: _unknown_path, 405: _unknown_method}
        router = Starlette(exception_handlers=strange)
        Stub.__init__(self, router)
        self._rows = Planned(self, self.fired)
        self._locks = Locks(self.fired)
        router.routes.extend(self._routes())
        self.answers |= {name: self._refusing(make) for name, make in REFUSALS.items()}
        self.answers |= {
            "empty": lambda: self.access.told(200, self.batch([]), None, "burst"),
            "html": lambda: Response("<html>Bad Gateway</html>", 502, media_type="text/html"),
        }
        self.inside |= {f"row_{code.lower()}": self._row(code) for code in (*ROWS, *SILENT)}
        self.switches = {
            "revoke_all": self.revoke_all,
            "restore_all": self.restore_all,
            "expire_tokens": self.expire_tokens,
            "new_day": self.new_day,
        }

    def is_data(self, method: str, path: str) -> bool:  # noqa: ARG002  the base's signature
        """Records, associations, members and events; neither tokens nor properties nor schemas."""
        return path.startswith(("/crm/objects/", "/crm/v3/objects/", "/events/")) or (
            ("/associations/" in path and "/batch/" in path) or path.endswith("/memberships/add")
        )

    def fault(self, name: str, count: int = 1, on: str | None = None) -> None:
        """As for every stub; one that only the token endpoint has waits for that."""
        super().fault(name, count, on or ("/oauth/" if name in GRANTS else None))

    def fault_row(
        self,
        code: str,
        id: str | None = None,  # noqa: A002  the input's own word
        count: int = 1,
        name: str | None = None,
    ) -> None:
        """The next `count` rows fail so, or those with this id, trace id or value.

        `code` is one of hubspot_errors.ROWS, or: SILENT (in neither list, not written),
        SILENT_AFTER_COMMIT (written), NAMELESS (an error that does not say whose it is). `name`
        is the property that the error speaks of. Raises ValueError for another code. For storms,
        `fault` and `chance` take them as `row_invalid_email` and so on, and `row_chance` is asked
        for a code for each row.
        """
        self._rows.add(RowFault(code, id, name, count))

    def fault_answer(
        self,
        status: int,
        category: str = "",
        message: str = "",
        *,
        count: int = 1,
        on: str | None = None,
        **envelope: Any,
    ) -> None:
        """An answer that no name stands for; `fired` counts it as `STATUS CATEGORY`."""
        name = f"{status} {category}"
        self.answers[name] = self._refusing(
            lambda: Refusal(status, category, message, extra=envelope)
        )
        self.fault(name, count, on)

    @property
    def scopes(self) -> frozenset[str]:
        return self.access.scopes

    @scopes.setter
    def scopes(self, scopes: set[str] | frozenset[str]) -> None:
        self.access.scopes = frozenset(scopes)

    def revoke_all(self) -> None:
        """Every token is dead, the refresh tokens, too."""
        self.access.revoke_all()

    def restore_all(self) -> None:
        """The tokens that were revoked are good again; refresh tokens stay dead."""
        self.access.restore_all()

    def expire_tokens(self) -> None:
        """OAuth's access tokens end now; static ones never do."""
        self.access.expire_tokens()

    def _routes(self) -> list[Route]:
        links = Links(self)
        objects = Objects(self, self._rows, links)
        properties, events, lists = Properties(self), Events(self), Lists(self)
        return [
            *self._at(OBJECTS, "POST", "/batch/upsert", objects.batch_upsert),
            *self._at(OBJECTS, "POST", "/batch/read", objects.batch_read),
            *self._at(OBJECTS, "POST", "/batch/create", objects.batch_create),
            *self._at(OBJECTS, "POST", "/batch/update", objects.batch_update),
            *self._at(OBJECTS, "POST", "/search", objects.search, policy="search"),
            *self._at(OBJECTS, "GET", "", objects.page),
            *self._at(OBJECTS, "POST", "", objects.create),
            *self._at(OBJECTS, "GET", "/{id}", objects.read),
            *self._at(OBJECTS, "PATCH", "/{id}", objects.change),
            *self._at(PROPERTIES, "GET", "/groups", properties.groups),
            *self._at(PROPERTIES, "POST", "/groups", properties.create_group),
            *self._at(PROPERTIES, "POST", "/batch/create", properties.create_many),
            *self._at(PROPERTIES, "GET", "", properties.all),
            *self._at(PROPERTIES, "POST", "", properties.create),
            *self._at(PROPERTIES, "GET", "/{name}", properties.one),
            *self._at(PROPERTIES, "PATCH", "/{name}", properties.change),
            *self._at(SCHEMAS, "GET", "", properties.schemas),
            *self._at(SCHEMAS, "GET", "/{kind}", properties.schema),
            *self._at(ASSOCIATIONS, "POST", "/batch/create", links.associate),
            *self._at(ASSOCIATIONS, "GET", "/labels", links.labels),
            *self._at(LISTS, "GET", "", lists.read_many),
            *self._at(LISTS, "GET", "/{id}", lists.read),
            *self._at(LISTS, "PUT", "/{id}/memberships/add", lists.add),
            *self._at(EVENTS, "POST", "/send", events.send, policy="none"),
            *self._at(EVENTS, "POST", "/send/batch", events.send_batch, policy="none"),
            *self._at(DEFINITIONS, "GET", "/event-definitions/{name}", events.definition),
            *[
                Route(f"/oauth/{version}/token", self.access.token, methods=["POST"])
                for version in (DATED, "v3", "v1")
            ],
        ]

    def _at(
        self,
        prefixes: dict[str, str],
        method: str,
        tail: str,
        handler: Handler,
        policy: str = "burst",
    ) -> list[Route]:
        return [
            Route(prefix + tail, self._endpoint(handler, version, policy), methods=[method])
            for prefix, version in prefixes.items()
        ]

    def _endpoint(self, handler: Handler, version: str, policy: str) -> Callable[[Request], Any]:
        """Who asks, how often, and only then what."""

        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            async with self._locks.held(written(request, raw)) as busy:
                await asyncio.sleep(self.latency)
            grant = None
            try:
                grant = self.access.grant(request)
                self.access.count(policy, grant)
                self._locks.check(busy)
                status, content = handler(read(request, raw, version, self.scopes))
            except Refusal as refusal:
                status, content = refusal.status, refusal.body()
            return self.access.told(status, content, grant, policy)

        return endpoint

    def _row(self, code: str) -> Callable[[], None]:
        return lambda: self.fault_row(code)

    def _refusing(self, make: Callable[[], Refusal]) -> Callable[[], Response]:
        def refuse() -> Response:
            refusal = make()
            return self.access.told(refusal.status, refusal.body(), None, "burst")

        return refuse


async def _unknown_path(_request: Request, _error: Exception) -> Response:
    return answer(404, no_such_path().body())


async def _unknown_method(_request: Request, _error: Exception) -> Response:
    return answer(405, Refusal(405, "", "HTTP 405 Method Not Allowed").body())

"""A HubSpot account on loopback, as strict as the real one: it keeps state and believes nothing.

    stub = HubSpotStub(token="pat-na1-stub")
    async with serving(stub.app) as url:
        ...
        stub.fault("503", count=2)                    # the next two data requests
        stub.fault("throttle", on="batch/upsert")     # 429 TEN_SECONDLY_ROLLING
        stub.fault("drop_after_commit")               # written, and the connection cut
        stub.fault_row("INVALID_EMAIL", id="14155550123")
        assert stub.records("contacts") == [{"id": "501", "sms_key": "14155550123", ...}]

What a test may turn: `fields`, `events`, `associations_known`, `scopes`, `burst_most`,
`search_most`, `api_used` and `api_most`, `oauth_most`, `retry_after`, `search_lag`, `multi_status`
(False: a 207 never comes, as the 2026-09 specification has it), `merge_errors` (rows with the same
error share one entry), `error_codes` (False: `errors[].code` is absent), `echo_traces` (False:
results do not say their trace id), `rotate` (the refresh token works once), `latency`.

Sources: developers.hubspot.com, the guides named at each part, and HubSpot's public API
specifications. What they leave open is decided for the harder case.
"""

import asyncio
import random
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stubs.hubspot_errors import (
    PORTAL,
    ROWS,
    Refusal,
    conflict,
    doubled,
    exists,
    expired,
    forbidden,
    invalid,
    limited,
    locked,
    malformed,
    migrating,
    missing,
    missing_v3,
    no_such_path,
    no_such_type,
    not_found,
    not_unique,
    taken,
    too_many,
    unauthenticated,
    unscoped,
    unset,
)
from stubs.hubspot_schema import (
    ASSOCIATIONS,
    EVENTS,
    FIELD_TYPES,
    KINDS,
    NAME,
    Field,
    Kind,
    portal,
    problem,
    stored,
)
from stubs.hubspot_search import found
from stubs.hubspot_shelf import Record, Shelf, iso
from stubs.vendor import Stub, answer

from relay.clock import SystemClock

SCOPES = frozenset({
    "crm.objects.contacts.read",
    "crm.objects.contacts.write",
    "crm.objects.custom.read",
    "crm.objects.custom.write",
    "crm.schemas.contacts.read",
    "crm.schemas.contacts.write",
    "crm.schemas.custom.read",
    "crm.schemas.custom.write",
    "analytics.behavioral_events.send",
    "behavioral_events.event_definitions.read_write",
})  # fmt: skip
DATED = "2026-09"
SILENT = {"SILENT", "SILENT_AFTER_COMMIT", "NAMELESS"}
LIFETIME = 1800  # seconds; OAuth guide
RETRIES = [500, 502, 503, 504, 521, 522, 523, 524, 525, 526]


@dataclass
class Grant:
    """What a bearer token is worth; `until` is in seconds of the clock, None for ever."""

    scopes: frozenset[str]
    until: float | None = None
    alive: bool = True

    @property
    def oauth(self) -> bool:
        return self.until is not None


@dataclass(frozen=True)
class Ask:
    """A request, understood."""

    version: str
    path: dict[str, str]
    query: dict[str, str]
    body: Any
    grant: Grant

    @property
    def dated(self) -> bool:
        return self.version == DATED


@dataclass
class RowFault:
    """A row that is to fail: the next one, or the one with this id or trace id."""

    code: str
    id: str | None
    name: str | None
    left: int


@dataclass
class Rows:
    """What became of the inputs of a batch."""

    results: list[dict[str, Any]] = field(default_factory=list)
    errors: list[tuple[Refusal, str | None]] = field(default_factory=list)


Handler = Callable[[Ask], tuple[int, Any]]


class HubSpotStub(Stub):
    """See above. `clock` needs `now()` and `monotonic()`; `seed` shuffles results the same way."""

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
        self.clock = clock or SystemClock()
        self.fields = portal()
        self.events_known = {name: set(properties) for name, properties in EVENTS.items()}
        self.associations_known = {pair: dict(types) for pair, types in ASSOCIATIONS.items()}
        self.groups = {"contactinformation": "Contact information"}
        self.tokens = {token: Grant(SCOPES)}
        self.client = (client_id, client_secret)
        self.refresh_tokens = {refresh_token}
        self.burst_most, self.search_most, self.oauth_most = 190, 5, 20
        self.api_used, self.api_most = 0, 625_000
        self.retry_after: int | None = None
        self.migration = 3600
        self.search_lag = 0.0
        self.latency = 0.0
        self.multi_status = self.error_codes = self.echo_traces = self.rotate = True
        self.merge_errors = False
        self.events: list[dict[str, Any]] = []
        self.associations: list[dict[str, str]] = []
        self.lost: Counter[str] = Counter()
        self.shelves = {kind.name: Shelf() for kind in KINDS}
        self._random = random.Random(seed)
        self._row_faults: list[RowFault] = []
        self._windows: dict[str, deque[float]] = {}
        self._issued = 1
        super().__init__(Starlette(routes=self._routes(), exception_handlers=_STRANGE))
        self.answers |= self._faults()
        self.switches = {
            "revoke_all": self.revoke_all,
            "expire_tokens": self.expire_tokens,
            "new_day": self.new_day,
        }

    # What a test asks and does.

    def is_data(self, method: str, path: str) -> bool:  # noqa: ARG002  the base's signature
        """Records, associations and events; neither tokens nor properties nor schemas."""
        return path.startswith(("/crm/objects/", "/crm/v3/objects/", "/events/")) or (
            "/associations/" in path and "/batch/" in path
        )

    def records(self, name: str) -> list[dict[str, Any]]:
        """Plain dictionaries with their `id`; also `events` and `associations`."""
        if name in {"events", "associations"}:
            return list(getattr(self, name))
        shelf = self.shelves[_kind(name).name]
        return [{"id": record.id, **record.properties} for record in shelf.ordered()]

    def seed(self, name: str, properties: dict[str, str]) -> str:
        """A record that was there before, unchecked. Gives its id."""
        return self.shelves[_kind(name).name].add(properties, self.clock.now()).id

    def fault(self, name: str, count: int = 1, on: str | None = None) -> None:
        """As for every stub; one that only the token endpoint has waits for that."""
        super().fault(name, count, on or ("/oauth/" if name in _grants() else None))

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
        is the property that the error speaks of.
        """
        if code not in {*ROWS, *SILENT}:
            raise ValueError(
                f"{code} is no row of this stub: {', '.join(sorted({*ROWS, *SILENT}))}"
            )
        self._row_faults.append(RowFault(code, id, name, count))

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset().union(*(grant.scopes for grant in self.tokens.values()))

    @scopes.setter
    def scopes(self, scopes: set[str] | frozenset[str]) -> None:
        for grant in self.tokens.values():
            grant.scopes = frozenset(scopes)

    def revoke_all(self) -> None:
        """Every token is dead, the refresh tokens, too."""
        self.refresh_tokens.clear()
        for grant in self.tokens.values():
            grant.alive = False

    def expire_tokens(self) -> None:
        """OAuth's access tokens end now; static ones never do."""
        for grant in self.tokens.values():
            if grant.oauth:
                grant.until = self.clock.now() - 1

    def new_day(self) -> None:
        """Midnight in the account's time zone."""
        self.api_used = 0

    # The way of a request.

    def _routes(self) -> list[Route]:
        objects = [("/crm/objects/2026-09/{kind}", DATED), ("/crm/v3/objects/{kind}", "v3")]
        properties = [
            ("/crm/properties/2026-09/{kind}", DATED),
            ("/crm/v3/properties/{kind}", "v3"),
        ]
        pairs = [
            ("/crm/associations/2026-09/{from}/{to}", DATED),
            ("/crm/v4/associations/{from}/{to}", "v4"),
        ]
        schemas = [
            ("/crm-object-schemas/2026-03/schemas", DATED),
            ("/crm-object-schemas/2026-09/schemas", DATED),
            ("/crm/v3/schemas", "v3"),
        ]
        # The guide and the specification name different paths; nobody was asked which one works.
        events = [
            ("/events/custom/2026-09", DATED),
            ("/events/2026-09", DATED),
            ("/events/v3", "v3"),
        ]
        return [
            *self._at(objects, "POST", "/batch/upsert", self._batch_upsert),
            *self._at(objects, "POST", "/batch/read", self._batch_read),
            *self._at(objects, "POST", "/batch/create", self._batch_create),
            *self._at(objects, "POST", "/batch/update", self._batch_update),
            *self._at(objects, "POST", "/search", self._search, policy="search"),
            *self._at(objects, "GET", "", self._list),
            *self._at(objects, "POST", "", self._create),
            *self._at(objects, "GET", "/{id}", self._get),
            *self._at(objects, "PATCH", "/{id}", self._patch),
            *self._at(properties, "GET", "/groups", self._groups),
            *self._at(properties, "POST", "/groups", self._create_group),
            *self._at(properties, "POST", "/batch/create", self._create_properties),
            *self._at(properties, "GET", "", self._properties),
            *self._at(properties, "POST", "", self._create_property),
            *self._at(properties, "GET", "/{name}", self._property),
            *self._at(properties, "PATCH", "/{name}", self._change_property),
            *self._at(pairs, "POST", "/batch/create", self._associate),
            *self._at(pairs, "GET", "/labels", self._labels),
            *self._at(schemas, "GET", "", self._schemas),
            *self._at(schemas, "GET", "/{kind}", self._schema),
            *self._at(events, "POST", "/send", self._send, policy="none"),
            *self._at(events, "POST", "/send/batch", self._send_batch, policy="none"),
            *self._at(events, "GET", "/event-definitions/{name}", self._definition),
            *[
                Route(f"/oauth/{version}/token", self._token, methods=["POST"])
                for version in (DATED, "v3", "v1")
            ],
        ]

    def _at(
        self,
        prefixes: list[tuple[str, str]],
        method: str,
        tail: str,
        handler: Handler,
        policy: str = "burst",
    ) -> list[Route]:
        return [
            Route(prefix + tail, self._endpoint(handler, version, policy), methods=[method])
            for prefix, version in prefixes
        ]

    def _endpoint(self, handler: Handler, version: str, policy: str) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            if self.latency:
                await asyncio.sleep(self.latency)
            raw = await request.body()
            grant = None
            try:
                grant = self._grant(request)
                self._count(policy)
                status, content = handler(_ask(request, raw, version, grant))
            except Refusal as refusal:
                status, content = refusal.status, refusal.body()
            return self._told(status, content, grant, policy)

        return endpoint

    def _grant(self, request: Request) -> Grant:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        grant = self.tokens.get(token)
        if scheme != "Bearer" or not token:
            raise unauthenticated()
        if grant is None and not token.startswith(("pat-", "access-")):
            days = int(self.clock.now() // 86400)
            raise expired(f"{days} day(s)", "1970-01-01T00:00:00Z")
        if grant is None or not grant.alive:
            raise unauthenticated()
        if grant.until is not None and grant.until <= self.clock.now():
            age = max(1, round(self.clock.now() - grant.until))
            raise expired(f"{age} second(s)", iso(grant.until))
        return grant

    def _count(self, policy: str) -> None:
        """Custom events are exempt; a search counts by the second, all else by ten of them."""
        if policy == "none":
            return
        if self.api_used >= self.api_most:
            raise limited("DAILY")
        if policy == "search":
            self._slide("search", self.search_most, 1.0, limited("SECONDLY"))
        else:
            self._slide("burst", self.burst_most, 10.0, limited("TEN_SECONDLY_ROLLING"))
        self.api_used += 1

    def _slide(self, name: str, most: int, per: float, refusal: Refusal) -> None:
        window = self._windows.setdefault(name, deque())
        self._fade(window, per)
        if len(window) >= most:
            raise refusal
        window.append(self.clock.monotonic())

    def _fade(self, window: deque[float], per: float) -> None:
        while window and window[0] <= self.clock.monotonic() - per:
            window.popleft()

    def _told(
        self, status: int, content: Any, grant: Grant | None = None, policy: str = "burst"
    ) -> Response:
        headers = {"x-hubspot-correlation-id": str(uuid.uuid4())}
        if policy == "burst" and status != 401:
            headers |= self._rates(grant)
        if status == 429 and self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if status == 477:
            headers["retry-after"] = str(self.migration)
        if content is None:
            return Response(status_code=status, headers=headers)
        return answer(status, content, headers)

    def _rates(self, grant: Grant | None) -> dict[str, str]:
        window = self._windows.setdefault("burst", deque())
        self._fade(window, 10.0)
        told = {
            "x-hubspot-ratelimit-max": str(self.burst_most),
            "x-hubspot-ratelimit-remaining": str(max(0, self.burst_most - len(window))),
            "x-hubspot-ratelimit-interval-milliseconds": "10000",
        }
        if grant and grant.oauth:
            return told
        return told | {
            "x-hubspot-ratelimit-daily": str(self.api_most),
            "x-hubspot-ratelimit-daily-remaining": str(max(0, self.api_most - self.api_used)),
        }

    def _faults(self) -> dict[str, Callable[[], Response]]:
        """The answers that a test may order, by name."""
        return {
            name: lambda make=make: self._refused(make()) for name, make in _refusals().items()
        } | {
            "empty": lambda: self._told(200, self._batch([])),
            "html": lambda: Response("<html>502 Bad Gateway</html>", 502, media_type="text/html"),
        }

    def _refused(self, refusal: Refusal) -> Response:
        return self._told(refusal.status, refusal.body())

    # Tokens: "Working with OAuth" guide.

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        try:
            self._slide("oauth", self.oauth_most, 10.0, _grants()["oauth_throttle"]())
            return answer(200, self._refresh(request, form))
        except Refusal as refusal:
            return answer(refusal.status, refusal.body())

    def _refresh(self, request: Request, form: dict[str, str]) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith(
            "application/x-www-form-urlencoded"
        ):
            raise Refusal(415, "VALIDATION_ERROR", "HTTP 415 Unsupported Media Type")
        refused = [
            name
            for name, good in {
                "bad_grant_type": form.get("grant_type") == "refresh_token",
                "bad_client_id": form.get("client_id") == self.client[0],
                "bad_client_secret": form.get("client_secret") == self.client[1],
                "bad_refresh_token": form.get("refresh_token") in self.refresh_tokens,
            }.items()
            if not good
        ]
        if refused:
            refusal = _grants()[refused[0]]
            raise refusal()
        return self._issue(form["refresh_token"])

    def _issue(self, refresh_token: str) -> dict[str, Any]:
        self._issued += 1
        token = f"access-{self._issued}"
        self.tokens[token] = Grant(self.scopes, self.clock.now() + LIFETIME)
        if self.rotate:
            self.refresh_tokens.remove(refresh_token)
            refresh_token = f"refresh-{self._issued}"
            self.refresh_tokens.add(refresh_token)
        return {
            "access_token": token,
            "refresh_token": refresh_token,
            "expires_in": LIFETIME,
            "token_type": "bearer",
            "hub_id": PORTAL,
            "scopes": sorted(self.scopes),
        }

    # Records: "Contacts", "Custom objects" and "Communications" guides.

    def _batch_upsert(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "write")
        inputs = _inputs(ask.body, {"id", "properties"}, {"idProperty", "objectWriteTraceId"})
        for each in inputs:
            self._unique(kind, each.get("idProperty"))
        _undoubled(kind, inputs)
        # A custom unique property is needed for that; "Contacts" guide.
        by_mail = any(each["idProperty"] == "email" for each in inputs)
        rows = self._each(kind, inputs, ask, self._upsert, partial=not by_mail)
        return self._batch_answer(rows, 200)

    def _batch_create(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "write")
        inputs = _inputs(ask.body, {"properties"}, {"associations", "objectWriteTraceId"})
        return self._batch_answer(self._each(kind, inputs, ask, self._add), 201)

    def _batch_update(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "write")
        inputs = _inputs(ask.body, {"id", "properties"}, {"idProperty", "objectWriteTraceId"})
        if any(each.get("idProperty") == "email" for each in inputs):
            return 200, self._batch([])  # HubSpot/hubspot-api-nodejs#548
        for each in inputs:
            self._unique(kind, each.get("idProperty", "hs_object_id"), own=True)
        _undoubled(kind, inputs)
        return self._batch_answer(self._each(kind, inputs, ask, self._update), 200)

    def _batch_read(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "read")
        inputs = _inputs(ask.body, {"id"}, set())
        name = ask.body.get("idProperty", "hs_object_id")
        self._unique(kind, name, own=True)
        wanted = ask.body.get("properties") or []
        shelf = self.shelves[kind.name]
        records = [(each["id"], shelf.find(name, each["id"])) for each in inputs]
        results = [self._shown(kind, record, wanted) for _, record in records if record]
        self._random.shuffle(results)
        absent = [id_ for id_, record in records if not record]
        told = self._batch(results)
        if not absent:
            return 200, told
        refusal = Refusal(
            404,
            "OBJECT_NOT_FOUND",
            f"Could not get some {kind.noun} objects, they may be deleted or not exist. "
            "Check that ids are valid.",
            {"ids": absent},
        )
        return 207, told | {"numErrors": 1, "errors": [refusal.row([])]}

    def _create(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "write")
        _fits(ask.body, {"properties"}, {"associations", "objectWriteTraceId"})
        return 201, self._single(kind, ask.body, ask, self._add)

    def _patch(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "write")
        _fits(ask.body, {"properties"}, {"objectWriteTraceId"})
        name = ask.query.get("idProperty", "hs_object_id")
        self._unique(kind, name, own=True)
        each = ask.body | {"id": ask.path["id"], "idProperty": name}
        return 200, self._single(kind, each, ask, self._update)

    def _get(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "read")
        name = ask.query.get("idProperty", "hs_object_id")
        self._unique(kind, name, own=True)
        record = self.shelves[kind.name].find(name, ask.path["id"])
        if not record:
            raise not_found()
        return 200, self._shown(kind, record, _names(ask))

    def _list(self, ask: Ask) -> tuple[int, Any]:
        kind = self._object(ask, "read")
        size, after = int(ask.query.get("limit", "10")), int(ask.query.get("after", "0"))
        if size > 100:
            raise Refusal(400, "VALIDATION_ERROR", "limit must not be more than 100")
        rest = [
            record
            for record in self.shelves[kind.name].ordered()
            if int(record.id) >= max(1, after)
        ]
        told: dict[str, Any] = {
            "results": [self._shown(kind, record, _names(ask)) for record in rest[:size]]
        }
        if len(rest) > size:
            told["paging"] = {"next": {"after": rest[size].id, "link": "?after=" + rest[size].id}}
        return 200, told

    def _search(self, ask: Ask) -> tuple[int, Any]:
        """Sees what was written a moment ago only when `search_lag` has passed."""
        kind = self._object(ask, "read")
        until = self.clock.now() - self.search_lag
        seen = [record for record in self.shelves[kind.name].ordered() if record.updated <= until]
        records, total, after = found(seen, ask.body, self.fields[kind.name])
        wanted = ask.body.get("properties") or []
        told: dict[str, Any] = {
            "total": total,
            "results": [self._shown(kind, record, wanted) for record in records],
        }
        return 200, told | ({"paging": {"next": {"after": after}}} if after else {})

    def _object(self, ask: Ask, access: str) -> Kind:
        kind = _kind(ask.path["kind"])
        self._may(ask, f"crm.objects.{kind.scope}.{access}")
        return kind

    def _may(self, ask: Ask, *scopes: str) -> None:
        """Any of these scopes will do."""
        if not ask.grant.scopes.intersection(scopes):
            raise unscoped(list(scopes))

    def _unique(self, kind: Kind, name: str | None, *, own: bool = False) -> None:
        """`own`: HubSpot's own id will do, which an upsert does not take."""
        known = self.fields[kind.name].get(name or "")
        if known is None or not known.unique or (name == "hs_object_id" and not own):
            raise not_unique(name or "none", kind.type_id)

    def _single(self, kind: Kind, each: dict[str, Any], ask: Ask, write: Any) -> dict[str, Any]:
        rows = self._each(kind, [each], ask, write, partial=False)
        if not rows.results:
            raise Refusal(500, "INTERNAL_ERROR", "internal error")
        return rows.results[0]

    def _each(
        self,
        kind: Kind,
        inputs: list[dict[str, Any]],
        ask: Ask,
        write: Callable[[Kind, dict[str, Any], Ask], dict[str, Any]],
        *,
        partial: bool = True,
    ) -> Rows:
        """All or nothing, unless each input can be named in an error."""
        traced = all(each.get("objectWriteTraceId") for each in inputs)
        partial = partial and traced and self.multi_status
        rows = Rows()
        with self.shelves[kind.name].all_or_nothing() as take_back:
            for each in inputs:
                try:
                    self._row(kind, each, ask, write, rows)
                except Refusal as refusal:
                    if not partial:
                        take_back()
                        raise
                    rows.errors.append((refusal, each["objectWriteTraceId"]))
        return rows

    def _row(self, kind: Kind, each: dict[str, Any], ask: Ask, write: Any, rows: Rows) -> None:
        planned = self._planned_row(each)
        code = planned.code if planned else None
        if code == "NAMELESS":
            rows.errors.append((ROWS["INTERNAL_ERROR"](""), None))
        elif code in ROWS:
            raise ROWS[code](planned.name or _any_property(each))
        if code in {None, "SILENT_AFTER_COMMIT"}:
            result = write(kind, each, ask)
            if not code:
                rows.results.append(result | self._trace(each))

    def _planned_row(self, each: dict[str, Any]) -> RowFault | None:
        known = {each.get("id"), each.get("objectWriteTraceId"), *each["properties"].values()}
        for planned in self._row_faults:
            if planned.id is None or planned.id in known:
                planned.left -= 1
                if not planned.left:
                    self._row_faults.remove(planned)
                self.fired[planned.code] += 1
                return planned
        return None

    def _trace(self, each: dict[str, Any]) -> dict[str, str]:
        trace = each.get("objectWriteTraceId")
        return {"objectWriteTraceId": trace} if trace and self.echo_traces else {}

    def _upsert(self, kind: Kind, each: dict[str, Any], ask: Ask) -> dict[str, Any]:
        record = self.shelves[kind.name].find(each["idProperty"], each["id"])
        if record:
            return self._update(kind, each, ask) | {"new": False}
        key = {each["idProperty"]: each["id"]}
        return self._add(kind, {"properties": key | each["properties"]}, ask, each) | {"new": True}

    def _add(
        self, kind: Kind, each: dict[str, Any], ask: Ask, told: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        given = each["properties"]
        self._checked(kind, given)
        self._complete(kind, given, ask)
        for name, value in given.items():
            self._untaken(kind, name, value, None)
        links = [self._link(kind, link) for link in each.get("associations") or []]
        known = self.fields[kind.name]
        kept = {name: stored(name, known[name], value, "") for name, value in given.items()}
        record = self.shelves[kind.name].add(kept, self.clock.now())
        for link in links:
            self._keep_link(link | {"from": record.id})
        return self._written(kind, record, (told or each)["properties"])

    def _update(self, kind: Kind, each: dict[str, Any], ask: Ask) -> dict[str, Any]:
        shelf = self.shelves[kind.name]
        record = shelf.find(each.get("idProperty", "hs_object_id"), each["id"])
        if not record:
            raise not_found()
        given = each["properties"]
        self._checked(kind, given)
        self._complete(kind, record.properties | given, ask, given)
        for name, value in given.items():
            self._untaken(kind, name, value, record)
        known, before = self.fields[kind.name], record.properties
        kept = {
            name: stored(name, known[name], value, before.get(name, ""))
            for name, value in given.items()
        }
        return self._written(kind, shelf.change(record, kept, self.clock.now()), given)

    def _checked(self, kind: Kind, given: dict[str, str]) -> None:
        known = self.fields[kind.name]
        problems = [problem(name, known.get(name), value) for name, value in given.items()]
        wrong = [each for each in problems if each]
        if wrong:
            raise invalid(wrong, codes=self.error_codes)

    def _complete(
        self, kind: Kind, whole: dict[str, str], ask: Ask, given: dict[str, str] | None = None
    ) -> None:
        """What is required when a record is made must not be cleared later."""
        known = self.fields[kind.name]
        absent = [
            name
            for name, each in known.items()
            if each.required and not whole.get(name) and (given is None or name in given)
        ]
        if absent:
            raise missing(absent) if ask.dated else missing_v3(absent, kind.noun)
        if ask.dated:
            self._ruled(known, whole)

    def _ruled(self, known: dict[str, Field], whole: dict[str, str]) -> None:
        absent = [
            name
            for name, each in known.items()
            if each.required_when
            and whole.get(each.required_when[0]) == each.required_when[1]
            and not whole.get(name)
        ]
        if absent:
            raise missing(absent, "MISSING_CONDITIONAL_REQUIRED_PROPERTY")

    def _untaken(self, kind: Kind, name: str, value: str, mine: Record | None) -> None:
        if not value or not self.fields[kind.name][name].unique:
            return
        theirs = self.shelves[kind.name].find(name, value)
        if theirs is None or (mine and theirs.id == mine.id):
            return
        if name == "email" and mine is None:
            raise conflict(theirs.id)
        raise taken(kind.noun, name, value, mine.id if mine else "a new record", theirs.id)

    def _written(self, kind: Kind, record: Record, given: dict[str, str]) -> dict[str, Any]:
        """A write tells what was given, and no more."""
        return self._shown(kind, record, list(given))

    def _shown(self, kind: Kind, record: Record, wanted: list[str]) -> dict[str, Any]:
        """A read tells what was asked for; a property that does not exist is left out silently."""
        have, known = record.all(), self.fields[kind.name]
        always = [name for name, each in known.items() if not each.writable and name in have]
        usual = ["email", "firstname", "lastname"] if kind.name == "contacts" and not wanted else []
        shown = [*wanted, *usual, *(name for name in always if "searchable" not in name)]
        return {
            "id": record.id,
            "properties": {name: have.get(name) for name in shown if name in known},
            "createdAt": iso(record.created),
            "updatedAt": iso(record.updated),
            "archived": False,
        }

    def _batch_answer(self, rows: Rows, status: int) -> tuple[int, Any]:
        self._random.shuffle(rows.results)
        told = self._batch(rows.results)
        if not rows.errors:
            return status, told
        errors = (
            self._merged(rows.errors)
            if self.merge_errors
            else [refusal.row([trace] if trace else []) for refusal, trace in rows.errors]
        )
        self._random.shuffle(errors)
        return 207, told | {"numErrors": len(errors), "errors": errors}

    def _merged(self, errors: list[tuple[Refusal, str | None]]) -> list[dict[str, Any]]:
        """Rows with the same message share an entry."""
        by_message: dict[str, tuple[Refusal, list[str]]] = {}
        for refusal, trace in errors:
            traces = by_message.setdefault(refusal.message, (refusal, []))[1]
            traces.extend([trace] if trace else [])
        return [refusal.row(traces) for refusal, traces in by_message.values()]

    def _batch(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        now = iso(self.clock.now())
        return {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now}

    # Associations: "Associations v4" guide.

    def _associate(self, ask: Ask) -> tuple[int, Any]:
        ends = (_kind(ask.path["from"]), _kind(ask.path["to"]))
        for end in ends:
            self._may(ask, f"crm.objects.{end.scope}.write")
        inputs = _inputs(ask.body, {"from", "to", "types"}, set(), most=2000, properties=False)
        results, errors = [], []
        for each in inputs:
            try:
                links = self._pair(ends, each)
            except Refusal as refusal:
                errors.append(refusal.row([]))
                continue
            for link in links:
                self._keep_link(link)
            results.append({
                "fromObjectTypeId": ends[0].type_id,
                "fromObjectId": links[0]["from"],
                "toObjectTypeId": ends[1].type_id,
                "toObjectId": links[0]["to"],
                "labels": [],
            })  # fmt: skip
        told = self._batch(results)
        if errors:
            return 207, told | {"numErrors": len(errors), "errors": errors}
        return (200 if ask.dated else 201), told

    def _pair(self, ends: tuple[Kind, Kind], each: dict[str, Any]) -> list[dict[str, str]]:
        ids = [str(each[end]["id"]) for end in ("from", "to")]
        for end, id_, name in zip(ends, ids, ("fromObjectId", "toObjectId"), strict=True):
            if id_ not in self.shelves[end.name].records:
                text = f"The {end.noun} with id {id_} does not exist"
                raise Refusal(404, "OBJECT_NOT_FOUND", text, {name: [id_]})
        links = [self._typed(ends[0], ends[1], spec) for spec in each["types"]]
        return [link | {"from": ids[0], "to": ids[1]} for link in links]

    def _link(self, kind: Kind, link: dict[str, Any]) -> dict[str, str]:
        """An association given with a new record; the other end must be there."""
        _fits(link, {"to", "types"}, set())
        (spec,) = link["types"]
        for name, types in self.associations_known.items():
            other = _kind(name[1])
            if name[0] == kind.name and spec.get("associationTypeId") in types:
                if str(link["to"]["id"]) not in self.shelves[other.name].records:
                    raise not_found()
                return self._typed(kind, other, spec) | {"to": str(link["to"]["id"])}
        raise Refusal(400, "VALIDATION_ERROR", f"{spec} is not a valid association type")

    def _typed(self, one: Kind, other: Kind, spec: dict[str, Any]) -> dict[str, str]:
        known = self.associations_known.get((one.name, other.name), {})
        type_id, category = spec.get("associationTypeId"), spec.get("associationCategory")
        if known.get(type_id) != category:
            text = f"{category} {type_id} is not valid between {one.type_id} and {other.type_id}"
            raise Refusal(400, "VALIDATION_ERROR", text)
        return {"fromType": one.name, "toType": other.name, "type": str(type_id)}

    def _keep_link(self, link: dict[str, str]) -> None:
        """Once is enough."""
        if link not in self.associations:
            self.associations.append(link)

    def _labels(self, ask: Ask) -> tuple[int, Any]:
        ends = (_kind(ask.path["from"]), _kind(ask.path["to"]))
        self._may(ask, f"crm.objects.{ends[0].scope}.read", f"crm.schemas.{ends[0].scope}.read")
        known = self.associations_known.get((ends[0].name, ends[1].name), {})
        return 200, {
            "results": [
                {"category": category, "typeId": type_id, "label": None}
                for type_id, category in known.items()
            ]
        }

    # Properties and schemas: "Properties" and "Custom objects" guides.

    def _properties(self, ask: Ask) -> tuple[int, Any]:
        known = self._defined(ask, "read")
        return 200, {"results": [each.told(name) for name, each in known.items()]}

    def _property(self, ask: Ask) -> tuple[int, Any]:
        known = self._defined(ask, "read")
        name = ask.path["name"]
        if name not in known:
            raise not_found()
        return 200, known[name].told(name)

    def _create_property(self, ask: Ask) -> tuple[int, Any]:
        return 201, self._define(self._defined(ask, "write"), ask.body)

    def _create_properties(self, ask: Ask) -> tuple[int, Any]:
        known = self._defined(ask, "write")
        needed = {"name", "label", "type", "fieldType", "groupName"}
        inputs = _inputs(ask.body, needed, None, properties=False)
        for each in inputs:
            self._definable(known, each)
        results = [self._define(known, each) for each in inputs]
        return (200 if ask.dated else 201), self._batch(results)

    def _define(self, known: dict[str, Field], body: Any) -> dict[str, Any]:
        self._definable(known, body)
        name = body["name"]
        known[name] = Field(
            body["type"],
            body["fieldType"],
            unique=body.get("hasUniqueValue", False),
            options=[option["value"] for option in body.get("options") or []],
            label=body["label"],
            group=body["groupName"],
        )
        return known[name].told(name)

    def _definable(self, known: dict[str, Field], body: Any) -> None:
        _fits(body, {"name", "label", "type", "fieldType", "groupName"}, None)
        if body["name"] in known:
            raise exists(body["name"])
        if not NAME.fullmatch(body["name"]):
            raise Refusal(400, "VALIDATION_ERROR", f"{body['name']} is not a valid property name")
        if body["fieldType"] not in FIELD_TYPES.get(body["type"], ()):
            text = f"fieldType {body['fieldType']} does not go with type {body['type']}"
            raise Refusal(400, "VALIDATION_ERROR", text)
        if body["groupName"] not in self.groups:
            text = f"Property group {body['groupName']} does not exist"
            raise Refusal(400, "VALIDATION_ERROR", text)
        own = [each for each in known.values() if each.unique and each.writable]
        if body.get("hasUniqueValue") and len(own) >= 10:
            raise Refusal(400, "VALIDATION_ERROR", "no more than 10 unique properties")

    def _change_property(self, ask: Ask) -> tuple[int, Any]:
        """`hasUniqueValue` is no part of an update: it can be given at creation alone."""
        known = self._defined(ask, "write")
        name = ask.path["name"]
        if name not in known:
            raise not_found()
        _fits(ask.body, set(), None)
        known[name].label = ask.body.get("label", known[name].label)
        if "options" in ask.body:
            known[name].options = [option["value"] for option in ask.body["options"]]
        return 200, known[name].told(name)

    def _defined(self, ask: Ask, access: str) -> dict[str, Field]:
        kind = _kind(ask.path["kind"])
        scopes = [f"crm.schemas.{kind.scope}.{access}"]
        self._may(ask, *scopes, *([f"crm.objects.{kind.scope}.read"] if access == "read" else []))
        return self.fields[kind.name]

    def _groups(self, ask: Ask) -> tuple[int, Any]:
        self._defined(ask, "read")
        return 200, {
            "results": [
                {"name": name, "label": label, "displayOrder": -1, "archived": False}
                for name, label in self.groups.items()
            ]
        }

    def _create_group(self, ask: Ask) -> tuple[int, Any]:
        self._defined(ask, "write")
        _fits(ask.body, {"name", "label"}, {"displayOrder"})
        if ask.body["name"] in self.groups:
            raise Refusal(409, "OBJECT_ALREADY_EXISTS", f"group {ask.body['name']} already exists")
        self.groups[ask.body["name"]] = ask.body["label"]
        return 201, {"displayOrder": -1, "archived": False} | ask.body

    def _schemas(self, ask: Ask) -> tuple[int, Any]:
        self._may(ask, "crm.schemas.custom.read", "crm.objects.custom.read")
        return 200, {"results": [self._described(kind) for kind in KINDS if kind.scope == "custom"]}

    def _schema(self, ask: Ask) -> tuple[int, Any]:
        self._may(ask, "crm.schemas.custom.read", "crm.objects.custom.read")
        return 200, self._described(_kind(ask.path["kind"]))

    def _described(self, kind: Kind) -> dict[str, Any]:
        known = self.fields[kind.name]
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
                    "fromObjectTypeId": _kind(one).type_id,
                    "toObjectTypeId": _kind(other).type_id,
                }
                for (one, other), types in self.associations_known.items()
                for type_id in types
                if kind.name in {one, other}
            ],
        }

    # Custom events: "Send custom event occurrences" guide.

    def _send(self, ask: Ask) -> tuple[int, Any]:
        self._may(ask, "analytics.behavioral_events.send")
        self._take([ask.body])
        return 204, None

    def _send_batch(self, ask: Ask) -> tuple[int, Any]:
        self._may(ask, "analytics.behavioral_events.send")
        inputs = _inputs(ask.body, {"eventName", "properties"}, None, most=500, properties=False)
        self._take(inputs)
        return 204, None

    def _take(self, inputs: list[Any]) -> None:
        """One bad event refuses all; what is well formed gets no answer of its own."""
        for each in inputs:
            self._occurrence(each)
        for each in inputs:
            self._occur(each)

    def _occurrence(self, each: Any) -> None:
        keys = {"email", "objectId", "utk", "occurredAt", "uuid"}
        _fits(each, {"eventName", "properties"}, keys)
        if any(not isinstance(each.get(key, ""), str) for key in {*keys, "eventName"}):
            raise malformed("Cannot deserialize value of type String")
        if not {"email", "objectId", "utk"} & each.keys():
            raise unset(["email", "utk", "objectId"])
        if each["eventName"] not in self.events_known:
            raise Refusal(400, "VALIDATION_ERROR", f"no event named {each['eventName']}")
        values = _strings(each["properties"])
        if len(values) > 50 or any(len(value) > 256 for value in values.values()):
            raise Refusal(400, "VALIDATION_ERROR", "50 properties of 256 characters at most")
        if "occurredAt" in each and not _moment(each["occurredAt"]):
            raise malformed("Cannot deserialize value of type Instant")

    def _occur(self, each: dict[str, Any]) -> None:
        """A repeated `uuid` and a contact that nobody knows are lost without a word."""
        known = self.events_known[each["eventName"]]
        unknown = each["properties"].keys() - known
        self.lost["property"] += len(unknown)
        if not self._person(each):
            self.lost["contact"] += 1
        elif "uuid" in each and self._seen(each):
            self.lost["uuid"] += 1
        else:
            kept = {name: each["properties"][name] for name in each["properties"] if name in known}
            self.events.append(each | {"properties": kept})

    def _person(self, each: dict[str, Any]) -> bool:
        shelf = self.shelves["contacts"]
        by_id = each.get("objectId") in shelf.records
        return by_id or bool(each.get("email") and shelf.find("email", each["email"]))

    def _seen(self, each: dict[str, Any]) -> bool:
        """Within the event's own type."""
        name, mark = each["eventName"], each["uuid"]
        return any(one["eventName"] == name and one.get("uuid") == mark for one in self.events)

    def _definition(self, ask: Ask) -> tuple[int, Any]:
        self._may(ask, "behavioral_events.event_definitions.read_write")
        name = ask.path["name"]
        if name not in self.events_known:
            raise not_found()
        properties = [Field().told(each) for each in sorted(self.events_known[name])]
        return 200, {"fullyQualifiedName": name, "name": name, "properties": properties}


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if name in kind.names:
            return kind
    raise no_such_type(name)


def _ask(request: Request, raw: bytes, version: str, grant: Grant) -> Ask:
    path = {name: unquote(value) for name, value in request.path_params.items()}
    return Ask(version, path, dict(request.query_params), _body(request, raw), grant)


def _body(request: Request, raw: bytes) -> Any:
    if request.method == "GET":
        return None
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refusal(415, "VALIDATION_ERROR", "HTTP 415 Unsupported Media Type")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise malformed("Unexpected character") from error
    if not isinstance(body, dict):
        raise malformed("Cannot deserialize value from Array value")
    return body


def _fits(body: Any, needed: set[str], allowed: set[str] | None) -> None:
    """An object with these keys and no others; `allowed` None lets any pass."""
    if not isinstance(body, dict):
        raise malformed("Cannot deserialize value of type object")
    absent = sorted(needed - body.keys())
    if absent:
        raise unset(absent)
    strange = sorted(body.keys() - needed - allowed) if allowed is not None else []
    if strange:
        raise malformed(f'Unrecognized field "{strange[0]}"')
    if "properties" in needed:
        _strings(body["properties"])


def _inputs(
    body: Any,
    needed: set[str],
    allowed: set[str] | None,
    *,
    most: int = 100,
    properties: bool = True,
) -> list[dict[str, Any]]:
    _fits(body, {"inputs"}, None)
    inputs = body["inputs"]
    if not isinstance(inputs, list):
        raise malformed("Cannot deserialize value of type ArrayList")
    if len(inputs) > most:
        raise too_many(most)
    for each in inputs:
        _fits(each, needed, allowed)
        for key in ("id", "idProperty", "objectWriteTraceId") if properties else ():
            if not isinstance(each.get(key, ""), str) or each.get(key, "-") == "":
                raise malformed(f"Cannot deserialize value of type String: {key}")
    return inputs


def _strings(properties: Any) -> dict[str, str]:
    if not isinstance(properties, dict):
        raise malformed("Cannot deserialize value of type LinkedHashMap")
    for name, value in properties.items():
        if not isinstance(value, str):
            raise malformed(f"Cannot deserialize value of type String: {name}")
    return properties


def _undoubled(kind: Kind, inputs: list[dict[str, Any]]) -> None:
    counts = Counter((each.get("idProperty"), each["id"]) for each in inputs)
    twice = [id_ for (_, id_), times in counts.items() if times > 1]
    if twice:
        raise doubled(twice)


def _any_property(each: dict[str, Any]) -> str:
    """The first that is not the key."""
    names = [name for name in each["properties"] if name != each.get("idProperty")]
    return next(iter(names), "firstname")


def _names(ask: Ask) -> list[str]:
    return [name for name in ask.query.get("properties", "").split(",") if name]


def _moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _grants() -> dict[str, Callable[[], Refusal]]:
    """What the token endpoint refuses with; its envelope has a status of its own."""

    def refuse(status: str, error: str, message: str) -> Callable[[], Refusal]:
        told = {"status": status, "error": error, "error_description": message}
        return lambda: Refusal(400, "", message, extra=told)

    dead = "refresh token is invalid, expired or revoked"
    return {
        "bad_refresh_token": refuse("BAD_REFRESH_TOKEN", "invalid_grant", dead),
        "bad_hub": refuse("BAD_HUB", "access_denied", "the hub is deleted or disconnected"),
        "bad_client_id": refuse("BAD_CLIENT_ID", "invalid_client", "missing or unknown client id"),
        "bad_client_secret": refuse(
            "BAD_CLIENT_SECRET", "invalid_client", "missing or invalid client secret"
        ),
        "bad_grant_type": refuse("BAD_GRANT_TYPE", "unsupported_grant_type", "unknown grant_type"),
        "oauth_throttle": lambda: Refusal(429, "RATE_LIMITS", "You have reached your rate limit."),
    }


def _refusals() -> dict[str, Callable[[], Refusal]]:
    """Faults by name: a bare status, or what is said with it."""
    return (
        {str(code): _bare(code) for code in (403, 404, 405, 409, 414, 415, *RETRIES)}
        | {
            "401": unauthenticated,
            "expired": lambda: expired("12 second(s)", "2026-11-23T00:00:00Z"),
            "malformed_token": lambda: expired("20543 day(s)", "1970-01-01T00:00:00Z"),
            "scopes": lambda: unscoped(["crm.objects.contacts.write"]),
            "forbidden": forbidden,
            "path_not_found": no_such_path,
            "object_not_found": not_found,
            "no_such_type": lambda: no_such_type("sms"),
            "conflict": lambda: conflict("501"),
            "exists": lambda: exists("sms_key"),
            "bad_batch": lambda: ROWS["INVALID_EMAIL"]("email"),
            "unknown_property": lambda: ROWS["PROPERTY_DOESNT_EXIST"]("gone"),
            "non_unique": lambda: not_unique("sms_key", "0-1"),
            "duplicate_ids": lambda: doubled(["14155550123"]),
            "423": locked,
            "lock_row": locked,
            "477": migrating,
            "429": lambda: limited("TEN_SECONDLY_ROLLING"),
            "throttle": lambda: limited("TEN_SECONDLY_ROLLING"),
            "throttle_old": lambda: limited("TEN_SECONDLY_ROLLING", old=True),
            "secondly": lambda: limited("SECONDLY"),
            "daily": lambda: limited("DAILY"),
        }
        | _grants()
    )


def _bare(code: int) -> Callable[[], Refusal]:
    categories = {403: "FORBIDDEN", 404: "OBJECT_NOT_FOUND", 409: "CONFLICT"}
    return lambda: Refusal(code, categories.get(code, ""), f"HTTP {code}")


async def _unknown_path(_request: Request, _error: Exception) -> Response:
    return answer(404, no_such_path().body())


async def _unknown_method(_request: Request, _error: Exception) -> Response:
    return answer(405, Refusal(405, "", "HTTP 405 Method Not Allowed").body())


_STRANGE = {404: _unknown_path, 405: _unknown_method}

"""The client of one account: paths, tokens, and every request, within the quota.

Paths depend on the version of HubSpot's API (a date, or v3). A scope is checked by a request
without a record in it: it writes nothing, and HubSpot refuses it for a missing scope before it
looks at what it holds.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import httpx
import orjson

import relay
from relay import Clock, Quota, SystemClock, outcome_of, retry_after, time_left
from relay.crm import Action, SingleFlight, read_json

from .errors import (
    GONE,
    LONGEST_THROTTLE,
    SCOPE_ADVICE,
    ApiError,
    no_answer,
    not_named,
    of_oauth,
    parse_error,
)
from .options import COMMUNICATIONS, OAuth, Options

LEGACY, FIRST_DATED = "v3", "2025-09"


@dataclass(frozen=True, slots=True)
class Paths:
    """`kind` is an object type: `contacts`, `communications`, `2-123`."""

    version: str

    def objects(self, kind: str, action: str = "") -> str:
        """The records of a kind; `action` as in `batch/upsert`."""
        head = self._crm("objects", kind)
        return f"{head}/{action}" if action else head

    def properties(self, kind: str, rest: str = "") -> str:
        return self._crm("properties", kind) + rest

    def associations(self, kind: str, other: str) -> str:
        """Where records of one kind are tied to those of another."""
        return f"{self._pair(kind, other)}/batch/create"

    def labels(self, kind: str, other: str) -> str:
        """The types of association between two kinds."""
        return f"{self._pair(kind, other)}/labels"

    def lists(self) -> str:
        return "/crm/v3/lists" if self._legacy else f"/crm/lists/{self.version}"

    def members(self, list_id: str) -> str:
        """Where records are added to a list."""
        return f"{self.lists()}/{list_id}/memberships/add"

    def events(self) -> str:
        """Where custom events are sent."""
        return f"{self._events()}/send/batch"

    def definition(self, name: str) -> str:
        """What a custom event is defined as."""
        return f"{self._events()}/event-definitions/{name}"

    def token(self) -> str:
        return "/oauth/v1/token" if self._legacy else f"/oauth/{self.version}/token"

    @property
    def _legacy(self) -> bool:
        return self.version == LEGACY

    def _pair(self, kind: str, other: str) -> str:
        head = "/crm/v4/associations" if self._legacy else f"/crm/associations/{self.version}"
        return f"{head}/{kind}/{other}"

    def _events(self) -> str:
        """HubSpot's public specifications have another path for the first version with a date."""
        own = "custom/" if self.version == FIRST_DATED else ""
        return f"/events/{own}{self.version}"

    def _crm(self, what: str, kind: str) -> str:
        return f"/crm/v3/{what}/{kind}" if self._legacy else f"/crm/{what}/{self.version}/{kind}"


RENEW_AT = 0.8
"""The part of a token's life after which it is renewed, as HubSpot's usage guidelines advise."""
USUAL_LIFE = 1800.0
TRY_AGAIN = 10.0
REFRESH_TOKEN = "refresh_token"  # noqa: S105  a name


class NoToken(Exception):
    """HubSpot gives no token; `error` says why."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.code)
        self.error = error


Grant = Callable[[dict[str, str]], Awaitable[dict[str, Any]]]
"""Asks the token endpoint with a form. Raises NoToken."""


class Tokens(Protocol):
    """The source of the token that goes with each request."""

    async def current(self, grant: Grant) -> str:
        """The token to use now; `grant` asks for another if need be. Raises NoToken."""

    def refused(self, token: str) -> bool:
        """HubSpot calls it expired: whether there may be another."""


class FixedKey:
    """A service key or a private app's token: it never expires."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def current(self, grant: Grant) -> str:  # noqa: ARG002  it needs none
        return self._key

    def refused(self, token: str) -> bool:  # noqa: ARG002  there is no other
        return False


class OAuthTokens:
    """The tokens of one account, renewed before they expire, by one request for all who wait.

    A refresh token that HubSpot gives in place of the present one is on disk before the answer
    is used: from then on the present one may be worth nothing.
    """

    def __init__(self, options: OAuth, account: relay.Account, clock: Clock) -> None:
        self._options = options
        self._account = account
        self._clock = clock
        self._token: str | None = None
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._renewal: SingleFlight[str] = SingleFlight()

    async def current(self, grant: Grant) -> str:
        if self._token is not None and self._clock.monotonic() < self._renew_at:
            return self._token
        # Whoever waits may be cancelled; the answer may hold the only token that is still good.
        return await self._renewal.run(lambda: self._renewed(grant))

    def refused(self, token: str) -> bool:
        if token == self._token:  # else another request has had it renewed meanwhile
            self._token = None
        return True

    async def _renewed(self, grant: Grant) -> str:
        asked = self._clock.monotonic()
        try:
            answer = await self._granted(grant)
        except NoToken:
            if self._token is None or asked >= self._expires_at:
                raise
            self._renew_at = asked + TRY_AGAIN  # the old one serves a little longer
            return self._token
        self._token = str(answer["access_token"])
        life = _seconds(answer.get("expires_in"))
        self._renew_at, self._expires_at = asked + RENEW_AT * life, asked + life
        return self._token

    async def _granted(self, grant: Grant) -> dict[str, Any]:
        """What HubSpot gives for the refresh token that it gave last. Raises NoToken."""
        given = self._options.refresh_token.get_secret_value()
        refresh = await self._account.recall(REFRESH_TOKEN) or given
        answer = await grant(self._form(refresh))
        rotated = answer.get("refresh_token")
        if isinstance(rotated, str) and rotated and rotated != refresh:
            await self._account.keep(REFRESH_TOKEN, rotated)
        return answer

    def _form(self, refresh: str) -> dict[str, str]:
        return {
            "grant_type": "refresh_token",
            "client_id": self._options.client_id,
            "client_secret": self._options.client_secret.get_secret_value(),
            "refresh_token": refresh,
        }


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else USUAL_LIFE


PREFIX = "x-hubspot-ratelimit-"
DEFAULT_INTERVAL = 10.0
LONGEST_NUMBER = 15
"""Digits; Python itself reads no more than some thousands."""
MOST_ERRORS = 200
PATIENCE = 0.5
"""The part of the sink's timeout after which a refused batch is not searched any further."""


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """An answer. `error` is None for 2xx. `body` is {} where it is no JSON, or empty: `is_bare`."""

    body: dict[str, Any]
    error: ApiError | None = None
    is_bare: bool = False

    def is_expired(self) -> bool:
        """Whether another token would do."""
        return self.error is not None and self.error.rule.action is Action.REFRESH

    def list(self, name: str) -> list[dict[str, Any]]:
        """The objects under this name."""
        found = self.body.get(name)
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def are_records(self) -> bool:
        """Whether all results are distinct, and have properties."""
        return all(
            each.get("id") and isinstance(each.get("properties"), dict)
            for each in self.list("results")
        )

    def errors(self) -> Sequence[ApiError]:
        """Those of a 207, so many of them that each record may have its own."""
        return [parse_error(None, each) for each in self.list("errors")[:MOST_ERRORS]]

    def next_page(self) -> str | None:
        """What `after` is to be for the next page; None after the last."""
        paging = self.body.get("paging")
        following = paging.get("next") if isinstance(paging, dict) else None
        after = following.get("after") if isinstance(following, dict) else None
        return None if after is None else str(after)


def unread(answer: ApiResponse, expected: int) -> ApiError | None:
    """What keeps an answer from telling of each that it is there, or that it is not.

    An error that names none of those that are not there speaks of all that are not listed.
    """
    if not answer.are_records():
        return not_named()
    absent, unnamed = 0, False
    for error in answer.errors():
        if error.code not in GONE:
            return error
        absent += len(error.named)
        unnamed |= not error.named
    enough = unnamed or len(answer.list("results")) + absent >= expected
    return None if enough else not_named()


class Client:
    """Sends requests. Raises relay.Pause alone, where the guard lets no address be dialled."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        options: Options,
        quota: Quota,
        account: relay.Account,
        clock: Clock = SystemClock(),  # noqa: B008  it holds nothing that could be shared
    ) -> None:
        self._http = http
        self._base = options.base_url
        self.paths = Paths(options.api_version)
        self._quota = quota
        self._clock = clock
        self._by_oauth = options.oauth is not None
        self._tokens = self._make_tokens(options, account)

    async def post(self, path: str, content: Any) -> ApiResponse:
        return await self._call("POST", path, content=content)

    async def put(self, path: str, content: Any) -> ApiResponse:
        return await self._call("PUT", path, content=content)

    async def get(self, path: str, **parameters: Any) -> ApiResponse:
        return await self._call("GET", path, parameters=parameters)

    def spent(self) -> bool:
        """Whether so much of the sink's time is over that what can wait should."""
        limit = self._http.timeout.read
        return limit is not None and time_left() < (1 - PATIENCE) * limit

    async def _call(self, method: str, path: str, **request: Any) -> ApiResponse:
        """Once; and once more where the token has expired and there is another."""
        answer, token = await self._signed(method, path, **request)
        if answer.is_expired() and self._tokens.refused(token):
            answer, _ = await self._signed(method, path, **request)
        return answer

    async def _signed(self, method: str, path: str, **request: Any) -> tuple[ApiResponse, str]:
        try:
            token = await self._tokens.current(self._grant)
        except NoToken as error:
            return ApiResponse({}, error.error), ""
        headers = {"authorization": f"Bearer {token}"}
        return await self._send(method, path, headers, **request), token

    async def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> ApiResponse:
        body = None
        if content is not None:
            headers["content-type"] = "application/json"
            body = orjson.dumps(content)
        async with self._quota.call():
            try:
                response = await self._http.request(
                    method,
                    self._base + path,
                    headers=headers,
                    content=body,
                    params=parameters or None,
                )
                return self._read(response)
            except httpx.TransportError as error:
                return ApiResponse({}, no_answer(_told(error)))

    def _read(self, response: httpx.Response, *, renewing: bool = False) -> ApiResponse:
        self._tell_quota(response)
        body = _json(response.content)
        if response.is_success:
            return ApiResponse(body, is_bare=not response.content)
        after = retry_after(response.headers.get("retry-after"), self._clock.now())
        error = parse_error(response.status_code, body, after)
        if self._by_oauth:
            error = replace(error, rule=of_oauth(error.rule, renewing=renewing))
        if response.status_code == 429:
            self._throttled(error)
        return ApiResponse(body, error)

    # signing in

    def _make_tokens(self, options: Options, account: relay.Account) -> Tokens:
        if (oauth := options.oauth) is not None:
            return account.shared("tokens", lambda: OAuthTokens(oauth, account, self._clock))
        assert options.token is not None
        return FixedKey(options.token.get_secret_value())

    async def _grant(self, form: dict[str, str]) -> dict[str, Any]:
        """Ask for a token (OAuth 2.0, refresh_token). Raises NoToken."""
        try:
            response = await self._http.post(self._base + self.paths.token(), data=form)
            answer = self._read(response, renewing=True)
        except httpx.TransportError as error:
            raise NoToken(no_answer(_told(error))) from None
        if answer.error is None and not isinstance(answer.body.get("access_token"), str):
            raise NoToken(not_named())
        if answer.error is not None:
            raise NoToken(answer.error)
        return answer.body

    # the quota

    def _tell_quota(self, response: httpx.Response) -> None:
        numbers = _numbers(response.headers)
        if "daily" in numbers and "daily-remaining" in numbers:
            most = numbers["daily"]
            self._quota.daily(most - numbers["daily-remaining"], most)
        if "max" in numbers and "remaining" in numbers:
            seconds = numbers.get("interval-milliseconds", 0) / 1000 or DEFAULT_INTERVAL
            seconds = min(seconds, LONGEST_THROTTLE)
            self._quota.burst(numbers["remaining"], numbers["max"], seconds)

    def _throttled(self, error: ApiError) -> None:
        """The other workers' requests wait, too. At the end of the day the sink pauses anyway."""
        wait = error.outcome()
        if isinstance(wait, relay.Retry):
            self._quota.burst(0, 1, wait.after or DEFAULT_INTERVAL)


def _told(error: httpx.TransportError) -> str:
    outcome = outcome_of(error, 0.0)
    return outcome.reason


def _json(content: bytes) -> dict[str, Any]:
    try:
        body = read_json(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _numbers(headers: httpx.Headers) -> dict[str, int]:
    return {
        name.removeprefix(PREFIX): int(value)
        for name, value in headers.items()
        if name.startswith(PREFIX) and value.isdecimal() and len(value) <= LONGEST_NUMBER
    }


NO_RECORDS: dict[str, Any] = {"inputs": []}


class ScopeCheck(NamedTuple):
    """What a scope allows, as a clause of a sentence, and the path of a request that needs it."""

    what: str
    path: str


def needs(options: Options, paths: Paths) -> Iterator[ScopeCheck]:
    """What the features of these options do."""
    kind, activity = options.object, options.activity
    yield ScopeCheck(f"{kind} are written", paths.objects(kind, "batch/upsert"))
    if options.match != ["key"] or options.only_if_empty or options.consent or activity:
        yield ScopeCheck(f"{kind} are read", paths.objects(kind, "batch/read"))
    if activity and activity.object:
        own = activity.object.type
        yield ScopeCheck(f"{own} are written", paths.objects(own, "batch/upsert"))
        yield ScopeCheck(f"{own} are tied to {kind}", paths.associations(own, kind))
    if activity and activity.communication:
        yield ScopeCheck("text messages are logged", paths.objects(COMMUNICATIONS, "batch/create"))
    if activity and activity.event:
        yield ScopeCheck("custom events are sent", paths.events())


async def missing_scopes(client: Client, options: Options) -> list[str]:
    """A line for each scope that is missing, or for several of which one would do."""
    found: dict[str, str] = {}
    for need in needs(options, client.paths):
        error = (await client.post(need.path, NO_RECORDS)).error
        if error is None:
            continue
        if error.status is None:
            break  # no answer: the next request shows why
        if error.scopes:
            found.setdefault(" or ".join(error.scopes), need.what)
    return [
        f"the scope {scope} is missing, with which {what}; {SCOPE_ADVICE}"
        for scope, what in found.items()
    ]

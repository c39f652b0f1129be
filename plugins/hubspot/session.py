"""The session: every request to HubSpot goes through here, signed in and within the quota."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import orjson

import relay
from relay import Clock, Quota, SystemClock, outcome_of, retry_after, time_left
from relay.crm import Action, read_json

from . import problem as problems
from .errors import of_oauth
from .options import Options
from .paths import Paths
from .problem import Problem
from .tokens import FixedKey, NoToken, OAuthTokens, Tokens

PREFIX = "x-hubspot-ratelimit-"
DEFAULT_INTERVAL = 10.0
LONGEST_NUMBER = 15
"""Digits; Python itself reads no more than some thousands."""
MOST_ERRORS = 200
PATIENCE = 0.5
"""The part of the sink's timeout after which a refused batch is not searched any further."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`problem` is None for 2xx. `body` is {} where it is no JSON, or none at all: `is_bare`."""

    body: dict[str, Any]
    problem: Problem | None = None
    is_bare: bool = False

    def is_expired(self) -> bool:
        """Whether another token would do."""
        return self.problem is not None and self.problem.rule.action is Action.REFRESH

    def list(self, name: str) -> list[dict[str, Any]]:
        """The objects under this name."""
        found = self.body.get(name)
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def are_records(self) -> bool:
        """Whether all results can be told apart, and have properties."""
        return all(
            each.get("id") and isinstance(each.get("properties"), dict)
            for each in self.list("results")
        )

    def errors(self) -> Sequence[Problem]:
        """Those of a 207, so many of them that each record may have its own."""
        return [problems.read(None, each) for each in self.list("errors")[:MOST_ERRORS]]

    def next_page(self) -> str | None:
        """What `after` is to be for the next page; None after the last."""
        paging = self.body.get("paging")
        following = paging.get("next") if isinstance(paging, dict) else None
        after = following.get("after") if isinstance(following, dict) else None
        return None if after is None else str(after)


class Session:
    """Raises nothing but relay.Pause, where the guard lets no address be dialled."""

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

    async def post(self, path: str, content: Any) -> Answer:
        return await self._call("POST", path, content=content)

    async def put(self, path: str, content: Any) -> Answer:
        return await self._call("PUT", path, content=content)

    async def get(self, path: str, **parameters: Any) -> Answer:
        return await self._call("GET", path, parameters=parameters)

    def spent(self) -> bool:
        """Whether so much of the sink's time is over that what can wait should."""
        limit = self._http.timeout.read
        return limit is not None and time_left() < (1 - PATIENCE) * limit

    async def _call(self, method: str, path: str, **request: Any) -> Answer:
        """Once; and once more where the token has expired and there is another."""
        answer, token = await self._signed(method, path, **request)
        if answer.is_expired() and self._tokens.refused(token):
            answer, _ = await self._signed(method, path, **request)
        return answer

    async def _signed(self, method: str, path: str, **request: Any) -> tuple[Answer, str]:
        try:
            token = await self._tokens.current(self._grant)
        except NoToken as error:
            return Answer({}, error.problem), ""
        headers = {"authorization": f"Bearer {token}"}
        return await self._send(method, path, headers, **request), token

    async def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
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
                return Answer({}, problems.no_answer(_told(error)))

    def _read(self, response: httpx.Response, *, renewing: bool = False) -> Answer:
        self._tell_quota(response)
        body = _json(response.content)
        if response.is_success:
            return Answer(body, is_bare=not response.content)
        after = retry_after(response.headers.get("retry-after"), self._clock.now())
        problem = problems.read(response.status_code, body, after)
        if self._by_oauth:
            problem = replace(problem, rule=of_oauth(problem.rule, renewing=renewing))
        if response.status_code == 429:
            self._throttled(problem)
        return Answer(body, problem)

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
            raise NoToken(problems.no_answer(_told(error))) from None
        if answer.problem is None and not isinstance(answer.body.get("access_token"), str):
            raise NoToken(problems.no_word())
        if answer.problem is not None:
            raise NoToken(answer.problem)
        return answer.body

    # the quota

    def _tell_quota(self, response: httpx.Response) -> None:
        numbers = _numbers(response.headers)
        if "daily" in numbers and "daily-remaining" in numbers:
            most = numbers["daily"]
            self._quota.daily(most - numbers["daily-remaining"], most)
        if "max" in numbers and "remaining" in numbers:
            seconds = numbers.get("interval-milliseconds", 0) / 1000 or DEFAULT_INTERVAL
            seconds = min(seconds, problems.LONGEST_THROTTLE)
            self._quota.burst(numbers["remaining"], numbers["max"], seconds)

    def _throttled(self, problem: Problem) -> None:
        """The other workers' requests wait, too. At the end of the day the sink pauses anyway."""
        wait = problem.outcome()
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

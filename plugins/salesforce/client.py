"""The client of one org: signs in, keeps the token, and sends requests with it.

A token has no known end ("Session Settings" of the org, two hours by default, or whenever
an administrator revokes it), so it is used until an answer says 401, and then renewed once, however
many requests of however many sinks with this login meet that 401 together. The errors of a sign-in
are those of "OAuth 2.0 Client Credentials Flow" and "OAuth 2.0 JWT Bearer Flow", with the
descriptions that users have recorded; `invalid_grant` commonly comes without one.
"""

import contextlib
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import httpx
import jwt

import relay
from relay import Quota, is_confidential
from relay.crm import Action, Rule, SingleFlight, find

from .errors import RULES, api_errors, outcome_of_errors, read_json
from .options import Options

APP = "in the External Client App's OAuth policies"
HOUR_LIMIT_PROBE = 300.0
"""Seconds to the next sign-in, where a user has had 3,600 of them within an hour."""


def _code(code: str) -> frozenset[str]:
    return frozenset({code})


GRANT = _code("invalid_grant")


def _rules(user: str, grant: str, client: str, flow: str, rest: str) -> tuple[Rule, ...]:
    """The table of one flow: its user, and the advice for what another flow would mean by it."""
    rate = (
        f"{user} has signed in more than 3,600 times within an hour, which the relay does not: the"
        " Login History of the user names the other program; give each a user of its own"
    )
    return (
        Rule(Action.RETRY, frozenset({408, 420, 429, *range(500, 600)})),
        Rule(Action.RETRY, code=_code("rate_limit_exceeded"), after=60.0, advice=rate),
        Rule(Action.PAUSE, text="login rate exceeded", after=HOUR_LIMIT_PROBE, advice=rate),
        Rule(
            Action.PAUSE, code=GRANT, text="no client credentials user",
            advice=f"choose a Run As user {APP}",
        ),
        Rule(
            Action.PAUSE, code=GRANT, text="not supported on this domain",
            advice="login_url should be your My Domain, https://NAME.my.salesforce.com",
        ),
        Rule(
            Action.PAUSE, code=GRANT, text="hasn't approved this consumer",
            advice=f'set "Admin approved users are pre-authorized" {APP}, with a permission set of'
            f" {user}",
        ),
        Rule(Action.PAUSE, code=GRANT, text="inactive", advice=f"activate {user}"),
        Rule(Action.PAUSE, code=GRANT, advice=grant),
        Rule(Action.PAUSE, code=_code("invalid_client_id"), advice="correct client_id"),
        Rule(Action.PAUSE, code=_code("invalid_client"), advice=client),
        Rule(
            Action.PAUSE, code=_code("invalid_app_access"),
            advice=f"approve the app for {user} (a permission set)",
        ),
        Rule(
            Action.PAUSE, code=_code("unsupported_grant_type"), advice=f"enable the {flow} {APP}"
        ),
        Rule(Action.PAUSE, code=_code("inactive_user"), advice=f"activate {user}"),
        Rule(Action.PAUSE, code=_code("inactive_org"), advice="the org is closed or moved"),
        Rule(Action.PAUSE, advice=f"correct {rest}"),
    )  # fmt: skip


CLIENT_CREDENTIALS_RULES = _rules(
    user="the app's Run As user",
    grant=f"check that the client credentials flow is enabled {APP}, that its Run As user is"
    " active and may use the API, and that login_url is the org's own My Domain",
    client="correct client_id or client_secret",
    flow="client credentials flow",
    rest="login_url, client_id and client_secret",
)
JWT_RULES = _rules(
    user="jwt.username",
    grant="check jwt.username, jwt.key against the app's certificate, jwt.audience and the clock"
    " of this machine",
    client="correct client_id, or jwt.key against the app's certificate",
    flow="JWT bearer flow",
    rest="login_url, client_id and jwt",
)


TOKEN_PATH = "/services/oauth2/token"  # noqa: S105  a path
CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LASTS = 120
USAGE = re.compile(r"(?:^|;)\s*api-usage=(\d{1,15})/(\d{1,15})(?!\d)")
LIMIT_INFO = "sforce-limit-info"
JSON = {"content-type": "application/json; charset=UTF-8", "accept": "application/json"}


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The token of a sign-in. `url` is the org's instance: that of the last answer, always."""

    text: str
    url: str

    def __repr__(self) -> str:
        return "AccessToken(…)"


class Page(NamedTuple):
    """A page of a query, the rows of all its pages, and the path of the next page."""

    rows: list[dict[str, Any]]
    total: int
    following: str | None


class SignIn:
    """The token of one login, which its sinks share."""

    def __init__(self) -> None:
        self.token: AccessToken | None = None
        self._renewal: SingleFlight[AccessToken] = SingleFlight()

    async def renewed(
        self, stale: AccessToken | None, ask: Callable[[], Coroutine[Any, Any, AccessToken]]
    ) -> AccessToken:
        """A token that is not the stale one: of those who ask together, one signs in for all."""
        if self.token is not None and self.token is not stale:
            return self.token
        return await self._renewal.run(lambda: self._renewed(ask))

    async def _renewed(self, ask: Callable[[], Coroutine[Any, Any, AccessToken]]) -> AccessToken:
        self.token = None
        self.token = await ask()
        return self.token


class Client:
    """Requests to one org. Everything raises httpx's transport errors as they are.

    `login` is the account of all sinks with these credentials.
    """

    def __init__(
        self, options: Options, http: httpx.AsyncClient, quota: Quota, login: relay.Account
    ) -> None:
        self._http = http
        self._quota = quota
        self._sign_in = login.shared("sign-in", SignIn)
        self._grant = _grant(options)
        self._sign_in_rules = JWT_RULES if options.jwt else CLIENT_CREDENTIALS_RULES
        self._login_url = options.login_url
        self._base = f"/services/data/{options.api_version}/"

    async def request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer, whatever it says but 401: then the token is renewed and it is asked again.

        `path` follows /services/data/VERSION/, or begins with a `/` itself. Raises
        Pause or Retry when the sign-in fails, and Pause when a new token is refused.
        """
        token = self._sign_in.token or await self._renewed(None)
        response = await self._ask(token, method, path, content, params, headers)
        if self._is_stale(response):
            token = await self._renewed(token)
            response = await self._ask(token, method, path, content, params, headers)
            if self._is_stale(response):
                raise outcome_of_errors(api_errors(response), RULES)  # type: ignore[misc]  # a Pause, by the rules
        return response

    async def get(self, path: str, **params: str) -> Any:
        """The JSON of an answer to a GET. Raises Retry, or Pause for any other refusal."""
        response = await self.request("GET", path, params=params or None)
        if not response.is_success:
            raise as_of_all(response)
        body = read_json(response)
        if body is None:
            raise relay.Retry(f"answered {response.status_code} without JSON")
        return body

    async def records(self, path: str, name: str, **params: str) -> list[dict[str, Any]]:
        """The list of this name in what `get` gives. Raises Retry also where there is none."""
        return _records(path, name, await self.get(path, **params))

    async def rows(self, path: str, name: str, **params: str) -> list[dict[str, Any]]:
        """As `records`, each with its id. Raises Retry also where one has none."""
        return _rows(path, name, await self.get(path, **params))

    async def page(self, path: str, **params: str) -> Page:
        """One page of a query. Raises Retry also where it is none."""
        body = await self.get(path, **params)
        rows = _rows(path, "records", body)
        total = body.get("totalSize")
        following = body.get("nextRecordsUrl")
        is_last = body.get("done") is True
        if not isinstance(total, int) or not (is_last or isinstance(following, str)):
            raise relay.Retry(f"{path}: answered without totalSize or nextRecordsUrl")
        return Page(rows, total, None if is_last else following)

    async def _ask(
        self,
        token: AccessToken,
        method: str,
        path: str,
        content: bytes | None,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Response:
        await self._quota.acquire()
        response = await self._http.request(
            method,
            token.url + (path if path.startswith("/") else self._base + path),
            content=content,
            params=params,
            headers={**JSON, **(headers or {}), "authorization": f"Bearer {token.text}"},
        )
        if used := USAGE.search(response.headers.get(LIMIT_INFO, "")):
            self._quota.daily(int(used[1]), int(used[2]))
        return response

    def _is_stale(self, response: httpx.Response) -> bool:
        if response.status_code != 401:
            return False
        told = api_errors(response)[0]
        return find(RULES, 401, told.code, told.message).action is Action.REFRESH

    async def _renewed(self, stale: AccessToken | None) -> AccessToken:
        return await self._sign_in.renewed(stale, self._signed_in)

    async def _signed_in(self) -> AccessToken:
        response = await self._http.post(
            self._login_url + TOKEN_PATH, data=self._grant(), headers={"accept": JSON["accept"]}
        )
        if not response.is_success:
            raise self._not_signed_in(response)
        body = read_json(response)
        if not isinstance(body, dict) or not isinstance(body.get("access_token"), str):
            raise relay.Retry("sign-in: answered without a token")
        return AccessToken(body["access_token"], self._instance(body.get("instance_url")))

    def _not_signed_in(self, response: httpx.Response) -> relay.Retry | relay.Pause:
        outcome = outcome_of_errors(api_errors(response), self._sign_in_rules)
        assert isinstance(outcome, relay.Retry | relay.Pause)  # by the rules
        outcome.reason = f"sign-in: {outcome.reason}"
        return outcome

    def _instance(self, url: Any) -> str:
        """Where the org lives; the token goes nowhere without TLS."""
        if not isinstance(url, str):
            return self._login_url
        with contextlib.suppress(httpx.InvalidURL):
            if is_confidential(httpx.URL(url)):
                return url.rstrip("/")
        raise relay.Pause("sign-in: instance_url does not begin with https://; correct login_url")


class _GrantForm(Protocol):
    def __call__(self) -> dict[str, str]: ...


def _grant(options: Options) -> _GrantForm:
    """What a sign-in posts ("OAuth 2.0 Client Credentials Flow", "… JWT Bearer Flow")."""
    secret, bearer = options.client_secret, options.jwt
    if bearer is None:
        assert secret is not None
        return lambda: {
            "grant_type": CLIENT_CREDENTIALS,
            "client_id": options.client_id,
            "client_secret": secret.get_secret_value(),
        }

    def assertion() -> dict[str, str]:
        claims = {
            "iss": options.client_id,
            "sub": bearer.username,
            "aud": options.audience(),
            "exp": int(time.time()) + ASSERTION_LASTS,
        }
        try:
            signed = jwt.encode(claims, bearer.key.get_secret_value(), algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError):
            raise relay.Pause("jwt.key is no private RSA key in PEM; correct it") from None
        return {"grant_type": JWT_BEARER, "assertion": signed}

    return assertion


def _records(path: str, name: str, body: Any) -> list[dict[str, Any]]:
    found = body.get(name) if isinstance(body, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise relay.Retry(f"{path}: answered without {name}")
    return found


def _rows(path: str, name: str, body: Any) -> list[dict[str, Any]]:
    found = _records(path, name, body)
    if not all(isinstance(each.get("Id"), str) for each in found):
        raise relay.Retry(f"{path}: answered a record without its id")
    return found


def as_of_all(response: httpx.Response) -> relay.Retry | relay.Pause:
    """A refusal that is about no record: what cannot be retried needs the operator."""
    outcome = outcome_of_errors(api_errors(response), RULES)
    if isinstance(outcome, relay.Retry | relay.Pause):
        return outcome
    reason = outcome.reason if isinstance(outcome, relay.Reject) else "refused"
    return relay.Pause(reason, status=response.status_code)

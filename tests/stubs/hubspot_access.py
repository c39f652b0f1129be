"""Who may call HubSpot, and how often: bearer tokens, OAuth's refresh, and the limits.

After its guides "Working with OAuth" and "API usage guidelines and limits".
"""

import uuid
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from stubs.hubspot_account import Account
from stubs.hubspot_errors import (
    GRANTS,
    PORTAL,
    Refusal,
    expired,
    limited,
    unauthenticated,
)
from stubs.hubspot_shelf import iso
from stubs.vendor import answer

SCOPES = frozenset(
    {
        "crm.objects.contacts.read",
        "crm.objects.contacts.write",
        "crm.objects.custom.read",
        "crm.objects.custom.write",
        "crm.lists.read",
        "crm.lists.write",
        "crm.schemas.contacts.read",
        "crm.schemas.contacts.write",
        "crm.schemas.custom.read",
        "crm.schemas.custom.write",
        "analytics.behavioral_events.send",
        "behavioral_events.event_definitions.read_write",
    }
)
LIFETIME = 1800  # seconds


@dataclass
class Grant:
    """What a bearer token is worth; `until` is in seconds of the clock, None for ever.

    `app` is the one whose calls count for the burst: a static token is one by itself.
    """

    until: float | None = None
    alive: bool = True
    app: str = "oauth"

    @property
    def oauth(self) -> bool:
        return self.until is not None


class Access:
    """The account's door. `scopes` hold for all tokens alike."""

    def __init__(self, account: Account, token: str, client: tuple[str, str], refresh: str) -> None:
        self.scopes = SCOPES
        self.tokens = {token: Grant(app=token)}
        self.refresh_tokens = {refresh}
        self._account = account
        self._client = client
        self._issued = 1
        self._windows: dict[str, deque[float]] = {}

    def add_token(self, token: str) -> None:
        """Another app's of the same account."""
        self.tokens[token] = Grant(app=token)

    def revoke_all(self) -> None:
        """Every token is dead, the refresh tokens, too."""
        self.refresh_tokens.clear()
        for grant in self.tokens.values():
            grant.alive = False

    def restore_all(self) -> None:
        """Tokens are alive again; refresh tokens are not."""
        for grant in self.tokens.values():
            grant.alive = True

    def expire_tokens(self) -> None:
        """OAuth's access tokens end now; static ones never do."""
        for grant in self.tokens.values():
            if grant.oauth:
                grant.until = self._account.clock.now() - 1

    def grant(self, request: Request) -> Grant:
        """Raises Refusal."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        grant = self.tokens.get(token)
        now = self._account.clock.now()
        if scheme != "Bearer" or not token:
            raise unauthenticated()
        if grant is None and not token.startswith(("pat-", "access-")):
            raise expired(f"{int(now // 86400)} day(s)", "1970-01-01T00:00:00Z")
        if grant is None or not grant.alive:
            raise unauthenticated()
        if grant.until is not None and grant.until <= now:
            raise expired(f"{max(1, round(now - grant.until))} second(s)", iso(grant.until))
        return grant

    def count(self, policy: str, grant: Grant) -> None:
        """Raises Refusal. Searches of an account count by the second, other calls by app.

        Custom events do not count at all.
        """
        if policy == "none":
            return
        account = self._account
        if not grant.oauth and account.api_used >= account.api_most:
            raise limited("DAILY")
        if policy == "search":
            self._slide("search", account.search_most, 1.0, limited("SECONDLY"))
        else:
            self._slide(
                f"burst {grant.app}", self._burst(grant), 10.0, limited("TEN_SECONDLY_ROLLING")
            )
        account.api_used += 1

    def told(self, status: int, content: Any, grant: Grant | None, policy: str) -> Response:
        """The answer with the headers that HubSpot puts on it; those of a search have none."""
        headers = {"x-hubspot-correlation-id": str(uuid.uuid4())}
        if policy == "burst" and status != 401:
            headers |= self._rates(grant or Grant())
        if status == 429 and self._account.retry_after is not None:
            headers["retry-after"] = str(self._account.retry_after)
        if status == 477:
            headers["retry-after"] = str(self._account.migration)
        if content is None:
            return Response(status_code=status, headers=headers)
        return answer(status, content, headers)

    async def token(self, request: Request) -> Response:
        """The token endpoint, with a throttle of its own."""
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        try:
            self._slide("oauth", self._account.oauth_most, 10.0, GRANTS["oauth_throttle"]())
            _is_form(request)
            self._check(form)
            return answer(200, self._issue(form["refresh_token"]))
        except Refusal as refusal:
            return answer(refusal.status, refusal.body())

    def _check(self, form: dict[str, str]) -> None:
        good = {
            "bad_grant_type": form.get("grant_type") == "refresh_token",
            "bad_client_id": form.get("client_id") == self._client[0],
            "bad_client_secret": form.get("client_secret") == self._client[1],
            "bad_refresh_token": form.get("refresh_token") in self.refresh_tokens,
        }
        for name, holds in good.items():
            if not holds:
                refusal = GRANTS[name]
                raise refusal()

    def _issue(self, refresh_token: str) -> dict[str, Any]:
        self._issued += 1
        token = f"access-{self._issued}"
        self.tokens[token] = Grant(self._account.clock.now() + LIFETIME)
        if self._account.rotate:
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

    def _burst(self, grant: Grant) -> int:
        return self._account.oauth_burst_most if grant.oauth else self._account.burst_most

    def _slide(self, name: str, most: int, per: float, refusal: Refusal) -> None:
        """Raises the refusal where the window is full; a refused call does not count."""
        window = self._window(name, per)
        if len(window) >= most:
            raise refusal
        window.append(self._account.clock.monotonic())

    def _window(self, name: str, per: float) -> deque[float]:
        window = self._windows.setdefault(name, deque())
        while window and window[0] <= self._account.clock.monotonic() - per:
            window.popleft()
        return window

    def _rates(self, grant: Grant) -> dict[str, str]:
        """The day's numbers are not for OAuth."""
        account, most = self._account, self._burst(grant)
        used = len(self._window(f"burst {grant.app}", 10.0))
        told = {
            "x-hubspot-ratelimit-max": str(most),
            "x-hubspot-ratelimit-remaining": str(max(0, most - used)),
            "x-hubspot-ratelimit-interval-milliseconds": "10000",
        }
        if grant.oauth:
            return told
        left = max(0, account.api_most - account.api_used)
        return told | {
            "x-hubspot-ratelimit-daily": str(account.api_most),
            "x-hubspot-ratelimit-daily-remaining": str(left),
        }


def _is_form(request: Request) -> None:
    media = request.headers.get("content-type", "").partition(";")[0]
    if media != "application/x-www-form-urlencoded":
        raise Refusal(415, "VALIDATION_ERROR", "HTTP 415 Unsupported Media Type")

"""The token that goes with each request: a fixed key, or OAuth's, renewed in time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import relay
from relay import Clock

from .options import OAuth
from .problem import Problem

RENEW_AT = 0.8
"""The part of a token's life after which it is renewed, as HubSpot's usage guidelines advise."""
USUAL_LIFE = 1800.0
TRY_AGAIN = 10.0
REFRESH_TOKEN = "refresh_token"  # noqa: S105  a name


class NoToken(Exception):
    """HubSpot gives none; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


Grant = Callable[[dict[str, str]], Awaitable[dict[str, Any]]]
"""Asks the token endpoint with a form. Raises NoToken."""


class Tokens(Protocol):
    """Where the token comes from."""

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
    """Those of one account: renewed before they expire, by one request however many wait for it.

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
        self._renewing: asyncio.Task[str] | None = None

    async def current(self, grant: Grant) -> str:
        if self._token is not None and self._clock.monotonic() < self._renew_at:
            return self._token
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renewed(grant))
            self._renewing.add_done_callback(_take_exception)
        # Whoever waits may be cancelled; the answer may hold the only token that is still good.
        return await asyncio.shield(self._renewing)

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


def _take_exception(renewing: asyncio.Task[str]) -> None:
    """Have asyncio not log a failure for which no request waits any more."""
    if not renewing.cancelled():
        renewing.exception()


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else USUAL_LIFE

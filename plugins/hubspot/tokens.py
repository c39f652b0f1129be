"""The token that goes with each request: a fixed key, or OAuth's, renewed in time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from relay.clock import Clock
from relay.sink import Log

from .options import OAuth
from .problem import Problem

RENEW_AT = 0.8
"""The part of a token's life after which it is renewed, as HubSpot's usage guidelines advise."""
USUAL_LIFE = 1800.0
TRY_AGAIN = 10.0


class NoToken(Exception):
    """HubSpot gives none; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


class Tokens(Protocol):
    """Where the token comes from."""

    async def current(self) -> str:
        """The token to use now. Raises NoToken."""

    def refused(self, token: str) -> bool:
        """HubSpot calls it expired: whether there may be another."""


class FixedKey:
    """A service key or a private app's token: it never expires."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def current(self) -> str:
        return self._key

    def refused(self, token: str) -> bool:  # noqa: ARG002  there is no other
        return False


Grant = Callable[[dict[str, str]], Awaitable[dict[str, Any]]]
"""Asks the token endpoint with a form. Raises NoToken."""


class OAuthTokens:
    """Renewed before it expires, by one request however many wait for it."""

    def __init__(self, options: OAuth, grant: Grant, clock: Clock, log: Log) -> None:
        self._options = options
        self._grant = grant
        self._clock = clock
        self._log = log
        self._refresh = options.refresh_token.get_secret_value()
        self._token: str | None = None
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._turn = asyncio.Lock()

    async def current(self) -> str:
        async with self._turn:
            if self._token is None or self._clock.monotonic() >= self._renew_at:
                await self._renew()
            assert self._token is not None
            return self._token

    def refused(self, token: str) -> bool:
        if token == self._token:  # else another request has had it renewed meanwhile
            self._token = None
        return True

    async def _renew(self) -> None:
        asked = self._clock.monotonic()
        try:
            answer = await self._grant(self._form())
        except NoToken:
            if self._token is None or asked >= self._expires_at:
                raise
            self._renew_at = asked + TRY_AGAIN  # the old one serves a little longer
            return
        self._token = str(answer["access_token"])
        life = _seconds(answer.get("expires_in"))
        self._renew_at, self._expires_at = asked + RENEW_AT * life, asked + life
        self._keep(answer.get("refresh_token"))

    def _keep(self, rotated: Any) -> None:
        if isinstance(rotated, str) and rotated and rotated != self._refresh:
            first = self._refresh == self._options.refresh_token.get_secret_value()
            self._refresh = rotated
            self._log.log(
                logging.WARNING if first else logging.DEBUG,
                "HubSpot gave a new refresh token, which is kept in memory alone: if it refuses "
                "options.oauth.refresh_token at the next start, connect the app again",
            )

    def _form(self) -> dict[str, str]:
        return {
            "grant_type": "refresh_token",
            "client_id": self._options.client_id,
            "client_secret": self._options.client_secret.get_secret_value(),
            "refresh_token": self._refresh,
        }


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else USUAL_LIFE

"""Endpoints of the quarantine: list, show, release, discard.

Anyone can send a callback with a wrong token. It becomes an event only where a token that came with
it is one of today's, or where a person has chosen this very callback.
"""

from collections.abc import Collection, Mapping
from typing import Any, Self
from uuid import UUID

import pydantic
from starlette.requests import Request

from relay.api import CHUNK, PAGE, Taken, TokenStatus
from relay.api.endpoints import (
    EndpointError,
    RequestBody,
    body_of,
    decode_cursor,
    make_page,
    or_404,
    query_of,
)
from relay.api.events import callback_view, words_behind
from relay.config.loader import Config
from relay.config.model import SourceConfig
from relay.event import InvalidCallback, timestamp
from relay.preview import preview_all
from relay.senders import within
from relay.server.access import TokenSet, has_tokens
from relay.slices import Slices
from relay.sources.router import Router, Words
from relay.store import UNAUTHORIZED, Quarantined
from relay.store.port import Store
from relay.validation import PLACEHOLDER

FORBIDDEN = 403

REASONS = {
    TokenStatus.ELSEWHERE: "its token is valid now, but its address is not in allow_from",
    TokenStatus.WRONG: "its token is none of today's",
    TokenStatus.MISSING: "no token came with it",
    TokenStatus.UNKNOWN: "it cannot be told whether its token is one of today's",
    TokenStatus.UNVERIFIED: "the source cannot verify it any more",
}


class QuarantineQuery(RequestBody):
    cursor: str | None = None
    limit: int = pydantic.Field(default=50, ge=1, le=PAGE)


class ReleaseBody(RequestBody):
    """The body of a release. `unauthorized`: which callbacks with a wrong token it may take."""

    ids: list[str] = pydantic.Field(max_length=CHUNK)
    dry_run: bool = False
    unauthorized: Taken = Taken.NONE

    @pydantic.model_validator(mode="after")
    def _one_choice_at_a_time(self) -> Self:
        if self.unauthorized is Taken.CHOSEN and not self.dry_run and len(self.ids) != 1:
            raise ValueError("a callback with a wrong token is chosen alone")
        return self


class DiscardBody(RequestBody):
    """The body of a discard. `ids` None is all callbacks."""

    ids: list[UUID] | None = None


class QuarantineEndpoints:
    """The endpoints of `relay quarantine`."""

    def __init__(self, config: Config, store: Store, router: Router) -> None:
        self._sinks = config.sinks
        verified = [name for name, each in router.sources.items() if each.verifies]
        self._unauthorized = ReleasePolicy(config.sources, verified)
        self._store = store
        self._router = router

    async def page(self, request: Request) -> dict[str, Any]:
        query = query_of(request, QuarantineQuery)
        last = decode_cursor(query.cursor)
        rows = await self._store.quarantined(before=last and last[0], limit=query.limit)
        return make_page(rows, query.limit, self._view, lambda row: (row.seq, ""))

    async def show(self, request: Request) -> dict[str, Any]:
        row = await self._row(request.path_params["id"])
        return {**self._view(row), "callback": callback_view(row.callback)}

    async def release(self, request: Request) -> dict[str, Any]:
        """Take callbacks in after all, in the order asked for."""
        body = await body_of(request, ReleaseBody)
        released: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for each in body.ids:
            try:
                row = await self._permitted(each, body.unauthorized)
                released += await (self._would if body.dry_run else self._release)(row)
            except InvalidCallback as error:
                failed.append({"id": each, "reason": error.reason})
            except EndpointError as error:
                failed.append({"id": each, "reason": str(error)})
        return {"released": released, "failed": failed}

    async def discard(self, request: Request) -> dict[str, Any]:
        body = await body_of(request, DiscardBody)
        ids = None if body.ids is None else [str(each) for each in body.ids]
        return {"discarded": await self._store.discard_quarantined(ids)}

    async def _permitted(self, quarantine_id: str, taken: Taken) -> Quarantined:
        """The callback, where it may be released. Raises ApiError."""
        row = await self._row(quarantine_id)
        if objection := self._unauthorized.objection(row, taken):
            raise EndpointError(FORBIDDEN, objection)
        return row

    def _view(self, row: Quarantined) -> dict[str, Any]:
        return quarantined_view(row, self._unauthorized.token(row))

    async def _release(self, row: Quarantined) -> list[dict[str, Any]]:
        """What became of it: an object for each event."""
        receipts = await or_404(self._router.release(row), _named(row.id))
        for receipt in receipts:
            await self._follow(receipt.id)
        return [{"id": row.id, "event": each.id, "type": each.type} for each in receipts]

    async def _follow(self, event_id: str) -> None:
        """Have what the contact has said since go to sinks that have never had it."""
        event = await self._store.event(event_id)
        for delivery in event.deliveries if event else ():
            sink = self._sinks.get(delivery.sink)
            if sink is None:  # a repeat has the deliveries of the first one
                continue
            words = await words_behind(self._store, sink, [delivery.seq])
            await self._store.replay(sink.name, [row.seq for row in words])

    async def _would(self, row: Quarantined) -> list[dict[str, Any]]:
        """What would become of it: an object for each event."""
        events, invalid = await self._router.events(row.callback)
        if not events:
            raise InvalidCallback(invalid[0][1])
        found, words, slices = [], Words(), Slices()
        for _, event in events:
            opted_out = await self._router.opted_out(event, words)
            sinks = preview_all(self._sinks.values(), event, opted_out)
            found.append(
                {
                    "id": row.id,
                    "type": event.type,
                    "mobile": event.contact,
                    "sinks": [each.to_dict() for each in sinks],
                }
            )
            await slices.rest()
        return found

    async def _row(self, quarantine_id: str) -> Quarantined:
        return await or_404(self._store.quarantined_one(quarantine_id), _named(quarantine_id))


def _named(quarantine_id: str) -> str:
    return f"callback {quarantine_id} in quarantine"


class ReleasePolicy:
    """Judges callbacks with a wrong token by the present configuration's tokens and networks.

    The sources in `verified` check by themselves who sends.
    """

    def __init__(self, sources: Mapping[str, SourceConfig], verified: Collection[str] = ()) -> None:
        self._sources = sources
        self._verified = verified
        self._tokens = {name: TokenSet(_filled(source)) for name, source in sources.items()}

    def token(self, row: Quarantined) -> TokenStatus | None:
        """The status of its token; None where it did not have a wrong one."""
        kept, source = row.callback.token_digest, self._sources.get(row.source)
        if row.status != UNAUTHORIZED:
            return None
        if row.source in self._verified:
            return TokenStatus.UNVERIFIED
        if kept is None or source is None:
            return TokenStatus.UNKNOWN
        if not has_tokens(kept):
            return TokenStatus.MISSING
        if self._tokens[row.source].accepts_digest(kept):
            networks = source.allow_from
            known = not networks or within(networks, row.callback.sender)
            return TokenStatus.VALID if known else TokenStatus.ELSEWHERE
        # While one of today's cannot be read, it may be that one.
        return (
            TokenStatus.WRONG if len(_filled(source)) == len(source.tokens) else TokenStatus.UNKNOWN
        )

    def objection(self, row: Quarantined, taken: Taken) -> str:
        """Why a release of this kind may not take the callback; empty where it may."""
        token = self.token(row)
        if token is None or taken is Taken.CHOSEN:
            return ""
        if taken is Taken.NONE:
            return "it came with a wrong token (401)"
        return "" if token is TokenStatus.VALID else REASONS[token]


def quarantined_view(row: Quarantined, token: TokenStatus | None) -> dict[str, Any]:
    """A callback in quarantine. `token` is the status of a wrong token."""
    return {
        "seq": row.seq,
        "id": row.id,
        "received": timestamp(row.received),
        "source": row.source,
        "sender": row.callback.sender or None,
        "status": row.status,
        "reason": row.reason,
        "token": token,
    }


def _filled(source: SourceConfig) -> list[str]:
    """The tokens that could be read. A placeholder that was not filled in is no token."""
    tokens = [token.get_secret_value() for token in source.tokens]
    return [token for token in tokens if not PLACEHOLDER.search(token)]

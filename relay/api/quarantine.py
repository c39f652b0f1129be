"""Endpoints of the quarantine: list, show, release, discard."""

from typing import Any

from starlette.requests import Request

from relay.api.endpoints import EndpointError, body_of, decode_cursor, make_page, or_404, query_of
from relay.api.events import words_behind
from relay.api.schemas import DiscardBody, QuarantineQuery, ReleaseBody
from relay.api.serialise import callback_view, quarantined_view
from relay.api.unauthorized import Taken, Unauthorized
from relay.config.loader import Config
from relay.event import InvalidCallback
from relay.preview import preview_all
from relay.sources.router import Router
from relay.store import Quarantined
from relay.store.port import Store

FORBIDDEN = 403


class QuarantineEndpoints:
    """The endpoints of `relay quarantine`."""

    def __init__(self, config: Config, store: Store, router: Router) -> None:
        self._sinks = config.sinks
        self._unauthorized = Unauthorized(config.sources)
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
                released.append(await (self._would if body.dry_run else self._release)(row))
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

    async def _release(self, row: Quarantined) -> dict[str, Any]:
        receipt = await or_404(self._router.release(row), _named(row.id))
        await self._follow(receipt.id)
        return {"id": row.id, "event": receipt.id, "type": receipt.type}

    async def _follow(self, event_id: str) -> None:
        """Have what the contact has said since go to sinks that have never had it."""
        event = await self._store.event(event_id)
        for delivery in event.deliveries if event else ():
            sink = self._sinks.get(delivery.sink)
            if sink is None:  # a repeat has the deliveries of the first one
                continue
            words = await words_behind(self._store, sink, [delivery.seq])
            await self._store.replay(sink.name, [row.seq for row in words])

    async def _would(self, row: Quarantined) -> dict[str, Any]:
        event = self._router.event(row.callback)
        mobile = event.data["mobile"]
        opted_out = await self._store.opted_out(row.source, mobile)
        sinks = preview_all(self._sinks.values(), event, opted_out)
        return {
            "id": row.id,
            "type": event.type,
            "mobile": mobile,
            "sinks": [each.to_dict() for each in sinks],
        }

    async def _row(self, quarantine_id: str) -> Quarantined:
        return await or_404(self._store.quarantined_one(quarantine_id), _named(quarantine_id))


def _named(quarantine_id: str) -> str:
    return f"callback {quarantine_id} in quarantine"

"""Questions about the quarantine."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from relay.callbacks.intake import Intake
from relay.callbacks.normalise import NotUnderstood
from relay.configuration.config import SinkConfig
from relay.control.answers import Refused, body_of, found, query_of
from relay.control.questions import DiscardBody, QuarantineQuery, ReleaseBody
from relay.control.views import callback_view, quarantined_view
from relay.preview import preview_all
from relay.store import Quarantined, Store


class Quarantine:
    """The endpoints of `relay quarantine`."""

    def __init__(self, sinks: Mapping[str, SinkConfig], store: Store, intake: Intake) -> None:
        self._sinks = sinks
        self._store = store
        self._intake = intake

    async def page(self, request: Request) -> list[dict[str, Any]]:
        query = query_of(request, QuarantineQuery)
        rows = await self._store.quarantined(before=query.before, limit=query.limit)
        return [quarantined_view(row) for row in rows]

    async def show(self, request: Request) -> dict[str, Any]:
        row = await self._row(request.path_params["id"])
        return {**quarantined_view(row), "callback": callback_view(row.callback)}

    async def release(self, request: Request) -> dict[str, Any]:
        """Take callbacks in after all, in the order asked for."""
        body = await body_of(request, ReleaseBody)
        released: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for each in body.ids:
            try:
                released.append(await (self._would if body.dry_run else self._release)(each))
            except NotUnderstood as error:
                failed.append({"id": each, "reason": error.reason})
            except Refused as error:
                failed.append({"id": each, "reason": str(error)})
        return {"released": released, "failed": failed}

    async def discard(self, request: Request) -> dict[str, Any]:
        body = await body_of(request, DiscardBody)
        ids = None if body.ids is None else [str(each) for each in body.ids]
        return {"discarded": await self._store.discard_quarantined(ids)}

    async def _release(self, quarantine_id: str) -> dict[str, Any]:
        receipt = await found(self._intake.release(quarantine_id), _named(quarantine_id))
        return {"id": quarantine_id, "event": receipt.id, "type": receipt.type}

    async def _would(self, quarantine_id: str) -> dict[str, Any]:
        row = await self._row(quarantine_id)
        event = self._intake.event(row.callback)
        mobile = event.data["mobile"]
        opted_out = await self._store.opted_out(row.source, mobile)
        sinks = preview_all(self._sinks.values(), event, opted_out)
        return {
            "id": quarantine_id,
            "type": event.type,
            "mobile": mobile,
            "sinks": [each.to_dict() for each in sinks],
        }

    async def _row(self, quarantine_id: str) -> Quarantined:
        return await found(self._store.quarantined_one(quarantine_id), _named(quarantine_id))


def _named(quarantine_id: str) -> str:
    return f"callback {quarantine_id} in quarantine"

"""Serialisers: the store's rows as the JSON that the commands print."""

import base64
from dataclasses import asdict
from typing import Any

from relay.api.unauthorized import TokenStatus
from relay.callback.coding import as_utf8, charset_of, decode, unpacked
from relay.callback.form import parameters
from relay.config.loader import SinkConfig
from relay.delivery.gate import SinkStatus, stored_status
from relay.event import InvalidCallback, RawCallback, timestamp
from relay.store import DeliveryRow, EventRow, Quarantined, SinkCounts, SinkState, State


def stored_state(sink: SinkConfig, state: SinkState, now: int) -> SinkStatus:
    """The status of a sink by its stored state, as its worker would say it."""
    if not sink.enabled:
        return SinkStatus("disabled")
    if sink.held is not None:
        return SinkStatus("held", sink.held)
    if state.held is not None:
        return SinkStatus("held", state.held)
    if state.paused is None and state.parked_until <= now:
        return SinkStatus("running")
    return stored_status(state)


def sink_view(status: SinkStatus, counts: SinkCounts) -> dict[str, Any]:
    """A sink as `status` shows it; `until` when it is tried again, where that is known."""
    view = {name: value for name, value in asdict(status).items() if value is not None}
    for name in {"since", "until"} & view.keys():
        view[name] = timestamp(view[name])
    if error := view.get("last_error"):
        times = {name: timestamp(error[name]) for name in ("at", "since")}
        view["last_error"] = error | times
    return view | asdict(counts)


def event_view(row: EventRow) -> dict[str, Any]:
    """The event, with the relay's attributes beside it."""
    return {"seq": row.seq, **row.event.to_dict(), "attributes": row.event.attributes()}


def delivery_view(row: DeliveryRow) -> dict[str, Any]:
    """`note` says of one that was delivered what was left out."""
    delivered = row.state == State.DELIVERED
    return {
        "sink": row.sink,
        "seq": row.seq,
        "id": row.event_id,
        "type": row.type,
        "received": timestamp(row.received),
        "state": row.state.name.lower(),
        "attempts": row.attempts,
        "due": timestamp(row.due) if row.due else None,
        "error": None if delivered else row.error,
        "note": row.error if delivered else None,
        "reference": row.reference,
        "settled": timestamp(row.settled) if row.settled else None,
    }


def quarantined_view(row: Quarantined, token: TokenStatus | None) -> dict[str, Any]:
    """With what is known of a wrong `token` that it came with."""
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


def callback_view(callback: RawCallback) -> dict[str, Any]:
    """A callback as it came: `raw` has its bytes in Base64; `query` and `body` are for people."""
    try:
        pairs = parameters(callback)
    except InvalidCallback:
        pairs = None
    return {
        "method": callback.method,
        "query": decode(callback.query),
        "content_type": callback.content_type,
        "content_encoding": callback.encoding,
        "body": _text(callback),
        "parameters": pairs,
        "raw": {"query": _base64(callback.query), "body": _base64(callback.body)},
    }


def _text(callback: RawCallback) -> str:
    """The body unpacked, where it can be, and decoded."""
    try:
        body = unpacked(callback.body, callback.encoding) if callback.body else b""
        return decode(as_utf8(body, callback.content_type), charset_of(callback.content_type))
    except InvalidCallback:
        return decode(callback.body)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

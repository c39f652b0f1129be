"""Views: the store's rows as the JSON that the commands print."""

from typing import Any

from relay.config import SinkConfig
from relay.event import timestamp
from relay.parameters import NotUnderstood, decode, parameters
from relay.store import DeliveryRow, EventRow, Quarantined, SinkState


def state_view(sink: SinkConfig, state: SinkState, now: int) -> dict[str, Any]:
    """How a sink stands by what is written down."""
    if not sink.enabled:
        return {"state": "disabled"}
    if state.paused is not None:
        return {"state": "paused", "reason": state.paused}
    if state.parked_until > now:
        return {"state": "parked", "reason": state.parked}
    return {"state": "running"}


def event_view(row: EventRow) -> dict[str, Any]:
    return {"seq": row.seq, **row.event.to_dict()}


def delivery_view(row: DeliveryRow) -> dict[str, Any]:
    return {
        "sink": row.sink,
        "seq": row.seq,
        "id": row.event_id,
        "type": row.type,
        "received": timestamp(row.received),
        "state": row.state.name.lower(),
        "attempts": row.attempts,
        "due": timestamp(row.due) if row.due else None,
        "error": row.error,
        "reference": row.reference,
        "settled": timestamp(row.settled) if row.settled else None,
    }


def quarantined_view(row: Quarantined) -> dict[str, Any]:
    return {
        "id": row.id,
        "received": timestamp(row.received),
        "source": row.source,
        "status": row.status,
        "reason": row.reason,
    }


def callback_view(row: Quarantined) -> dict[str, Any]:
    callback = row.callback
    try:
        pairs = parameters(callback)
    except NotUnderstood:
        pairs = None
    return {
        "method": callback.method,
        "query": decode(callback.query),
        "content_type": callback.content_type,
        "body": decode(callback.body),
        "parameters": pairs,
    }

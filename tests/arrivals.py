"""Arrivals for tests of the store and of delivery."""

import itertools
from collections.abc import Iterable

from uuid_utils import uuid7

from relay.event import Event, RawCallback, timestamp
from relay.store import NewEvent, Settlement, State

NOW = 1_800_000_000_000_000
numbers = itertools.count(1)


def mobile(number: int) -> str:
    """A contact's number; every `number` another contact."""
    return f"+1212{number:07d}"


def arrival(
    contact: int | None = None,
    *,
    sinks: Iterable[str] = ("crm",),
    consent: str | None = None,
    message_id: str | None = None,
    message: str | None = None,
    keyword: str = "JOIN",
    source: str = "sumotext",
    errors: dict[str, str] | None = None,
    copy_of: str | None = None,
    received: int = NOW,
) -> NewEvent:
    """An event of a contact (a new one each time, unless numbered), for these sinks."""
    contact = next(numbers) + 1_000_000 if contact is None else contact
    data = {
        "mobile": mobile(contact),
        "country": "US",
        "short_code": "84700",
        "keyword": keyword,
        "carrier": None,
        "message": message,
        "message_id": message_id,
        "reply": None,
        "label": None,
        "consent": consent,
        "fields": {"Name": "Bill"},
        "parameters": [["mobile", str(contact)]],
    }
    event = Event(
        id=str(uuid7()),
        source=f"/callbacks/{source}",
        type="com.sumotext.web_form",
        subject=f"84700/{keyword}",
        time=timestamp(received),
        data=data,
    )
    callback = RawCallback(source, "GET", f"mobile={contact}".encode(), "", b"", received)
    deliveries = dict.fromkeys(sinks) | (errors or {})
    return NewEvent(event, callback, source, "web_form", deliveries, copy_of)


def delivered(claim) -> Settlement:
    return Settlement(claim.sink, claim.seq, State.DELIVERED)


def waiting(claim, due: int) -> Settlement:
    return Settlement(claim.sink, claim.seq, State.WAITING, due=due, error="503")


async def claim_one(store, sink="crm", **options):
    """The only claim there is to have."""
    claimed = await store.claim(sink, 10, **options)
    (claim,) = claimed.claims
    return claim


async def ids(store, sink="crm", limit=10, **options) -> list[str]:
    """The event ids of a claim."""
    return [claim.event.id for claim in (await store.claim(sink, limit, **options)).claims]

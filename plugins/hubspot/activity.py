"""The activity: what stands on a contact's timeline for each event.

Three kinds, of which the options name one: a custom event, a record of a custom object, which is
written by a unique property that holds the event's id, or a communication, HubSpot's own log of
text messages. Communications have no property that is unique; without one of the account's own
they are written at least once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import relay
from relay import Log

from .entry import Entry, moment
from .mender import Mender
from .occurrences import Occurrences, mapped
from .options import COMMUNICATIONS, ActivityOptions, Communication, Options
from .session import Session
from .timeline import Communications, Link, OnceIfUnique, Records

FIXED = frozenset({"hs_communication_channel_type", "hs_communication_logged_from", "hs_timestamp"})
"""Of a communication: without them it is none."""
TO_CONTACT = Link(81, "HUBSPOT_DEFINED")
"""From a communication (HubSpot's guide to associations)."""


class Activity(Protocol):
    """One of the kinds."""

    async def write(self, entries: Sequence[Entry]) -> None:
        """Each has an outcome afterwards."""


def make(session: Session, options: Options, log: Log) -> Activity | None:
    """The kind that the options name; None without one."""
    chosen = options.activity
    if chosen is None:
        return None
    if chosen.event:
        return Occurrences(session, chosen.event, chosen.on_invalid, log)
    if chosen.object:
        mender = _mender(options, chosen, chosen.object.id_property, log)
        mender.mapped = frozenset(chosen.object.map.columns)
        link = Link(chosen.object.association, chosen.object.category)
        kind = chosen.object.type
        made = partial(mapped, chosen.object.map, chosen.on_invalid)
        return Records(session, kind, options.object, mender, link, made)
    assert chosen.communication
    return _communications(session, options, chosen, chosen.communication, log)


def _communications(
    session: Session, options: Options, chosen: ActivityOptions, asked: Communication, log: Log
) -> Activity:
    made = partial(communication, asked)
    mender = _mender(options, chosen, None, log)
    mender.fixed = FIXED
    repeated = Communications(session, COMMUNICATIONS, mender, TO_CONTACT, made)
    if asked.id_property is None:
        return repeated
    mender = _mender(options, chosen, asked.id_property, log)
    mender.fixed = FIXED
    once = Records(session, COMMUNICATIONS, options.object, mender, TO_CONTACT, made)
    if asked.requires_property:
        return once
    return OnceIfUnique(session, asked.id_property, once, repeated, log)


def communication(
    options: Communication,
    event: relay.Event,
    notes: list[str],  # noqa: ARG001  nothing of it can be left out
) -> dict[str, str]:
    """A text message in HubSpot's log (HubSpot's guide to communications)."""
    return {
        "hs_communication_channel_type": "SMS",
        "hs_communication_logged_from": "CRM",
        "hs_communication_body": options.body.render(event),
        "hs_timestamp": moment(event.time),
    }


def _mender(options: Options, chosen: ActivityOptions, id_property: str | None, log: Log) -> Mender:
    return Mender(
        id_property,
        log,
        chosen.on_invalid,
        drop_unknown=options.unknown_property == "drop",
        defaults=chosen.defaults,
        on_conflict="dead" if chosen.on_invalid == "dead" else "separate",
    )

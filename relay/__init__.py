"""Sumotext Relay. These names are the plugin API; everything else is the relay's own."""

import pluggy

from relay.account import Account
from relay.event import Event
from relay.outcome import Delivered, Pause, Reject, Retry
from relay.quota import Quota
from relay.sink import Delivery, Erased, Mistake, Notice, Options, Sink

hookimpl = pluggy.HookimplMarker("relay")

__all__ = [
    "Account",
    "Delivered",
    "Delivery",
    "Erased",
    "Event",
    "Mistake",
    "Notice",
    "Options",
    "Pause",
    "Quota",
    "Reject",
    "Retry",
    "Sink",
    "hookimpl",
]

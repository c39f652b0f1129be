"""What the tests of the hubspot sink share: the sink as the loader gives it, and deliveries."""

import ipaddress
import logging
import sys
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path

from uuid_utils import uuid7

import relay
import relay.delivery.http
from relay.config import plugins
from relay.templating.expressions import Compiler

HubSpot = plugins.load([]).sinks["hubspot"].sink_class
package = HubSpot.__module__
TOKEN = "pat-na1-stub"
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
LOG = logging.getLogger("relay.sinks.crm")
MAP = {
    "firstname": "{{ data.fields.Name }}",
    "mobilephone": "{{ data.mobile }}",
    "email": "{{ data.fields.Email }}",
    "sms_keyword": "{{ data.keyword }}",
}


def module(name):
    """One of the plugin's own modules."""
    return sys.modules[f"{package}.{name}"]


def options(**values):
    context = {"environment": Compiler(UTC), "folder": Path()}
    if "oauth" not in values:
        values = {"token": TOKEN} | values
    return HubSpot.Options.model_validate(values, context=context)


@asynccontextmanager
async def opened(url, *, columns=tuple(MAP), timeout=5, accounts=None, constants=None, **values):
    """A sink with these options, talking to `url`; with others that have its `accounts`."""
    async with relay.delivery.http.client(timeout=timeout, allow_private=LOOPBACK) as http:
        made = HubSpot.__new__(HubSpot)
        made.accounts, made.constants = accounts, constants or {}
        made.__init__("crm", options(base_url=url, **values), http, LOG, columns)
        await made.open()
        yield made
        await made.close()


def mobile(number):
    return f"+1212555{number:04}"


def key(number):
    return mobile(number)[1:]


def delivery(number=1, record=None, *, test=False, stale=False, time=None, event_id=None, **data):
    """An event of the contact with this number; `record` is laid over what a map would give."""
    event = relay.Event(
        id=event_id or str(uuid7()),
        source="/callbacks/sumotext",
        type="com.sumotext.web_form",
        subject="84700/JOIN",
        time=time or "2026-11-23T04:34:00.123456Z",
        data={
            "mobile": mobile(number),
            "country": "US",
            "keyword": "JOIN",
            "short_code": "84700",
            "message": "hello",
            "fields": {},
        }
        | data,
        test=test,
    )
    values = {"firstname": f"Ann {number}", "mobilephone": mobile(number), "sms_keyword": "JOIN"}
    return relay.Delivery(event.id, event, values | (record or {}), stale=stale)


def kinds(outcomes):
    return [type(outcome).__name__ for outcome in outcomes]

"""What the tests of the salesforce sink share: the sink as the loader gives it, over the stub."""

import ipaddress
import logging
import sys
from contextlib import asynccontextmanager

from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

import relay
import relay.delivery.http
from relay.config import plugins
from relay.templating.expressions import Compiler

Salesforce = plugins.load([]).sinks["salesforce"].sink_class
package = Salesforce.__module__
client_module = sys.modules[f"{package}.client"]
contacts_module = sys.modules[f"{package}.contacts"]
errors = sys.modules[f"{package}.errors"]
options_module = sys.modules[f"{package}.options"]
records = sys.modules[f"{package}.records"]
upsert = sys.modules[f"{package}.upsert"]

LOG = logging.getLogger("relay.sinks.crm")
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
SIGN_IN = {"client_id": "id", "client_secret": "secret"}
ACTIVITY = {
    "object": "SMS_Event__c",
    "external_id": "Event_Id__c",
    "contact": "Contact__r",
    "map": {"Type__c": "{{ type }}", "Message__c": "{{ data.message }}"},
}
COLUMNS = ("FirstName", "LastName", "MobilePhone")


def event(number, *, event_id=None, test=False, **data):
    """The event of this contact; `data` is laid over what a callback would have brought."""
    return relay.Event(
        id=event_id or f"019ab000-0000-7000-8000-{number:012x}",
        source="/callbacks/sumotext",
        type="com.sumotext.message",
        subject="12345/JOIN",
        time="2026-11-23T04:34:00.123456Z",
        data={
            "mobile": mobile(number),
            "country": "US",
            "keyword": "JOIN",
            "message": f"text {number}",
            "fields": {},
        }
        | data,
        test=test,
    )


def mobile(number):
    return f"+1212555{number:04}"


def key(number):
    return f"1212555{number:04}"


def delivery(number, record=None, *, event_id=None, attempt=1, stale=False, test=False, **data):
    made = event(number, event_id=event_id, test=test, **data)
    record = {
        "FirstName": f"First{number}",
        "LastName": f"Last{number}",
        "MobilePhone": made.data["mobile"],
    } | (record or {})
    record = {name: value for name, value in record.items() if value is not ...}
    return relay.Delivery(made.id, made, record, attempt, stale=stale)


def deliveries(*numbers, record=None, **more):
    return [delivery(number, record, **more) for number in numbers]


def options(url="http://127.0.0.1:1", **values):
    """Options as relay.yaml would give them; None takes one out."""
    given = {"login_url": url, **SIGN_IN, **values}
    given = {name: value for name, value in given.items() if value is not None}
    return Salesforce.Options.model_validate(given, context={"environment": Compiler()})


@asynccontextmanager
async def connected(stub=None, *, timeout=5.0, columns=COLUMNS, constants=None, **values):
    """A stub, and an opened sink with these options in front of it."""
    stub = stub or SalesforceStub()
    async with (
        serving(stub.app) as url,
        relay.delivery.http.client(timeout=timeout, allow_private=LOOPBACK) as http,
    ):
        made = Salesforce("crm", options(url, **values), http, LOG, columns)
        made.constants = constants or {}
        await made.open()
        yield stub, made


def data_calls(stub):
    """METHOD and the end of the path of each call but those of signing in."""
    return [
        f"{call.method} {call.path.partition('/v66.0/')[2]}"
        for call in stub.calls
        if "/oauth2/" not in call.path
    ]


def delivered(outcomes):
    return [isinstance(outcome, relay.Delivered) for outcome in outcomes]

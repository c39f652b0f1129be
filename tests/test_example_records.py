"""Each example of config/examples: what its sink sends for a given callback, record by record.

The whole relay takes the callback, and a stub of the vendor, as strict as that, takes the records.
"""

from pathlib import Path

import orjson
import pytest
import yaml
from relaying import relaying
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

EXAMPLES = Path(__file__).parents[1] / "config" / "examples"
ID, TIME, DAY = "the event's id", "the event's time", "the event's day"
MADE = "the lead that was made"
KEY, MOBILE = "12125550123", "+12125550123"
COMMON = {"mobile": "2125550123", "shortcode": "84700", "key": "JOIN"}
FORM = COMMON | {"carrierId": "VERIZONUS", "Name": "Mary Jane", "Zip": "10054", "DOB": "1/2/2000"}
BLANK = COMMON | {"carrierId": "VERIZONUS", "Name": " ", "Zip": "", "DOB": "soon"}
POLL = COMMON | {"key": "FB1", "reply": "A", "label": "Tampa"}
START = COMMON | {"smsid": "m1", "msg": "START"}
STOP = COMMON | {"smsid": "m1", "msg": "STOP"}

LEAD = {"SMS_Key__c": KEY, "MobilePhone": MOBILE, "LeadSource": "SMS"}
MARY_LEAD = {"FirstName": "Mary", "LastName": "Jane", "PostalCode": "10054"}
OPTED_OUT = {"SMS_Key__c": KEY, "MobilePhone": MOBILE, "SMS_Opt_Out__c": True}
VOTE = {
    "Event_Id__c": ID,
    "Reply__c": "A",
    "Label__c": "Tampa",
    "Keyword__c": "FB1",
    "Mobile__c": MOBILE,
    "Received_At__c": TIME,
}
PERSON = {"sms_key": KEY, "mobilephone": MOBILE}
MARY = {"firstname": "Mary", "lastname": "Jane", "zip": "10054"}
DOE = {"firstname": "Doe", "phone": "(212) 555-0123"}


PICKLIST = (
    'crm: notice: map.LeadSource: "SMS" is no value of the picklist ({}.LeadSource, picklist);'
    " take one of Web, Phone Inquiry, Partner Referral, Purchased List, Other"
)
CHECKED = {
    "salesforce-leads": ["crm: well", PICKLIST.format("Contact"), PICKLIST.format("Lead")],
}
"""What `relay check --online` says of an example, where that is more than that all is well."""


def task(description):
    """A completed task on the timeline of the lead."""
    return {
        "SMS_Event_Id__c": ID,
        "WhoId": MADE,
        "Subject": "SMS web form: JOIN",
        "Status": "Completed",
        "ActivityDate": DAY,
        "Description": description,
    }


def logged(body):
    """A text message in HubSpot's log, and what ties it to its contact."""
    message = {
        "sms_event_id": ID,
        "hs_communication_channel_type": "SMS",
        "hs_communication_logged_from": "CRM",
        "hs_communication_body": body,
        "hs_timestamp": TIME,
    }
    return [("communications", message), ("communications to contacts", {"type": 81})]


# (example, callback, what is there before, the records sent: the object's name and the fields)
RECORDS = [
    (
        "salesforce-leads",
        FORM,
        {},
        [  # the first is refused, as a lead needs a company
            ("Lead", LEAD | MARY_LEAD),
            ("Lead", LEAD | MARY_LEAD | {"Company": "Unknown"}),
            ("Task", task("Name: Mary Jane\nZip: 10054\nDOB: 1/2/2000\n")),
        ],
    ),
    (
        "salesforce-leads",
        BLANK,
        {},
        [
            ("Lead", LEAD),
            ("Lead", LEAD | {"LastName": "Unknown", "Company": "Unknown"}),
            ("Task", task("Name:  \nZip: \nDOB: soon\n")),
        ],
    ),
    (
        "salesforce-leads",
        STOP,
        {"Contact": {"LastName": "Doe", "Phone": "(212) 555-0123"}},
        [("Contact", {"id": "Contact", "SMS_Opt_Out__c": True})],
    ),
    ("salesforce-leads", POLL, {}, []),
    (
        "salesforce-opt-outs",
        STOP,
        {"Contact": {"LastName": "Doe", "Phone": "(212) 555-0123"}},
        [("Contact", {"id": "Contact", "SMS_Opt_Out__c": True})],
    ),
    (
        "salesforce-opt-outs",
        START,
        {"Contact": {"LastName": "Doe", "SMS_Key__c": KEY}},
        [("Contact", {"id": "Contact", "SMS_Opt_Out__c": False})],
    ),
    (
        "salesforce-opt-outs",
        STOP,
        {},
        [("Contact", OPTED_OUT), ("Contact", OPTED_OUT | {"LastName": "Unknown"})],
    ),
    ("salesforce-opt-outs", FORM, {}, []),
    ("salesforce-poll-votes", POLL, {}, [("SMS_Vote__c", VOTE)]),
    ("salesforce-poll-votes", FORM, {}, []),
    (
        "hubspot-contacts",
        FORM,
        {},
        [("contacts", PERSON | MARY), *logged("JOIN: web form")],
    ),
    ("hubspot-contacts", BLANK, {}, [("contacts", PERSON), *logged("JOIN: web form")]),
    ("hubspot-contacts", POLL, {}, [("contacts", PERSON), *logged("FB1: A")]),
    (
        "hubspot-contacts",
        STOP,
        {},
        [
            ("contacts", PERSON),
            ("contacts", {"sms_opt_out": "true"}),
            *logged("JOIN: STOP"),
        ],
    ),
    (
        "hubspot-contacts",
        STOP,
        {"contacts": DOE},
        [
            ("contacts", {"sms_opt_out": "true"}),
            ("contacts", {"sms_key": KEY}),
            *logged("JOIN: STOP"),
        ],
    ),
]


def sink_of(example, url):
    """The sink of the example, whose vendor is at this address."""
    (settings,) = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())["sinks"].values()
    address = {
        "salesforce": {"login_url": url, "client_id": "id", "client_secret": "secret"},
        "hubspot": {"base_url": url, "token": "pat-na1-stub"},
    }[settings["plugin"]]
    options = settings["options"] | address
    return settings | {"options": options, "batch": {"wait": "0s"}}


def stub_for(example):
    """An account of the example's vendor, in which `relay setup` has been run."""
    if example.startswith("salesforce"):
        return SalesforceStub()
    stub = HubSpotStub()
    stub.fields["communications"]["sms_event_id"] = Field(unique=True)
    return stub


def sent(stub):
    """The records in the requests to write, in their order."""
    for call in stub.calls:
        assert call.status in {200, 201, 204, 207}, call
        body = orjson.loads(call.body) if call.body[:1] == b"{" else {}
        *_, kind, _, action = call.path.split("/")
        for each in body.get("records", ()):
            yield each.pop("attributes")["type"], each
        if "/objects/" in call.path and action in {"upsert", "update", "create"}:
            yield from ((kind, each["properties"]) for each in body["inputs"])
        elif "/associations/" in call.path and action == "create":
            first = call.path.split("/")[-4]
            (link,) = body["inputs"]
            yield f"{first} to {kind}", {"type": link["types"][0]["associationTypeId"]}


def named(record, names):
    """The record with names in place of what differs from run to run."""
    return {
        name: names.get(value, value) if isinstance(value, str) else value
        for name, value in record.items()
    }


@pytest.mark.parametrize(("example", "callback", "before", "expected"), RECORDS)
async def test_the_records_of_an_example(tmp_path, example, callback, before, expected):
    stub = stub_for(example)
    names = {stub.seed(kind, values): kind for kind, values in before.items()}
    async with serving(stub.app) as url, relaying(tmp_path, sink_of(example, url)) as relay:
        answer = await relay._http.get(relay._url, params=callback)
        event = await relay.asked("events", "show", answer.json()["id"])
        await relay.reached(pending=0, dead=0, state="running")
    milliseconds, day = f"{event['time'][:23]}Z", event["time"][:10]
    names |= {event["id"]: ID, event["time"]: TIME, milliseconds: TIME, day: DAY}
    if example.startswith("salesforce"):
        names |= {each["Id"]: MADE for each in stub.records("Lead")}
    assert [(kind, named(record, names)) for kind, record in sent(stub)] == expected


@pytest.mark.parametrize("example", sorted({example for example, *_ in RECORDS}))
async def test_what_check_says_of_an_example(tmp_path, example):
    stub = stub_for(example)
    async with serving(stub.app) as url, relaying(tmp_path, sink_of(example, url)) as relay:
        told = (await relay.command("check", "--online")).splitlines()
    assert [line for line in told if line.startswith("crm: ")] == CHECKED.get(
        example, ["crm: well"]
    )


def test_each_example_has_a_record_here():
    examples = {path.stem for path in EXAMPLES.glob("*.yaml")}
    assert examples == {example for example, _, _, expected in RECORDS if expected}

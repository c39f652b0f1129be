"""Constants of relay.yaml against the org: check names those that Salesforce would not take."""

import pytest
from salesforcesink import ACTIVITY, connected, deliveries
from stubs.salesforce import SalesforceStub

import relay

WRONG = [
    ("SMS_Status__c", "Activ", '"Activ" is no value of the picklist (is it Active?)'),
    ("SMS_Status__c", True, '"True" is no value of the picklist'),
    ("SMS_Topics__c", ["Golf", "Tennis"], '"Tennis" is no value of the picklist'),
    ("SMS_Opt_Out__c", "yes", "is neither true nor false"),
    ("SMS_Opt_Out__c", None, "is null, and the field can never be empty"),
    ("SMS_Score__c", "high", "is no number"),
    ("SMS_Score__c", True, "is no number"),
    ("SMS_Count__c", 1.5, "is no number"),
    ("Birthdate", "31.12.2000", "is no date"),
    ("Birthdate", 20001231, "is no date"),
    ("Last_SMS_At__c", "yesterday", "is no datetime"),
    ("Title", "x" * 129, "is longer than the 128 characters"),
    ("Title", 5, "is no text"),
    ("Email", "nobody", "is no e-mail address"),
    ("LastName", None, "is null, and the field can never be empty"),
]
RIGHT = [
    ("SMS_Status__c", "Active"),
    ("SMS_Topics__c", ["Golf", "Chess"]),
    ("SMS_Topics__c", "Golf"),
    ("SMS_Opt_Out__c", False),
    ("SMS_Score__c", "1.5"),
    ("SMS_Score__c", -2),
    ("SMS_Count__c", 7),
    ("Birthdate", "2000-12-31"),
    ("Birthdate", None),
    ("Last_SMS_At__c", "2026-11-23T04:34:00Z"),
    ("Title", "x" * 128),
    ("Email", "a@example.com"),
    ("leadsource", "Web"),
]


async def found(stub=None, **options):
    async with connected(stub, **options) as (_, sink):
        return await sink.check()


@pytest.mark.parametrize(("name", "value", "why"), WRONG)
async def test_a_constant_that_can_never_be_written_is_named_and_holds_no_pause(name, value, why):
    (told,) = await found(constants={name: value})
    assert told.startswith(f"map.{name}: {why}")
    assert f"(Contact.{name}, " in told
    assert isinstance(told, relay.Mistake)


@pytest.mark.parametrize(("name", "value", "why"), WRONG)
async def test_the_org_refuses_just_that(name, value, why):
    async with connected(constants={name: value}, on_invalid="dead") as (_, sink):
        (outcome,) = await sink.send_batch(deliveries(1, record={name: value}))
    assert isinstance(outcome, relay.Reject), why


@pytest.mark.parametrize(("name", "value"), RIGHT)
async def test_a_constant_that_the_org_takes_is_well(name, value):
    constants = {name: value}
    async with connected(constants=constants, on_invalid="dead") as (_, sink):
        assert await sink.check() == []
        (outcome,) = await sink.send_batch(deliveries(1, record=constants))
    assert isinstance(outcome, relay.Delivered)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("LeadSource", "Webb", '"Webb" is no value of the picklist (is it Web?)'),
        ("SMS_Opt_Out__c", "true", "is neither true nor false"),
    ],
)
async def test_what_may_be_meant_is_a_notice(name, value, why):
    (told,) = await found(constants={name: value})
    assert why in told
    assert isinstance(told, relay.Notice)


async def test_a_notice_is_nothing_for_setup_to_do():
    async with connected(constants={"LeadSource": "Webb"}) as (_, sink):
        assert await sink.setup() == ["nothing is missing in the org"]


async def test_a_picklist_of_a_thousand_values_is_not_told_in_full():
    stub = SalesforceStub()
    values = tuple(f"Value {number}" for number in range(1000))
    field = stub.fields["Contact"]["SMS_Status__c"]
    stub.fields["Contact"]["SMS_Status__c"] = type(field)("picklist", options=values)
    (told,) = await found(stub, constants={"SMS_Status__c": "odd"})
    assert len(told) < 500


async def test_the_constants_of_everything_else_are_named_too():
    told = await found(
        constants={"Unheard__c": "x"},
        columns=("FirstName", "LastName", "Unheard__c"),
        defaults={"SMS_Score__c": "high", "SMS_Status__c": "Odd"},
        consent={"fields": {"SMS_Status__c": {"opted_out": "Stoped", "opted_in": "Active"}}},
        activity=ACTIVITY
        | {
            "map": ACTIVITY["map"] | {"Received_At__c": "now"},
            "defaults": {"Mobile__c": "1" * 41},
        },
    )
    places = [line.partition(": ")[0] for line in told]
    assert places == [
        "map.Unheard__c",  # there is no such field, which is told once
        "consent.opted_out.SMS_Status__c",
        "defaults.SMS_Score__c",
        "defaults.SMS_Status__c",
        "activity.map.Received_At__c",
        "activity.defaults.Mobile__c",
    ]
    assert [isinstance(line, relay.Mistake) for line in told] == [False, *[True] * 5]


async def test_consent_of_leads_is_held_against_the_contacts_that_they_become():
    stub = SalesforceStub()
    del stub.fields["Contact"]["SMS_Opt_Out__c"]
    options = {"object": "Lead", "defaults": {"Company": "n/a"}}
    (told,) = await found(stub, consent={"field": "SMS_Opt_Out__c"}, **options)
    assert told.startswith("consent.SMS_Opt_Out__c: Contact has no field SMS_Opt_Out__c")
    assert isinstance(told, relay.Mistake)
    assert await found(consent={"field": "SMS_Opt_Out__c"}, **options) == []


async def test_the_rights_that_the_user_lacks_are_named_one_by_one():
    stub = SalesforceStub()
    stub.denied = {"Contact": {"createable", "updateable"}, "SMS_Event__c": {"createable"}}
    told = await found(stub, activity=ACTIVITY, defaults={"LastName": "Unknown"})
    assert "object: the integration user may not create and edit Contact; Setup >" in told[0]
    assert told[0].endswith("Object Settings > Contact > Edit: Create, Edit")
    of_events = [line for line in told if line.startswith("activity.object: ")]
    assert len(of_events) == 1
    assert "may not create SMS_Event__c" in of_events[0]
    named = ("SMS_Key__c", "FirstName", "MobilePhone", "Event_Id__c")
    assert all(any(f"{name} cannot be written" in line for line in told) for name in named)

"""What check says that the org lacks, where setup says to click, and whom the backfill finds."""

import sys
from dataclasses import replace

import httpx
import orjson
import pytest
import yaml
from salesforcesink import (
    ACTIVITY,
    LOG,
    Salesforce,
    connected,
    data_calls,
    delivery,
    key,
    options,
    options_module,
    package,
)
from stubs.salesforce import SalesforceStub

import relay

NO_LAST_NAME = ("FirstName", "MobilePhone")
FULL = {
    "activity": ACTIVITY,
    "defaults": {"LastName": "Unknown"},
    "only_if_empty": ["LeadSource"],
    "match": ["key", "phone"],
}


def change(stub, name, kind="Contact", **changes):
    stub.fields[kind][name] = replace(stub.fields[kind][name], **changes)


async def problems(change_stub=lambda _: None, **options):
    stub = SalesforceStub()
    change_stub(stub)
    async with connected(stub, **options) as (_, sink):
        return await sink.check()


async def test_where_all_is_well_check_says_nothing_in_few_calls():
    async with connected(**FULL) as (stub, sink):
        assert await sink.check() == []
        assert data_calls(stub) == [
            "GET sobjects/Contact/describe",
            "GET sobjects/SMS_Event__c/describe",
        ]
        assert await sink.setup() == ["nothing is missing in the org"]


async def test_check_says_all_problems_at_once():
    def spoil(stub):
        change(stub, "SMS_Key__c", external_id=False, unique=False)
        change(stub, "FirstName", writable=False)
        change(stub, "Event_Id__c", kind="SMS_Event__c", length=20)
        del stub.fields["SMS_Event__c"]["Message__c"]

    found = await problems(
        spoil,
        activity=ACTIVITY,
        columns=("FirstName", "MobilPhone", "Unheard__c"),
        defaults={"Title": "x" * 200, "Nothing": 1, "SMS_Status__c": "Odd"},
        only_if_empty=["Nowhere"],
    )
    expected = [
        "SMS_Key__c is no external id",
        "SMS_Key__c is not unique",
        "Contact.FirstName cannot be written",
        "no field MobilPhone (is it MobilePhone?)",
        "no field Unheard__c",
        "defaults.Title: is longer than the 128 characters",
        "no field Nothing",
        'defaults.SMS_Status__c: "Odd" is no value of the picklist',
        "a new Contact must have LastName",
        "no field Nowhere",
        "Event_Id__c takes 20 characters",
        "SMS_Event__c has no field Message__c",
    ]
    for each in expected:
        assert any(each in problem for problem in found), each
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"external_id": "Nothing__c"}, "no field Nothing__c"),
        ({"object": "Person__c"}, "there is no object Person__c"),
        ({"activity": ACTIVITY | {"object": "No__c"}}, "there is no object No__c"),
        ({"activity": ACTIVITY | {"contact": "Person__r"}}, "no relationship Person__r"),
        ({"activity": ACTIVITY | {"contact": "Lead__r"}}, "does not point to Contact"),
        ({"match": ["key", "phone"], "phone_fields": ["Fax"]}, "no field Fax"),
        ({"api_version": "v99.0"}, "api_version"),
        ({"key": "{{ data.mobile | digits }}-" + "x" * 40}, "takes 40 characters"),
    ],
)
async def test_each_kind_of_problem_is_found(options, expected):
    found = await problems(**options)
    assert any(expected in problem for problem in found), found


async def test_numbers_are_looked_for_where_the_fields_are():
    """Those of consent as well; a sink that looks for none needs no field of them."""
    consent = {"field": "SMS_Opt_Out__c"}
    assert await problems(phone_fields=[]) == []
    assert await problems(phone_fields=["Fax"]) == []
    assert await problems(consent=consent) == []
    assert await problems(consent=consent, phone_fields=[]) == []
    (found,) = await problems(consent=consent, phone_fields=["Fax", "Phone"])
    assert "phone_fields: Contact has no field Fax" in found
    vote = {"object": "SMS_Vote__c", "external_id": "Event_Id__c", "key": "{{ id }}"}
    found = await problems(consent={"field": "Reply__c", "opted_out": "x"}, columns=(), **vote)
    assert not any("phone_fields" in each for each in found), found


async def test_campaign_members_that_cannot_be_made_are_found():
    campaign = {"campaign": {"id": "701000000000001"}}
    assert await problems(**campaign) == []
    found = await problems(
        lambda stub: change(stub, "ContactId", "CampaignMember", writable=False), **campaign
    )
    assert "CampaignMember.ContactId" in found[0]


async def test_without_a_map_check_says_so():
    async with connected() as (_, sink):
        sink.columns = None
        assert any("no map" in problem for problem in await sink.check())


async def test_a_sign_in_that_fails_is_what_check_says():
    (found,) = await problems(client_secret="wrong")
    assert "client_secret" in found


async def test_an_org_that_is_away_is_what_check_says():
    async with connected() as (stub, sink):
        stub.fault("hang", on="/oauth2/")
        sink.http.timeout = 0.1
        (found,) = await sink.check()
    assert "ReadTimeout" in found


async def test_setup_says_where_to_click():
    def bare(stub):
        del stub.fields["Contact"]["SMS_Key__c"]
        del stub.fields["SMS_Event__c"]

    stub = SalesforceStub()
    bare(stub)
    async with connected(stub, activity=ACTIVITY) as (_, sink):
        told = await sink.setup(backfill=True)
    assert any(
        "Setup > Object Manager > Contact > Fields & Relationships > New > Text" in line
        and 'tick "Unique" and "External ID"' in line
        and "Field Name SMS_Key" in line
        for line in told
    )
    assert any("Custom Object" in line for line in told)
    assert "--backfill-keys" in told[-1]
    assert stub.records("Contact") == []


def people(stub, *numbers, **more):
    for number in numbers:
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": f"(212) 555-{number:04}"} | more)


async def test_the_backfill_gives_people_their_keys():
    stub = SalesforceStub()
    stub.page_size = 100
    people(stub, *range(450))
    people(stub, 7)  # shared
    stub.seed("Contact", {"LastName": "None"})
    stub.seed("Contact", {"LastName": "Short", "Phone": "123"})
    stub.seed("Contact", {"LastName": "Has", "SMS_Key__c": key(900), "Phone": "2125550900"})
    steps = []
    async with connected(stub) as (_, sink):
        told = await sink.setup(
            backfill=True, progress=lambda done, most: steps.append((done, most))
        )
        calls = data_calls(stub)
        again = await sink.setup(backfill=True)
        await sink.send_batch([delivery(3)])
    assert told == [
        "1 people without a possible number",
        "2 people who share a number: give one of them the key, or merge",
        "449 people have got their key",
    ]
    assert steps[0] == (0, 452)
    assert steps[-1] == (452, 452)
    assert calls.count("PATCH composite/sobjects") == 3
    keys = [each.get("SMS_Key__c") for each in stub.records("Contact")]
    assert keys[:9] == [key(n) if n != 7 else None for n in range(9)]
    assert len(keys) == 454
    assert again[-1].startswith("2 people who share")


async def test_a_key_that_somebody_has_already_is_told():
    stub = SalesforceStub()
    people(stub, 1)
    stub.seed("Contact", {"LastName": "Has", "SMS_Key__c": key(1)})
    async with connected(stub) as (_, sink):
        (told,) = await sink.setup(backfill=True)
    assert "could not be given a key" in told
    assert "5550001" not in told


@pytest.mark.parametrize("template", ["{{ id }}", "{{ source }}-{{ data.mobile }}"])
async def test_keys_that_are_more_than_a_number_cannot_be_filled_in(template):
    stub = SalesforceStub()
    change(stub, "SMS_Key__c", length=200)
    people(stub, 1)
    async with connected(stub, key=template) as (_, sink):
        (told,) = await sink.setup(backfill=True)
    assert "options.key" in told
    assert "SMS_Key__c" not in stub.records("Contact")[0]


async def test_the_backfill_stops_at_the_share_of_the_quota():
    stub = SalesforceStub()
    stub.api_used = 95_000
    people(stub, *range(300))
    async with connected(stub) as (_, sink):
        (told,) = await sink.setup(backfill=True)
    assert told.startswith("300 left for later")


def documented():
    """The options as the plugin's own text shows them."""
    text = sys.modules[package].__doc__.partition("\n\n")[2].rpartition("\n\n")[0]
    (sink,) = yaml.safe_load(text)["sinks"].values()
    return sink["options"]


def test_what_the_plugin_says_of_its_options_can_be_copied():
    Salesforce.Options.model_validate(documented())


@pytest.mark.parametrize("model", ["Options", "ActivityOptions"])
def test_the_plugin_names_every_option(model):
    shown = documented() if model == "Options" else documented()["activity"]
    others = {"jwt", "objects", "contact"}  # of another way to sign in, to look, to point
    assert {*getattr(options_module, model).model_fields} - {*shown} <= others


# answers that Salesforce should not give


def answering(described, page=None):
    """A sink whose org gives these answers to a describe and to a query."""

    def handle(request):
        path = request.url.path
        content = page if "/query" in path else described
        if "/oauth2/" in path:
            content = {"access_token": "t", "token_type": "Bearer"}
        return httpx.Response(200, content=orjson.dumps(content))

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return Salesforce("crm", options("https://acme.example"), http, LOG, ("LastName",))


async def description():
    async with connected() as (_, sink):
        return await sink._client.get("sobjects/Contact/describe")


@pytest.mark.parametrize(
    "name", ["name", "type", "length", "nillable", "createable", "unique", "picklistValues"]
)
async def test_a_field_described_in_part_is_what_check_says(name):
    described = await description()
    del described["fields"][3][name]
    sink = answering(described)
    assert await sink.check() == [f"sobjects/Contact/describe: answered without {name} of a field"]
    with pytest.raises(relay.Retry, match="answered without"):
        await sink.setup()


@pytest.mark.parametrize("odd", [[], {}, 7, {"name": "Contact"}, {"name": "Contact", "fields": 1}])
async def test_a_describe_of_another_form_is_what_check_says(odd):
    (told,) = await answering(odd).check()
    assert told.startswith("sobjects/Contact/describe: answered without ")


@pytest.mark.parametrize(
    "page",
    [
        [],
        {},
        {"totalSize": 1, "done": True},
        {"totalSize": 1, "done": True, "records": [{}]},
        {"done": True, "records": []},
        {"totalSize": 1, "done": False, "records": []},
        {"totalSize": 1, "records": [], "nextRecordsUrl": None},
    ],
)
async def test_a_page_of_another_form_ends_the_backfill_with_a_reason(page):
    sink = answering(await description(), page)
    with pytest.raises(relay.Retry, match="answered"):
        await sink.setup(backfill=True)

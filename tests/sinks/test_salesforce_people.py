"""Who is there already: found by key and by number, kept where they have a value, made members."""

import httpx
import orjson
import pytest
from salesforcesink import (
    ACTIVITY,
    COLUMNS,
    LOG,
    Salesforce,
    connected,
    contacts_module,
    data_calls,
    delivered,
    deliveries,
    delivery,
    key,
    mobile,
    options,
    records,
)
from stubs.salesforce import SalesforceStub

import relay
from relay.crm import distinct_groups

UPSERT = "PATCH composite/sobjects/Contact/SMS_Key__c"
UPDATE = "PATCH composite/sobjects"
QUERY = "GET query"
SEARCH = "GET search"
PHONE = {"match": ["key", "phone"]}


async def test_without_phone_nobody_is_looked_up():
    async with connected() as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "(212) 555-0001"})
        await sink.send_batch([delivery(1)])
    assert data_calls(stub) == [UPSERT]
    assert len(stub.records("Contact")) == 2


@pytest.mark.parametrize(
    "written", ["(212) 555-0001", "+1 212 555 0001", "2125550001", "1-212-555-0001"]
)
@pytest.mark.parametrize("name", ["MobilePhone", "Phone"])
async def test_a_person_without_a_key_is_found_by_number_and_gets_it(written, name):
    async with connected(**PHONE, activity=ACTIVITY) as (stub, sink):
        old = stub.seed("Contact", {"LastName": "Doe", name: written})
        (outcome,) = await sink.send_batch([delivery(1, {"LastName": ...})])
        assert data_calls(stub)[:3] == [QUERY, SEARCH, UPDATE]
        (contact,) = stub.records("Contact")
        (activity,) = stub.records("SMS_Event__c")
    assert outcome == relay.Delivered(old)
    assert contact["SMS_Key__c"] == key(1)
    assert (contact["FirstName"], contact["LastName"]) == ("First1", "Doe")
    assert activity["Contact__c"] == old


async def test_a_key_is_looked_up_once():
    async with connected(**PHONE) as (stub, sink):
        await sink.send_batch([delivery(1)])
        await sink.send_batch([delivery(1)])
    assert data_calls(stub) == [QUERY, SEARCH, UPSERT, UPSERT]


async def test_whoever_has_the_key_is_not_searched_for():
    async with connected(**PHONE) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": key(1)})
        await sink.send_batch([delivery(1)])
    assert data_calls(stub) == [QUERY, UPSERT]


async def test_of_several_people_with_the_number_none_is_taken(caplog):
    async with connected(**PHONE) as (stub, sink):
        for name in ("Doe", "Roe"):
            stub.seed("Contact", {"LastName": name, "MobilePhone": "2125550001"})
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
        contacts = stub.records("Contact")
    assert [each.get("SMS_Key__c") for each in contacts] == [None, None, key(1)]
    assert "2 people" in caplog.text
    assert "5550001" not in caplog.text


async def test_a_person_with_two_numbers_has_the_key_of_one():
    async with connected(**PHONE) as (stub, sink):
        seeded = {"LastName": "Doe", "MobilePhone": "2125550001", "Phone": "2125550002"}
        stub.seed("Contact", seeded)
        await sink.send_batch(deliveries(1, 2))
        await sink.send_batch(deliveries(2, 1))
    assert sorted(each["SMS_Key__c"] for each in stub.records("Contact")) == [key(1), key(2)]


async def test_whoever_has_another_key_is_somebody_else():
    async with connected(**PHONE) as (stub, sink):
        seeded = {"LastName": "Doe", "MobilePhone": "2125550001", "SMS_Key__c": "other"}
        stub.seed("Contact", seeded)
        await sink.send_batch([delivery(1)])
    assert [each["SMS_Key__c"] for each in stub.records("Contact")] == ["other", key(1)]


async def test_a_number_that_only_ends_alike_is_another():
    async with connected(**PHONE) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "+44 7212 555 0001"})
        await sink.send_batch([delivery(1)])
    assert len(stub.records("Contact")) == 2


async def test_a_person_who_goes_meanwhile_is_made_anew():
    async with connected(**PHONE) as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "2125550001"})
        stub.fault_row("ENTITY_IS_DELETED")
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert data_calls(stub) == [QUERY, SEARCH, UPDATE, UPSERT]


async def test_a_whole_batch_of_new_people_is_looked_up_in_few_calls():
    async with connected(**PHONE) as (stub, sink):
        for number in range(0, 200, 2):
            stub.seed("Contact", {"LastName": "Doe", "MobilePhone": f"(212) 555-{number:04}"})
        assert all(delivered(await sink.send_batch(deliveries(*range(200)))))
        calls = data_calls(stub)
    assert len(stub.records("Contact")) == 200
    assert calls.count(QUERY) == 1
    assert calls.count(SEARCH) <= 3
    assert (calls.count(UPDATE), calls.count(UPSERT)) == (1, 1)


@pytest.mark.parametrize("on", ["/query", "/search"])
async def test_nothing_is_written_while_nobody_can_be_looked_up(on):
    async with connected(**PHONE) as (stub, sink):
        stub.fault("503", on=on)
        with pytest.raises(relay.Retry):
            await sink.send_batch([delivery(1)])
        assert stub.records("Contact") == []


async def test_a_query_that_is_refused_pauses_and_kills_nothing():
    async with connected(**PHONE, phone_fields=["Unheard__c"]) as (_, sink):
        with pytest.raises(relay.Pause, match="Unheard__c"):
            await sink.send_batch([delivery(1)])


async def test_only_an_empty_field_is_filled():
    batch = deliveries(1, 2, 3, record={"LeadSource": "SMS"})
    async with connected(only_if_empty=["LeadSource"]) as (stub, sink):
        stub.seed("Contact", {"LastName": "A", "SMS_Key__c": key(1), "LeadSource": "Web"})
        stub.seed("Contact", {"LastName": "B", "SMS_Key__c": key(2)})
        assert all(delivered(await sink.send_batch(batch)))
        assert data_calls(stub) == [QUERY, UPSERT]
    assert [each["LeadSource"] for each in stub.records("Contact")] == ["Web", "SMS", "SMS"]


async def test_a_person_found_by_number_keeps_what_they_have():
    async with connected(**PHONE, only_if_empty=["LeadSource"]) as (stub, sink):
        stub.seed("Contact", {"LastName": "A", "Phone": "2125550001", "LeadSource": "Web"})
        await sink.send_batch([delivery(1, {"LeadSource": "SMS"})])
        assert data_calls(stub) == [QUERY, SEARCH, UPDATE]
    assert [each["LeadSource"] for each in stub.records("Contact")] == ["Web"]


async def test_the_case_of_a_fields_name_tells_nothing():
    names = {
        "external_id": "sms_key__C",
        "only_if_empty": ["leadsource"],
        "phone_fields": ["mobilephone"],
        "defaults": {"lastname": "Unknown"},
        "on_invalid": "drop",
    }
    record = {"LeadSource": "SMS", "email": "no address", "LastName": ...}
    async with connected(**PHONE, **names) as (stub, sink):
        assert await sink.check() == []
        stub.seed("Contact", {"LastName": "A", "MobilePhone": "2125550001", "LeadSource": "Web"})
        assert all(delivered(await sink.send_batch(deliveries(1, 2, record=record))))
        first, second = stub.records("Contact")
    assert (first["SMS_Key__c"], first["LeadSource"]) == (key(1), "Web")
    assert (second["SMS_Key__c"], second["LastName"]) == (key(2), "Unknown")


async def test_a_record_that_says_nothing_of_the_field_is_not_looked_up():
    async with connected(only_if_empty=["LeadSource"]) as (stub, sink):
        await sink.send_batch([delivery(1)])
    assert data_calls(stub) == [UPSERT]


# Campaigns

MEMBERS = "POST composite/sobjects"


async def test_people_become_members_of_the_campaign_once():
    stub_campaign = {"Name": "Autumn"}
    async with connected() as (stub, _):
        campaign = stub.seed("Campaign", stub_campaign)
    options = {"campaign": {"id": campaign, "status": "Responded"}}
    async with connected(stub, **options) as (_, sink):
        assert all(delivered(await sink.send_batch(deliveries(1, 2))))
        assert all(delivered(await sink.send_batch(deliveries(2, 3))))
        assert all(delivered(await sink.send_batch(deliveries(1, 2, 3))))
    assert data_calls(stub) == [UPSERT, MEMBERS, UPSERT, MEMBERS, UPSERT]
    members = stub.records("CampaignMember")
    assert {each["ContactId"] for each in members} == {
        each["Id"] for each in stub.records("Contact")
    }
    assert [each["Status"] for each in members] == ["Responded"] * 3


async def test_whoever_is_a_member_already_is_delivered():
    async with connected() as (stub, _):
        campaign = stub.seed("Campaign", {"Name": "Autumn"})
    for _ in range(2):  # the second sink remembers nothing
        async with connected(stub, campaign={"id": campaign}) as (_, sink):
            assert all(delivered(await sink.send_batch(deliveries(1, 2))))
    assert len(stub.records("CampaignMember")) == 2


async def test_a_lead_is_a_member_by_another_field():
    async with connected() as (stub, _):
        campaign = stub.seed("Campaign", {"Name": "Autumn"})
    options = {"object": "Lead", "campaign": {"id": campaign}, "defaults": {"Company": "n/a"}}
    async with connected(stub, **options) as (_, sink):
        assert all(delivered(await sink.send_batch([delivery(1)])))
    assert stub.records("CampaignMember")[0]["LeadId"] == stub.records("Lead")[0]["Id"]


async def test_a_campaign_that_is_not_there_ends_no_contact_in_silence():
    async with connected(campaign={"id": "701000000000001"}) as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1)])
    assert not isinstance(outcome, relay.Delivered)
    assert len(stub.records("Contact")) == 1


async def test_the_event_chooses_the_campaign_and_the_status():
    stub = SalesforceStub()
    first, second = (stub.seed("Campaign", {"Name": name}) for name in ("Autumn", "Winter"))
    chosen = f"{{{{ {{'JOIN': '{first}', 'VIP': '{second}'}}[data.keyword] }}}}"
    campaign = {"id": chosen, "status": "{{ 'Responded' if data.message == 'yes' else 'Sent' }}"}
    async with connected(stub, campaign=campaign) as (_, sink):
        batch = [delivery(1), delivery(2, keyword="VIP", message="yes"), delivery(3, keyword="X")]
        assert all(delivered(await sink.send_batch(batch)))
    members = stub.records("CampaignMember")
    assert [(each["CampaignId"], each["Status"]) for each in members] == [
        (first, "Sent"),
        (second, "Responded"),
    ]


async def test_a_member_gets_the_status_of_the_event():
    stub = SalesforceStub()
    campaign = {"id": stub.seed("Campaign", {"Name": "Autumn"}), "status": "{{ data.message }}"}
    for status in ("Sent", "Responded"):  # the second sink remembers nothing
        async with connected(stub, campaign=campaign) as (_, sink):
            for _ in range(2):
                batch = [delivery(1, message=status), delivery(2, message="Sent")]
                assert all(delivered(await sink.send_batch(batch)))
    members = stub.records("CampaignMember")
    assert [each["Status"] for each in members] == ["Responded", "Sent"]


@pytest.mark.parametrize("together", [False, True])
async def test_a_member_has_the_status_of_the_last_event_though_it_had_it_before(together):
    stub = SalesforceStub()
    campaign = {"id": stub.seed("Campaign", {"Name": "Autumn"}), "status": "{{ data.message }}"}
    said = ["Sent", "Responded", "Sent", "", "Responded", "Sent"]
    batch = [
        delivery(1, message=status, event_id=f"019ab000-0000-7000-8000-{at:012x}")
        for at, status in enumerate(said)
    ]
    async with connected(stub, campaign=campaign) as (_, sink):
        for part in [batch] if together else [[each] for each in batch]:
            assert all(delivered(await sink.send_batch(part)))
    assert [each["Status"] for each in stub.records("CampaignMember")] == ["Sent"]


async def test_campaigns_whose_ids_differ_by_case_alone_are_two():
    members = []

    def handle(request):
        if "/oauth2/" in request.url.path:
            return httpx.Response(200, json={"access_token": "t"})
        records = orjson.loads(request.content)["records"]
        members.extend(each["CampaignId"] for each in records if "CampaignId" in each)
        made = [{"id": f"003{at:015}", "success": True} for at, _ in enumerate(records)]
        return httpx.Response(200, json=made)

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    given = options("https://acme.example", campaign={"id": "{{ data.message }}"})
    sink = Salesforce("crm", given, http, LOG, COLUMNS)
    for campaign in ("701Hs000000000a", "701Hs000000000A", "701Hs000000000a"):
        assert all(delivered(await sink.send_batch([delivery(1, message=campaign)])))
    assert members == ["701Hs000000000a", "701Hs000000000A"]


async def test_a_status_that_the_campaign_lacks_is_found():
    """Salesforce takes it without a word, and writes another one."""
    stub = SalesforceStub()
    campaign = stub.seed("Campaign", {"Name": "Autumn"})
    for label in ("Invited", "Came"):
        stub.seed("CampaignMemberStatus", {"CampaignId": campaign, "Label": label})
    async with connected(stub, campaign={"id": campaign, "status": "Responded"}) as (_, sink):
        await sink.send_batch([delivery(1)])
        (problem,) = await sink.check()
    assert stub.records("CampaignMember")[0]["Status"] == "Invited"
    assert 'no status "Responded"; take one of Invited, Came' in problem
    async with connected(stub, campaign={"id": campaign, "status": "Came"}) as (_, sink):
        assert await sink.check() == []


# Parts


def test_a_key_is_quoted_in_a_query():
    assert contacts_module.literal("O'Neil\\\n") == r"'O\'Neil\\\n'"


def test_queries_stay_as_short_as_an_address_may_be():
    keys = [contacts_module.literal("k" * 200 + str(n)) for n in range(200)]
    groups = list(contacts_module.parts(keys, contacts_module.LONGEST_QUERY))
    assert [each for group in groups for each in group] == keys
    assert len(groups) > 1
    assert all(len(",".join(group)) <= contacts_module.LONGEST_QUERY for group in groups)


def test_rows_of_one_key_never_go_together():
    rows = [records.Row(delivery(1), each, {}) for each in ("a", "b", "A", "a", "c")]
    groups = distinct_groups(rows, records.Row.identity)
    assert [[each.key for each in group] for group in groups] == [["a", "b", "c"], ["A"], ["a"]]


# their numbers


@pytest.mark.parametrize(
    ("options", "expected"), [({}, "2125559999"), ({"overwrite_phones": True}, mobile(1))]
)
async def test_a_person_found_by_phone_keeps_the_mobile_number(options, expected):
    """At the first event, at the next, and after a restart."""
    stub = SalesforceStub()
    stub.seed("Contact", {"LastName": "Doe", "Phone": "2125550001", "MobilePhone": "2125559999"})
    for _ in range(2):
        async with connected(stub, **PHONE, **options) as (_, sink):
            for title in ("Mayor", "Lady"):
                await sink.send_batch([delivery(1, {"LastName": ..., "Title": title})])
    (contact,) = stub.records("Contact")
    assert (contact["MobilePhone"], contact["Phone"], contact["Title"]) == (
        expected,
        "2125550001",
        "Lady",
    )


async def test_a_new_person_gets_the_number():
    async with connected(**PHONE) as (stub, sink):
        await sink.send_batch([delivery(1)])
        (contact,) = stub.records("Contact")
    assert contact["MobilePhone"] == mobile(1)

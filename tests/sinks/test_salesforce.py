"""The salesforce sink against the stub: what stands in the org afterwards, in how many calls."""

from salesforcesink import (
    ACTIVITY,
    connected,
    data_calls,
    delivered,
    deliveries,
    delivery,
    key,
    mobile,
)

import relay

UPSERT = "PATCH composite/sobjects/Contact/SMS_Key__c"


async def test_a_batch_is_one_call_and_one_contact_each():
    async with connected() as (stub, sink):
        outcomes = await sink.send_batch(deliveries(*range(200)))
        contacts = stub.records("Contact")
    assert data_calls(stub) == [UPSERT]
    assert [outcome.reference for outcome in outcomes] == [contact["Id"] for contact in contacts]
    assert [contact["SMS_Key__c"] for contact in contacts] == [key(n) for n in range(200)]
    assert contacts[7]["LastName"] == "Last7"
    assert contacts[7]["MobilePhone"] == mobile(7)


async def test_the_same_again_changes_the_same_contact():
    async with connected(activity=ACTIVITY) as (stub, sink):
        await sink.send_batch(deliveries(1, 2))
        await sink.send_batch(deliveries(2, 1, record={"FirstName": "New"}))
    assert [contact["FirstName"] for contact in stub.records("Contact")] == ["New", "New"]
    assert len(stub.records("SMS_Event__c")) == 2


async def test_an_activity_points_to_its_contact():
    async with connected(activity=ACTIVITY) as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1)])
        (contact,) = stub.records("Contact")
        (activity,) = stub.records("SMS_Event__c")
    assert outcome == relay.Delivered(contact["Id"])
    assert activity["Contact__c"] == contact["Id"]
    assert activity["Event_Id__c"] == delivery(1).id
    assert activity["Message__c"] == "text 1"


async def test_a_bad_record_does_not_harm_the_others():
    batch = deliveries(*range(200))
    batch[77] = delivery(77, {"Email": "no address"})
    async with connected(activity=ACTIVITY) as (stub, sink):
        outcomes = await sink.send_batch(batch)
    assert delivered(outcomes) == [number != 77 for number in range(200)]
    assert len(stub.records("Contact")) == len(stub.records("SMS_Event__c")) == 199
    assert isinstance(outcomes[77], relay.Reject)
    assert "INVALID_EMAIL_ADDRESS" in outcomes[77].reason
    assert "no address" not in outcomes[77].reason
